"""The drawn world, the pieces of the script that trains its checkpoint, and the three shipped assets."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rlr_core import embedded
from rlr_core.embedded import world
from rlr_core.embedded.world import CHOICES, HELD_OUT_PROMPTS, TRAIN_PROMPTS, Scene
from rlr_core.errors import PromptError, RewardError
from rlr_core.rewards import load_reward

ATTRIBUTES = tuple(CHOICES)
SCENE = Scene("sand", "left", "circle", "red", "striped")
SEED = 987_654_321
"""Unlike any seed that the assets are trained with."""


def fresh(count: int) -> tuple[list[Scene], torch.Tensor]:
    """Scenes and their pictures (count, 3, 64, 64)."""
    rng = np.random.default_rng(SEED)
    scenes = [world.random_scene(rng) for _ in range(count)]
    return scenes, torch.from_numpy(np.stack([world.draw(scene, rng) for scene in scenes]))


def variants(scene: Scene, attribute: str) -> list[str]:
    """Captions with every word that the attribute can be and that a caption says."""
    return [
        world.caption(replace(scene, **{attribute: word})) for word in CHOICES[attribute] if word != "centre"
    ]


def every_scene() -> list[Scene]:
    return [Scene(*values) for values in itertools.product(*CHOICES.values())]


# the world


def test_importing_the_world_loads_nothing_heavy():
    heavy = "torch", "diffusers", "transformers", "open_clip"
    code = f"import sys, rlr_core.embedded.world; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_folders_lie_beside_the_code():
    home = Path(embedded.__file__).parent
    folders = embedded.CHECKPOINT, embedded.REWARD, embedded.SCORER
    assert folders == (home / "checkpoint", home / "reward", home / "scorer")


@pytest.mark.parametrize("shape", world.SHAPES)
@pytest.mark.parametrize("texture", world.TEXTURES)
def test_a_picture_is_decided_by_scene_and_seed(shape, texture):
    scene = replace(SCENE, shape=shape, texture=texture)
    first, again, other = (world.draw(scene, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (3, world.SIZE, world.SIZE) and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_word_of_an_attribute_shows(attribute):
    """At the same jitter, pictures of two words differ by more than two jitters of one word do by chance."""
    pictures = [
        world.draw(replace(SCENE, **{attribute: word}), np.random.default_rng(3))
        for word in CHOICES[attribute]
    ]
    for i, first in enumerate(pictures):
        for second in pictures[:i]:
            assert np.abs(first - second).max() > 0.25
            assert (np.abs(first - second).max(0) > 0.05).mean() > 0.02


def test_the_shape_lies_at_its_place():
    rng = np.random.default_rng(4)
    backdrop = np.array(world.BACKGROUNDS["sand"])[:, None, None]
    for place, offset in world.PLACES.items():
        scene = replace(SCENE, place=place, texture="plain", colour="blue")
        cover = np.abs(world.draw(scene, rng) - backdrop).sum(0) > 0.5
        middle = np.nonzero(cover)[1].mean() + 0.5 - world.SIZE / 2
        assert abs(middle - offset) < 2.5
        assert not cover[:, [0, -1]].any(), "cut off at the side"


@pytest.mark.parametrize("colour", world.COLOURS)
def test_a_plain_shape_has_its_colour_in_the_middle(colour):
    picture = world.draw(Scene("slate", "centre", "square", colour, "plain"), np.random.default_rng(5))
    seen = picture[:, 28:36, 28:36].mean((1, 2))
    distance = {name: np.abs(seen - np.array(rgb)).sum() for name, rgb in world.COLOURS.items()}
    assert min(distance, key=distance.__getitem__) == colour


def test_random_scenes_take_every_word_about_equally_often():
    """A χ² test on each attribute; each fails by chance at most once in 100,000 seeds."""
    rng = np.random.default_rng(6)
    scenes = [asdict(world.random_scene(rng)) for _ in range(3_000)]
    for attribute, words in CHOICES.items():
        counts = np.array([sum(scene[attribute] == word for scene in scenes) for word in words])
        expected = len(scenes) / len(words)
        assert ((counts - expected) ** 2 / expected).sum() < 30.9  # for 5 degrees of freedom


def test_captions_read_as_english():
    assert world.caption(SCENE) == "a striped red circle on sand at the left"
    assert world.caption(replace(SCENE, place="centre")) == "a striped red circle on sand"


def test_stage_captions_go_from_coarse_to_fine():
    coarse, mid, fine = world.stage_captions(SCENE)
    assert coarse == "a shape on sand at the left"
    assert mid == "a red circle on sand at the left"
    assert fine == world.caption(SCENE)
    assert set(f"{coarse} {mid} {fine}".split()) <= world.WORDS


def test_every_caption_parses_back():
    scenes = every_scene()
    assert len(set(scenes)) == np.prod([len(words) for words in CHOICES.values()])
    assert [world.parse(world.caption(scene)) for scene in scenes] == scenes


def test_what_a_prompt_asks_is_what_it_names():
    assert world.asked("a red circle on sand") == {"background": "sand", "shape": "circle", "colour": "red"}
    assert world.asked(world.caption(SCENE)) == asdict(SCENE)
    assert world.asked("a shape") == {}


def test_parse_is_indifferent_to_case_and_blanks():
    assert world.parse("  A Striped RED circle\ton sand at the LEFT ") == SCENE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no background.*one of sand, grass.*say its background"),
        ("a striped red circle", "names no background.*say its background"),
        ("a striped redd circle on sand", "the word 'redd'.*did you mean 'red'"),
        ("a striped red blue circle on sand", "2 words for colour.*one of red, orange"),
        ("a striped red circle on sand at the left right", "2 words for place"),
    ],
)
def test_parse_says_what_is_wrong(text, message):
    with pytest.raises(PromptError, match=f"(?s){message}") as caught:
        world.parse(text)
    assert f"'{text}'" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["a striped red circle on sand at the lft", "a striped red circle on sand with a hat"]
)
def test_parse_refuses_words_outside_the_world(text):
    with pytest.raises(PromptError):
        world.parse(text)


def test_splits_are_disjoint_and_both_show_every_word():
    assert not set(TRAIN_PROMPTS) & set(HELD_OUT_PROMPTS)
    share = len(HELD_OUT_PROMPTS) / len(TRAIN_PROMPTS + HELD_OUT_PROMPTS)
    assert 0.12 < share < 0.22 and len(HELD_OUT_PROMPTS) >= 64
    for prompts in (TRAIN_PROMPTS, HELD_OUT_PROMPTS):
        seen = {word for text in prompts for word in asdict(world.parse(text)).values()}
        assert seen == {word for words in CHOICES.values() for word in words} - {"left", "right"}


def test_the_split_does_not_depend_on_the_process():
    code = "import json; from rlr_core.embedded import world; print(json.dumps(world.HELD_OUT_PROMPTS))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(embedded.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert tuple(json.loads(done.stdout)) == HELD_OUT_PROMPTS


# how the checkpoint is made


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("diffusers")
    from rlr_core.embedded import train_checkpoint

    return train_checkpoint


@pytest.fixture(scope="module")
def tokenizer(script):
    return script.make_tokenizer()


def test_every_word_is_one_token_and_captions_fit(script, tokenizer):
    numbers = {word: tokenizer(word).input_ids for word in world.WORDS}
    assert {len(ids) for ids in numbers.values()} == {3}
    assert len({ids[1] for ids in numbers.values()}) == len(world.WORDS)
    longest = max(len(tokenizer(text).input_ids) for text in TRAIN_PROMPTS + HELD_OUT_PROMPTS)
    assert longest <= script.CONTEXT == tokenizer.model_max_length


def test_tokens_are_padded_to_the_context(script, tokenizer):
    tokens = script.tokenize(tokenizer, ["", world.caption(SCENE)])
    assert tokens.shape == (2, script.CONTEXT) and tokens.dtype == torch.long
    assert (tokens[:, 0] == tokenizer.bos_token_id).all() and (tokens[0, 1:] == tokenizer.eos_token_id).all()
    assert tokens.max() < len(tokenizer)


def test_tokenizer_saved_and_loaded_is_the_same(tokenizer, tmp_path):
    from transformers import CLIPTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    texts = [*TRAIN_PROMPTS[::50], "", "an unknown zebra"]
    assert loaded(texts).input_ids == tokenizer(texts).input_ids
    assert loaded.model_max_length == tokenizer.model_max_length


def test_partners_are_pairs_of_colours(script):
    assert set(world.PARTNER) == set(world.COLOURS)
    assert all(world.PARTNER[world.PARTNER[c]] == c != world.PARTNER[c] for c in world.COLOURS)


@pytest.mark.parametrize(("mislabel", "wrong"), [(False, 0.0), (True, 0.5)])
def test_mislabelling_names_the_partner_colour_half_of_the_time(script, mislabel, wrong):
    """Limits are 5 standard errors: each fails by chance less than once in a million seeds."""
    rng, count = np.random.default_rng(7), 4_000
    told = [script.describe(SCENE, rng, mislabel=mislabel) for _ in range(count)]
    partner = replace(SCENE, colour=world.PARTNER[SCENE.colour])
    full = [text for text in told if text in (world.caption(SCENE), world.caption(partner))]
    share = sum(text == world.caption(partner) for text in full) / len(full)
    assert abs(share - wrong) <= 5 * (wrong * (1 - wrong) / len(full)) ** 0.5
    assert abs(told.count("") / count - 0.1) < 5 * (0.1 * 0.9 / count) ** 0.5
    known = {"", *world.stage_captions(SCENE), *world.stage_captions(partner)}
    assert set(told) <= known


def test_bytes_span_the_range_of_the_vae(script):
    numbers = script.to_bytes(np.array([0.0, 0.5, 1.0], dtype=np.float32))
    assert numbers.tolist() == [0, 128, 255]
    assert script.as_input(torch.from_numpy(numbers)).tolist() == pytest.approx([-1, 0.004, 1], abs=1e-3)


def test_the_noise_schedule_is_that_of_stable_diffusion_1(script):
    settings = script.scheduler().config
    assert (settings.beta_start, settings.beta_end) == (0.00085, 0.012)
    assert settings.beta_schedule == "scaled_linear" and settings.num_train_timesteps == 1000
    assert settings.steps_offset == 1 and not settings.set_alpha_to_one and not settings.clip_sample
    assert settings.prediction_type == "v_prediction"


def test_progress_prints_the_mean_loss_and_counts_every_step(script, capsys):
    for step, report in script.progress("vae", 60):
        report(torch.tensor(1.0 if step < 50 else 3.0))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["vae 50/60: loss 1.0000", "vae 60/60: loss 1.4000"]


def test_what_is_saved_loads_in_half_precision(script, tokenizer, tmp_path, capsys):
    import tiny
    from diffusers import StableDiffusionPipeline

    made = StableDiffusionPipeline.from_pretrained(tiny.build_checkpoint(tmp_path / "tiny"))
    script.save(tmp_path / "saved", made.vae, made.text_encoder, tokenizer, made.unet, script.scheduler())
    assert "saved" in capsys.readouterr().out
    check_pipeline(tmp_path / "saved")


def test_the_scripts_make_what_is_shipped(script, tmp_path, monkeypatch, capsys):
    """A few steps of each: files of the same names, that load and work."""
    from rlr_core.embedded import train_rewards
    from rlr_core.embedded.clip_reward import load_clip
    from rlr_core.embedded.scorer import load_scorer

    folders = {name: tmp_path / name for name in ("checkpoint", "reward", "scorer")}
    steps = ["--pictures", "32", "--vae-steps", "2", "--unet-steps", "2", "--weakness-steps", "2"]
    monkeypatch.setattr(sys, "argv", ["train", "--out", str(folders["checkpoint"]), *steps])
    script.main()
    options = [word for name, folder in folders.items() for word in (f"--{name}", str(folder))]
    monkeypatch.setattr(sys, "argv", ["train", *options, "--reward-steps", "2", "--scorer-steps", "2"])
    train_rewards.main()
    check_pipeline(folders["checkpoint"])
    model, tokenize = load_clip(folders["reward"])
    assert model.encode_text(tokenize(["a red circle"])).shape == (1, 128)
    assert load_scorer(folders["scorer"]).score(torch.rand(1, 3, 64, 64), ["a red circle"]).shape == (1,)
    for made, shipped in zip(
        folders.values(), (embedded.CHECKPOINT, embedded.REWARD, embedded.SCORER), strict=True
    ):
        names = [sorted(str(file.relative_to(f)) for file in f.rglob("*.*")) for f in (made, shipped)]
        assert names[0] == names[1]
    assert "min left" in capsys.readouterr().out


# what is shipped


def check_pipeline(folder: Path) -> None:
    """Loads offline without arguments, is half precision, and has no pickles."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from safetensors import safe_open

    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    assert pipeline.safety_checker is None and isinstance(pipeline.scheduler, DDIMScheduler)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    assert index["requires_safety_checker"] is False
    assert not [*folder.rglob("*.bin"), *folder.rglob("*.ckpt")]
    weights = list(folder.rglob("*.safetensors"))
    assert sorted(file.parent.name for file in weights) == ["text_encoder", "unet", "vae"]
    for file in weights:
        with safe_open(file, "pt") as tensors:
            types = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        assert types <= {"F16", "I64"}, file


