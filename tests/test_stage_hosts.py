"""Prompts by stage in other hosts: the same prompt at each step as in training."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rlr_core.chain import Schedule, flow_matching
from rlr_core.dcot import Boundaries, StagePrompts, StageSettings, parse_line, plain
from rlr_core.dcot.hosts import SCHEDULERS, encoders, prompt_editing, snippet
from rlr_core.dcot.hosts.comfyui import _schedule, ranges

NOISE = Boundaries((0.98, 0.7), by_noise=True)
LINES = {
    "thirds": "coarse: a beach | mid: a dog | fine: fur (soft), [12:30] | d",
    "late": "1: a beach | 2: a dog | at: 0.5",
    "negative": "1: a beach | 2: a dog | negative 1: dark | negative 2: blurry, (bad) | at: 0.25",
    "twice": "coarse: a | mid: a | fine: b",
    "back": "1: a | 2: b | 3: a | 4: c",
}


def schedule(steps: int) -> Schedule:
    return flow_matching(torch.linspace(1, 0, steps + 1))


def shown(text: str, step: int, steps: int) -> str:
    """What A1111 shows at a step, from 0: the rules of its prompt_parser.py, for what we write."""
    edit = re.compile(r"\[((?:[^\\\[\]:]|\\.)*):((?:[^\\\[\]:]|\\.)*):(\d\.\d+)\]")
    while match := edit.search(text):
        before, after, when = match.groups()
        last = min(steps, int(float(when) * steps))
        chosen = before if last >= 1 and step <= last else after
        text = text[: match.start()] + chosen + text[match.end() :]
    return re.sub(r"\\(.)", r"\1", text)


@pytest.mark.parametrize("steps", [10, 11, 20, 25, 30, 37, 50])
@pytest.mark.parametrize("name", LINES)
def test_prompt_editing_shows_the_stage_of_each_step(name, steps):
    said, settings = parse_line(LINES[name]), StageSettings(negative="ugly")
    positive, negative = prompt_editing(said, settings, schedule(steps))
    expected = settings.schedule(said, schedule(steps))
    for step, stage in enumerate(expected.stage_of_step.tolist()):
        assert (shown(positive, step, steps), shown(negative, step, steps)) == tuple(expected.texts[stage]), (
            step
        )


def test_a_plain_prompt_has_no_editing():
    (prompt,) = plain(["a (red) cat, 12:30"])
    assert prompt_editing(prompt, StageSettings(), schedule(20)) == (r"a \(red\) cat, 12:30", "")


def test_boundaries_by_noise_are_the_chains_own():
    said = StagePrompts(("a", "b", "c"), boundaries=NOISE)
    positive, _ = prompt_editing(said, StageSettings(), schedule(20))
    stages = NOISE.stage_of_step(schedule(20)).tolist()
    assert [shown(positive, step, 20) for step in range(20)] == ["abc"[stage] for stage in stages]


@pytest.mark.parametrize("steps", [10, 20, 33, 50])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(
    "said", [*LINES.values(), StagePrompts(("a", "b", "c"), boundaries=NOISE)], ids=[*LINES, "noise"]
)
def test_comfyuis_ranges_hold_one_stage_at_each_step(said, scheduler, steps):
    said = parse_line(said) if isinstance(said, str) else said
    held, times = ranges(said, StageSettings(), steps, scheduler), SCHEDULERS[scheduler](steps)
    stages = StageSettings().boundaries_of(said).stage_of_step(_schedule(times)).tolist()
    for step, time in enumerate(times.tolist()):
        active = [
            stage
            for stage, start, end in held
            if (start <= 0 or time <= (1 - start) * 999) and (end >= 1 or time >= (1 - end) * 999)
        ]
        assert active == [stages[step]], step


def test_every_stage_is_encoded_once():
    """And every link leads to a node."""
    said = parse_line(LINES["negative"])
    nodes, *ends = encoders(said, StageSettings(), ["checkpoint", 1], 20, "normal")
    links = [value for node in nodes.values() for value in node["inputs"].values() if isinstance(value, list)]
    assert all(name in nodes or name == "checkpoint" for name, _ in [*links, *ends])
    texts = [node["inputs"]["text"] for node in nodes.values() if node["class_type"] == "CLIPTextEncode"]
    assert sorted(texts) == sorted([*said.prompts, *said.negatives])
    (plainly,) = plain(["a cat"])
    nodes, *_ = encoders(plainly, StageSettings(), ["checkpoint", 1], 9, "normal")
    assert [node["class_type"] for node in nodes.values()] == ["CLIPTextEncode"] * 2


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("xl", [False, True])
def test_the_snippet_paints_what_training_paints(guidance, xl, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    import tiny

    from rlr_core.config import InferenceConfig, SamplingConfig
    from rlr_core.models import load_model
    from rlr_core.trainer import painter

    folder = (tiny.build_sdxl if xl else tiny.build_checkpoint)(tmp_path / "checkpoint")
    model = load_model(str(folder), device="cpu", dtype=torch.float32)
    said, settings = (
        parse_line("1: red cat | 2: dog | negative 1: bad | negative 2: dark | at: 0.5"),
        StageSettings(),
    )
    paint = painter(
        model,
        SamplingConfig(steps=6, guidance_scale=guidance),
        InferenceConfig(sampler="ddim"),
        stages=settings,
    )
    (canvas,) = paint.canvases
    ours = paint([said], [3])[0]
    program = {"__name__": "snippet"}
    side = model.pixels_per_latent * canvas.noise([3], "cpu").initial().shape[-1]
    given = {"lora": "x", "size": (side, side), "schedule": canvas.schedule, "guidance": guidance}
    exec(snippet(said, settings, **given), program)
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    theirs = program["paint"](pipe, latents=canvas.noise([3], "cpu").initial(), output_type="pt")
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
    assert (ours - paint(plain(["red cat"]), [3])[0]).abs().max() > 1e-4, "stages would not be seen"


# the hosts themselves


def ask(host: str, jobs: list[dict[str, Any]], folder: Path) -> list[list[Any]]:
    """What the real host shows at each step."""
    variable = f"{host.upper()}_DIR"
    if variable not in os.environ:
        pytest.skip(f"{variable} does not name the host's folder")
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    python = os.environ.get(f"{host.upper()}_PYTHON", sys.executable)
    script = Path(__file__).with_name("host_stages.py")
    command = [python, str(script), host, os.environ[variable], str(folder / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.host
def test_a1111s_own_parser_shows_the_stage_of_each_step(tmp_path):
    cases = [(parse_line(line), steps) for line in LINES.values() for steps in range(10, 51)]
    jobs = [
        {"text": prompt_editing(said, StageSettings(), schedule(steps))[0], "steps": steps}
        for said, steps in cases
    ]
    for (said, steps), told in zip(cases, ask("webui", jobs, tmp_path), strict=True):
        stages = StageSettings().boundaries_of(said).stage_of_step(schedule(steps)).tolist()
        assert told == [said.prompts[stage] for stage in stages], (said, steps)


@pytest.mark.host
def test_comfyui_itself_takes_one_stage_at_each_step(tmp_path):
    prompts = [*map(parse_line, LINES.values()), StagePrompts(("a", "b", "c"), boundaries=NOISE)]
    cases = [
        (said, steps, scheduler) for said in prompts for steps in range(10, 51, 4) for scheduler in SCHEDULERS
    ]
    jobs = [
        {"ranges": ranges(said, StageSettings(), steps, scheduler), "steps": steps, "scheduler": scheduler}
        for said, steps, scheduler in cases
    ]
    for (said, steps, scheduler), told in zip(cases, ask("comfyui", jobs, tmp_path), strict=True):
        levels = _schedule(SCHEDULERS[scheduler](steps))
        stages = StageSettings().boundaries_of(said).stage_of_step(levels).tolist()
        assert told == [[stage] for stage in stages], (said, steps, scheduler)
