"""What each stage of a picture decides: a strip of its predictions along the chain, painted by a process of its own."""

from __future__ import annotations

import re
from dataclasses import replace

from rlr_core.config import RunConfig, to_dict
from rlr_core.errors import PromptError
from ui.jobs import Jobs
from ui.workspace import Workspace

STRIP = re.compile(r"strip\.png")


def strips(workspace: Workspace) -> Jobs:
    """The newest strips."""
    return Jobs(workspace.home / "ui" / "strip", "ui.strip_job", 3)


def begin_strip(workspace: Workspace, config: RunConfig) -> str:
    """Paint the first prompt of a config; returns the job's name. Raises `RLRError`."""
    if not config.prompts.train:
        raise PromptError("no prompt", "a prompt for each stage", "write one into each box")
    prompts = replace(config.prompts, train=config.prompts.train[:1])
    kind = strips(workspace)
    folder = kind.new()
    kind.start(folder, {"config": to_dict(replace(config, prompts=prompts))})
    return folder.name
