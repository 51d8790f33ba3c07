"""Rewards: by name, from a user's file, and what is checked at every call."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn import functional

from rlr_core.errors import RewardError
from rlr_core.rewards import FrameReward, FunctionReward, Mix, load_reward, stills
from rlr_core.rewards.embedded import ClipScore

CPU = torch.device("cpu")
PROMPTS = ["a red cat", "a dog", "a red cat"]


def pictures(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size)


def write(folder: Path, text: str, name: str = "reward.py") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return f"{folder / name}:score"


def reward(function, *, differentiable: bool = False) -> FunctionReward:
    return FunctionReward("mine", differentiable, function)


@pytest.mark.parametrize(
    "convert",
    [
        lambda v: v,
        lambda v: v.double(),
        lambda v: v.numpy(),
        lambda v: v.numpy().astype(np.float64)[::-1][::-1],
        lambda v: v.tolist(),
        lambda v: tuple(v.tolist()),
        lambda v: list(v),
        lambda v: list(v.numpy()),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_scores_come_as_tensor_array_or_list(convert, count):
    images = pictures(count)
    scores = reward(lambda x, p: convert(x.mean((1, 2, 3))))(images, PROMPTS[:count])
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, images.mean((1, 2, 3)))


def test_whole_numbers_are_scores():
    assert reward(lambda x, p: [len(prompt) for prompt in p])(pictures(), PROMPTS).tolist() == [9, 5, 9]
    assert reward(lambda x, p: torch.tensor([1, 2, 3]))(pictures(), PROMPTS).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (torch.ones(3, 1), r"a Tensor of shape \(3, 1\)"),
        (torch.ones(2), r"a Tensor of shape \(2,\)"),
        (torch.tensor(1.0), r"a Tensor of shape \(\)"),
        (torch.ones(3, dtype=torch.complex64), "complex64"),
        (torch.ones(3, dtype=torch.bool), "torch.bool"),
        (np.ones((1, 3)), r"a ndarray of shape \(1, 3\)"),
        (np.array(["a", "b", "c"]), "a ndarray of shape"),
        ([1.0, 2.0], r"a list of 2 \(float\)"),
        ([1.0, None, 2.0], r"a list of 3 \(NoneType, float\)"),
        ([1.0, torch.tensor(1.0), 2.0], r"a list of 3 \(Tensor, float\)"),
        ([[1.0], [1.0, 2.0], [3.0]], r"a list of 3 \(list\)"),
        (["a", "b", "c"], r"a list of 3 \(str\)"),
        (None, r"None \(NoneType\)"),
        (1.5, r"1\.5 \(float\)"),
        ({"score": 1}, "dict"),
    ],
)
def test_anything_else_is_an_error(result, got):
    with pytest.raises(RewardError, match=rf"'mine' returned .*{got}[\s\S]*3 real numbers[\s\S]*what to do"):
        reward(lambda x, p: result)(pictures(), PROMPTS)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_passed_on(value):
    scores = reward(lambda x, p: [1.0, value, 2.0])(pictures(), PROMPTS)
    assert scores.isfinite().tolist() == [True, False, True]


def test_a_black_box_cannot_harm_us():
    images = pictures().requires_grad_()
    before, prompts, seen = images.detach().clone(), list(PROMPTS), {}

    def function(x, p):
        seen.update(graph=x.requires_grad, dtype=x.dtype, device=x.device.type, grad=torch.is_grad_enabled())
        x.zero_()
        p.clear()
        return torch.zeros(3)

    scores = reward(function)(images, prompts)
    assert seen == {"graph": False, "dtype": torch.float32, "device": "cpu", "grad": False}
    assert torch.equal(images, before) and prompts == PROMPTS and not scores.requires_grad


def test_a_differentiable_reward_gives_gradients_and_cannot_change_the_images():
    def function(x, p):
        return x.clamp_(0.2, 0.8).mean((1, 2, 3))

    images = pictures().requires_grad_()
    before = images.detach().clone()
    mine = reward(function, differentiable=True)
    (gradient,) = torch.autograd.grad(mine(images, PROMPTS).sum(), images)
    assert gradient.abs().sum() > 0 and torch.equal(images, before)
    with torch.no_grad():
        assert not mine(images, PROMPTS).requires_grad
    assert not mine(images.detach(), PROMPTS).requires_grad


def test_a_list_of_scalar_tensors_keeps_its_graph():
    images = pictures().requires_grad_()
    assert reward(lambda x, p: [row.mean() for row in x], differentiable=True)(images, PROMPTS).requires_grad


@pytest.mark.parametrize("function", [lambda x, p: x.detach().mean((1, 2, 3)), lambda x, p: [1.0, 2.0, 3.0]])
def test_a_differentiable_reward_without_a_graph_is_an_error(function):
    with pytest.raises(RewardError, match="'mine' says that it is differentiable, but"):
        reward(function, differentiable=True)(pictures().requires_grad_(), PROMPTS)


def test_a_function_from_a_file(tmp_path, monkeypatch):
    folder = tmp_path / "mit Größe 猫"
    folder.mkdir()
    write(folder, "BASE = 10.0\n", "neighbour.py")
    text = "def score(images, prompts):\n    from neighbour import BASE\n    return [BASE] * len(prompts)\n"
    name = write(folder, text)
    monkeypatch.setattr(sys, "path", list(sys.path))
    mine = load_reward(name, "cpu")
    assert (mine.name, mine.differentiable) == (name, False)
    assert mine(pictures(), PROMPTS).tolist() == [10, 10, 10]
    assert mine(pictures(1), ["x"]).tolist() == [10]


def test_files_of_two_folders_may_have_neighbours_of_one_name(tmp_path, monkeypatch):
    """And one that was edited is read again."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    text = "from shared import BASE\ndef score(images, prompts):\n    return [BASE] * len(prompts)\n"
    late = "def score(images, prompts):\n    import only_here\n    return [only_here.BASE] * len(prompts)\n"
    folders = [tmp_path / "one", tmp_path / "two"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        write(folder, f"BASE = {number}\n", "shared.py")
    write(folders[0], "BASE = 5\n", "only_here.py")
    lazy = load_reward(write(folders[0], late, "late.py"), CPU)
    rewards = [load_reward(write(folder, text), CPU) for folder in folders]
    assert [mine(pictures(1), ["x"]).item() for mine in (*rewards, lazy)] == [0, 1, 5]
    write(folders[0], "BASE = 12.5\n", "shared.py")
    assert load_reward(write(folders[0], text), CPU)(pictures(1), ["x"]).item() == 12.5


def test_a_file_opts_in_to_gradients(tmp_path):
    text = "def score(images, prompts):\n    return images.mean((1, 2, 3))\nscore.differentiable = True\n"
    mine = load_reward(write(tmp_path, text), CPU)
    assert mine.differentiable and mine(pictures().requires_grad_(), PROMPTS).requires_grad


def test_a_file_may_use_dataclasses_and_classes(tmp_path):
    text = """\
from __future__ import annotations
from dataclasses import dataclass
@dataclass
class Brightness:
    factor: float
    def __call__(self, images, prompts):
        return self.factor * images.mean((1, 2, 3))
score = Brightness(2.0)
"""
    images = pictures()
    scores = load_reward(write(tmp_path, text), "cpu")(images, PROMPTS)
    torch.testing.assert_close(scores, 2 * images.mean((1, 2, 3)))


def test_an_exception_names_the_function_and_the_line(tmp_path):
    text = "import json\ndef score(images, prompts):\n    return f()\ndef f():\n    return json.loads('?')\n"
    name = write(tmp_path, text)
    with pytest.raises(
        RewardError, match=r"reward.py:score' raised JSONDecodeError: .*reward\.py:5\)"
    ) as caught:
        load_reward(name, "cpu")(pictures(), PROMPTS)
    assert type(caught.value.__cause__).__name__ == "JSONDecodeError"


def test_only_exceptions_are_translated():
    def function(x, p):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reward(function)(pictures(), PROMPTS)
    with pytest.raises(RewardError, match=r"raised ZeroDivisionError: .* \(at .*test_rewards\.py:\d+\)"):
        reward(lambda x, p: 1 / 0)(pictures(), PROMPTS)


def test_files_that_cannot_be_used(tmp_path):
    good = "def score(images, prompts):\n    return []\nVALUE = 1\n"
    cases = {
        str(tmp_path / "absent.py") + ":score": "there is no file",
        str(tmp_path / "absent.py"): "there is no file",
        str(tmp_path / "notes.txt") + ":score": "file.py:function",
        write(tmp_path, "def score(:\n", "syntax.py"): r"syntax\.py cannot be run: SyntaxError",
        write(tmp_path, "x = 1\nx.y()\n", "raises.py"): r"cannot be run: AttributeError.*raises\.py:2\)",
        write(tmp_path, "import no_such_module\n", "imports.py"): "No module named 'no_such_module'",
        write(tmp_path, good, "a.py").replace(
            ":score", ":scoer"
        ): "has no function 'scoer'[\\s\\S]*did you mean 'score'",
        write(tmp_path, good, "a.py").replace(":score", ":VALUE"): "has no function 'VALUE'",
        write(tmp_path, "", "empty.py"): r"a function of \(images, prompts\)",
    }
    for name, message in cases.items():
        with pytest.raises(RewardError, match=message):
            load_reward(name, "cpu")


@pytest.mark.parametrize(
    ("name", "hint"), [("embeded", "did you mean 'embedded'"), ("zzz", "your own function")]
)
def test_unknown_names(name, hint):
    with pytest.raises(
        RewardError, match=rf"no reward '{name}'[\s\S]*embedded, embedded-held-out[\s\S]*{hint}"
    ):
        load_reward(name, "cpu")


@pytest.fixture(scope="module")
def clip():
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 1}
    text = {"context_length": 12, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    return open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text).eval()


