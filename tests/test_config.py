"""Run configs: what is read, written and refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rlr_core.config import (
    PRESETS,
    EstimatorConfig,
    PromptConfig,
    RunConfig,
    from_dict,
    layered,
    load,
    merged,
    nearest,
    preset,
    to_dict,
    to_guide,
    to_toml,
)
from rlr_core.errors import ConfigError


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "run.toml"
    path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return path


def refusal(path: Path | None, overrides: Sequence[str] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    message = str(caught.value)
    assert "expected:" in message and "what to do:" in message
    return message


PROMPTS = ['a "red" circle', "back\\slash", "línea\nnueva\ttab", "赤い円", "nul \x01 and \x7f", ""]


@pytest.mark.parametrize("comments", [True, False])
def test_a_config_survives_its_own_file(tmp_path: Path, comments: bool) -> None:
    config = RunConfig(
        prompts=PromptConfig(train=PROMPTS, negative='"""', file="C:\\prompts\\a.txt"),
        estimator=EstimatorConfig(name="published", sigma=1e-7, antithetic=False, clip=0.25),
    )
    path = written(tmp_path, to_toml(config, comments=comments))
    assert load(path) == config
    assert from_dict(to_dict(config)) == config


def test_the_default_file_is_the_defaults_and_says_what_each_setting_is(tmp_path: Path) -> None:
    text = to_toml(RunConfig())
    assert load(written(tmp_path, text)) == RunConfig() == load(None)
    for section, table in to_dict(RunConfig()).items():
        assert f"[{section}]" in text
        assert all(f"\n{key} = " in text for key in table)
    assert "leave_one_out | running_mean | none" in text
    assert "#" not in to_toml(RunConfig(), comments=False)


def test_a_guide_sets_what_was_chosen_and_shows_the_rest(tmp_path: Path) -> None:
    text = to_guide(
        load(None, ["training.iterations=7"]), {"training": {"iterations": 7}}, {"lora.rank": "so"}
    )
    assert load(written(tmp_path, text)) == load(None, ["training.iterations=7"])
    active = [line for line in text.splitlines() if line and line[0] not in "#["]
    assert active == ["iterations = 7"] and "\n# rank = 8  # so\n" in text
    assert "\n# steps = 20  # T, denoising steps\n" in text


def test_a_file_of_defaults_leaves_a_preset_its_settings(tmp_path: Path) -> None:
    """A file that wrote every default out made the preset nothing."""
    path = written(tmp_path, to_guide(RunConfig(), {}))
    assert load(path, preset="published") == load(None, preset="published")


@pytest.mark.parametrize("name", ["published", "black-box", "black-box-unbiased", "default"])
def test_a_file_that_contradicts_its_preset_is_refused(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, '[estimator]\nname = "ddpo"\nchunk = 1\n')
    with pytest.raises(
        ConfigError, match=rf"--preset {name}, and .*run\.toml[\s\S]*estimator\.name = 'ddpo'"
    ) as caught:
        load(path, preset=name)
    assert f"preset: '{preset(name).settings['estimator']['name']}'" in str(caught.value)
    assert "chunk" not in str(caught.value), "which says the same"
    assert load(path).estimator.name == "ddpo"
    assert load(None, ["estimator.name=ddpo"], name).estimator.name == "ddpo", "a deliberate change"
    assert load(written(tmp_path, to_toml(load(preset=name))), preset=name) == load(preset=name)


def test_the_nearest_preset_and_what_differs_from_it() -> None:
    for name in PRESETS:
        assert nearest(load(preset=name)) == (name, [])
    made = load(None, ["sampling.steps=7", "estimator.sigma=0.5", "prompts.train=['a']"], "published")
    assert [(change.name, change.before, change.now) for change in nearest(made)[1]] == [
        ("sampling.steps", 20, 7),
        ("estimator.sigma", 0.01, 0.5),
    ]
    assert nearest(made)[0] == "published"


def test_what_a_file_leaves_out_has_its_default(tmp_path: Path) -> None:
    config = load(written(tmp_path, "[training]\niterations = 3\nlearning_rate = 1\n"))
    assert config.training == replace(RunConfig().training, iterations=3, learning_rate=1.0)
    assert isinstance(config.training.learning_rate, float)
    assert config.model == RunConfig().model


