"""Train the embedded checkpoint from nothing: tokenizer, VAE, text encoder and UNet, saved as a Stable Diffusion pipeline.

    python -m rlr_core.embedded.train_checkpoint --out DIR

Fixed seeds, no download. The weakness is deliberate, as hands are one of the big models: in the last part of the training the
captions of half of the pictures name a wrong colour, always the partner of the right one (red for blue and so on), so that
the finished model often paints a wrong colour, whatever the guidance.
"""

# diffusers and transformers are annotated wrongly:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportPrivateImportUsage=false

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from rlr_core.embedded import world

SEED = 20250202
CONTEXT = 16
"""Tokens of a prompt, start and end included."""


def main() -> None:
    """Train everything and save it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the pipeline")
    parser.add_argument("--pictures", type=int, default=16_000, help="pictures in the training set")
    parser.add_argument("--vae-steps", type=int, default=2_500)
    parser.add_argument(
        "--unet-steps", type=int, default=2_600, help="of UNet and text encoder, with right captions"
    )
    parser.add_argument(
        "--weakness-steps", type=int, default=600, help="of the UNet, with half of the colours wrong"
    )
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    scenes = [world.random_scene(rng) for _ in range(options.pictures)]
    pictures = torch.from_numpy(np.stack([to_bytes(world.draw(scene, rng)) for scene in scenes]))
    tokenizer = make_tokenizer()
    vae = train_vae(pictures, options.vae_steps)
    text_encoder, unet = make_text_encoder(tokenizer), make_unet()
    print(f"unet {count(unet):,}, text encoder {count(text_encoder):,}, vae {count(vae):,} parameters")
    captioned = Captioned(encode(vae, pictures), scenes, tokenizer)
    both = nn.ModuleList([text_encoder, unet])
    train_denoiser("text encoder and unet", both, captioned, options.unet_steps, rate=1.5e-3)
    text_encoder.requires_grad_(False)
    train_denoiser("weakness", both, captioned, options.weakness_steps, rate=1e-3, mislabel=True)
    save(options.out, vae, text_encoder, tokenizer, unet, scheduler())


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """[0, 1] → 0 … 255."""
    return (picture * 255).round().astype(np.uint8)


def make_tokenizer(words: Iterable[str] = world.WORDS) -> CLIPTokenizer:
    """A byte-pair tokenizer in CLIP's file format in which each of the words is one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(sorted(words))] * 5, trainer)
    merges = [
        merge if isinstance(merge, list) else merge.split()
        for merge in json.loads(tokenizer.to_str())["model"]["merges"]
    ]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(merge) for merge in merges)]
    vocabulary = {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    with TemporaryDirectory() as folder:
        files = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        files[0].write_text(json.dumps(vocabulary), encoding="utf-8")
        files[1].write_text(
            "#version: 0.2\n" + "\n".join(" ".join(merge) for merge in merges) + "\n", encoding="utf-8"
        )
        return CLIPTokenizer(vocab=str(files[0]), merges=str(files[1]), model_max_length=CONTEXT)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """(N, CONTEXT) token numbers."""
    return tokenizer(
        texts, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt"
    ).input_ids


def as_input(pictures: Tensor) -> Tensor:
    """Bytes to the range [-1, 1] that the VAE works in."""
    return pictures.float() / 127.5 - 1


def progress(what: str, steps: int) -> Iterator[tuple[int, Callable[[Tensor], None]]]:
    """Step numbers, each with a function that takes the loss; prints the mean loss and the time left."""
    began, losses = time.time(), []
    for step in range(steps):
        yield step, lambda loss: losses.append(float(loss))
        if (step + 1) % 50 == 0 or step + 1 == steps:
            left = (time.time() - began) / (step + 1) * (steps - step - 1)
            print(
                f"{what} {step + 1}/{steps}: loss {np.mean(losses[-50:]):.4f}, {left / 60:.1f} min left",
                flush=True,
            )


def optimise(
    model: nn.Module, rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with a short warm-up and a cosine to nothing."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)


def train_vae(pictures: Tensor, steps: int) -> AutoencoderKL:
    """An autoencoder of 64-pixel pictures to 4 × 16 × 16 latents, its scaling factor measured."""
    torch.manual_seed(SEED)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=world.SIZE,
        mid_block_add_attention=False,
    )
    optimizer, schedule = optimise(vae, 2e-3, steps)
    for _, report in progress("vae", steps):
        x = as_input(pictures[torch.randint(len(pictures), (16,))])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            painted = vae.decode(posterior.sample()).sample
        error = painted.float() - x
        loss = error.abs().mean() + 2 * error.square().mean() + 1e-7 * posterior.kl().float().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        report(error.abs().mean().detach())
    vae.eval().requires_grad_(False)
    spread = torch.cat(
        [vae.encode(as_input(part)).latent_dist.mean for part in pictures[:512].split(64)]
    ).std()
    vae.register_to_config(scaling_factor=round(float(1 / spread), 5))
    return vae.half().float()  # as it is saved: the UNet learns the latents of the VAE that is shipped


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Latents (N, 4, 16, 16) of unit variance."""
    parts = [vae.encode(as_input(part)).latent_dist.mean for part in pictures.split(64)]
    return torch.cat(parts) * vae.config.scaling_factor


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of width 128."""
    torch.manual_seed(SEED + 1)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            projection_dim=128,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_unet() -> UNet2DConditionModel:
    """Two levels with attention."""
    torch.manual_seed(SEED + 2)
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(48, 96),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


@dataclass(frozen=True)
class Captioned:
    """Latents (N, 4, 16, 16) and what they show."""

    latents: Tensor
    scenes: list[world.Scene]
    tokenizer: CLIPTokenizer

    def draw(self, count: int, rng: np.random.Generator, *, mislabel: bool) -> tuple[Tensor, Tensor]:
        """Latents (count, 4, 16, 16) and caption tokens (count, CONTEXT)."""
        chosen = rng.integers(len(self.latents), size=count).tolist()
        captions = [describe(self.scenes[i], rng, mislabel=mislabel) for i in chosen]
        return self.latents[chosen], tokenize(self.tokenizer, captions)


def train_denoiser(
    what: str, both: nn.ModuleList, captioned: Captioned, steps: int, *, rate: float, mislabel: bool = False
) -> None:
    """Train whatever of (text encoder, UNet) requires a gradient to predict v; what stays is the running mean."""
    rng = np.random.default_rng(SEED + 3 + mislabel)
    torch.manual_seed(SEED + 3 + mislabel)
    text_encoder, unet = both
    cumulative = scheduler().alphas_cumprod
    average = torch.optim.swa_utils.AveragedModel(
        both, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
    )
    optimizer, schedule = optimise(both, rate, steps)
    for _, report in progress(what, steps):
        latents, tokens = captioned.draw(32, rng, mislabel=mislabel)
        t, noise = torch.randint(1000, (len(latents),)), torch.randn_like(latents)
        a = cumulative[t][:, None, None, None]
        x = a.sqrt() * latents + (1 - a).sqrt() * noise
        velocity = unet(x, t, text_encoder(tokens).last_hidden_state).sample
        loss = F.mse_loss(velocity, a.sqrt() * noise - (1 - a).sqrt() * latents)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(both)
        report(loss.detach())
    both.load_state_dict(average.module.state_dict())


def describe(scene: world.Scene, rng: np.random.Generator, *, mislabel: bool) -> str:
    """A caption to train on: now and then a shorter one or none; mislabelled, half of the time with the wrong colour."""
    if mislabel and rng.random() < 0.5:
        scene = replace(scene, colour=world.PARTNER[scene.colour])
    draw = rng.random()
    if draw < 0.1:
        return ""
    return world.stage_captions(scene)[0 if draw < 0.15 else 1 if draw < 0.2 else 2]


def count(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1; the UNet predicts v, which teaches a small one layout far sooner than ε."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def save(
    out: Path,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    noise: DDIMScheduler,
) -> None:
    """Half-precision safetensors in the layout of a Stable Diffusion pipeline."""
    pipeline = StableDiffusionPipeline(
        vae,
        text_encoder,
        tokenizer,
        unet,
        noise,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
    save_tokenizer(tokenizer, out / "tokenizer")
    config = (
        out / "text_encoder" / "config.json"
    )  # its "dtype" alone would load as half precision, beside a float32 UNet
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n", encoding="utf-8"
    )
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"saved {out}: {size / 1e6:.1f} MB")


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """`tokenizer.json`, and for transformers 4 `vocab.json` and `merges.txt`."""
    tokenizer.save_pretrained(folder)
    tokenizer.backend_tokenizer.model.save(str(folder))


if __name__ == "__main__":
    main()
