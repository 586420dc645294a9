"""Experiments from files: opens what `evaluate` compares and `simulate_coarse` starts from."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recontour.annotations import read_annotation, write_annotation
from recontour.annotations.mask import mask_size
from recontour.annotations.reading import format_of
from recontour.errors import MissingFileError, OutputRefusedError, UsageError
from recontour.evaluation import Evaluation, evaluate
from recontour.grid import check_sides
from recontour.heatmaps import STRIDE_PX, HeatMap, evaluate_heatmap, read_heatmap
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
    recipe : `classes`, `exclude_classes`, `mpp`, `cell_um`, `label_rule`, `tissue`,
        `tissue_downsample`, `origin` and `entry` count; with no slide, `tissue` may still name a
        file

    Raises
    ------
    UsageError : sizes in µm without a slide or `mpp`, or the cell given in both units
    """
    recipe = recipe or Recipe()
    check_sides(cell_um=recipe.cell_um, cell_px=cell_px)
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


def evaluate_heatmap_files(
    truth: Path,
    prediction: Path,
    *,
    coarse: Path | None = None,
    slide: Path | None = None,
    recipe: Recipe | None = None,
    stride_px: int | None = None,
    subtract: tuple[str, ...] = (),
) -> Evaluation:
    """Judge a heat map by annotation files; see `recontour.heatmaps.evaluate_heatmap`.

    Parameters
    ----------
    prediction : .npy
    slide : not needed; gives the pixel size, and where the files' coordinates start
    recipe : `classes`, `exclude_classes`, `mpp`, `label_rule`, `origin`, `entry` and `postprocess`
        count; cells and tissue are those of the map
    stride_px : side of the map's cells, level-0 px; None: 256

    Raises
    ------
    UsageError : another size of cells or another tissue is asked for; a mask does not fit the map,
        or the map not the slide
    """
    recipe = recipe or Recipe()
    for option, given in (
        ("--cell-um", recipe.cell_um is not None),
        ("--cell-px", recipe.cell_px is not None),
        ("--tissue", recipe.tissue != Recipe().tissue),
        ("--tissue-downsample", recipe.tissue_downsample is not None),
    ):
        if given:
            raise UsageError(
                f"{option} has no effect on {prediction.name}: cells and tissue are those of the "
                "heat map; leave it out (--stride-px tells the side of its cells)"
            )
    if not prediction.is_file():
        raise MissingFileError(f"no such file: {prediction}")
    heatmap = read_heatmap(prediction, STRIDE_PX if stride_px is None else stride_px)
    frame, mpp = Frame(mpp=recipe.mpp, entry=recipe.entry), recipe.mpp
    if slide is not None:
        with contextlib.closing(open_slide(slide, recipe.mpp, recipe.reader)) as opened:
            frame, mpp = frame_of(opened, recipe.origin, recipe.entry), opened.mpp
            _check_size(heatmap, opened.size)
    read, masks = {}, []
    for role, path in (("truth", truth), ("coarse", coarse)):
        if path is None:
            continue
        mine = frame
        if path.is_file() and format_of(path) == "mask":
            masks.append(role)
            mine = frame if slide is not None else _frame_on(heatmap, path, frame)
        read[role] = read_annotation(path, mine)
    return evaluate_heatmap(
        read["truth"],
        heatmap,
        coarse=read.get("coarse"),
        mpp=mpp,
        label_rule=recipe.label_rule,
        masks=masks,
        postprocess=recipe.postprocess,
        classes=recipe.classes,
        exclude=recipe.exclude_classes,
        subtract=subtract,
    )


def _check_size(heatmap: HeatMap, size: tuple[int, int]) -> None:
    """A map may end before the slide does, or with a cell or two that reach past its edge."""
    spare = 2 * heatmap.stride_px
    if any(mine > its + spare for mine, its in zip(heatmap.size, size, strict=True)):
        rows, cols = heatmap.values.shape
        raise UsageError(
            f"{heatmap.source} ({rows} x {cols} cells of {heatmap.stride_px} px: "
            f"{heatmap.size[0]} x {heatmap.size[1]} px) is larger than the slide ({size[0]} x "
            f"{size[1]} px): are they of the same slide, and is --stride-px right?"
        )


def _frame_on(heatmap: HeatMap, path: Path, frame: Frame) -> Frame:
    """The mask covers the map: one of its pixels a cell, or a whole number each way."""
    width, height = mask_size(path)
    rows, cols = heatmap.values.shape
    if width % cols or height % rows or width // cols != height // rows:
        raise UsageError(
            f"{path.name} ({height} x {width} px) does not fit {heatmap.source} ({rows} x {cols} "
            "cells): are they of the same slide? Pass a mask with one pixel a cell, or --slide, "
            "over which a mask of any size is laid"
        )
    return replace(frame, size=heatmap.size)


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
        with contextlib.closing(open_slide(slide, recipe.mpp, recipe.reader)) as opened:
            frame = frame_of(opened, recipe.origin, recipe.entry)
            return _Scene(opened.size, opened.mpp, frame, tissue_of(opened, recipe))
    frame = Frame(mpp=recipe.mpp, entry=recipe.entry)
    path = tissue_file(recipe)
    tissue = None if path is None else outlined_area(path, frame)
    return _Scene(None, recipe.mpp, frame, tissue)