@pytest.mark.parametrize(
    ("text", "wrong", "nearest"),
    [
        ("[training]\niteration = 3", "'iteration'", "'iterations'"),
        ("[trainig]\niterations = 3", "'trainig'", "'training'"),
        ("[estimator]\nanti_thetic = true", "'anti_thetic'", "'antithetic'"),
        ("steps = 3", "'steps'", "did you mean"),
        ('[estimator]\nbaseline = "leave-one-out"', "'leave-one-out'", "'leave_one_out'"),
    ],
)
def test_an_unknown_name_names_the_nearest(tmp_path: Path, text: str, wrong: str, nearest: str) -> None:
    message = refusal(written(tmp_path, text))
    assert wrong in message and nearest in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[training]\niterations = "3"', "a whole number"),
        ("[training]\niterations = 3.0", "a whole number"),
        ("[training]\niterations = true", "a whole number"),
        ("[training]\niterations = 0", "at least 1"),
        ('[training]\nlearning_rate = "fast"', "a number"),
        ("[training]\nlearning_rate = true", "a number"),
        ("[training]\nlearning_rate = -1e-3", "a number from 0 to 1"),
        ("[training]\nlearning_rate = nan", "a number from 0 to 1"),
        ("[lora]\nalpha = inf", "a number from 1e-06 to 1000000.0"),
        ("[lora]\nalpha = 1e300", "a number from 1e-06 to 1000000.0"),
        ("[estimator]\nsigma = inf", "finite"),
        ("[sampling]\neta = 1.1", "a number from 0 to 1"),
        ("[estimator]\nantithetic = 1", "true or false"),
        ("[estimator]\nname = 3", "a text"),
        ('[prompts]\ntrain = "a circle"', "a list of texts"),
        ('[prompts]\ntrain = ["a circle", 3]', "a list of texts"),
        ('[model]\nprecision = "float8"', "float32, bfloat16, float16"),
        ("training = 3", "a table"),
        ("[[training]]\niterations = 3", "a table"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(tmp_path: Path, text: str, says: str) -> None:
    message = refusal(written(tmp_path, text))
    assert says in message


def test_overrides_win_over_the_file_and_are_read_as_toml(tmp_path: Path) -> None:
    path = written(tmp_path, "[training]\niterations = 3\nseed = 1\n")
    overrides = [
        "training.iterations=100",
        "sampling.eta = 0.5",
        'prompts.train=["a circle", "a square = 4 sides"]',
        'prompts.negative="blurry, dark"',
        "estimator.antithetic=false",
        "estimator.name=published",
        "reward.name=file.py:score",
        "output.name=my = lora",
    ]
    config = load(path, overrides)
    assert (config.training.iterations, config.training.seed, config.sampling.eta) == (100, 1, 0.5)
    assert config.prompts.train == ["a circle", "a square = 4 sides"]
    assert config.prompts.negative == "blurry, dark"
    assert config.estimator.antithetic is False and config.estimator.name == "published"
    assert config.reward.name == "file.py:score" and config.output.name == "my = lora"
    assert load(None, ["training.iterations=1", "training.iterations=2"]).training.iterations == 2


def test_a_preset_lies_below_the_file_and_the_overrides(tmp_path: Path) -> None:
    path = written(tmp_path, "[estimator]\nsigma = 0.5\n")
    config = load(path, ["estimator.chunk=4"], "published")
    assert (config.estimator.name, config.training.weighing) == ("published", "equal")
    assert (config.estimator.sigma, config.estimator.chunk) == (0.5, 4)
    assert load(preset="default") == RunConfig()
    assert PRESETS["published"].settings["estimator"]["chunk"] == 1, "what was read on top did not change it"


def test_an_unknown_preset() -> None:
    for find in (preset, lambda name: load(preset=name), lambda name: layered(preset=name)):
        with pytest.raises(ConfigError, match=r"'publish'(.|\n)*'published'"):
            find("publish")


def test_overrides_may_be_tables_and_a_base_lies_below_the_preset() -> None:
    config = load(None, ["training.seed=1", {"training": {"iterations": 7, "seed": 2}}, "training.seed=3"])
    assert (config.training.iterations, config.training.seed) == (7, 3)
    base = {"estimator": {"chunk": 4, "sigma": 0.5}}
    assert layered(None, [{"estimator": {"clip": 1}}], "published", base)["estimator"] == {
        **preset("published").settings["estimator"],
        "sigma": 0.5,
        "clip": 1,
    }
    assert base == {"estimator": {"chunk": 4, "sigma": 0.5}}
    with pytest.raises(ConfigError, match="unknown key 'trainng' in the overrides"):
        load(None, [{"trainng": {}}])


def test_an_error_of_the_file_names_the_file_whatever_lies_on_top(tmp_path: Path) -> None:
    path = written(tmp_path, "[training]\niteration = 3\n")
    assert str(path) in refusal(path, ["training.iterations=3"])


def test_layers_are_merged_by_section() -> None:
    below, above = {"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 4}, "b": {"z": 5}, "c": {"w": 6}}
    assert merged(below, above) == {"a": {"x": 1, "y": 4}, "b": {"z": 5}, "c": {"w": 6}}
    assert below == {"a": {"x": 1, "y": 2}, "b": 3}


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("prompts.file", r"C:\prompts\cats.txt"),
        ("prompts.file", r"C:\new\table.txt"),
        ("model.checkpoint", r"C:\Users\me\model.safetensors"),
        ("model.checkpoint", r"models\real.safetensors"),
        ("reward.name", r"\\server\rewards\my.py:score"),
        ("lora.start", r".\best.safetensors"),
    ],
)
def test_a_path_of_windows_is_kept_or_refused_with_what_to_do(
    setting: str, path: str, tmp_path: Path
) -> None:
    section, key = setting.split(".")
    message = refusal(written(tmp_path, f'[{section}]\n{key} = "{path}"\n'))
    assert "write the path in '…', or with / instead" in message
    for text in (f"'{path}'", '"' + path.replace("\\", "/") + '"', '"' + path.replace("\\", "\\\\") + '"'):
        config = load(written(tmp_path, f"[{section}]\n{key} = {text}\n"))
        assert getattr(getattr(config, section), key).replace("\\", "/") == path.replace("\\", "/")
    assert getattr(getattr(load(None, [f"{setting}={path}"]), section), key) == path


