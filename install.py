"""Makes RLR's own Python environment (`.venv` in this folder) and starts what is asked for.

    python install.py               only installs
    python install.py ui …          … and opens the GUI in the browser
    python install.py demo …        … and runs `rlr demo …`
    python install.py test …        … and runs the tests; further arguments go to pytest
    python install.py check         … and runs the linters, the type checker and the import contract
    python install.py install       as without an argument, also where a host program would be left alone

Needs a Python of 3.10 or later and nothing else: uv, which does the installing, is fetched into `.venv-tools`
if it is not there. Nothing outside this folder is changed (but for uv's cache). A1111, Forge and
ComfyUI-Manager run a file of this name by themselves: then it only says how to install.

Older Pythons must be able to read this file, or else they could not say that they are too old: its syntax is
that of 3.6.
"""

import contextlib
import csv
import hashlib
import html
import importlib.util
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path

if sys.version_info < (3, 10):
    sys.exit(
        "RLR: this is Python {}.{} ({}), and RLR needs 3.10 or later: install one (https://www.python.org) "
        "and call it, for example `python3.12 install.py`.".format(*sys.version_info[:2], sys.executable)
    )

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / ".rlr-installed"
TOOLS = ROOT / ".venv-tools"
WINDOWS = os.name == "nt"
EXE = ".exe" if WINDOWS else ""
VENV_BIN = VENV / ("Scripts" if WINDOWS else "bin")
PYTHON = VENV_BIN / ("python" + EXE)

COMMANDS = ("install", "ui", "demo", "test", "check")
OLDEST_UV = (0, 8)
DOWNLOAD_GB = 3
NEEDED_GB = 6.0
NEEDED_FOR_UPDATE_GB = 1.0
INDEX = "https://pypi.org/simple"


class InstallError(Exception):
    """Something that the user can mend; the message says what."""


