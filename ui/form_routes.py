"""What the pages Compare, Score and Settings ask for and do, as JSON. Whatever loads networks is a job (see `jobs`)."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Body, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response

from rlr_core.errors import ConfigError, RLRError
from ui import answering, finding, jobs, painting, picking, scoring, settling
from ui.jobs import Jobs
from ui.routes import answered
from ui.stripping import STRIP, strips
from ui.workspace import Workspace

SIDES = (128, 256, 512, 2048)
"""Of a picture, at most, in pixels."""
PICTURES = (painting.PICTURE, scoring.STORED, STRIP)
"""Names of the files of jobs that are pictures."""


def form_router(workspace: Workspace) -> APIRouter:
    """The routes of the three pages."""
    made = APIRouter()
    kinds = {
        "compare": Jobs(workspace.home / "ui" / "compare", "ui.paint_job", 6),
        "score": Jobs(workspace.home / "ui" / "score", "ui.score_job", 3),
        "strip": strips(workspace),
    }
    _add_jobs(made, kinds)
    _add_compare(made, workspace, kinds["compare"])
    _add_score(made, workspace, kinds["score"])
    _add_settings(made, workspace)
    return made


def _add_jobs(made: APIRouter, kinds: dict[str, Jobs]) -> None:
    @made.post("/rlr/job/{kind}/{job}/cancel")
    def cancel(kind: str, job: str) -> Response:
        """End a job's process."""

        def done() -> dict[str, Any]:
            jobs.cancel(kinds[kind].folder(job))
            return {"told": "Cancelled; what was made stays."}

        return answered(done, known=kind in kinds)

    @made.get("/rlr/strip/{job}")
    def strip(job: str) -> Response:
        """How far a strip of stages is."""
        return answered(lambda: jobs.told(kinds["strip"].folder(job)))

    @made.get("/rlr/job/{kind}/{job}/{file}")
    def picture(kind: str, job: str, file: str, request: Request, side: int = 256) -> Response:
        """A picture of a job."""
        known = request.headers.get("if-none-match", "")
        return _picture(kinds[kind], job, file, side, known) if kind in kinds else answered(dict, known=False)


def _add_compare(made: APIRouter, workspace: Workspace, kind: Jobs) -> None:
    @made.get("/rlr/compare/choices")
    def choices(search: str = "", base: bool = True) -> Response:
        """What can be compared."""
        return answered(lambda: {"choices": picking.choices(workspace, search[:200], base=base)})

    @made.get("/rlr/compare/checkpoints")
    def checkpoints(search: str = "") -> Response:
        """What can be painted with."""
        return answered(lambda: {"choices": picking.checkpoint_choices(workspace, search[:200])})

    @made.get("/rlr/compare/proposed")
    def proposed(first: str = "", second: str = "") -> Response:
        """Prompts and rewards to start from."""
        return answered(lambda: _proposed(workspace, [first, second]))

    @made.get("/rlr/compare")
    def newest(job: str = "", width: int = 640) -> Response:
        """The comparison of that name, or the newest."""

        def shown() -> dict[str, Any]:
            name = job or next(iter(kind.names()), "")
            return (
                answering.view(name, kind.folder(name), max(300, min(width, 1400)))
                if name
                else {"state": "none"}
            )

        return answered(shown)

    @made.post("/rlr/compare")
    def begin(values: dict[str, Any] = Body(default={})) -> Response:  # noqa: B008
        """Paint."""
        return answered(lambda: _begin_compare(workspace, kind, values))

    @made.post("/rlr/compare/{job}/prefer")
    def prefer(job: str) -> Response:
        """Make the best strength the preferred weight of the LoRA."""
        return answered(lambda: _prefer(workspace, kind, job))

    @made.get("/rlr/compare/{job}/sheet.png")
    def sheet(job: str) -> Response:
        """All pictures on one, to keep."""
        return _file(kind, job, "sheet.png", f"compare-{job}.png")


def _add_score(made: APIRouter, workspace: Workspace, kind: Jobs) -> None:
    @made.get("/rlr/score")
    def newest(job: str = "") -> Response:
        """The table of that name, or the newest; and the rewards that there are."""
        return answered(lambda: _scores(workspace, kind, job))

    @made.post("/rlr/score")
    def new() -> Response:
        """An empty table."""
        return answered(lambda: {"job": kind.new().name})

    @made.put("/rlr/score/{job}/picture")
    async def put(job: str, request: Request, name: str = "") -> Response:
        """Take in a picture: the body is the file."""
        try:
            data = await _body(request)
        except RLRError as error:
            return JSONResponse({"error": str(error)}, 413)
        return await run_in_threadpool(answered, lambda: _take(kind, job, name, data))

    @made.post("/rlr/score/{job}/start")
    def begin(job: str, values: dict[str, Any] = Body(default={})) -> Response:  # noqa: B008
        """Score."""
        return answered(lambda: _begin_score(workspace, kind, job, values))

    @made.get("/rlr/score/{job}/scores.csv")
    def table(job: str) -> Response:
        """The scores, for a spreadsheet."""
        try:
            text = scoring.table_of(scoring.view(job, kind.folder(job)))
        except RLRError as error:
            return JSONResponse({"error": str(error)}, 404)
        headers = {"Content-Disposition": f'attachment; filename="scores-{job}.csv"'}
        return Response(text.encode("utf-8-sig"), headers=headers, media_type="text/csv")


