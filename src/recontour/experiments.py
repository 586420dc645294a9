"""Experiments from files: opens what `evaluate` compares and `simulate_coarse` starts from."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recontour.annotations import read_annotation, write_annotation
from recontour.errors import OutputRefusedError, UsageError
from recontour.evaluation import Evaluation, evaluate
from recontour.preparation import outlined_area, tissue_file, tissue_of
from recontour.recipe import Recipe
from recontour.simulation import Severity, simulate_coarse
from recontour.slides import frame_of, open_slide
from recontour.types import Annotation, Frame, Geometry


def evaluate_files(
    truth: Path,
    prediction: Path,
    *,
    coarse: Path | None = None,
    slide: Path | None = None,
    recipe: Recipe | None = None,
    cell_px: int | None = None,
    subtract: tuple[str, ...] = (),
) -> Evaluation:
    """Compare annotation files of one slide; see `recontour.evaluation.evaluate`.

    Parameters
    ----------
    slide : gives the tissue, the pixel size and the extent; None: geometry only
    recipe : `classes`, `exclude_classes`, `mpp`, `cell_um`, `label_rule`, `tissue` and `origin`
        count; with no slide, `tissue` may still name a file

    Raises
    ------
    UsageError : sizes in µm without a slide or `mpp`
    """
    recipe = recipe or Recipe()
    scene = _open(slide, recipe)
    mpp, frame, tissue = scene.mpp, scene.frame, scene.tissue
    if cell_px is None and recipe.cell_um is not None:
        if mpp is None:
            raise UsageError("--cell-um needs the pixel size: pass --slide, --mpp or --cell-px")
        cell_px = max(1, round(recipe.cell_um / mpp))
    return evaluate(
        read_annotation(truth, frame),
        read_annotation(prediction, frame, allow_empty=True),
        coarse=None if coarse is None else read_annotation(coarse, frame),
        tissue=tissue,
        slide_size=scene.size,
        mpp=mpp,
        cell_px=cell_px,
        label_rule=recipe.label_rule,
        classes=recipe.classes,
        exclude=recipe.exclude_classes,
        subtract=subtract,
    )


def simulate_file(
    fine: Path,
    out: Path,
    *,
    slide: Path | None = None,
    kind: str = "published",
    seed: int = 0,
    recipe: Recipe | None = None,
    severity: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Annotation:
    """Write a coarse outline made from a fine one; see `recontour.simulation.simulate_coarse`.

    Raises
    ------
    UsageError : neither slide nor `mpp`
    OutputRefusedError : `out` exists and `overwrite` is False
    """
    recipe = recipe or Recipe()
    if out.exists() and not overwrite:
        raise OutputRefusedError(f"{out} exists; pass --overwrite to replace it")
    scene = _open(slide, recipe)
    if scene.mpp is None:
        raise UsageError("the pixel size is not known: pass --slide or --mpp (µm/px)")
    coarse = simulate_coarse(
        read_annotation(fine, scene.frame),
        kind=kind,
        seed=seed,
        mpp=scene.mpp,
        size=scene.size,
        tissue=scene.tissue,
        severity=Severity(**(severity or {})),
        classes=recipe.classes,
        exclude=recipe.exclude_classes,
    )
    write_annotation(coarse, out, scene.frame)
    return coarse


@dataclass(frozen=True)
class _Scene:
    """What is known about where the outlines lie."""

    size: tuple[int, int] | None
    mpp: float | None
    frame: Frame
    tissue: Geometry | None


def _open(slide: Path | None, recipe: Recipe) -> _Scene:
    if slide is not None:
        with contextlib.closing(open_slide(slide, mpp=recipe.mpp)) as opened:
            frame = frame_of(opened, recipe.origin)
            return _Scene(opened.size, opened.mpp, frame, tissue_of(opened, recipe))
    frame = Frame(mpp=recipe.mpp)
    path = tissue_file(recipe)
    tissue = None if path is None else outlined_area(path, frame)
    return _Scene(None, recipe.mpp, frame, tissue)
