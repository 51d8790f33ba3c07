"""Where everything lies that the GUI may touch, and what its user has set: `rlr-ui.toml` in its home folder."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlr_core.config.toml import read_toml, value_text
from rlr_core.errors import ConfigError
from rlr_core.runs.directory import RunDirectory
from rlr_core.storage import user_path, write_text

FILE = "rlr-ui.toml"
NAME = re.compile(r"[^/\\\x00-\x1f]{1,200}")
"""A run's name: one plain part of a path."""


@dataclass(frozen=True)
class Folders:
    """As the user names them; relative ones are in the GUI's home.

    Attributes:
        runs: of all runs.
        checkpoints: searched for checkpoints, with all that is below.
        loras: where finished LoRAs may be put, such as those of A1111, Forge and ComfyUI.
        rewards: of published rewards' weights.
    """

    runs: str = "runs"
    checkpoints: tuple[str, ...] = ("models/checkpoints",)
    loras: tuple[str, ...] = ("models/loras",)
    rewards: str = "models/rewards"


@dataclass(frozen=True)
class Look:
    """Theme: "system", "light" or "dark"."""

    theme: str = "system"


@dataclass(frozen=True)
class Settings:
    """All that the Settings page sets."""

    folders: Folders = field(default_factory=Folders)
    look: Look = field(default_factory=Look)


@dataclass
class Workspace:
    """The GUI's home folder with its settings.

    Attributes:
        home: absolute; relative folders are in it.
    """

    home: Path
    settings: Settings = field(default_factory=Settings)

    @classmethod
    def open(cls, home: Path) -> Workspace:
        """With the settings that were saved there. Raises `ConfigError` for a file that holds others."""
        home = Path(os.path.abspath(user_path(home)))
        file = home / FILE
        return cls(home, _settings(read_toml(file), str(file)) if file.is_file() else Settings())

    def save(self, settings: Settings) -> None:
        """Keep them. Raises `StorageError`."""
        tables = dataclasses.asdict(settings)
        lines = []
        for section, table in tables.items():
            lines += [
                f"[{section}]",
                *(f"{key} = {value_text(_plain(value))}" for key, value in table.items()),
                "",
            ]
        write_text(self.home / FILE, "\n".join(lines))
        self.settings = settings

    @property
    def runs(self) -> Path:
        """The folder of all runs."""
        return self._at_home(self.settings.folders.runs)

    @property
    def rewards(self) -> Path:
        """The folder of published rewards' weights."""
        return self._at_home(self.settings.folders.rewards)

    @property
    def checkpoints(self) -> list[Path]:
        """Those of the folders for checkpoints that are there."""
        return [path for path in self.checkpoint_folders if path.is_dir()]

    @property
    def checkpoint_folders(self) -> list[Path]:
        """Folders that checkpoints are searched in and put into, there or not."""
        return [*map(self._at_home, self.settings.folders.checkpoints)]

    @property
    def loras(self) -> list[Path]:
        """Folders that LoRAs are put into, there or not."""
        return [*map(self._at_home, self.settings.folders.loras)]

    def run(self, name: str) -> RunDirectory:
        """The run of that name. Raises `RunError` where there is none, `ConfigError` for what is no name."""
        return RunDirectory.open(self.run_folder(name))

    def run_folder(self, name: str) -> Path:
        """Where a run of that name is: never outside the folder of runs."""
        if not NAME.fullmatch(name) or name in (".", ".."):
            raise ConfigError(
                f"a run called {name[:40]!r}", "the name of a folder of runs", "choose it from the list"
            )
        return self.runs / name

    def lora_files(self) -> Iterator[Path]:
        """LoRA files of runs and of the folders for LoRAs, the newest first."""
        found = [*self.runs.glob("*/*.safetensors")]
        for folder in self.loras:
            found += folder.glob("**/*.safetensors")
        return iter(sorted(set(found), key=lambda path: -path.stat().st_mtime))

    def allows(self, path: Path) -> bool:
        """Whether it lies in one of the folders that are set; links are followed."""
        place = Path(os.path.realpath(path))
        roots = [self.runs, self.rewards, *self.checkpoints, *self.loras]
        return any(place.is_relative_to(os.path.realpath(root)) for root in roots)

    def _at_home(self, folder: str) -> Path:
        return self.home / user_path(folder)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _settings(tables: dict[str, Any], source: str) -> Settings:
    kinds: dict[str, Any] = {"folders": Folders, "look": Look}
    made = {}
    for section, table in tables.items():
        kind = kinds.get(section)
        known = {each.name: each for each in dataclasses.fields(kind)} if kind else {}
        unknown = [section] if kind is None or not isinstance(table, dict) else [*(set(table) - set(known))]
        if unknown or kind is None:
            raise ConfigError(
                f"{unknown[0]} in {source}", "the GUI's own settings", f"correct or delete {source}"
            )
        values = {}
        for key, value in table.items():
            wanted = tuple if isinstance(known[key].default, tuple) else str
            value = tuple(value) if wanted is tuple and isinstance(value, list) else value
            if not isinstance(value, wanted) or (
                wanted is tuple and not all(isinstance(v, str) for v in value)
            ):
                raise ConfigError(
                    f"{section}.{key} = {value!r} in {source}", "texts", f"correct or delete {source}"
                )
            values[key] = value
        made[section] = kind(**values)
    return Settings(**made)