def main(arguments: "list[str]") -> int:
    """Do what the arguments say; returns the exit code."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a folder's name may be in any script
    sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command in ("-h", "--help", "help"):
        print(__doc__)
        return 0
    host = host_program()
    if host and not command:
        say(f'{host} is left as it is. To install RLR by hand: python "{ROOT / "install.py"}" install')
        return 0
    try:
        if command and command not in COMMANDS:
            raise InstallError(f"got {command!r}, expected nothing or one of {', '.join(COMMANDS)}")
        if rest and command not in ("ui", "demo", "test"):
            raise InstallError(f"got {' '.join(rest)!r} after {command!r}, which takes no arguments")
        install(developer=command in ("test", "check"))
        return start(command, rest)
    except (InstallError, OSError) as error:
        print(f"RLR: {error}", file=sys.stderr)
        return 1


def say(text: str) -> None:
    """Print one line of progress, at once."""
    print(f"RLR: {text}", flush=True)


# -- What runs afterwards ------------------------------------------------------------------------------------


def start(command: str, rest: "list[str]") -> int:
    """Run what the command names in the environment; returns its exit code."""
    if command == "ui":
        os.chdir(ROOT)
        return hand_over([PYTHON, "-m", "ui", *rest])
    if command == "demo":
        return hand_over([PYTHON, "-m", "rlr_core", "demo", *rest])
    if command == "test":
        os.chdir(ROOT)
        return hand_over([PYTHON, "-m", "pytest", *rest])
    if command == "check":
        return check()
    say(
        "installed. `python install.py ui` opens the GUI, `python install.py demo` trains a first LoRA; every command is in"
    )
    say(f"  {VENV_BIN / ('rlr' + EXE)} --help")
    return 0


def check() -> int:
    """Run all linters, also after one has failed; returns 1 if one did."""
    failed = []
    for name, command in {
        "ruff check": [PYTHON, "-m", "ruff", "check", "."],
        "ruff format": [PYTHON, "-m", "ruff", "format", "--check", "."],
        "pyright": [PYTHON, "-m", "pyright"],
        "import contract": [VENV_BIN / ("lint-imports" + EXE), "--no-logo"],
        "uv.lock": [find_uv() or install_uv(), "lock", "--check", "--no-config", "--python", PYTHON],
    }.items():
        say(f"{name} …")
        if run(command, uv_environment() if name == "uv.lock" else None):
            failed.append(name)
    say("not clean: " + ", ".join(failed) if failed else "all clean")
    return 1 if failed else 0


def hand_over(command: "Sequence[str | Path]") -> int:
    """Become this command where the system can (so that signals reach it and not us), else run it."""
    sys.stdout.flush()
    if not WINDOWS:
        os.execv(str(command[0]), [str(part) for part in command])
    return run(command)


def run(command: "Sequence[str | Path]", environment: "dict[str, str] | None" = None) -> int:
    """Run a command to its end, in the project's folder, its output shown; returns its exit code.

    Ctrl-C reaches the command, too, which ends in its own way: it is waited for.
    """
    with subprocess.Popen([str(part) for part in command], cwd=ROOT, env=environment) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue


# -- The environment -----------------------------------------------------------------------------------------


def install(developer: bool) -> None:
    """Make or update the environment, unless its stamp says that it is what the lock file asks for."""
    if is_current(developer):
        return
    needed = NEEDED_FOR_UPDATE_GB if has_torch() else NEEDED_GB
    require_space(ROOT, needed)
    uv = find_uv() or install_uv()
    require_space(cache_folder(uv), needed)
    if has_torch():
        say("updating the environment …")
    else:
        say(f"making the environment (the first time: a download of about {DOWNLOAD_GB} GB, some minutes) …")
    STAMP.unlink(missing_ok=True)
    forget_halves()
    code = run(sync_command(uv, developer), uv_environment())
    if code:
        raise InstallError(
            f"the environment is not complete: {reason(uv, code)} A further call goes on from here."
        )
    write_stamp(developer)


def is_current(developer: bool) -> bool:
    """Whether the environment holds what is asked for."""
    return PYTHON.exists() and STAMP.is_file() and key(developer) in STAMP.read_text(encoding="utf-8").split()


def key(developer: bool) -> str:
    """Identifies an environment: what was to be installed, and where (its scripts hold absolute paths)."""
    digest = hashlib.sha256(str(ROOT).encode("utf-8", "surrogateescape"))
    for name in ("uv.lock", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return f"{'developer' if developer else 'user'}-{digest.hexdigest()}"


def write_stamp(developer: bool) -> None:
    """Note what is installed; a developer's environment serves users, and a user's call leaves it one."""
    keys = [key(False), key(True)] if developer or is_current(developer=True) else [key(False)]
    unfinished = STAMP.with_name(f"{STAMP.name}-{os.getpid()}")
    unfinished.write_text("\n".join(keys), encoding="utf-8")
    unfinished.replace(STAMP)


def forget_halves() -> None:
    """Have installed again what a call that was killed, or found the disk full, left as a half.

    To uv a package is there once its folder `.dist-info` is.
    """
    for folder in [
        *VENV.glob("lib/python3*/site-packages/*.dist-info"),
        *VENV.glob("Lib/site-packages/*.dist-info"),
    ]:
        if not is_whole(folder):
            say(f"{folder.stem} is not whole: it is installed again.")
            shutil.rmtree(folder)


def is_whole(package: Path) -> bool:
    """Whether every file is there that the RECORD of a `.dist-info` lists, itself among them, none shorter than it says."""
    try:
        with (package / "RECORD").open(encoding="utf-8", newline="") as lines:
            sizes = {row[0]: int(row[2] or 0) for row in csv.reader(lines)}
        files = {name: package.parent / name for name in sizes if not name.endswith(".pyc")}
        return f"{package.name}/RECORD" in sizes and all(
            files[name].stat().st_size >= sizes[name] for name in files
        )
    except (OSError, ValueError, IndexError):
        return False


def sync_command(uv: Path, developer: bool) -> "list[str | Path]":
    """The call of uv that installs exactly what `uv.lock` pins.

    An environment that exists keeps its Python, whichever runs this file: a training may be at work in it.
    For the same reason what developers need is not removed when a user's command comes after.
    """
    command = [uv, "sync", "--frozen", "--all-extras", "--no-extra", "adam8bit", "--no-python-downloads"]
    command += ["--group", "dev"] if developer else ["--no-default-groups", "--inexact"]
    return command if PYTHON.exists() else [*command, "--python", sys.executable]


def uv_environment() -> "dict[str, str]":
    """Our environment variables without those that would point uv at another project or another lock file."""
    unwanted = (
        "VIRTUAL_ENV",
        "UV_PROJECT",
        "UV_PROJECT_ENVIRONMENT",
        "UV_WORKING_DIR",
        "UV_LOCKED",
        "UV_FROZEN",
    )
    unwanted += (
        "UV_INDEX",
        "UV_INDEX_URL",
        "UV_DEFAULT_INDEX",
        "UV_EXTRA_INDEX_URL",
        "UV_FIND_LINKS",
        "UV_PYTHON",
    )
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {"UV_HTTP_TIMEOUT": "120", **kept}


def has_torch() -> bool:
    """Whether the large part of the environment is there."""
    package = "site-packages/torch/version.py"
    return any(VENV.glob("lib/python3*/" + package)) or (VENV / "Lib" / package).exists()


def require_space(folder: Path, needed: float) -> None:
    """Refuse to begin what would not fit: `needed` GB in the folder's disk."""
    free = free_space(folder)
    if free < needed:
        raise InstallError(
            f"got {free:.1f} GB of free disk space for {folder}, expected {needed:g} GB or more: "
            "make room, or move the folder to another disk."
        )