def tokenize(texts: list[str]) -> torch.Tensor:
    return torch.tensor([([62, *(ord(letter) % 60 for letter in text)] + [63] * 12)[:12] for text in texts])


@pytest.fixture
def shipped(clip, monkeypatch):
    """Small random models in place of the shipped ones, behind the same functions."""
    reward_module, scorer_module = ModuleType("clip_reward"), ModuleType("scorer")

    class Scorer(torch.nn.Module):
        def score(self, images, prompts):
            return images.mean((1, 2, 3)) * torch.ones((), requires_grad=True)

    setattr(reward_module, "load_clip", lambda folder: (clip, tokenize))  # noqa: B010
    setattr(scorer_module, "load_scorer", lambda folder: Scorer())  # noqa: B010
    monkeypatch.setitem(sys.modules, "rlr_core.embedded.clip_reward", reward_module)
    monkeypatch.setitem(sys.modules, "rlr_core.embedded.scorer", scorer_module)


@pytest.mark.usefixtures("shipped")
def test_embedded_is_the_cosine_of_picture_and_prompt(clip):
    mine, images = load_reward("embedded", "cpu"), pictures()
    assert mine.name == "embedded" and mine.differentiable
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).reshape(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).reshape(1, 3, 1, 1)
    with torch.no_grad():
        picture, text = clip.encode_image((images - mean) / std), clip.encode_text(tokenize(PROMPTS))
    expected = functional.cosine_similarity(picture, text)
    torch.testing.assert_close(mine(images, PROMPTS), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(mine(images[:1], PROMPTS[:1]), expected[:1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [32, 48, 64])
@pytest.mark.usefixtures("shipped")
def test_embedded_is_differentiable_at_every_size(size):
    mine, images = load_reward("embedded", "cpu"), pictures(size=size).requires_grad_()
    (gradient,) = torch.autograd.grad(mine(images, PROMPTS).sum(), images)
    assert gradient.isfinite().all() and gradient.any()
    direction = gradient / gradient.norm()
    step = 1e-2
    with torch.no_grad():
        rise = (mine(images + step * direction, PROMPTS) - mine(images - step * direction, PROMPTS)).sum() / (
            2 * step
        )
    assert float(rise) == pytest.approx(float(gradient.norm()), rel=0.02)


def test_each_prompt_is_encoded_once(clip):
    calls = []

    def counted(texts: list[str]) -> torch.Tensor:
        calls.extend(texts)
        return tokenize(texts)

    scores = ClipScore(clip, counted, CPU)
    scores(pictures(), PROMPTS)
    scores(pictures(), PROMPTS)
    assert calls == ["a red cat", "a dog"]


@pytest.mark.usefixtures("shipped")
def test_the_held_out_scorer_only_watches():
    watcher, images = load_reward("embedded-held-out", "cpu"), pictures().requires_grad_()
    assert watcher.name == "embedded-held-out" and not watcher.differentiable
    scores = watcher(images, PROMPTS)
    assert not scores.requires_grad
    torch.testing.assert_close(scores, images.detach().mean((1, 2, 3)))


def test_a_missing_library_or_file_says_what_to_do(monkeypatch):
    module = ModuleType("clip_reward")
    monkeypatch.setitem(sys.modules, "rlr_core.embedded.clip_reward", module)
    for error, message in (
        (ImportError(name="open_clip"), "open_clip is not installed"),
        (OSError("no"), "cannot be read"),
    ):

        def load_clip(folder, error=error):
            raise error

        setattr(module, "load_clip", load_clip)  # noqa: B010
        with pytest.raises(RewardError, match=message):
            load_reward("embedded", "cpu")


# what every reward answers


def test_a_plain_reward_has_no_scale_and_learns_nothing():
    made = reward(lambda x, p: x.mean((1, 2, 3)), differentiable=True)
    images = pictures().requires_grad_()
    looked = made.measure(images, PROMPTS)
    assert made(images, PROMPTS).requires_grad and not looked.total.requires_grad
    assert torch.equal(looked.total, made(images, PROMPTS)) and looked.parts == {}
    assert made.calibrated and made.settle() == made.state_dict() == {}
    made.forget()
    made.load_state_dict({})
    assert torch.equal(made(images, PROMPTS), looked.total)


def test_a_wrapped_reward_calls_what_it_is_wrapped_in():
    made = FunctionReward("mine", False, lambda x, p: [1.0] * len(p), networks=("tower",))
    wrapped = made.wrapped(
        lambda networks, function: lambda x, p: [len(networks) + v for v in function(x, p)]
    )
    assert wrapped(pictures(), PROMPTS).tolist() == [2, 2, 2] and wrapped.networks == ("tower",)
    assert made(pictures(), PROMPTS).tolist() == [1, 1, 1]


# videos


def videos(frames: int = 4) -> torch.Tensor:
    return torch.rand(3, 3, frames, 8, 8)


def lengths(images, prompts):
    """A picture's brightness, and more for a long prompt: which frame goes with which prompt shows."""
    return images.mean((1, 2, 3)) + torch.tensor([float(len(prompt)) for prompt in prompts])


@pytest.mark.parametrize("reduction", ["mean", "lowest"])
def test_a_video_is_scored_by_its_frames(reduction):
    seen, clips = videos(), reward(lengths, differentiable=True)
    frames = torch.stack([clips(seen[:, :, k], PROMPTS) for k in range(4)], 1)
    expected = frames.mean(1) if reduction == "mean" else frames.min(1).values
    made = FrameReward(clips, reduction)
    torch.testing.assert_close(made(seen, PROMPTS), expected)
    assert torch.equal(made.measure(seen, PROMPTS).total, made(seen, PROMPTS))
    assert made.name == f"mine ({reduction} of the frames)"


def test_gradients_reach_the_frames_that_count():
    clips, seen = reward(lengths, differentiable=True), videos().requires_grad_()
    (gradient,) = torch.autograd.grad(FrameReward(clips)(seen, PROMPTS).sum(), seen)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 1 / (4 * 3 * 64)))
    (gradient,) = torch.autograd.grad(FrameReward(clips, "lowest")(seen, PROMPTS).sum(), seen)
    worst = seen.mean((1, 3, 4)).argmin(1)
    reached = gradient.abs().sum((1, 3, 4)) > 0
    assert reached.sum(1).tolist() == [1, 1, 1] and reached.float().argmax(1).tolist() == worst.tolist()


