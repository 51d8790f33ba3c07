"""The installer's own logic, without network, in a folder whose name has a space, an umlaut and Chinese."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[1]
SOURCE = PROJECT / "install.py"
PLENTY = SimpleNamespace(total=100e9, used=0, free=100e9)
HOST_VARIABLES = ("PYTHONPATH", "COMFYUI_PATH", "COMFYUI_FOLDERS_BASE_PATH")
posix = pytest.mark.skipif(os.name == "nt", reason="uses shell scripts")


def load(folder: Path) -> ModuleType:
    """Put a copy of the installer, a pyproject.toml and a lock file into a folder and import it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(SOURCE, folder)
    (folder / "pyproject.toml").write_text("[project]", encoding="utf-8")
    (folder / "uv.lock").write_text("version = 1", encoding="utf-8")
    spec = importlib.util.spec_from_file_location("installer_under_test", folder / "install.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Commands:
    """Stands for the running of commands: notes them, and makes what `uv sync` would make."""

    def __init__(self, installer: ModuleType) -> None:
        self.installer = installer
        self.calls: list[list[str]] = []
        self.codes: dict[str, int] = {}

    def __call__(self, command: list[Any], environment: dict[str, str] | None = None) -> int:
        words = [str(word) for word in command]
        self.calls.append(words)
        if "sync" in words:
            self.installer.PYTHON.parent.mkdir(parents=True, exist_ok=True)
            self.installer.PYTHON.touch()
        return next((code for word, code in self.codes.items() if word in words), 0)

    @property
    def syncs(self) -> list[list[str]]:
        """The calls of `uv sync`."""
        return [words for words in self.calls if "sync" in words]


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in HOST_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    module = load(tmp_path / "Prüf stand 画")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: PLENTY)
    monkeypatch.setattr(module, "cache_folder", lambda uv: tmp_path)
    return module


@pytest.fixture
def commands(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Nothing is really run: uv is there, and each command ends with 0."""
    commands = Commands(installer)
    monkeypatch.setattr(installer, "run", commands)
    monkeypatch.setattr(installer, "hand_over", commands)
    monkeypatch.setattr(installer, "find_uv", lambda: Path("uv"))
    return commands


# -- Pythons that are too old --


def test_old_pythons_can_read_the_file() -> None:
    assert ast.parse(SOURCE.read_text(encoding="utf-8"), feature_version=(3, 6)).body
    with pytest.raises(SyntaxError):  # the check is one: newer syntax is found
        ast.parse("(a := 1)", feature_version=(3, 6))


def test_an_old_python_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 8, 18, "final", 0))
    with pytest.raises(SystemExit, match=r"this is Python 3\.8 .* needs 3\.10 or later: install one"):
        load(tmp_path)


# -- Hosts --


def webui(folder: Path) -> Path:
    """A folder that looks like A1111's."""
    (folder / "modules").mkdir(parents=True)
    (folder / "launch.py").touch()
    return folder


def set_up_a1111(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = webui(tmp_path / "webui")
    monkeypatch.chdir(host)
    monkeypatch.setenv("PYTHONPATH", f"{host}{os.pathsep}")


def set_up_sdnext(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(webui(tmp_path / "sdnext"))]))


def set_up_captured_webui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(webui(tmp_path / "webui"))


def set_up_comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_FOLDERS_BASE_PATH", str(tmp_path))


SetUp = Callable[[Path, pytest.MonkeyPatch], None]


