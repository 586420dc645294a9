"""Looking at every row of a manifest before the first slide is worked on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from recontour.cohort.rows import Manifest, Problem, Row
from recontour.cohort.settings import settings_problems
from recontour.errors import AnnotationError, MissingMppError, RecontourError
from recontour.recipe import Recipe, Runtime, no_progress
from recontour.storage import is_url
from recontour.types import Annotation, Frame, Slide

Found = TypeVar("Found")


def check_manifest(
    manifest: Manifest,
    recipe: Recipe,
    runtime: Runtime | None = None,
    *,
    jobs: int = 8,
    finished: Container[str] = (),
) -> list[Problem]:
    """Everything that is wrong with a manifest, at once: in order of lines; empty if nothing is.

    Headers of slides and all outlines are read; no pixel is, and nothing is written. Files at URLs
    are not looked at.

    Parameters
    ----------
    recipe : of the cohort; a problem that all rows share is told once, as of line 0
    runtime : its `progress` is told of the stage "check"
    jobs : rows looked at at the same time: mostly waiting for disks
    finished : ids whose files need not be looked at again
    """
    progress = no_progress if runtime is None else runtime.progress
    shared = settings_problems(recipe)
    problems = [*(Problem(0, "", what) for what in shared), *manifest.problems]
    rows = [*manifest.rows, *manifest.faulty]
    own: dict[str, list[str]] = {}
    for row in rows:
        if not row.settings and row.mpp is None:
            continue
        settings = replace(row.recipe_of(recipe), classes=())
        name = settings.digest()
        if name not in own:
            own[name] = [what for what in settings_problems(settings) if what not in shared]
        problems += (Problem(row.line, row.id, what) for what in own[name])
    todo = [row for row in rows if row.id not in finished]
    progress("check", 0, len(todo))
    pool = ThreadPoolExecutor(max_workers=max(1, jobs))
    try:
        checked = pool.map(partial(check_row, recipe=recipe), todo)
        for number, (row, found) in enumerate(zip(todo, checked, strict=True), 1):
            problems += (Problem(row.line, row.id, what) for what in found)
            progress("check", number, len(todo))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for what is read now, not for all rows
    return sorted(dict.fromkeys(problems), key=lambda problem: problem.line)


def check_row(row: Row, recipe: Recipe) -> list[str]:
    """What is wrong with the files of a row, in sentences."""
    recipe = row.recipe_of(recipe)
    problems = list(_missing_files(row, recipe))
    with contextlib.ExitStack() as stack:
        slide = None
        if _is_here(row.slide):
            slide = _attempt(partial(_opened, row.slide, recipe), problems)
        if slide is not None:
            stack.callback(slide.close)
        _check_outlines(row, recipe, slide, problems)
    return problems


def _missing_files(row: Row, recipe: Recipe) -> Iterator[str]:
    named = [("slide", row.slide), ("coarse outline", row.coarse)]
    named += [("file of reviewed regions", row.reviewed or "")]
    named += [("further outline", path) for path in row.also]
    if Path(recipe.tissue).suffix:
        named.append(("file of the tissue", recipe.tissue))
    for what, path in named:
        if not path or is_url(path) or _is_here(path):
            continue
        if Path(path).is_dir():
            yield f"the {what} is a folder: {path}"
        else:
            yield f"no such {what}: {path}"


def _is_here(path: str) -> bool:
    try:
        return bool(path) and not is_url(path) and Path(path).is_file()
    except OSError:  # a name too long, a folder that may not be entered
        return False


def _opened(path: str, recipe: Recipe) -> Slide:
    from recontour.slides import open_slide

    try:
        return open_slide(path, mpp=recipe.mpp, reader=getattr(recipe, "reader", None))
    except MissingMppError as error:
        way = "--mpp holds for all slides, a column 'mpp' for each"
        raise MissingMppError(f"{error}; {way}") from None


def _check_outlines(row: Row, recipe: Recipe, slide: Slide | None, problems: list[str]) -> None:
    from recontour.annotations import read_annotation
    from recontour.slides import frame_of

    frame = Frame()
    if slide is not None:
        placed = _attempt(partial(frame_of, slide, recipe.origin), problems)
        if placed is None:
            return
        frame = placed
    if _readable(row.coarse, slide):
        read = partial(read_annotation, row.coarse, replace(frame, entry=recipe.entry))
        coarse = _attempt(read, problems)
        if coarse is not None:
            _attempt(partial(_check_classes, coarse, recipe, slide), problems)
    for path in row.also:
        if _readable(path, slide):
            _attempt(partial(read_annotation, path, frame), problems)
    if row.reviewed and _readable(row.reviewed, slide):
        _attempt(partial(read_annotation, row.reviewed, frame, allow_empty=True), problems)


def _readable(path: str, slide: Slide | None) -> bool:
    """Whether a file can be read already: a mask only beside the slide that it covers."""
    if not _is_here(path):
        return False
    return slide is not None or not path.casefold().endswith((".png", ".tif", ".tiff"))


def _check_classes(annotation: Annotation, recipe: Recipe, slide: Slide | None) -> None:
    from recontour.annotations.select import select_regions

    selection = select_regions(annotation, recipe.classes, recipe.exclude_classes)
    if slide is None:
        return
    bounds = [r.geometry.bounds for regions in selection.regions for r in regions]
    x0, y0 = min(b[0] for b in bounds), min(b[1] for b in bounds)
    x1, y1 = max(b[2] for b in bounds), max(b[3] for b in bounds)
    width, height = slide.size
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise AnnotationError(
            f"{annotation.source}: the outline (x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}) "
            f"lies off the slide ({width} x {height} px): is it the right slide, and the right "
            "origin?"
        )


def _attempt(read: Callable[[], Found], problems: list[str]) -> Found | None:
    """What `read` gives; None where it fails, and why is added to `problems`."""
    try:
        return read()
    except RecontourError as error:
        problems.append(str(error))
    except Exception as error:  # of a damaged file, or in a reader of another package
        problems.append(f"{type(error).__name__}: {error}")
    return None
