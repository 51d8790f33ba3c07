"""Which stage's prompt hosts show at each step, told by their own code.

python host_stages.py webui WEBUI_DIR JOBS.json     needs lark; a job has "text" and "steps"
python host_stages.py comfyui COMFYUI_DIR JOBS.json a job has "ranges", "steps" and "scheduler"

Prints for each job a list: for each step the text, or the numbers of the ranges that are active.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

host, folder, jobs_file = sys.argv[1:]


def shown(job: dict[str, Any]) -> list[str]:
    """By A1111's schedule of a prompt, and by how it takes entries from it (`reconstruct_cond_batch`)."""
    spec = importlib.util.spec_from_file_location(
        "prompt_parser", Path(folder, "modules", "prompt_parser.py")
    )
    assert spec and spec.loader
    parser: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(parser)
    (schedule,) = parser.get_learned_conditioning_prompt_schedules([job["text"]], job["steps"])
    told = [next(text for end, text in schedule if step <= end) for step in range(job["steps"])]
    return ["".join(word for word, _ in _attention(text)) for text in told]


def _attention(text: str) -> list[Any]:
    """By the parser of brackets: in A1111 it is beside the other, in Forge in its backend."""
    for path in ("backend/text_processing/parsing.py", "modules/prompt_parser.py"):
        if Path(folder, path).is_file():
            spec = importlib.util.spec_from_file_location("attention", Path(folder, path))
            assert spec and spec.loader
            module: Any = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            more = ["Original"] if path.startswith("backend") else []
            return module.parse_prompt_attention(text, *more)
    raise AssertionError("no parser of brackets")


def active(job: dict[str, Any]) -> list[list[int]]:
    """By ComfyUI's noise levels, and by which conditionings it takes at each."""
    sys.path.insert(0, folder)
    sys.argv[1:] = ["--cpu"]
    import comfy.options  # pyright: ignore[reportMissingImports]

    comfy.options.enable_args_parsing()
    import comfy.model_sampling  # pyright: ignore[reportMissingImports]
    import comfy.samplers  # pyright: ignore[reportMissingImports]
    import torch

    sampling = comfy.model_sampling.ModelSamplingDiscrete()
    sigmas = comfy.samplers.calculate_sigmas(sampling, job["scheduler"], job["steps"])
    conditionings = [
        {
            "model_conds": {},
            "uuid": 0,
            "timestep_start": sampling.percent_to_sigma(start),
            "timestep_end": sampling.percent_to_sigma(end),
        }
        for _, start, end in job["ranges"]
    ]
    x = torch.zeros(1, 4, 8, 8)
    return [
        [
            job["ranges"][number][0]
            for number, each in enumerate(conditionings)
            if comfy.samplers.get_area_and_mult(each, x, sigma[None]) is not None
        ]
        for sigma in sigmas[:-1]
    ]


jobs = json.loads(Path(jobs_file).read_text(encoding="utf-8"))
print(json.dumps([{"webui": shown, "comfyui": active}[host](job) for job in jobs]))