def _add_settings(made: APIRouter, workspace: Workspace) -> None:
    @made.get("/rlr/settings")
    def settings() -> Response:
        """The settings."""
        return answered(lambda: settling.view(workspace))

    @made.get("/rlr/settings/found")
    def found() -> Response:
        """Installations whose folders can be added."""
        return answered(lambda: {"found": settling.proposals(workspace, finding.found_installations())})

    @made.get("/rlr/settings/installed")
    def installed() -> Response:
        """What is installed."""
        return answered(lambda: {"lines": settling.installed(workspace)})

    @made.post("/rlr/settings/folders")
    def folders(values: dict[str, Any] = Body(default={})) -> Response:  # noqa: B008
        """Keep the folders."""

        def kept() -> dict[str, Any]:
            settling.save_folders(workspace, values)
            return {"told": "Saved.", **settling.view(workspace)}

        return answered(kept)

    @made.post("/rlr/settings/theme")
    def theme(values: dict[str, Any] = Body(default={})) -> Response:  # noqa: B008
        """Keep the theme."""

        def kept() -> dict[str, Any]:
            settling.save_theme(workspace, values.get("theme"))
            return {"theme": values["theme"]}

        return answered(kept)


def _proposed(workspace: Workspace, keys: list[str]) -> dict[str, Any]:
    rewards = [vars(each) for each in scoring.installed(workspace) if each.there]
    return {**painting.proposed(workspace, [key for key in keys if key]), "offered": rewards}


def _begin_compare(workspace: Workspace, kind: Jobs, values: dict[str, Any]) -> dict[str, Any]:
    if told := _doubt(workspace, values, "Painting"):
        return told
    wanted = painting.Asked.of(values)
    painting.job_of(workspace, wanted, Path())  # what is wrong is told before an old folder goes
    folder = kind.new()
    kind.start(folder, painting.job_of(workspace, wanted, folder))
    return {"job": folder.name}


def _begin_score(workspace: Workspace, kind: Jobs, job: str, values: dict[str, Any]) -> dict[str, Any]:
    if told := _doubt(workspace, values, "Scoring"):
        return told
    folder, prompt = kind.folder(job), values.get("prompt", "")
    scoring.refuse_late(folder)
    if not isinstance(prompt, str) or len(prompt) > 10_000:
        raise ConfigError(
            "a prompt that is no text", "what the pictures were asked to show", "reload the page"
        )
    kind.start(
        folder, scoring.job_of(workspace, folder, scoring.pictures(folder), prompt, values.get("own") is True)
    )
    return {"job": job}


def _doubt(workspace: Workspace, values: dict[str, Any], doing: str) -> dict[str, Any]:
    """What is to be confirmed by a second click, while a run is training."""
    told = "" if values.get("sure") is True else jobs.doubt(jobs.at_work(workspace.runs), doing)
    return {"ask": told} if told else {}


def _prefer(workspace: Workspace, kind: Jobs, job: str) -> dict[str, Any]:
    folder = kind.folder(job)
    asked = jobs.asked(folder)
    best = answering.best(asked, jobs.told(folder).get("scores", {})) if asked else None
    if best is None:
        raise ConfigError("no best strength", "a sweep of a LoRA file that was scored", "paint one")
    card = painting.prefer(workspace, asked["lora"], best["strength"])
    return {"told": f"{card.name} says {best['strength']:g} now: A1111, Forge and SD.Next begin with it."}


def _scores(workspace: Workspace, kind: Jobs, job: str) -> dict[str, Any]:
    name = job or next(iter(kind.names()), "")
    offered = [vars(each) for each in scoring.installed(workspace)]
    if not name:
        return {"state": "none", "offered": offered}
    folder = kind.folder(name)
    return {**scoring.view(name, folder), "waiting": scoring.pictures(folder), "offered": offered}


async def _body(request: Request) -> bytes:
    """A picture's bytes. Raises `ConfigError` as soon as there are too many, whatever the request says of itself."""
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > scoring.LARGEST:
            raise ConfigError(
                f"a picture of more than {scoring.LARGEST >> 20} MB", "smaller ones", "drop others"
            )
    return bytes(data)


def _take(kind: Jobs, job: str, name: str, data: bytes) -> dict[str, Any]:
    return scoring.take(kind.folder(job), name, data)


def _picture(kind: Jobs, job: str, file: str, side: int, known: str) -> Response:
    """As WebP of at most `side` pixels."""
    from PIL import Image

    from rlr_core.runs.as_seen import as_seen

    try:
        if side not in SIDES or not any(form.fullmatch(file) for form in PICTURES):
            raise ConfigError(f"no picture {file[:60]!r}", "one of this job", "reload the page")
        path = kind.folder(job) / file
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as picture:
            picture.draft("RGB", (side, side))
            small = as_seen(picture)
    except (RLRError, OSError, ValueError) as error:
        return JSONResponse({"error": str(error)}, 404)
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=92)
    mark = f'"{hashlib.blake2s(buffer.getvalue(), digest_size=8).hexdigest()}"'
    headers = {"ETag": mark, "Cache-Control": "private, max-age=3600"}
    return (
        Response(status_code=304, headers=headers)
        if known == mark
        else Response(buffer.getvalue(), 200, headers, "image/webp")
    )


def _file(kind: Jobs, job: str, file: str, name: str) -> Response:
    try:
        path = kind.folder(job) / file
    except RLRError as error:
        return JSONResponse({"error": str(error)}, 404)
    if not path.is_file():
        return JSONResponse({"error": "it is not made yet"}, 404)
    return FileResponse(path, filename=name)
