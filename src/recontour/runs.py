"""One run in one output folder: locked, resumable, all or nothing.

A folder belongs to the run that started it. `run.json` is written last and means "finished".
"""

from __future__ import annotations

import contextlib
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import filelock

from recontour import __version__
from recontour.annotations import write_annotation
from recontour.annotations.geojson import write_complete
from recontour.clock import Clock
from recontour.errors import MissingFileError, OutputError, OutputRefusedError
from recontour.files import remove_leftovers, write_text
from recontour.pipeline import refine_slide
from recontour.preparation import tissue_file
from recontour.recipe import Recipe, Runtime, digest
from recontour.reports.heatmap import write_probability
from recontour.reports.overview import write_overview
from recontour.reports.page import write_report
from recontour.reports.summary import plain
from recontour.slides import frame_of, open_slide
from recontour.types import Frame, Refinement, Slide

SCHEMA = "recontour.run/1"
OUTPUTS = (
    "refined.geojson",
    "complete.geojson",
    "changes.geojson",
    "probability.tif",
    "overview.png",
    "report.html",
    "run.json",
)
STATE = ".recontour-run.json"
LOCK = ".recontour.lock"


@dataclass(frozen=True)
class Outcome:
    """What `refine_to_folder` did: `summary` is the content of `run.json`."""

    summary: Mapping[str, Any]
    already_done: bool
    resumed: bool


def refine_to_folder(
    slide_path: Path,
    coarse_path: Path,
    out: Path,
    recipe: Recipe,
    runtime: Runtime,
    *,
    overwrite: bool = False,
) -> Outcome:
    """Refine one slide and leave every file in `out`.

    The same run into an unfinished folder resumes it (features are cached in shards); into a
    finished one does nothing. A different run is refused unless `overwrite`.

    Raises
    ------
    OutputRefusedError : `out` holds another run, or another process is at work in it
    RecontourError : as `refine_slide`
    """
    if not coarse_path.is_file():
        raise MissingFileError(f"no such file: {coarse_path}")
    with contextlib.closing(open_slide(slide_path, mpp=recipe.mpp)) as slide:
        identity = _identity(slide, coarse_path, recipe)
        claim = _Claim(out, identity, overwrite=overwrite)
        with claim as state:
            if state == "finished":
                return Outcome(_read_json(out / "run.json"), already_done=True, resumed=False)
            refinement = refine_slide(slide, coarse_path, recipe, runtime=runtime)
            frame = frame_of(slide, recipe.origin)
            claim.begin()
            summary = _write_outputs(
                slide, slide_path.name, refinement, out, frame, identity, runtime
            )
    return Outcome(summary, already_done=False, resumed=state == "resumed")


