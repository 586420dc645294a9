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

from recontour import __version__, registry
from recontour.annotations import write_annotation
from recontour.annotations.geojson import write_complete
from recontour.claim import FINISHED, STATE, Claim, read_json
from recontour.clock import Clock
from recontour.devices import limit_threads
from recontour.errors import InvalidOutlineError, MissingFileError
from recontour.files import write_text
from recontour.pipeline import refine_slide
from recontour.preparation import tissue_file
from recontour.recipe import Recipe, Runtime, digest
from recontour.refiners.keeping import digest_of
from recontour.reports.heatmap import write_probability
from recontour.reports.overview import write_overview
from recontour.reports.page import write_report
from recontour.reports.summary import plain
from recontour.slides import frame_of, open_slide
from recontour.types import Frame, Refinement, Refiner, Slide

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


@dataclass(frozen=True)
class Outcome:
    """What `refine_to_folder` did: `summary` is the content of `run.json`."""

    summary: Mapping[str, Any]
    already_done: bool
    resumed: bool


def refine_to_folder(
    slide: Path | str,
    coarse: Path | str,
    out: Path | str,
    recipe: Recipe | None = None,
    runtime: Runtime | None = None,
    *,
    reviewed: Path | str | None = None,
    also: Sequence[Path | str] = (),
    overwrite: bool = False,
    strict: bool = False,
    refiner: Refiner | None = None,
) -> Outcome:
    """Refine one slide and leave every file in `out`.

    The same run into an unfinished folder resumes it (features are cached in shards); into a
    finished one does nothing. A different run is refused unless `overwrite`. `reviewed` and `also`
    are files, as in `refine_slide`; what they hold is part of what makes two runs the same.
    `strict`: nothing is written of an outline that looks invalid. `refiner`: fitted elsewhere, as
    in `refine_slide`; what it has learned is part of what makes two runs the same.

    Raises
    ------
    UsageError : `refiner` cannot say what it has learned (`KeepableRefiner`)
    InvalidOutlineError : `strict`, and the outline looks invalid; also of a finished run
    OutputRefusedError : `out` holds another run, or another process is at work in it
    RecontourError : as `refine_slide`
    """
    slide_path, coarse_path, out = Path(slide), Path(coarse), Path(out)
    recipe, runtime = recipe or Recipe(), runtime or Runtime()
    if not coarse_path.is_file():
        raise MissingFileError(f"no such file: {coarse_path}")
    with (
        limit_threads(runtime.threads),
        contextlib.closing(open_slide(slide_path, recipe.mpp, recipe.reader)) as opened,
    ):
        identity = _identity(opened, coarse_path, recipe, reviewed, also, refiner)
        claim = Claim(out, identity["key"], OUTPUTS, overwrite=overwrite)
        with claim as state:
            if state == "finished":
                summary = read_json(out / FINISHED)
                if strict:
                    _refuse_invalid(
                        summary, coarse_path.name, f"{out} holds the run without --strict"
                    )
                return Outcome(summary, already_done=True, resumed=False)
            refinement = refine_slide(
                opened,
                coarse_path,
                recipe,
                reviewed=reviewed,
                also=also,
                runtime=runtime,
                refiner=refiner,
            )
            if strict:
                _refuse_invalid(refinement.facts, coarse_path.name, "Nothing was written")
            frame = frame_of(opened, recipe.origin)
            claim.begin()
            summary = _write_outputs(
                opened, slide_path.name, refinement, out, frame, identity, runtime
            )
    return Outcome(summary, already_done=False, resumed=state == "resumed")


def _refuse_invalid(facts: Mapping[str, Any], name: str, left: str) -> None:
    """Runs of older versions have no verdict, and pass."""
    validity = facts.get("validity") or {}
    if validity.get("verdict") == "invalid":
        raise InvalidOutlineError(
            f"{name}: the outline looks invalid (--strict). {left}; correct the "
            f"outline, or run without --strict. Reasons: {'; '.join(validity['reasons'])}"
        )


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
        "inputs": {
            "slide": slide_name,
            "coarse": refinement.coarse.source,
            **_further_inputs(refinement.facts["given"]),
        },
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
    write_text(out / FINISHED, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    (out / STATE).unlink(missing_ok=True)
    return summary


def _all_said(reading: Sequence[str], writing: Sequence[str]) -> list[str]:
    """What was noticed when reading, and what of writing that does not repeat."""
    return [*reading, *(w for w in writing if not any(r.startswith(w) for r in reading))]


def _further_inputs(given: Mapping[str, Any]) -> dict[str, Any]:
    """Names of the files that were given beside the coarse one."""
    found = {"also": given["also"]} if given["also"] else {}
    return {**found, "reviewed": given["reviewed"]["source"]} if given["reviewed"] else found


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


def _identity(
    slide: Slide,
    coarse_path: Path,
    recipe: Recipe,
    reviewed: Path | str | None,
    also: Sequence[Path | str],
    refiner: Refiner | None = None,
) -> dict[str, Any]:
    """What makes two runs the same: content and settings, never paths."""
    settings = recipe.to_dict()
    if path := tissue_file(recipe):
        settings["tissue"] = file_digest(path)
    weights_name = getattr(registry.lookup("encoder", recipe.encoder), "weights_name", None)
    if weights_name is not None:
        settings["encoder_weights"] = weights_name()
    parts = {
        "slide": slide.fingerprint,
        "mpp": slide.mpp,
        "coarse": file_digest(coarse_path),
        "recipe": settings,
        "recontour": __version__,
    }
    if reviewed is not None:
        parts["reviewed"] = file_digest(Path(reviewed))
    if also:
        parts["also"] = sorted(file_digest(Path(path)) for path in also)
    if refiner is not None:
        parts["refiner"] = digest_of(refiner)
    given = ("reviewed", "also", "refiner")
    further = {f"{name}_sha256": parts[name] for name in given if name in parts}
    return {
        "key": digest(parts),
        "slide": slide.fingerprint,
        "coarse_sha256": parts["coarse"],
        **further,
    }


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
