"""Train the embedded reward and the held-out scorer from nothing, on the drawn world.

    python -m rlr_core.embedded.train_rewards --checkpoint DIR --reward DIR --scorer DIR

The reward is a small `open_clip.CLIP`, trained contrastively, for each picture also against captions that are wrong in a single
word. The scorer is a classifier of other architecture, other pictures (another seed) and another objective. Both see pictures
as a generator makes them, too: blurred, noisy, a little off in colour, and through the checkpoint's VAE. Fixed seeds.
"""

# diffusers and transformers are annotated wrongly:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportPrivateImportUsage=false

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from rlr_core.embedded import world
from rlr_core.embedded.clip_reward import MODEL_CONFIG, PREPROCESSING
from rlr_core.embedded.scorer import HeldOutScorer, save_scorer
from rlr_core.embedded.train_checkpoint import count, optimise, progress, save_tokenizer, tokenize

REWARD_SEED, SCORER_SEED = 11, 77
BATCH = 64


def main() -> None:
    """Train what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="pipeline whose tokenizer and VAE are used"
    )
    parser.add_argument("--reward", type=Path, help="folder of the reward")
    parser.add_argument("--scorer", type=Path, help="folder of the scorer")
    parser.add_argument("--reward-steps", type=int, default=1_500)
    parser.add_argument("--scorer-steps", type=int, default=1_000)
    options = parser.parse_args()
    vae = AutoencoderKL.from_pretrained(options.checkpoint / "vae").eval().requires_grad_(False)
    if options.reward:
        train_reward(
            vae,
            CLIPTokenizer.from_pretrained(options.checkpoint / "tokenizer"),
            options.reward,
            options.reward_steps,
        )
    if options.scorer:
        train_scorer(vae, options.scorer, options.scorer_steps)


def batches(vae: AutoencoderKL, seed: int) -> Iterator[tuple[list[world.Scene], Tensor]]:
    """Endless scenes with their pictures (BATCH, 3, 64, 64) in [0, 1], as a camera and a generator spoil them."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    while True:
        scenes = [world.random_scene(rng) for _ in range(BATCH)]
        pictures = torch.from_numpy(np.stack([world.draw(scene, rng) for scene in scenes]))
        yield scenes, spoil(pictures, vae, generator)


@torch.no_grad()
def spoil(pictures: Tensor, vae: AutoencoderKL, generator: torch.Generator) -> Tensor:
    """A quarter through the VAE with noisy latents, a quarter blurred, all noisy and a little off in light; shifted."""
    quarter = len(pictures) // 4
    latents = vae.encode(pictures[:quarter] * 2 - 1).latent_dist.mean
    latents += (
        latents.std()
        * 0.15
        * torch.rand(quarter, 1, 1, 1, generator=generator)
        * noise_like(latents, generator)
    )
    blurred = F.avg_pool2d(
        F.pad(pictures[quarter : 2 * quarter], (1, 1, 1, 1), mode="replicate"), 3, stride=1
    )
    spoiled = torch.cat([vae.decode(latents).sample / 2 + 0.5, blurred, pictures[2 * quarter :]])
    amounts = torch.rand(2, len(pictures), 1, 1, 1, generator=generator)
    spoiled = spoiled * (0.9 + 0.2 * amounts[0]) + 0.08 * amounts[1] * noise_like(spoiled, generator)
    across, down = torch.randint(-2, 3, (2,), generator=generator).tolist()
    return shift(spoiled, across, down).clamp(0, 1)


def noise_like(values: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal."""
    return torch.randn(values.shape, generator=generator)


def shift(pictures: Tensor, across: int, down: int) -> Tensor:
    """Moved by up to 2 pixels, with the edge repeated."""
    height, width = pictures.shape[2:]
    padded = F.pad(pictures, (2, 2, 2, 2), mode="replicate")
    return padded[:, :, 2 - down : 2 - down + height, 2 - across : 2 - across + width]


def train_reward(vae: AutoencoderKL, tokenizer: CLIPTokenizer, out: Path, steps: int) -> None:
    """Contrastive both ways, and against captions that are wrong in one attribute; half of the places are not told."""
    import open_clip

    torch.manual_seed(REWARD_SEED)
    rng = np.random.default_rng(REWARD_SEED)
    config = {**MODEL_CONFIG, "text_cfg": {**MODEL_CONFIG["text_cfg"], "vocab_size": len(tokenizer)}}
    text = {key: value for key, value in config["text_cfg"].items() if key != "hf_tokenizer_name"}
    model: Any = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], text)  # type: ignore[arg-type]
    print(f"reward {count(model) / 1e6:.2f}M parameters")
    optimizer, schedule = optimise(model, 2e-3, steps)
    data = batches(vae, REWARD_SEED)
    mean, std = (torch.tensor(PREPROCESSING[name]).reshape(1, 3, 1, 1) for name in ("mean", "std"))
    for _, report in progress("reward", steps):
        scenes, pictures = next(data)
        scenes = [scene if rng.random() < 0.5 else replace(scene, place="centre") for scene in scenes]
        right = [world.caption(scene) for scene in scenes]
        texts = [*right, *(world.caption(other) for scene in scenes for other in near_misses(scene, rng))]
        images = model.encode_image((pictures - mean) / std, normalize=True)
        captions = model.encode_text(tokenize(tokenizer, texts), normalize=True)
        logits = model.logit_scale.exp().clamp(max=50) * images @ captions.T
        same = torch.tensor([[a == b for b in texts] for a in right])
        target = torch.arange(len(right))
        same[target, target] = False
        logits = logits.masked_fill(same, -torch.inf)
        loss = F.cross_entropy(logits, target) + F.cross_entropy(logits[:, : len(right)].T, target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        report(loss.detach())
    save_reward(model.eval(), config, tokenizer, out)


def near_misses(scene: world.Scene, rng: np.random.Generator) -> list[world.Scene]:
    """For each attribute that the caption names, a scene in which it alone is another word."""
    named = {
        name: words for name, words in world.CHOICES.items() if (name, scene.place) != ("place", "centre")
    }
    others = {
        name: [word for word in words if word not in (getattr(scene, name), "centre")]
        for name, words in named.items()
    }
    return [replace(scene, **{name: str(rng.choice(words))}) for name, words in others.items()]


def save_reward(model: Any, config: dict[str, Any], tokenizer: CLIPTokenizer, out: Path) -> None:
    """open_clip's folder format, half-precision weights, with the tokenizer."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESSING}, indent=2)
    (out / "open_clip_config.json").write_text(text + "\n", encoding="utf-8")
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    save_file(
        {name: value.contiguous() for name, value in weights.items()}, out / "open_clip_model.safetensors"
    )
    save_tokenizer(tokenizer, out)


def train_scorer(vae: AutoencoderKL, out: Path, steps: int) -> None:
    """Cross-entropy of each attribute, with smoothed labels."""
    torch.manual_seed(SCORER_SEED)
    scorer = HeldOutScorer(world.CHOICES)
    print(f"scorer {count(scorer) / 1e6:.2f}M parameters")
    optimizer, schedule = optimise(scorer, 2e-3, steps)
    data = batches(vae, SCORER_SEED)
    for _, report in progress("scorer", steps):
        scenes, pictures = next(data)
        logits = scorer(pictures)
        losses = []
        for name, words in world.CHOICES.items():
            target = torch.tensor([words.index(getattr(scene, name)) for scene in scenes])
            losses.append(F.cross_entropy(logits[name], target, label_smoothing=0.01))
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        report(loss.detach())
    save_scorer(scorer, out)


if __name__ == "__main__":
    main()