def free_space(folder: Path) -> float:
    """Free GB in the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 1e9


def reason(uv: Path, code: int) -> str:
    """Why uv ended with that exit code, as far as can be told from outside."""
    full = [folder for folder in (ROOT, cache_folder(uv)) if free_space(folder) < 0.3]
    if full:
        return f"the disk of {full[0]} is full ({free_space(full[0]):.1f} GB free): make room."
    if code < 0:
        return f"uv was killed (signal {-code}); systems do that when memory runs out: close other programs."
    try:
        read_url(index_url() + "/uv/")
    except OSError as error:
        return (
            f"no connection to the Python package index ({error}): check the network or the proxy settings."
        )
    return "uv's own message is above."


# -- uv ------------------------------------------------------------------------------------------------------


def find_uv() -> "Path | None":
    """Our own uv, or one on the PATH that runs and is not too old."""
    candidates = [shutil.which("uv", path=str(folder)) for folder in (TOOLS / "bin", TOOLS / "Scripts")]
    for candidate in [*candidates, shutil.which("uv")]:
        if candidate and uv_version(Path(candidate)) >= OLDEST_UV:
            return Path(candidate)
    return None


def uv_version(uv: Path) -> "tuple[int, ...]":
    """(0, 8, 1) for "uv 0.8.1 (…)"; () if it does not run."""
    try:
        answer = subprocess.run([str(uv), "--version"], capture_output=True, encoding="utf-8", timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ()
    found = re.match(r"uv (\d+)\.(\d+)\.(\d+)", answer.stdout)
    return tuple(int(part) for part in found.groups()) if found and answer.returncode == 0 else ()


def cache_folder(uv: Path) -> Path:
    """Where uv keeps what it has downloaded."""
    answer = subprocess.run([str(uv), "cache", "dir"], capture_output=True, encoding="utf-8", cwd=ROOT)
    return Path(answer.stdout.strip()) if answer.returncode == 0 else ROOT


def install_uv() -> Path:
    """Install uv into `.venv-tools`, with pip or, where there is none, from the package index."""
    say("getting uv, which installs Python packages …")
    with tempfile.TemporaryDirectory(prefix=".venv-tools-", dir=ROOT) as folder:
        staged = Path(folder) / "tools"
        if not pip_install_uv(staged):
            unpack_uv(staged)
        if TOOLS.exists() and find_uv() is None:
            shutil.rmtree(TOOLS)
        with contextlib.suppress(
            OSError
        ):  # the folder is there again: another call was faster, its uv will do
            staged.replace(TOOLS)
    uv = find_uv()
    if uv is None:
        raise InstallError(
            f"the uv in {TOOLS} does not run on this machine: install uv (https://docs.astral.sh/uv)."
        )
    return uv


def pip_install_uv(folder: Path) -> bool:
    """Whether pip is there and could install uv into the folder."""
    if importlib.util.find_spec("pip") is None:
        return False
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-user"]
    command += ["--retries", "2", "--only-binary", "uv", "--target", folder, "uv"]
    return run(command, {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}) == 0


def unpack_uv(folder: Path) -> None:
    """Download uv's wheel from the package index, verify its hash, unpack the program into `folder/bin`."""
    try:
        address, sha256 = newest_wheel(read_url(index_url() + "/uv/").decode("utf-8"))
        wheel = Path(f"{folder}.whl")
        wheel.write_bytes(read_url(urllib.parse.urljoin(index_url() + "/uv/", address)))
    except (OSError, LookupError) as error:
        raise InstallError(
            f"could not get uv from {index_url()} ({error}): check the network, or install uv (https://docs.astral.sh/uv)."
        ) from error
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != sha256:
        raise InstallError(f"{address} does not have the hash that the index gives, {sha256}: try again.")
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / ("uv" + EXE)
    with zipfile.ZipFile(wheel) as archive:
        inside = next(name for name in archive.namelist() if name.endswith(f".data/scripts/uv{EXE}"))
        program.write_bytes(archive.read(inside))
    program.chmod(0o755)


