"""The first real run, as a new user makes it: own checkpoint, prompts and reward, one command, and nothing else."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

import ldm
import runs

from rlr_core.cli import main
from rlr_core.config import Judged, RunConfig, from_dict, load
from rlr_core.errors import RewardError, RLRError
from rlr_core.families import FAMILIES, SDXL
from rlr_core.rewards import FunctionReward
from rlr_core.runs.directory import RunDirectory
from rlr_core.trainer import Materials, Rewards, devices, prepare
from rlr_core.trainer.composing import composed
from rlr_core.trainer.deciding import JUDGES, decided
from rlr_core.trainer.prompts import read_prompts

QUICK = [
    "sampling.steps=3",
    "sampling.size=64",
    "training.iterations=2",
    "training.batch_size=2",
    "training.prompts_per_batch=2",
]
QUICK += ["output.evaluation=3", "output.previews=2", "model.threads=1", "model.device=cpu"]
PROMPTS = [
    "eine grüne Wiese",
    "# a comment",
    "赤い円と猫",
    "",
    "a red bird",
    *(f"a house, number {n}" for n in range(8)),
]

MORE = """
def detached(images, prompts):
    return images.detach().mean((1, 2, 3))

detached.differentiable = True

def half(images, prompts):
    return torch.where(torch.arange(len(images)) > 0, images.std((1, 2, 3)), torch.nan)

