"""The device that a plan is for: what it has, what it takes for itself, and what was measured on it before."""

from __future__ import annotations

import json
import platform
import re
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rlr_core.config.sections import DEVICE
from rlr_core.errors import StorageError
from rlr_core.planner.footprint import Footprint
from rlr_core.storage import cache_folder, write_text
from rlr_core.trainer.devices import choose_device, devices_here, half_precision

ITSELF = {"cuda": 0.75e9, "mps": 0.5e9, "cpu": 0.9e9}
"""Bytes that no tensor has: context, libraries, workspaces. Measured on a CPU; assumed elsewhere, until a run was measured."""


@dataclass(frozen=True)
class Machine:
    """A device.

    Attributes:
        kind: "cuda", "cpu" or "mps".
        name: as its maker calls it.
        half: the precision below float32 that it computes fast in; "" for none.
        measured: from earlier runs: "memory", measured over predicted peaks; "speed", precision → operations a second.
    """

    kind: str
    name: str
    half: str
    measured: dict[str, Any] = field(default_factory=dict)

    def needs(self, footprint: Footprint) -> float:
        """Bytes of the device, all told."""
        return (footprint.peak + ITSELF[self.kind]) * self.measured.get("memory", 1.0)

    def seconds(self, footprint: Footprint, precision: str) -> float | None:
        """Of an iteration; None before one was measured in this precision."""
        speed = self.measured.get("speed", {}).get(precision)
        return footprint.flops / speed if speed else None


def this_machine(device: torch.device) -> Machine:
    """The device of this computer, with what is known of it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    name = f"{device.type}: {name}"
    return Machine(device.type, name, half_precision(str(device)), read_measured().get(name, {}))


def machine_to_plan_for(device: str) -> Machine:
    """This computer's device of that name; where it has none of its kind, any of the last years. Raises `ConfigError`."""
    kind = device.partition(":")[0]
    if re.fullmatch(DEVICE, device) and kind in ITSELF and kind not in devices_here():
        return Machine(kind, f"{kind}: any", half_precision(device))
    return this_machine(choose_device(device))


def free_bytes(device: torch.device) -> int:
    """What the device has free; on a CPU, the computer's main memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return free_main_memory()


def free_main_memory() -> int:
    """Bytes of main memory that programs may still take."""
    import psutil

    return psutil.virtual_memory().available


def peak_bytes(device: torch.device) -> int:
    """The most that this process has had of the device since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) + int(ITSELF["cuda"])
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return _largest_resident()


def _largest_resident() -> int:
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux ru_maxrss begins with that of the process that started this one
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def learn(machine: Machine, footprint: Footprint, precision: str, peak: int, seconds: float) -> None:
    """Remember for later plans what a run took. A folder that cannot be written is no reason to stop the run."""
    known = read_measured()
    mine = known.get(machine.name, {})
    plain = Machine(machine.kind, machine.name, machine.half)
    if footprint.peak > ITSELF[machine.kind]:  # of a smaller one, most is not its own
        mine["memory"] = peak / plain.needs(footprint)
    mine["speed"] = {**mine.get("speed", {}), precision: footprint.flops / seconds}
    with suppress(StorageError, OSError):
        write_text(measured_file(), json.dumps({**known, machine.name: mine}, indent=1) + "\n")


def read_measured() -> dict[str, dict[str, Any]]:
    """Machine → what was measured on it; a file that cannot be read counts as none."""
    try:
        values = json.loads(measured_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def measured_file() -> Path:
    """In the user's cache folder."""
    return cache_folder() / "measured.json"
