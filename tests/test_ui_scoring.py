"""Score: pictures that come from anywhere, the prompt in their files, and the table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from rlr_core.errors import ConfigError, PromptError, RLRError
from ui import jobs
from ui.scoring import MOST, job_of, look, pictures, prompt_of, shown_name, stored_name, table_of, take
from ui.workspace import Workspace

TOLD = "a fox, (red:1.2) <lora:x:0.8>\nNegative prompt: blur\nSteps: 20, Sampler: Euler"


def picture(kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), "#4b4fc4").save(buffer, kind, **options)
    return buffer.getvalue()


def with_prompt(text: str) -> bytes:
    info = PngInfo()
    info.add_text("parameters", text)
    return picture(pnginfo=info)


def exif(text: str) -> bytes:
    made = Image.Exif()
    made.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-be")
    return made.tobytes()


@pytest.mark.parametrize(
    ("data", "name", "prompt"),
    [
        (with_prompt(TOLD), "a.png", "a fox, (red:1.2)"),
        (with_prompt("one line\nof two\nSteps: 5"), "a.PNG", "one line\nof two"),
        (with_prompt("a comment of something else"), "a.png", ""),
        (picture("JPEG", exif=exif(TOLD)), "a.jpg", "a fox, (red:1.2)"),
        (picture("WEBP", exif=exif(TOLD)), "a.webp", "a fox, (red:1.2)"),
        (picture("JPEG"), "a.jpeg", ""),
    ],
)
def test_a_picture_tells_its_prompt(tmp_path: Path, data: bytes, name: str, prompt: str):
    told = take(tmp_path, name, data)
    assert (
        told["prompt"] == prompt
        and tuple(told["size"]) == (8, 6)
        and look(tmp_path / told["file"])["prompt"] == prompt
    )


def test_a_picture_is_shown_as_it_is_scored(tmp_path: Path):
    from ui.form_routes import _picture
    from ui.scoring import STORED

    held = Image.Exif()
    held[0x0112] = 6  # the left side of the file is up
    kind = jobs.Jobs(tmp_path / "score", "ui.score_job", 3)
    folder, buffer = kind.new(), io.BytesIO()
    Image.linear_gradient("L").resize((80, 60)).convert("RGB").save(buffer, "PNG", exif=held.tobytes())
    told = take(folder, "a.png", buffer.getvalue())
    assert tuple(told["size"]) == (60, 80) and STORED.fullmatch(told["file"])
    shown = Image.open(io.BytesIO(bytes(_picture(kind, folder.name, told["file"], 256, "").body))).convert(
        "L"
    )
    assert shown.size == (60, 80)
    assert shown.getpixel((55, 40)) < 40 and shown.getpixel((5, 40)) > 215, "its top lies to the right"


@pytest.mark.parametrize("name", ["a.gif", "a.svg", "a", "a.png.exe", "", ".png/", "a.html"])
def test_another_kind_of_file_is_refused(tmp_path: Path, name: str):
    with pytest.raises(ConfigError):
        take(tmp_path, name, picture())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"<svg/>", picture("PNG")[:20], b"MZ" * 1000])
def test_what_is_no_picture_is_not_kept(tmp_path: Path, data: bytes):
    with pytest.raises(ConfigError, match="no picture"):
        take(tmp_path, "a.png", data)
    assert list(tmp_path.iterdir()) == []


def test_a_name_never_becomes_a_path(tmp_path: Path):
    folder = tmp_path / "job"
    folder.mkdir()
    told = take(folder, "../../etc/evil\n<b>.png", picture())
    assert (
        told["file"] == "00.png"
        and told["name"] == "evil<b>.png"
        and [path.name for path in tmp_path.iterdir()] == ["job"]
    )
    assert shown_name("C:\\Users\\me\\x.png") == "x.png" and shown_name("\n/") == "picture"
    with pytest.raises(ConfigError, match=str(MOST)):
        stored_name("a.png", MOST)


def test_a_prompt_for_each_picture(tmp_path: Path):
    workspace = Workspace.open(tmp_path)
    take(tmp_path, "a.png", with_prompt(TOLD))
    take(tmp_path, "b.png", picture())
    both = pictures(tmp_path)
    with pytest.raises(PromptError, match=r"b\.png"):
        job_of(workspace, tmp_path, both, " ", True)
    assert [each["prompt"] for each in job_of(workspace, tmp_path, both, " a cat ", True)["pictures"]] == [
        "a fox, (red:1.2)",
        "a cat",
    ]
    assert {each["prompt"] for each in job_of(workspace, tmp_path, both, "a cat", False)["pictures"]} == {
        "a cat"
    }
    assert {"sharpness", "embedded"} <= set(job_of(workspace, tmp_path, both, "a cat", False)["rewards"])
    with pytest.raises(ConfigError, match="no pictures"):
        job_of(workspace, tmp_path, [], "a cat", False)


def test_scored_pictures_take_no_more(tmp_path: Path):
    jobs.tell(tmp_path, {"state": "finished"})
    (tmp_path / "worker.json").touch()
    with pytest.raises(RLRError, match="scored already"):
        take(tmp_path, "a.png", picture())


def test_the_table_runs_no_formulas():
    rows = [
        {"name": "=cmd()", "file": "00.png", "prompt": 'a "fox", red', "scores": {"r": 0.5}},
        {"name": "b.png", "file": "01.png", "prompt": "-", "scores": {"r": None}},
    ]
    read = list(
        csv.reader(io.StringIO(table_of({"rewards": ["r", "s"], "rows": rows, "means": {"r": None}})))
    )
    assert read == [
        ["picture", "prompt", "r"],
        ["'=cmd()", 'a "fox", red', "0.5"],
        ["b.png", "'-", ""],
        ["mean", "", ""],
    ]


def test_only_the_prompt_is_taken():
    assert (
        prompt_of(TOLD) == "a fox, (red:1.2)" and prompt_of("a fox") == "" and prompt_of("\nSteps: 1") == ""
    )