half.differentiable = True
"""


def rlr(*arguments: str) -> int:
    return main(list(arguments))


def setting(*pairs: str) -> list[str]:
    return [word for pair in pairs for word in ("--set", pair)]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder as people have it: a file in the layout of model sites, prompts from a Windows editor, a reward."""
    folder = tmp_path_factory.mktemp("files") / "Bilder & große Modelle"
    folder.mkdir()
    (folder / "my prompts.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(PROMPTS).encode())
    (folder / "my reward.py").write_text(
        "import torch\n\n"
        "def redder(images, prompts):\n    return images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2))\n\n"
        "redder.differentiable = True\n",
        encoding="utf-8",
    )
    (folder / "rewards.py").write_text(runs.REWARD + MORE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        tiny = ldm.use_tiny_families(folder / "families", patch)
        torch.manual_seed(0)
        ldm.save(
            ldm.ldm_tensors(ldm.components(tiny["sd1"]), tiny["sd1"]), folder / "mein Modell v1.safetensors"
        )
    return folder


@pytest.fixture
def desk(home, tmp_path, monkeypatch) -> Path:
    ldm.use_tiny_families(tmp_path / "families", monkeypatch)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path)
    return home


def files(desk: Path) -> list[str]:
    """The three things that a first run needs."""
    options = {
        "checkpoint": "mein Modell v1.safetensors",
        "reward": "my reward.py",
        "prompts": "my prompts.txt",
    }
    return [word for option, name in options.items() for word in (f"--{option}", str(desk / name))]


# the one command


def test_a_checkpoint_a_reward_and_prompts_are_enough(desk, capsys):
    assert rlr("train", *files(desk), *setting(*QUICK)) == 0
    out = capsys.readouterr().out
    folder = Path("runs/mein Modell v1-001")
    config = RunDirectory(folder).config
    assert (folder / "rlr-lora.safetensors").stat().st_size > 10_000 and (
        folder / "before_after.png"
    ).is_file()
    held_out = ["a house, number 1", "a house, number 6"]
    assert config.prompts.held_out == held_out and "2 of 11 prompts are set aside" in out
    assert config.prompts.train == [p for p in PROMPTS if p and p[0] != "#" and p not in held_out]
    assert config.reward.held_out == config.reward.name == str(desk / "my reward.py")
    report = (folder / "report.html").read_text(encoding="utf-8")
    for told in (out, report):
        assert "core by the trained reward" in told and "prompts and seeds never trained on" in told
        assert "eld-out score" not in re.sub(
            "(?s)<h2>.*|with the best held-out score|Best by held-out score", "", told
        )
    assert "Estimator lookahead (preset default)" in out and "biased" in out
    assert "lookahead: the gradient of" in report and "training.learning_rate = 0.0005 (0.002)" in report
    assert (config.training.learning_rate, config.sampling.guidance_scale, config.training.ema) == (
        5e-4,
        7.5,
        0.95,
    )
    assert (
        "training.learning_rate = 0.0005" in out
        and "sampling.steps = " not in out.split("Set for")[1].splitlines()[0]
    )


@contextmanager
def stopped_once(folder: Path, iteration: int) -> Iterator[None]:
    """What `rlr stop` in another terminal does, when the run has come that far."""

    def watch() -> None:
        while not over.wait(0.05):
            if RunDirectory(folder).state().iteration >= iteration:
                assert rlr("stop", str(folder)) == 0
                return

    over = threading.Event()
    other = threading.Thread(target=watch)
    other.start()
    try:
        yield
    finally:
        over.set()
        other.join()


def test_train_stop_export_extend_report_compare(desk, tmp_path, capsys):
    """A user's first day with a checkpoint, a reward and prompts of one's own."""
    folder, lora = Path("runs/mein Modell v1-001"), "runs/mein Modell v1-001/rlr-lora.safetensors"
    short = [*QUICK[:2], *QUICK[3:], "training.iterations=500"]
    with stopped_once(folder, 1):
        assert rlr("train", *files(desk), *setting(*short)) == 0
    done = RunDirectory(folder).state()
    assert done.state == "stopped" and 1 <= done.iteration < 500
    assert Path(lora).is_file() and (folder / "report.html").is_file()
    assert rlr("runs") == 0 and "stopped" in capsys.readouterr().out
    assert rlr("export", str(folder), "--out", "first try.safetensors") == 0
    assert Path("first try.safetensors").read_bytes()[8:] and rlr("report", str(folder)) == 0
    lower = (
        (folder / "config.toml")
        .read_text(encoding="utf-8")
        .replace("iterations = 500", f"iterations = {done.iteration}")
    )
    (folder / "config.toml").write_text(lower, encoding="utf-8")
    assert rlr("extend", str(folder), "--iterations", "1") == 0
    assert RunDirectory(folder).state().state == "finished"
    assert RunDirectory(folder).state().iteration == done.iteration + 1
    assert rlr("lora", "info", lora) == 0 and "Stable Diffusion" in capsys.readouterr().out
    painted = ["--lora", lora, "--strengths", "0,1", "--out", "my pictures"]
    given = [
        f"model.checkpoint={desk / 'mein Modell v1.safetensors'}",
        "sampling.steps=3",
        "sampling.size=64",
    ]
    assert rlr("sample", "eine grüne Wiese", *painted, *setting(*given)) == 0
    assert sorted(file.name for file in Path("my pictures").iterdir()) == [
        "000-strength-0.png", "000-strength-1.png", "sheet.png",
    ]  # fmt: skip
    with Image.open("my pictures/000-strength-1.png") as picture:
        told = picture.text["parameters"]
    assert told.startswith("eine grüne Wiese <lora:rlr-lora:1>")
    assert "Steps: 3," in told and "CFG scale: 7.5" in told, "what is set, and the family's default"


def test_paths_from_home_and_a_config_beside_the_options(desk, tmp_path, capsys):
    (tmp_path / "more.toml").write_text(
        "[training]\niterations = 1\n[model]\ncheckpoint = '~/mein Modell v1.safetensors'\n", encoding="utf-8"
    )
    given = [word.replace(str(desk), "~") for word in files(desk)]
    short = [pair for pair in QUICK if "iterations" not in pair]
    assert rlr("train", "more.toml", *given, "--run", "my run", *setting(*short, "output.evaluation=0")) == 0
    config = RunDirectory(Path("my run")).config
    assert config.training.iterations == 1 and config.model.checkpoint == str(
        desk / "mein Modell v1.safetensors"
    )


@pytest.mark.parametrize(
    ("file", "option", "told"),
    [
        (
            "[model]\ncheckpoint = 'other.safetensors'",
            "",
            ["--checkpoint", "model.checkpoint = 'other.safetensors'"],
        ),
        ("[reward]\nname = 'hpsv2'", "", ["--reward", "reward.name = 'hpsv2'"]),
        ("[prompts]\nfile = 'other.txt'", "", ["--prompts", "prompts.file = 'other.txt'"]),
        ("[prompts]\ntrain = ['a cat']", "", ["--prompts", "prompts.train = ['a cat']"]),
        ("", "reward.name=hpsv2", ["--reward", "reward.name = 'hpsv2' in --set reward.name=hpsv2"]),
    ],
)
def test_two_values_of_one_setting_are_refused(file, option, told, desk, tmp_path, capsys):
    (tmp_path / "my.toml").write_text(file, encoding="utf-8")
    assert rlr("train", "my.toml", *files(desk), *(setting(option) if option else [])) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in told) and "one of the two" in error and not Path("runs").exists()


