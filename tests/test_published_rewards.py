"""Published rewards at reduced size: what they score, their gradients, and files that are not what they should be."""

from __future__ import annotations

import dataclasses
import functools
import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from small_rewards import CPU, PROMPTS, SMALL, small_files, small_scorer
from torch.nn import functional

from rlr_core.config import RewardConfig
from rlr_core.errors import RewardError
from rlr_core.rewards import PUBLISHED, load_reward
from rlr_core.rewards import library as rewards_library
from rlr_core.rewards.hps import V2, V21
from rlr_core.rewards.preprocessing import CLIP_MEAN, CLIP_STD, cropped, padded, prepare
from rlr_core.rewards.published_files import digest, read_tensors, verify

NAMES = list(SMALL)
TWO_TOWERS = [name for name in NAMES if name != "aesthetic"]
SHAPES = [(48, 48), (30, 61), (64, 33)]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    return functools.cache(lambda name: small_files(name, tmp_path_factory.mktemp(name)))


@pytest.fixture
def small(files, monkeypatch):
    """`load_reward` with small networks and files of unknown digest."""

    def load(name: str, **settings):
        published = PUBLISHED[name]
        plain = tuple(dataclasses.replace(file, digest="") for file in published.files)
        make = functools.partial(published.make, architecture=SMALL[name])
        monkeypatch.setitem(
            rewards_library.PUBLISHED, name, dataclasses.replace(published, files=plain, make=make)
        )
        settings = {"folder": str(files(name)[0].parents[1]), "download": False, **settings}
        return load_reward(name, "cpu", RewardConfig(**settings))

    return load