def test_a_black_box_scores_frames_too():
    made = FrameReward(load_reward("sharpness", "cpu"))
    seen = videos().requires_grad_()
    assert not made.differentiable and made(seen, PROMPTS).shape == (3,)
    assert not made(seen, PROMPTS).requires_grad


def test_a_mix_of_videos():
    parts = {name: FrameReward(reward(function)) for name, function in (("a", lengths), ("b", lengths))}
    made, seen = Mix(parts, {"a": 1.0, "b": 1.0}, {}, running=True), torch.rand(8, 3, 4, 8, 8)
    looked = made.measure(seen, ["a"] * 8)
    made.calibrate(looked.parts)
    assert float(made(seen, ["a"] * 8).mean()) == pytest.approx(0, abs=1e-4)


def test_frames_are_reduced_in_known_ways_only():
    with pytest.raises(RewardError, match=r"'median' of a video's frames(.|\n)*mean or lowest"):
        FrameReward(reward(lengths), "median")


def test_a_wrapped_video_reward_has_its_inner_one_wrapped():
    made = FrameReward(FunctionReward("mine", False, lengths, networks=("tower",)))
    wrapped = made.wrapped(lambda networks, function: lambda x, p: function(x, p) + len(networks))
    seen = videos()
    torch.testing.assert_close(wrapped(seen, PROMPTS), made(seen, PROMPTS) + 1)
    assert wrapped.networks == made.networks == ("tower",) and wrapped.name == made.name


def test_what_is_shown_of_a_video_is_its_middle():
    seen = videos(5)
    assert torch.equal(stills(seen), seen[:, :, 2]) and torch.equal(stills(seen[:, :, :1]), seen[:, :, 0])
    images = pictures()
    assert stills(images) is images