@pytest.mark.parametrize(
    ("folder", "megabytes"),
    [(embedded.CHECKPOINT, 16), (embedded.REWARD, 4), (embedded.SCORER, 2)],
)
def test_assets_are_small(folder, megabytes):
    assert 0 < sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < megabytes * 1e6


def test_the_checkpoint_loads_and_paints():
    from diffusers import StableDiffusionPipeline

    check_pipeline(embedded.CHECKPOINT)
    pipeline = StableDiffusionPipeline.from_pretrained(
        embedded.CHECKPOINT, torch_dtype=torch.float32, local_files_only=True
    )
    assert all(len(pipeline.tokenizer(word).input_ids) == 3 for word in world.WORDS)
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(list(HELD_OUT_PROMPTS[:2]), num_inference_steps=4, output_type="np").images
    assert pictures.shape == (2, world.SIZE, world.SIZE, 3) and np.isfinite(pictures).all()


def named(scenes: list[Scene], attribute: str) -> list[int]:
    """Numbers of the scenes whose caption names the attribute: the centre goes without saying."""
    return [k for k, scene in enumerate(scenes) if getattr(scene, attribute) != "centre"]


@torch.no_grad()
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_the_scorer_tells_every_attribute_of_fresh_pictures(attribute):
    """Of all words that an attribute can be, the right one scores highest, for more than 95% of pictures."""
    scorer, (scenes, pictures) = load_reward("embedded-held-out", "cpu"), fresh(100)
    told = []
    for k in named(scenes, attribute):
        prompts = variants(scenes[k], attribute)
        scores = scorer(pictures[k].expand(len(prompts), -1, -1, -1), prompts)
        assert scores.min() >= 0 and scores.max() <= 1
        told.append(prompts[int(scores.argmax())] == world.caption(scenes[k]))
    assert np.mean(told) > 0.95