def pictures(shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return 0.1 + 0.8 * torch.rand(3, 3, *shape, dtype=dtype)


@pytest.mark.parametrize("name", NAMES)
def test_each_picture_is_scored_by_itself(small, name):
    reward = small(name)
    assert reward.name == name and reward.differentiable
    for shape in SHAPES:
        images = pictures(shape).requires_grad_()
        scores = reward(images, PROMPTS)
        one_by_one = torch.cat([reward(images[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(scores, one_by_one, atol=1e-4, rtol=1e-4)
        (gradient,) = torch.autograd.grad(scores.sum(), images)
        assert gradient.isfinite().all() and gradient.flatten(1).any(1).all()


@pytest.mark.parametrize("name", TWO_TOWERS)
def test_each_picture_has_its_own_prompt(small, name):
    images = pictures((32, 32))[:1].expand(3, -1, -1, -1)
    first, other, again = small(name)(images, PROMPTS).tolist()
    assert first == pytest.approx(again, abs=1e-4) and abs(first - other) > 1e-3


def test_the_aesthetic_score_knows_no_prompt(small):
    images, reward = pictures((32, 32)), small("aesthetic")
    torch.testing.assert_close(reward(images, PROMPTS), reward(images, ["", "x", "y"]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_finite_differences(files, name, shape):
    score = small_scorer(name, files(name), torch.float64)
    images = pictures(shape, torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(score(images, PROMPTS).sum(), images)
    for direction in torch.randn(3, *images.shape, dtype=torch.float64):
        step = 1e-4 * direction / direction.norm()
        with torch.no_grad():
            rise = (score(images + step, PROMPTS) - score(images - step, PROMPTS)).sum() / 2
        assert float(rise) == pytest.approx(float((gradient * step).sum()), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_rerunning_blocks_changes_nothing(files, name):
    images = pictures((40, 30)).requires_grad_()
    scores = [small_scorer(name, files(name), rerun=rerun)(images, PROMPTS) for rerun in (False, True)]
    gradients = [torch.autograd.grad(each.sum(), images)[0] for each in scores]
    assert torch.equal(*scores) and torch.equal(*gradients)


@pytest.mark.parametrize("name", NAMES)
def test_groups_change_nothing_and_weights_have_no_gradient(small, name):
    images = pictures((40, 30)).requires_grad_()
    together, singly = small(name, chunk=8), small(name, chunk=1)
    scores = together(images, PROMPTS)
    torch.testing.assert_close(scores, singly(images, PROMPTS), atol=1e-4, rtol=1e-4)
    leaves, nodes = set(), [scores.grad_fn]
    while nodes:
        node = nodes.pop()
        nodes += [following for following, _ in node.next_functions if following]
        if hasattr(node, "variable"):
            leaves.add(node.variable)
    assert leaves == {images}


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_close_and_scores_are_float32(small, name):
    images = pictures((40, 30))
    exact, rough = small(name)(images, PROMPTS), small(name, precision="bfloat16")(images, PROMPTS)
    assert rough.dtype == torch.float32
    scale = {"pickscore": 100, "hpsv2": 100, "hpsv2.1": 100}.get(name, 1)
    torch.testing.assert_close(rough, exact, atol=0.02 * scale, rtol=0.05)


def test_pickscore_is_the_scaled_cosine(files, small):
    from transformers import CLIPConfig, CLIPModel

    (path,) = files("pickscore")
    clip = CLIPModel.from_pretrained(
        None, config=CLIPConfig(**SMALL["pickscore"]), state_dict=read_tensors(path)
    ).eval()
    images = torch.rand(3, 3, 28, 28)
    pixels = prepare(images, 28, cropped)
    numbers = {"a red cat": [49406, 320, 736, 2368, 49407], "a dog": [49406, 320, 1929, 49407]}
    with torch.no_grad():
        for image, pixel, prompt in zip(images, pixels, PROMPTS, strict=True):
            output = clip(input_ids=torch.tensor([numbers[prompt]]), pixel_values=pixel[None])
            score = small("pickscore")(image[None], [prompt])
            torch.testing.assert_close(score, output.logits_per_image[0], atol=1e-4, rtol=1e-5)


def test_preprocessing_of_known_pictures():
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    images = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(prepare(images, 8, cropped), (images - mean) / std)
    halves = torch.cat([torch.zeros(1, 3, 40, 40), torch.ones(1, 3, 40, 40)], 3)
    square = padded(halves, 40)
    assert square.shape == (1, 3, 40, 40)
    assert not square[:, :, :10].any() and not square[:, :, 30:].any()
    assert square[0, 0, 20, :15].abs().max() < 1e-3 and (square[0, 0, 20, 25:] - 1).abs().max() < 1e-3
    middle = cropped(halves, 40)
    assert not middle[..., :20].any() and bool((middle[..., 20:] == 1).all())
    assert cropped(torch.rand(1, 3, 1, 300), 16).shape == padded(torch.rand(1, 3, 300, 1), 16).shape


def test_resizing_is_pillows_but_for_its_rounding():
    numpy, image = pytest.importorskip("numpy"), pytest.importorskip("PIL.Image")
    values = (torch.rand(1, 3, 90, 120) * 255).byte()
    picture = image.fromarray(values[0].permute(1, 2, 0).numpy()).resize((64, 48), image.Resampling.BICUBIC)
    theirs = torch.from_numpy(numpy.array(picture)).permute(2, 0, 1)[None].float() / 255
    ours = functional.interpolate(values.float() / 255, (48, 64), mode="bicubic", antialias=True).clamp(0, 1)
    assert (ours - theirs).abs().max() < 2 / 255 and (ours - theirs).abs().mean() < 0.35 / 255


@pytest.mark.parametrize("name", TWO_TOWERS)
def test_long_prompts_are_cut_with_one_warning(small, name):
    reward, images = small(name), pictures((32, 32))
    long = "a b c " * 40
    with pytest.warns(UserWarning, match=rf"a b c a b.* tokens long; '{name}' reads (77|35) of it") as caught:
        scores = reward(images[:1].expand(2, -1, -1, -1), [long, long + "and more"])
    assert len(caught) == 1
    torch.testing.assert_close(scores[0], scores[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reward(images, PROMPTS)


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_picture_scores_nan_and_harms_no_other(small, name):
    reward, images = small(name), pictures((20, 60))
    images[1, 2, 3, 0] = torch.nan  # at an edge that is cropped away
    with pytest.warns(UserWarning, match=rf"1 of 3 pictures have pixels that are NaN .*'{name}'"):
        scores = reward(images, PROMPTS)
    assert scores.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(scores[::2], reward(images[::2], PROMPTS[::2]), atol=1e-4, rtol=1e-4)


def test_no_pictures_are_an_error(small):
    with pytest.raises(RewardError, match="'clipscore' got no pictures"):
        small("clipscore")(torch.zeros(0, 3, 8, 8), [])


@pytest.mark.parametrize("name", NAMES)
def test_missing_weights_say_where_to_get_them(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    file = PUBLISHED[name].files[0]
    with pytest.raises(RewardError) as caught:
        load_reward(name, "cpu", RewardConfig(folder=str(tmp_path / "wo?"), download=False))
    for part in (file.name, file.gigabytes, str(tmp_path), f"rlr rewards download {name}", file.repository):
        assert part in str(caught.value)


def test_where_weights_are_found(files, small, tmp_path, monkeypatch):
    (path,) = files("hpsv2")
    (tmp_path / "mit Größe").mkdir()
    flat = tmp_path / "mit Größe" / path.name
    flat.write_bytes(path.read_bytes())
    images = pictures((30, 30))
    expected = small("hpsv2")(images, PROMPTS)
    torch.testing.assert_close(small("hpsv2", folder=str(flat.parent))(images, PROMPTS), expected)
    monkeypatch.setenv("RLR_REWARDS", str(path.parents[1]))
    torch.testing.assert_close(small("hpsv2", folder=str(tmp_path))(images, PROMPTS), expected)


def test_a_run_fetches_what_is_missing_if_it_may(files, small, tmp_path, monkeypatch):
    (path,) = files("hpsv2")
    asked = []

    def fetch(file, folder, reward):
        asked.append((file.name, folder, reward))
        return path

    monkeypatch.setattr("rlr_core.rewards.published.download", fetch)
    with pytest.raises(RewardError, match="needs HPS_v2_compressed"):
        small("hpsv2", folder=str(tmp_path), download=False)
    assert not asked
    small("hpsv2", folder=str(tmp_path), download=True)(pictures((30, 30)), PROMPTS)
    assert asked == [("HPS_v2_compressed.pt", tmp_path, "hpsv2")]


def damaged(path: Path, folder: Path, content: bytes) -> Path:
    copy = folder / path.parent.name / path.name
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(content)
    return copy


@pytest.mark.parametrize("name", ["pickscore", "hpsv2", "imagereward"])
@pytest.mark.parametrize("share", [0, 0.001, 0.6])
def test_truncated_files_are_named(files, small, tmp_path, name, share):
    whole = files(name)
    for path in whole:
        damaged(path, tmp_path, path.read_bytes())
    content = whole[0].read_bytes()
    copy = damaged(whole[0], tmp_path, content[: int(share * len(content))])
    with pytest.raises(RewardError) as caught:
        small(name, folder=str(tmp_path))
    assert str(copy) in str(caught.value) and "damaged or incomplete" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "other"), [("pickscore", "clipscore"), ("hpsv2", "imagereward"), ("imagereward", "hpsv2")]
)
def test_another_networks_file_is_refused(files, tmp_path, name, other):
    wide = {**SMALL["clipscore"], "projection_dim": 24}
    paths = list(files(name))
    if name == "pickscore":
        from rlr_core.bench.random_weights import write_random

        paths = write_random(other, tmp_path, wide)
    else:
        paths[0] = files(other)[0]
    with pytest.raises(
        RewardError, match=r"another network[\s\S]*(shape|missing)[\s\S]*rlr rewards"
    ) as caught:
        small_scorer(name, paths)
    assert str(paths[0]) in str(caught.value)


class Harmful:
    def __reduce__(self):
        import os

        return os.system, ("true",)


@pytest.mark.parametrize("form", ["zipped", "old", "pickled"])
def test_a_file_that_wants_to_run_code_is_refused_by_name(tmp_path, form):
    path = tmp_path / "HPS_v2_compressed.pt"
    content = {"more": Harmful(), "state_dict": {"a": torch.ones(1)}}
    if form == "pickled":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zipped")
    with pytest.raises(RewardError, match=r"HPS_v2_compressed\.pt is refused.*system"):
        read_tensors(path)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"state_dict": [torch.ones(1)]}])
def test_what_is_no_table_of_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(RewardError, match="holds no table of tensors"):
        read_tensors(tmp_path / "x.pt")


def test_v2_given_as_v21_is_told_apart_by_its_digest(files, monkeypatch, tmp_path):
    (path,) = files("hpsv2")
    real = f"md5:{digest(path, 'md5')}"
    (file,) = PUBLISHED["hpsv2.1"].files
    assert file.digest == V21 and file.look_alikes == {V2: "the file of 'hpsv2'"}
    pretended = dataclasses.replace(file, look_alikes={real: file.look_alikes[V2]})
    with pytest.raises(RewardError, match=r"is the file of 'hpsv2'[\s\S]*HPS_v2\.1_compressed\.pt"):
        verify(path, pretended)
    with pytest.raises(RewardError, match="damaged or another file: its md5 is"):
        verify(path, file)
    verify(path, dataclasses.replace(file, digest=real))
    whole = dataclasses.replace(PUBLISHED["hpsv2.1"], files=(pretended,))
    monkeypatch.setitem(rewards_library.PUBLISHED, "hpsv2.1", whole)
    copy = tmp_path / pretended.place
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    with pytest.raises(RewardError, match="is the file of 'hpsv2'"):
        load_reward("hpsv2.1", CPU, RewardConfig(folder=str(tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pickscore", "hpsv2", "aesthetic", "imagereward", "clipscore"])
def test_full_size_files_load_strictly_and_score(name, tmp_path, monkeypatch):
    """Names, shapes and types as published; the weights are random. Takes 4 GB of disk and up to 6 GB of memory."""
    from rlr_core.bench.random_weights import write_random

    write_random(name, tmp_path)
    published = PUBLISHED[name]
    plain = tuple(dataclasses.replace(file, digest="") for file in published.files)
    monkeypatch.setitem(rewards_library.PUBLISHED, name, dataclasses.replace(published, files=plain))
    reward = load_reward(name, CPU, RewardConfig(folder=str(tmp_path)))
    weights = [file for file in published.files if file.name != "vocab.txt"]
    sizes = [(tmp_path / file.place).stat().st_size for file in weights]
    assert sizes == pytest.approx([file.size for file in weights], rel=0.01)
    with torch.no_grad():
        assert reward(torch.rand(1, 3, 512, 384), ["a red cat"]).isfinite().all()
    shutil.rmtree(tmp_path)