@pytest.mark.parametrize(
    ("set_up", "name"),
    [
        (set_up_a1111, "webui"),
        (set_up_sdnext, "webui"),
        (set_up_captured_webui, "webui"),
        (set_up_comfyui, "ComfyUI"),
    ],
)
def test_in_a_host_it_only_says_how_to_install(
    set_up: SetUp,
    name: str,
    installer: ModuleType,
    commands: Commands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up(tmp_path, monkeypatch)
    assert installer.main([]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    assert name in out and f'python "{installer.ROOT / "install.py"}" install' in out
    assert commands.calls == [] and not installer.VENV.exists()


def test_in_a_host_an_explicit_command_installs(
    installer: ModuleType, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up_a1111(tmp_path, monkeypatch)
    assert installer.main(["install"]) == 0
    assert len(commands.syncs) == 1


def test_elsewhere_there_is_no_host(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "modules").mkdir()  # half of a webui is none
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert installer.host_program() is None


@pytest.mark.parametrize("by_hand", [True, False])
def test_in_custom_nodes_a_terminal_tells_a_person_from_a_manager(
    by_hand: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in HOST_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    installer = load(tmp_path / "custom_nodes" / "rlr")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: by_hand, raising=False)
    assert installer.host_program() == (None if by_hand else "ComfyUI")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert installer.host_program() == "ComfyUI"


# -- The environment --


def test_the_first_call_installs_what_the_lock_file_pins(installer: ModuleType, commands: Commands) -> None:
    assert installer.main([]) == 0
    (sync,) = commands.syncs
    assert sync[:2] == ["uv", "sync"]
    assert {"--frozen", "--all-extras", "--no-python-downloads", "--no-default-groups"} <= set(sync)
    assert sync[sync.index("--python") + 1] == sys.executable
    assert installer.is_current(developer=False)


def test_the_second_call_reuses_the_environment(
    installer: ModuleType, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    installer.main([])
    monkeypatch.setattr(installer, "find_uv", lambda: pytest.fail("uv is not needed"))
    assert installer.main(["demo"]) == 0
    assert len(commands.syncs) == 1


@pytest.mark.parametrize("name", ["uv.lock", "pyproject.toml"])
def test_another_lock_file_is_installed_into_the_environment_that_there_is(
    name: str, installer: ModuleType, commands: Commands
) -> None:
    installer.main([])
    (installer.ROOT / name).write_text("changed", encoding="utf-8")
    installer.main([])
    assert len(commands.syncs) == 2
    assert "--python" not in commands.syncs[1]


def test_a_folder_that_was_moved_is_installed_again(
    installer: ModuleType, commands: Commands, tmp_path: Path
) -> None:
    installer.main([])
    moved = installer.ROOT.rename(tmp_path / "moved")
    assert not load(moved).is_current(developer=False)


def test_an_environment_without_its_python_is_made_again(installer: ModuleType, commands: Commands) -> None:
    installer.main([])
    installer.PYTHON.unlink()
    installer.main([])
    assert "--python" in commands.syncs[1]


def test_developers_get_more_and_users_do_not_take_it_away(installer: ModuleType, commands: Commands) -> None:
    installer.main([])
    installer.main(["test"])
    installer.main([])
    installer.main(["test"])
    user, developer = commands.syncs
    assert "--inexact" in user and "--group" not in user
    assert developer[developer.index("--group") + 1] == "dev"


def test_of_two_calls_at_once_the_user_s_does_not_hide_the_developer_s(
    installer: ModuleType, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slower(command: list[Any], environment: dict[str, str] | None = None) -> int:
        code = commands(command, environment)
        installer.write_stamp(developer=True)  # the other call ends in between
        return code

    monkeypatch.setattr(installer, "run", slower)
    installer.main([])
    assert installer.is_current(developer=True)


def test_a_failed_update_leaves_no_stamp(
    installer: ModuleType,
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    installer.main([])
    (installer.ROOT / "uv.lock").write_text("changed", encoding="utf-8")
    commands.codes["sync"] = 2
    monkeypatch.setattr(installer, "reason", lambda uv, code: "the network is down.")
    assert installer.main(["demo"]) == 1
    assert "the environment is not complete: the network is down." in capsys.readouterr().err
    assert not installer.STAMP.exists()
    assert commands.calls[-1][1] == "sync", "nothing may be started in an environment that is not complete"


def test_an_interrupted_update_leaves_no_stamp(
    installer: ModuleType, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    installer.main([])
    (installer.ROOT / "uv.lock").write_text("changed", encoding="utf-8")

    def killed(*_: Any) -> int:
        raise SystemExit(143)

    monkeypatch.setattr(installer, "run", killed)
    with pytest.raises(SystemExit):
        installer.main([])
    assert not installer.STAMP.exists()


PACKAGE = {"a/__init__.py": "x = 1", "a/ü.py": "", "a-1.dist-info/METADATA": "Name: a"}


@pytest.mark.parametrize(
    ("harm", "again"),
    [
        (lambda at: None, False),
        (lambda at: (at / "a" / "ü.py").unlink(), True),
        (lambda at: (at / "a" / "__init__.py").write_text("x"), True),
        (lambda at: (at / "a-1.dist-info" / "RECORD").unlink(), True),
        (lambda at: (at / "a-1.dist-info" / "RECORD").write_text("a/__init__.py,,5\na/"), True),
    ],
)
@pytest.mark.parametrize("site", ["lib/python3.11/site-packages", "Lib/site-packages"])
def test_a_package_that_a_killed_call_left_half_is_installed_again(
    harm: Callable[[Path], None],
    again: bool,
    site: str,
    installer: ModuleType,
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """uv, which looks for its `.dist-info` alone, finds none there."""
    at = installer.VENV / site
    for name, text in PACKAGE.items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_text(text, encoding="utf-8")
    listed = [f"{name},sha256=x,{len(text)}" for name, text in PACKAGE.items()]
    rows = [*listed, "a/__pycache__/b.pyc,,", "a-1.dist-info/RECORD,,"]
    (at / "a-1.dist-info" / "RECORD").write_text("\n".join(rows), encoding="utf-8")
    harm(at)
    there: list[bool] = []
    monkeypatch.setattr(installer, "run", lambda *_: there.append((at / "a-1.dist-info").exists()) or 0)
    monkeypatch.setattr(installer, "write_stamp", lambda developer: None)
    installer.main([])
    assert there == [not again]


def test_too_small_a_disk_is_refused_with_figures(
    installer: ModuleType,
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(installer.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1.25e9))
    assert installer.main([]) == 1
    assert re.search(
        r"got 1\.2 GB of free disk space for .*画, expected 6 GB or more: make room", capsys.readouterr().err
    )
    assert commands.calls == []


def test_the_disk_of_the_cache_counts_too(
    installer: ModuleType,
    commands: Commands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def usage(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=2e9) if folder == tmp_path else PLENTY

    monkeypatch.setattr(installer, "cache_folder", lambda uv: tmp_path / "not" / "yet")
    monkeypatch.setattr(installer.shutil, "disk_usage", usage)
    assert installer.main([]) == 1
    assert "not/yet".replace("/", os.sep) in capsys.readouterr().err


def test_an_update_needs_less_room(
    installer: ModuleType, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = installer.VENV / "lib" / "python3.11" / "site-packages" / "torch"
    torch.mkdir(parents=True)
    (torch / "version.py").touch()
    monkeypatch.setattr(installer.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1.25e9))
    assert installer.main([]) == 0


def test_uv_sees_no_other_project_lock_file_or_index(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "UV_LOCKED", "UV_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("UV_CACHE_DIR", "kept")
    assert "elsewhere" not in installer.uv_environment().values()
    assert installer.uv_environment()["UV_CACHE_DIR"] == "kept"


@pytest.mark.parametrize(
    ("free", "error", "code", "said"),
    [
        (0.1e9, None, 2, "is full"),
        (9e9, OSError("refused"), 2, "no connection"),
        (9e9, None, -9, "uv was killed (signal 9)"),  # which says nothing itself
        (9e9, None, 2, "uv's own message"),
    ],
)
def test_a_failure_is_explained(
    free: float,
    error: OSError | None,
    code: int,
    said: str,
    installer: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read_url(address: str) -> bytes:
        if error:
            raise error
        return b""

    monkeypatch.setattr(installer.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    monkeypatch.setattr(installer, "read_url", read_url)
    assert said in installer.reason(Path("uv"), code)


# -- What runs afterwards --


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["demo", "--set", "a b=ü"], ["-m", "rlr_core", "demo", "--set", "a b=ü"]),
        (["test", "-k", "a or b"], ["-m", "pytest", "-k", "a or b"]),
    ],
)
def test_further_arguments_and_the_exit_code_are_passed_on(
    arguments: list[str], expected: list[str], installer: ModuleType, commands: Commands
) -> None:
    commands.codes["-m"] = 7
    assert installer.main(arguments) == 7
    assert commands.calls[-1] == [str(installer.PYTHON), *expected]


def test_check_runs_all_and_fails_with_any(
    installer: ModuleType, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    assert installer.main(["check"]) == 0
    commands.calls.clear()
    commands.codes["pyright"] = 1
    assert installer.main(["check"]) == 1
    ran = [" ".join(words) for words in commands.calls]
    for tool in ("ruff check", "ruff format --check", "pyright", "lint-imports", "lock --check"):
        assert any(tool in line for line in ran)
    assert "not clean: pyright" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["dmeo"], ["install", "--now"], ["check", "rlr_core"]])
def test_arguments_that_mean_nothing_are_refused(
    arguments: list[str], installer: ModuleType, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    assert installer.main(arguments) == 1
    assert f"got {arguments[-1]!r}" in capsys.readouterr().err
    assert commands.calls == []


def test_help_says_what_there_is(
    installer: ModuleType, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    assert installer.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"install.py {command}" in out for command in installer.COMMANDS)
    assert commands.calls == []


def test_a_command_runs_in_the_project_and_gives_its_exit_code(installer: ModuleType) -> None:
    code = "import os, pathlib; pathlib.Path('seen').write_text(os.environ['A'], 'utf-8'); os._exit(5)"
    assert installer.run([sys.executable, "-c", code], {**os.environ, "A": "ü"}) == 5
    assert (installer.ROOT / "seen").read_text(encoding="utf-8") == "ü"


@posix
def test_from_the_outside(installer: ModuleType) -> None:
    """A whole call in a process of its own; the environment's Python is a script, and there is no uv."""
    installer.PYTHON.parent.mkdir(parents=True)
    installer.PYTHON.write_text('#!/bin/sh\nfor a in "$@"; do echo "<$a>"; done\nexit 9\n', encoding="utf-8")
    installer.PYTHON.chmod(0o755)
    installer.write_stamp(developer=False)
    call = [sys.executable, str(installer.ROOT / "install.py"), "demo", "a b", "ü"]
    environment = {**os.environ, "PATH": "", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(call, capture_output=True, encoding="utf-8", env=environment)
    assert (done.returncode, done.stdout.split("\n")[-4:-1]) == (9, ["<demo>", "<a b>", "<ü>"])


# -- uv --


def fake_uv(folder: Path, answer: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "uv"
    program.write_text(f"#!/bin/sh\n{answer}\n", encoding="utf-8")
    program.chmod(0o755)
    return program


@posix
def test_uv_on_the_path_is_found(
    installer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake_uv(tmp_path / "a b", "echo 'uv 0.9.30 (abc 2026-01-01)'")
    monkeypatch.setenv("PATH", str(program.parent))
    assert installer.find_uv() == program
    assert installer.uv_version(program) == (0, 9, 30)


@posix
@pytest.mark.parametrize(
    "answer", ["echo 'uv 0.4.30'", "exit 127", "echo 'uv 0.9.1'; exit 1", "echo nothing"]
)
def test_a_uv_that_is_too_old_or_does_not_run_is_not_taken(
    answer: str, installer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(fake_uv(tmp_path / "bin", answer).parent))
    assert installer.find_uv() is None


@posix
def test_our_own_uv_comes_first(
    installer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(fake_uv(tmp_path / "bin", "echo uv 0.9.1").parent))
    own = fake_uv(installer.TOOLS / "bin", "echo uv 0.8.0")
    assert installer.find_uv() == own


def page(*names: str) -> str:
    """An index's page; a name with "!" is yanked."""
    digest = "0" * 64
    anchors = (
        f'<a href="../f/{name.strip("!")}#sha256={digest}"{" data-yanked=" * name.endswith("!")}>x</a>'
        for name in names
    )
    return "\n".join(anchors)


def here(version: str) -> str:
    """The name of uv's wheel for this machine."""
    system = {"win32": "win", "darwin": "macosx_11_0"}.get(sys.platform, "manylinux_2_17")
    return f"uv-{version}-py3-none-{system}_{platform.machine().lower()}.whl"


def test_the_newest_wheel_for_this_machine_is_taken(installer: ModuleType) -> None:
    names = [here("0.9.2"), here("0.10.1"), here("0.11.0") + "!", "uv-0.12.0-py3-none-some_other.whl"]
    address, digest = installer.newest_wheel(page(*names))
    assert address == f"../f/{here('0.10.1')}"
    assert digest == "0" * 64
    with pytest.raises(LookupError, match="no wheel of uv for"):
        installer.newest_wheel(page("uv-0.12.0-py3-none-some_other.whl"))


def serve_wheel(installer: ModuleType, monkeypatch: pytest.MonkeyPatch, spoil: bool = False) -> None:
    """An index that has one wheel; spoiled: other bytes than its hash says."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("uv/__init__.py", "")
        archive.writestr(f"uv-0.9.2.data/scripts/uv{installer.EXE}", "#!/bin/sh\necho uv 0.9.2\n")
    wheel = buffer.getvalue()
    digest = hashlib.sha256(wheel).hexdigest()
    index = {
        "https://index.example/simple/uv/": page(here("0.9.2")).replace("0" * 64, digest).encode(),
        f"https://index.example/simple/f/{here('0.9.2')}": wheel + b"x" * spoil,
    }
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://index.example/simple/")
    monkeypatch.setattr(installer, "read_url", index.__getitem__)


@posix
def test_without_pip_uv_comes_from_the_index(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(installer.importlib.util, "find_spec", lambda name: None)
    serve_wheel(installer, monkeypatch)
    uv = installer.install_uv()
    assert uv == installer.TOOLS / "bin" / "uv"
    assert installer.uv_version(uv) == (0, 9, 2)
    assert [path.name for path in installer.ROOT.glob(".venv-tools*")] == [".venv-tools"]


def test_a_wheel_that_is_not_what_the_index_says_is_refused(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve_wheel(installer, monkeypatch, spoil=True)
    with pytest.raises(installer.InstallError, match="does not have the hash"):
        installer.unpack_uv(tmp_path / "tools")
    assert not (tmp_path / "tools").exists()


def test_without_network_the_error_says_what_to_do(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_url(address: str) -> bytes:
        raise OSError("Name or service not known")

    monkeypatch.setattr(installer, "find_uv", lambda: None)
    monkeypatch.setattr(installer, "pip_install_uv", lambda folder: False)
    monkeypatch.setattr(installer, "read_url", read_url)
    assert installer.main([]) == 1
    error = capsys.readouterr().err
    assert "Name or service not known" in error and "check the network, or install uv" in error


@posix
def test_of_two_calls_at_once_the_first_one_s_uv_stays(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slower(folder: Path) -> bool:
        fake_uv(installer.TOOLS / "bin", "echo uv 0.9.9")  # the other call comes in between
        fake_uv(folder / "bin", "echo uv 0.9.1")
        return True

    monkeypatch.setattr(installer, "pip_install_uv", slower)
    assert installer.uv_version(installer.install_uv()) == (0, 9, 9)


def test_pip_installs_uv_into_the_folder_alone(
    installer: ModuleType, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer.importlib.util, "find_spec", lambda name: name)
    assert installer.pip_install_uv(tmp_path / "tools")
    (words,) = commands.calls
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    assert words[words.index("--target") + 1] == str(tmp_path / "tools")
    commands.codes["pip"] = 1
    assert not installer.pip_install_uv(tmp_path / "tools")


# -- What is shipped --


def test_the_lock_file_knows_the_default_index_alone(installer: ModuleType) -> None:
    lock = (PROJECT / "uv.lock").read_text(encoding="utf-8")
    registries = set(re.findall(r'registry = "([^"]*)"', lock))
    assert registries == {installer.INDEX}
    assert "file:" not in lock
    assert set(re.findall(r'url = "([a-z]+):', lock)) == {"https"}