def test_paths_in_lists_and_tables_are_looked_at_too(tmp_path: Path) -> None:
    assert "'…'" in refusal(written(tmp_path, r"[reward]" + "\n" + r'watch = ["a\new.py:f"]'))
    assert "'…'" in refusal(written(tmp_path, r"[reward]" + "\n" + r'mix = { "a\new.py:f" = 1.0 }'))


def test_other_faults_of_toml_say_nothing_of_paths(tmp_path: Path) -> None:
    assert "'…'" not in refusal(written(tmp_path, '[model]\ncheckpoint = "a\\\\cd"\nvae = \n'))


@pytest.mark.parametrize("override", ["training.iterations", "iterations=3", "=3", ""])
def test_an_override_that_names_no_setting(override: str) -> None:
    assert "--set" in refusal(None, [override])


def test_an_override_of_an_unknown_key_or_type() -> None:
    assert "'iterations'" in refusal(None, ["training.iteration=3"])
    assert "'training'" in refusal(None, ["trainin.iterations=3"])
    assert "a whole number" in refusal(None, ["training.iterations=many"])


def test_an_override_beside_a_section_that_is_not_a_table(tmp_path: Path) -> None:
    assert "a table" in refusal(written(tmp_path, "training = 3"), ["training.iterations=3"])


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    text = "[training]\niterations = 3\n"
    assert load(written(tmp_path, b"\xef\xbb\xbf" + text.encode())) == load(written(tmp_path, text))


@pytest.mark.parametrize(
    "content",
    [
        b'[prompts]\ntrain = ["caf\xe9"]',
        "[training]\niterations = 3".encode("utf-16"),
        b"[training\n",
        b"a = ",
    ],
)
def test_a_file_that_is_not_utf8_toml(tmp_path: Path, content: bytes) -> None:
    message = refusal(written(tmp_path, content))
    assert "run.toml is not TOML" in message and "UTF-8" in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere.toml")
    assert "nowhere.toml" in message and "rlr config" in message


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(tmp_path)