def _write_outputs(
    slide: Slide,
    slide_name: str,
    refinement: Refinement,
    out: Path,
    frame: Frame,
    identity: Mapping[str, Any],
    runtime: Runtime,
) -> dict[str, Any]:
    clock = Clock()
    runtime.progress("write", 0, len(OUTPUTS))
    with clock("write"):
        write_annotation(refinement.annotation, out / "refined.geojson", frame)
        repairs = write_complete(
            refinement.coarse, refinement.annotation.regions, out / "complete.geojson", frame
        )
        write_annotation(refinement.changes, out / "changes.geojson", frame)
        runtime.progress("write", 3, len(OUTPUTS))
        write_probability(slide, refinement, out / "probability.tif")
        write_overview(slide, refinement, out / "overview.png")
    summary = {
        "schema": SCHEMA,
        "status": "finished",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": dict(identity),
        "inputs": {"slide": slide_name, "coarse": refinement.coarse.source},
        "recipe": _settings(refinement.recipe),
        **refinement.facts,
        "slide": {**refinement.facts["slide"], "file": slide_name},
        "repairs": _all_said(refinement.coarse.notes, repairs),
        # Of a cache that cannot be written they name the folder.
        "warnings": plain(list(refinement.warnings)),
        "timings_s": {**refinement.timings, **clock.seconds},
        "versions": versions(),
        "outputs": list(OUTPUTS),
    }
    told = replace(refinement, facts=summary)
    write_report(slide, told, out / "report.html", out / "overview.png")
    runtime.progress("write", len(OUTPUTS), len(OUTPUTS))
    # Last: a folder with run.json is a finished one.
    write_text(out / "run.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    (out / STATE).unlink(missing_ok=True)
    return summary


def _all_said(reading: Sequence[str], writing: Sequence[str]) -> list[str]:
    """What was noticed when reading, and what of writing that does not repeat."""
    return [*reading, *(w for w in writing if not any(r.startswith(w) for r in reading))]


def _settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe for `run.json`: file names only, no folders."""
    settings = recipe.to_dict()
    if path := tissue_file(recipe):
        settings["tissue"] = path.name
    return settings


def versions() -> dict[str, str]:
    """Versions of recontour, Python and what the result depends on."""
    found = {
        "recontour": __version__,
        "python": platform.python_version(),
        "platform": sys.platform,
    }
    for name in (
        "numpy", "torch", "shapely", "scikit-learn", "scikit-image", "scipy", "contourpy",
        "openslide-python", "openslide-bin", "pillow", "tifffile",
    ):  # fmt: skip
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _identity(slide: Slide, coarse_path: Path, recipe: Recipe) -> dict[str, Any]:
    """What makes two runs the same: content and settings, never paths."""
    settings = recipe.to_dict()
    if path := tissue_file(recipe):
        settings["tissue"] = file_digest(path)
    parts = {
        "slide": slide.fingerprint,
        "mpp": slide.mpp,
        "coarse": file_digest(coarse_path),
        "recipe": settings,
        "recontour": __version__,
    }
    return {"key": digest(parts), "slide": slide.fingerprint, "coarse_sha256": parts["coarse"]}


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file's content.

    Raises
    ------
    MissingFileError : no such file
    """
    if not path.is_file():
        raise MissingFileError(f"no such file: {path}")
    with path.open("rb") as file:
        return sha256(file.read()).hexdigest()


class _Claim:
    """Hold an output folder for one run; says whether it is `new`, `resumed` or `finished`.

    What another run left stays whole until `begin`, when there is something to put in its place.
    A run that fails before leaves the folder as it found it; a killed one leaves its name.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any], *, overwrite: bool) -> None:
        self.out = out
        self.identity = identity
        self.overwrite = overwrite
        self.made = False
        # The system drops the lock of a process that died: nobody has to clean up.
        self.lock = filelock.FileLock(out / LOCK)

    def __enter__(self) -> str:
        out = self.out
        if out.exists() and not out.is_dir():
            raise OutputRefusedError(f"{out} is a file; pass a folder with -o")
        try:
            self.made = not out.exists()
            out.mkdir(parents=True, exist_ok=True)
            self.lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise OutputRefusedError(
                f"another process is refining into {out}; wait for it, or pass another folder"
            ) from error
        except OSError as error:
            raise OutputError(f"cannot write in {out}: {error.strerror or error}") from error
        try:
            return self._claim()
        except BaseException:
            self._release()
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        failed = kind is not None and issubclass(kind, Exception)
        if failed and not self._held():
            (self.out / STATE).unlink(missing_ok=True)
        self._release()
        if failed and self.made:
            with contextlib.suppress(OSError):  # not empty: somebody put something there
                self.out.rmdir()

    def begin(self) -> None:
        """From here on the folder holds this run, unfinished."""
        self._sign()
        (self.out / "run.json").unlink(missing_ok=True)
        remove_leftovers(self.out, OUTPUTS)

    def _release(self) -> None:
        self.lock.release()
        (self.out / LOCK).unlink(missing_ok=True)

    def _claim(self) -> str:
        out, key = self.out, self.identity["key"]
        held = self._held()
        started = _read_json(out / STATE).get("key")
        run = _read_json(out / "run.json").get("run")
        finished = run.get("key") if isinstance(run, dict) and not started else None
        if finished == key and held == list(OUTPUTS) and not self.overwrite:
            return "finished"
        ours = key in (started, finished)
        if held and not ours and not self.overwrite:
            what = "another run" if started or finished else f"files of that name ({held[0]}, …)"
            raise OutputRefusedError(
                f"{out} holds {what}; pass another folder, or --overwrite to replace it"
            )
        if not held:
            self._sign()
        return "resumed" if started == key else "new"

    def _held(self) -> list[str]:
        return [name for name in OUTPUTS if (self.out / name).exists()]

    def _sign(self) -> None:
        state = {"key": self.identity["key"], "recontour": __version__}
        write_text(self.out / STATE, json.dumps(state) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file of ours; empty when there is none or it is not readable."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