def test_what_is_missing_is_told_before_anything_is_loaded(desk, capsys, monkeypatch):
    monkeypatch.setattr("rlr_core.trainer.setup.load_rewards", lambda *_: pytest.fail("rewards were loaded"))
    checkpoint, reward, prompts = (files(desk)[k : k + 2] for k in (0, 2, 4))
    for given, told in [
        ([], "without a checkpoint"),
        ([*checkpoint, *prompts], "no reward for"),
        ([*checkpoint, *reward], "add --prompts FILE"),
        (
            ["--checkpoint", "nowhere.safetensors", *reward, *prompts],
            "there is no checkpoint at nowhere.safetensors",
        ),
        ([*checkpoint, *reward, *prompts, *setting("model.clip_skip=99")], "model.clip_skip = 99"),
        ([*checkpoint, *reward, *prompts, *setting("model.vae=nowhere.pt")], "nowhere.pt"),
        ([*checkpoint, *reward, *prompts, *setting("sampling.size=63")], "63"),
        ([*checkpoint, *reward, *prompts, *setting("lora.start=nowhere.safetensors")], "nowhere.safetensors"),
    ]:
        assert rlr("train", *given, "--run", "run") == 2, given
        assert told in capsys.readouterr().err and not Path("run").exists()


# defaults


def test_the_config_for_a_checkpoint_shows_its_defaults_and_sets_only_what_was_chosen(desk, tmp_path, capsys):
    assert rlr("config", *files(desk), "--set", "training.iterations=7") == 0
    text = capsys.readouterr().out
    active = [line for line in text.splitlines() if line and line[0] not in "#["]
    assert [line.split(" = ")[0] for line in active] == ["checkpoint", "file", "name", "iterations"]
    assert (
        "# learning_rate = 0.0005  # of Adam, with step = rate; 2e-3 is fitted to the embedded checkpoint"
        in text
    )
    assert '# plan = "auto"' in text and "# guidance_scale = 7.5" in text
    (tmp_path / "my.toml").write_text(text, encoding="utf-8")
    assert composed(tmp_path / "my.toml").config == composed(None, [load_tables(text)]).config
    uncommented = re.sub(r"(?m)^# (?=\w+ = )", "", text)
    (tmp_path / "whole.toml").write_text(uncommented, encoding="utf-8")
    assert load(tmp_path / "whole.toml") == composed(tmp_path / "my.toml").config, (
        "what is shown is what is meant"
    )


def load_tables(text: str) -> dict:
    from rlr_core.config.toml import tomllib

    return tomllib.loads(text)


@pytest.mark.parametrize(
    ("capability", "precision"), [(None, "float32"), ((7, 5), "float16"), ((8, 0), "bfloat16")]
)
def test_the_precision_is_what_the_device_is_fast_in(capability, precision, monkeypatch):
    if capability:
        monkeypatch.setattr(devices, "devices_here", lambda: ["cpu", "cuda"])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    settings = [f"model.checkpoint={SDXL.configs}", f"model.device={'cuda' if capability else 'cpu'}"]
    made = composed(None, settings)
    assert made.config.model.precision == precision and ("model.precision" in made.reasons) == bool(
        capability
    )
    assert made.config.training.learning_rate == 2e-4 and made.config.sampling.guidance_scale == 5
    assert composed(None, [*settings, "model.precision=float32"]).config.model.precision == "float32"