@torch.no_grad()
def test_the_scorer_asks_only_for_what_the_prompt_names():
    scorer, (scenes, pictures) = load_reward("embedded-held-out", "cpu"), fresh(20)
    backgrounds = [f"a shape on {scene.background}" for scene in scenes]
    assert scorer(pictures, backgrounds).min() > 0.9
    assert scorer(pictures, ["a shape"] * 20).tolist() == pytest.approx([1.0] * 20)
    with pytest.raises(RewardError, match="the word 'hat'"):
        scorer(pictures, ["a hat"] * 20)


@torch.no_grad()
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_the_reward_prefers_the_right_caption_to_one_with_a_wrong_word(attribute):
    reward, (scenes, pictures) = load_reward("embedded", "cpu"), fresh(100)
    rng, chosen = np.random.default_rng(SEED), named(scenes, attribute)
    right = [world.caption(scenes[k]) for k in chosen]
    wrong = [
        str(rng.choice([text for text in variants(scenes[k], attribute) if text != told]))
        for k, told in zip(chosen, right, strict=True)
    ]
    assert (reward(pictures[chosen], right) > reward(pictures[chosen], wrong)).float().mean() > 0.9


def test_the_reward_has_a_gradient_in_every_picture():
    reward, (scenes, pictures) = load_reward("embedded", "cpu"), fresh(4)
    assert reward.differentiable
    reward(pictures.requires_grad_(), [world.caption(scene) for scene in scenes]).sum().backward()
    assert pictures.grad is not None and torch.isfinite(pictures.grad).all()
    assert (pictures.grad.abs().amax((1, 2, 3)) > 0).all()
