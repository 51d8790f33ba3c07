"""Runs on disk: the run folder is the truth. Any view can attach to it, leave and come back."""

from rlr_core.runs.directory import RunDirectory, RunState, list_runs
from rlr_core.runs.runner import request_stop, resume, start

__all__ = ["RunDirectory", "RunState", "list_runs", "request_stop", "resume", "start"]