def test_the_embedded_checkpoint_keeps_the_built_in_defaults():
    assert composed().config == RunConfig() and composed(preset="published").config == load(
        preset="published"
    )


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_default_of_a_family_is_a_setting_that_differs_with_a_reason(family):
    built_in = RunConfig()
    for name, default in family.defaults.items():
        section, key = name.split(".")
        assert getattr(getattr(built_in, section), key) != default.value and len(default.why) > 15
        from_dict({section: {key: default.value}})


# who judges


def config(**reward: object) -> RunConfig:
    return from_dict(
        {"model": {"checkpoint": "mine.safetensors"}, "reward": reward, "prompts": {"train": ["a"]}}
    )


def test_the_judge_is_none_that_is_trained_on(monkeypatch):
    there: set[str] = set()
    monkeypatch.setattr("rlr_core.trainer.deciding.find", lambda file, folder: file.repository in there)
    for name, repositories, judge in [
        ("pickscore", (), "pickscore"),
        ("my.py:score", (), "my.py:score"),
        ("my.py:score", ("xswu/HPSv2",), "hpsv2.1"),
        ("hpsv2.1", ("xswu/HPSv2",), "hpsv2"),
    ]:
        there |= set(repositories)
        assert decided(config(name=name)).reward.held_out == judge, name
    mix = decided(config(name="mix", mix={"hpsv2": 1, "hpsv2.1": 1}))
    assert mix.reward.held_out == "mix" and not Judged.of(mix).held_out
    assert not Judged.of(config(name="mix", mix={"hpsv2": 1, "a": 1}, held_out="hpsv2")).held_out
    assert Judged.of(config(name="mix", mix={"hpsv2": 1, "a": 1}, held_out="sharpness")).held_out
    assert set(JUDGES) == {"pickscore", "imagereward", "hpsv2.1", "hpsv2", "clipscore", "aesthetic"}


def test_the_embedded_scorer_judges_what_it_can_read():
    assert decided(RunConfig()).reward.held_out == "embedded-held-out"
    reads = from_dict({"prompts": {"train": ["a red circle"]}})
    cannot = from_dict({"prompts": {"train": ["a red circle", "a photo of a dog"]}})
    assert decided(reads).reward.held_out == "embedded-held-out"
    assert decided(cannot).reward.held_out != "embedded-held-out"


@pytest.mark.parametrize(("count", "aside"), [(1, 0), (9, 0), (10, 2), (14, 2), (15, 3), (100, 20)])
def test_a_fifth_of_the_prompts_is_set_aside_where_there_are_enough(count, aside, tmp_path):
    prompts = [f"prompt {n}" for n in range(count)]
    (tmp_path / "p.txt").write_text("\n".join(prompts * 2), encoding="utf-8")
    made = decided(from_dict({"prompts": {"file": str(tmp_path / "p.txt")}})).prompts
    assert len(made.held_out) == aside and not set(made.held_out) & set(made.train)
    assert set(made.held_out) | set(made.train) == set(prompts) and len(made.train) == 2 * (count - aside)
    judged = Judged.of(from_dict({"prompts": {"train": made.train, "held_out": made.held_out}}))
    assert judged.pairs == ("prompts and seeds never trained on" if aside else "same prompts, other seeds")
    assert decided(from_dict({"prompts": {"train": made.train, "held_out": ["x"]}})).prompts.held_out == ["x"]


def test_prompts_that_are_judged_and_trained_on_are_not_called_otherwise():
    both = from_dict({"prompts": {"train": ["a", "b"], "held_out": ["b", "c"]}})
    assert Judged.of(both).pairs == "other seeds, 1 of 2 prompts the same"
    assert "1 of 2 prompts" in Judged.of(both).title


def test_held_out_prompts_of_a_file_are_compared_with_those_that_are_trained_on(tmp_path):
    for name, prompts in {"train": "a\nb\nc", "same": "a\nb", "others": "d\ne"}.items():
        (tmp_path / f"{name}.txt").write_text(prompts, encoding="utf-8")
    for name, pairs in (
        ("same", "same prompts, other seeds"),
        ("others", "prompts and seeds never trained on"),
    ):
        given = {"file": str(tmp_path / "train.txt"), "held_out_file": str(tmp_path / f"{name}.txt")}
        assert Judged.of(decided(from_dict({"prompts": given}))).pairs == pairs