def newest_wheel(page: str) -> "tuple[str, str]":
    """Address and sha256 of the newest wheel of uv for this machine, from an index's page (PEP 503)."""
    system = {"win32": "win", "darwin": "macosx"}.get(sys.platform, "manylinux")
    pattern = rf"uv-([\d.]+)-py3-none-{system}[\w.]*_{platform.machine().lower()}\.whl"
    found = []
    for anchor in re.findall(r"<a\s[^>]*>", page):
        link = re.search(r'href="([^"#]+)#sha256=([0-9a-f]{64})"', anchor)
        name = link and re.search(pattern, link[1])
        if link and name and "data-yanked" not in anchor:
            found.append((tuple(int(part) for part in name[1].split(".")), html.unescape(link[1]), link[2]))
    if not found:
        raise LookupError(f"no wheel of uv for {sys.platform} on {platform.machine()}")
    return max(found)[1:]


def index_url() -> str:
    """The package index that the user's settings name, else the default one."""
    names = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
    return next((os.environ[name] for name in names if os.environ.get(name)), INDEX).rstrip("/")


def read_url(address: str) -> bytes:
    """What is at an address, over the proxy and with the certificates that the user's settings name."""
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE"))
    request = urllib.request.Request(address, headers={"Accept": "text/html, */*"})
    with urllib.request.urlopen(request, timeout=60, context=context) as answer:
        return answer.read()


# -- Hosts ---------------------------------------------------------------------------------------------------


def host_program() -> "str | None":
    """The program that runs this file by itself, if one does.

    The webui and its forks start extensions' installers with their own folder in PYTHONPATH,
    ComfyUI-Manager with its folder's name in a variable; whoever else runs a pack's installer in
    `custom_nodes` reads its output.
    """
    if any(is_webui(Path(folder)) for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder):
        return "The webui"
    reads_output = not sys.stdout.isatty()
    if is_webui(Path.cwd()) and reads_output:
        return "The webui"
    if ROOT.parent.name == "custom_nodes" and (reads_output or comfyui_is_named()):
        return "ComfyUI"
    return "ComfyUI" if comfyui_is_named() and reads_output else None


def comfyui_is_named() -> bool:
    """Whether ComfyUI-Manager's variables are set."""
    return any(os.environ.get(name) for name in ("COMFYUI_PATH", "COMFYUI_FOLDERS_BASE_PATH"))


def is_webui(folder: Path) -> bool:
    """Whether a folder is that of A1111, Forge or a relative."""
    return (folder / "launch.py").is_file() and (folder / "modules").is_dir()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