def test_few_prompts_are_never_called_held_out(desk, tmp_path, capsys):
    (tmp_path / "few.txt").write_text("a red bird\na house\n", encoding="utf-8")
    given = [*files(desk)[:4], "--prompts", "few.txt", "--run", "run"]
    assert rlr("train", *given, *setting(*QUICK, "training.iterations=1", "reward.held_out=sharpness")) == 0
    report = Path("run/report.html").read_text(encoding="utf-8")
    told = capsys.readouterr().out + re.sub("(?s)<h2>.*", "", report)
    assert "same prompts, other seeds" in told and "never trained on" not in told
    assert "sharpness: held-out score, same prompts, other seeds" in report


# rewards are asked before the checkpoint is loaded


@pytest.mark.parametrize(
    ("party", "function", "says"),
    [
        ("reward.name", "nan", "scored two grey pictures nan, nan"),
        ("reward.name", "shape", "of shape ()"),
        ("reward.held_out", "broken", "raised TypeError"),
        ("reward.held_out", "embedded-held-out", "set reward.held_out to another reward"),
        ("reward.watch", "nan", "scored two grey pictures nan, nan"),
    ],
)
def test_a_reward_that_cannot_score_is_refused_before_the_checkpoint_is_loaded(
    party, function, says, desk, monkeypatch, capsys
):
    monkeypatch.setattr(
        "rlr_core.trainer.setup.saving_memory", lambda *_: pytest.fail("the model was loaded")
    )
    name = function if "-" in function else f"{desk / 'rewards.py'}:{function}"
    given = files(desk)
    if party == "reward.name":
        given[3] = name
    else:
        given += setting(f"{party}={[name] if party == 'reward.watch' else name!r}")
    assert (
        rlr("train", *given, "--run", "run", *setting(*QUICK, "estimator.name=half", "memory.plan=off")) == 2
    )
    error = capsys.readouterr().err
    assert party in error and says in error and function in error and not Path("run").exists()


def rewarded(desk: Path, function: str) -> RunConfig:
    model = {"checkpoint": str(desk / "mein Modell v1.safetensors"), "device": "cpu"}
    name = f"{desk / 'rewards.py'}:{function}"
    return from_dict({"model": model, "prompts": {"train": ["a"]}, "reward": {"name": name}})


@pytest.mark.parametrize(
    ("function", "told"),
    [("detached", r"reward\.name: the reward '.*:detached' says"), ("bright", "no gradient")],
)
def test_a_gradient_that_is_not_there_is_told_beforehand(function, told, desk, monkeypatch):
    monkeypatch.setattr(
        "rlr_core.trainer.setup.saving_memory", lambda *_: pytest.fail("the model was loaded")
    )
    with pytest.raises(RLRError, match=told):
        prepare(rewarded(desk, function))


def test_a_reward_without_a_score_for_one_grey_picture_is_no_broken_one(desk):
    prepare(rewarded(desk, "half")).close()


def test_rewards_that_a_caller_brings_are_not_asked_beforehand(desk):
    reward = FunctionReward("mine", True, lambda images, prompts: pytest.fail("it was called"))
    prepare(rewarded(desk, "nan"), materials=Materials(rewards=Rewards(reward, reward))).close()


def test_a_reward_file_with_several_functions_wants_a_name(desk):
    from rlr_core.rewards import load_reward

    assert load_reward(str(desk / "my reward.py")).differentiable
    with pytest.raises(
        RewardError, match=r"defines red, bright, nan, shape, broken, detached, half[\s\S]*after a colon"
    ):
        load_reward(str(desk / "rewards.py"))


def test_prompts_files_of_every_editor(tmp_path, monkeypatch):
    wanted = [prompt for prompt in PROMPTS if prompt and prompt[0] != "#"]
    for start, end in ((b"", "\n"), (b"\xef\xbb\xbf", "\r\n"), (b"", "\r")):
        (tmp_path / "p q ü.txt").write_bytes(start + end.join(PROMPTS).encode())
        monkeypatch.setenv("HOME", str(tmp_path))
        assert read_prompts("~/p q ü.txt") == read_prompts(str(tmp_path / "p q ü.txt")) == wanted
