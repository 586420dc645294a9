"""What a run needs before the first pixel is embedded: cheap, so that mistakes show at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recontour.annotations import read_annotation
from recontour.annotations.select import (
    UNCLASSIFIED,
    Selection,
    claimed_areas,
    select_regions,
)
from recontour.annotators import agree
from recontour.cache import FeatureCache
from recontour.calibration import check_target
from recontour.constraints import check_limits
from recontour.embedding import Features, embed_patches
from recontour.encoders import load_encoder
from recontour.errors import (
    AnnotationError,
    RefinerError,
    TissueError,
    UnknownNameError,
    UsageError,
)
from recontour.geometry import polygonal, union
from recontour.grid import (
    GridChoice,
    centres_inside,
    check_sides,
    choose_cells,
    coverage,
    make_grid,
)
from recontour.labelling import label_outlines, passed_over
from recontour.recipe import Recipe, Runtime
from recontour.review import review_cells
from recontour.slides import frame_of, limit_threads, open_slide
from recontour.tissue import TISSUE_RULES, find_tissue
from recontour.types import Annotation, Encoder, Frame, Geometry, PatchGrid, PatchSet, Slide

FEW_ON_TISSUE = 0.5
"""Warn when less than this share of the outline lies on tissue."""

BANDS = (1, 2, 4)
"""How many times finer the cells around the border may be; 1: no finer."""

FINER_THAN_CELLS = 0.2
"""Warn when cells misplace more than this share of the outlined area before anything is learnt."""


@dataclass(frozen=True)
class Given:
    """What a refiner is told of each cell: by one outline or several, and by reviewed regions.

    `labels` int8 (n,), -1 where nobody knows; `trust` float32 (n,), None where there is one outline
    and no review; `facts` for `run.json` (JSON types): of `also` and `reviewed`.
    """

    labels: NDArray[np.int8]
    trust: NDArray[np.float32] | None
    facts: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """A slide with its outline, laid out in cells, ready to be embedded.

    `drawn` holds the area of each class as the user outlined it (of overlapping classes the smaller
    outline has it), `tissue` where refinement takes
    place. `lattice` has every tissue cell and is what gets embedded, so that features outlive a
    change of the outlines; `kept` says which of its cells take part (not excluded), and `grid`
    holds those. `labels` int8 (n,) is the coarse label of each, `given` what the refiner is told.
    """

    slide: Slide
    coarse: Annotation
    selection: Selection
    drawn: tuple[Geometry, ...]
    tissue: Geometry
    choice: GridChoice
    lattice: PatchGrid
    kept: NDArray[np.bool_]
    grid: PatchGrid
    labels: NDArray[np.int8]
    given: Given
    encoder: Encoder
    warnings: tuple[str, ...]

    @property
    def label_counts(self) -> dict[str, int]:
        """Cells of each class, background first."""
        counts = np.bincount(self.labels, minlength=len(self.selection.classes))
        return {name: int(n) for name, n in zip(self.selection.classes, counts, strict=True)}

    def patch_set(self, features: Features) -> PatchSet:
        """What a refiner sees, from the features of the lattice."""
        cell, context = features.cell, features.context
        if not self.kept.all():
            cell = cell[self.kept]
            context = None if context is None else context[self.kept]
        return PatchSet(
            self.slide.id,
            self.grid,
            cell,
            self.given.labels,
            self.selection.classes,
            context,
            self.given.trust,
        )


def prepare(
    slide: Slide | str | Path,
    coarse: Annotation | str | Path,
    recipe: Recipe,
    runtime: Runtime,
    *,
    reviewed: Annotation | str | Path | None = None,
    also: Sequence[Annotation | str | Path] = (),
    lay: Callable[[], Layout] | None = None,
) -> Work:
    """Open, read, find tissue, lay the grid, label the cells; nothing is embedded yet.

    Parameters
    ----------
    reviewed : regions of which a person is certain
    also : further outlines of the same slide, of other annotators
    lay : gives the layout of the slide, where that is found elsewhere

    Raises
    ------
    AnnotationError : the outline lies off the slide or off the tissue
    RefinerError : a class, or the background, has no cell at all
    """
    check_settings(recipe)
    slide = slide if isinstance(slide, Slide) else open_slide(slide, recipe.mpp, recipe.reader)
    if not isinstance(coarse, Annotation):
        coarse = read_annotation(coarse, frame_of(slide, recipe.origin, recipe.entry))
    selection = select_regions(coarse, recipe.classes, recipe.exclude_classes)
    drawn = claimed_areas(selection.regions)
    warnings = [*_check_pixel_size(slide), *_check_on_slide(slide, coarse, union(drawn))]
    whole, encoder, choice, lattice = lay() if lay else lay_out(slide, recipe, runtime)
    kept = np.ones(len(lattice), bool)
    kept[centres_inside(lattice, selection.excluded)] = False
    if not kept.any():
        raise TissueError(f"{slide.id}: the excluded regions cover all of the tissue")
    grid = replace(lattice, rows=lattice.rows[kept], cols=lattice.cols[kept])
    tissue = polygonal(whole.difference(selection.excluded))
    warnings += passed_over(coarse, recipe.label_rule)
    warnings += _check_on_tissue(drawn, whole)
    warnings += _check_coarser_than_cells(grid, drawn)
    labels = label_outlines(grid, coarse, selection.regions, recipe.label_rule)
    given = _given(slide, grid, labels, selection, recipe, reviewed, also)
    work = Work(
        slide=slide,
        coarse=coarse,
        selection=selection,
        drawn=drawn,
        tissue=tissue,
        choice=choice,
        lattice=lattice,
        kept=kept,
        grid=grid,
        labels=labels,
        given=given,
        encoder=encoder,
        warnings=(*given.warnings, *warnings),
    )
    _check_labelled(work)
    return work


def check_settings(recipe: Recipe) -> None:
    """Refuse settings that make no sense on any slide.

    Raises
    ------
    UsageError : says which, and what is possible
    """
    check_limits(recipe.only, recipe.within_um)
    check_target(recipe.error_target)
    if recipe.band not in BANDS:
        raise UsageError(f"--band {recipe.band} must be 1 (off), 2 or 4")


def _given(
    slide: Slide,
    grid: PatchGrid,
    labels: NDArray[np.int8],
    selection: Selection,
    recipe: Recipe,
    reviewed: Annotation | str | Path | None,
    also: Sequence[Annotation | str | Path],
) -> Given:
    """Join the outlines of several annotators, and put reviewed labels over them."""
    if reviewed is None and not also:
        if recipe.reviewed_sample:
            raise UsageError("--reviewed-sample is about reviewed regions; pass --reviewed FILE")
        return Given(labels, None, {"also": [], "reviewed": None})
    frame = frame_of(slide, recipe.origin)
    told, names = [labels], []
    for one in also:
        other = one if isinstance(one, Annotation) else read_annotation(one, frame)
        told.append(_labels_of(grid, other, selection, recipe.label_rule))
        names.append(other.source or other.slide_id)
    found, trust = agree(told, len(selection.classes))
    facts: dict[str, Any] = {"also": names, "reviewed": None}
    if also:
        facts["disagreed_cells"] = int(np.count_nonzero(np.ptp(np.stack(told), axis=0)))
        facts["tied_cells"] = int(np.count_nonzero(found < 0))
    if reviewed is None:
        return Given(found, trust, facts)
    if not isinstance(reviewed, Annotation):
        reviewed = read_annotation(reviewed, frame, allow_empty=True)
    seen = review_cells(grid, reviewed, selection.classes, recipe.exclude_classes, frame)
    certain = seen.labels >= 0
    facts["reviewed"] = {"source": reviewed.source or reviewed.slide_id, **seen.facts}
    return Given(
        np.where(certain, seen.labels, found).astype(np.int8),
        np.where(certain, 1.0, trust).astype(np.float32),
        facts,
        seen.warnings,
    )


def _labels_of(
    grid: PatchGrid, outline: Annotation, selection: Selection, rule: str
) -> NDArray[np.int8]:
    """The labels of another annotator's outline.

    Raises
    ------
    AnnotationError : it has none of the classes that are refined
    """
    by_class = [
        [r for r in outline.regions if (r.label or UNCLASSIFIED).casefold() == name.casefold()]
        for name in selection.classes[1:]
    ]
    if not any(by_class):
        has = sorted({region.label or UNCLASSIFIED for region in outline.regions})
        raise AnnotationError(
            f"{outline.source or outline.slide_id}: no outline of class "
            f"{', '.join(selection.classes[1:])}, as the first file has; it has: {', '.join(has)}"
        )
    return label_outlines(grid, outline, by_class, rule)


def open_cache(runtime: Runtime) -> FeatureCache | None:
    """The feature cache a run uses; None where it is switched off."""
    return FeatureCache(runtime.cache_dir) if runtime.use_cache else None


def embed_cells(slide: Slide, grid: PatchGrid, encoder: Encoder, runtime: Runtime) -> Features:
    """The features of the cells of `grid`, as a run computes and keeps them.

    Raises
    ------
    SlideError, EncoderError : as `embed_patches`
    """
    return embed_patches(
        slide,
        grid,
        encoder,
        cache=open_cache(runtime),
        progress=runtime.progress,
        threads=runtime.threads,
    )


def encoder_of(recipe: Recipe, runtime: Runtime) -> Encoder:
    """The encoder of a run, on its device and engine.

    Raises
    ------
    UnknownNameError, MissingExtraError, EncoderError, UsageError : as `load_encoder`
    """
    return load_encoder(
        recipe.encoder,
        device=runtime.device,
        threads=runtime.threads,
        engine=runtime.engine,
        precision=runtime.precision,
    )


class Layout(NamedTuple):
    """A slide cut into cells: its tissue, and what will embed every cell of `lattice`."""

    tissue: Geometry
    encoder: Encoder
    choice: GridChoice
    lattice: PatchGrid


def lay_out(slide: Slide, recipe: Recipe, runtime: Runtime) -> Layout:
    """Find the tissue and cut it into cells, as the recipe fixes them or as the slide suggests."""
    sides: dict[str, Any] = {
        "cell_um": recipe.cell_um,
        "cell_px": recipe.cell_px,
        "patch_um": recipe.patch_um,
        "patch_px": recipe.patch_px,
    }
    check_sides(**sides)
    limit_threads(slide, runtime.threads)
    encoder = encoder_of(recipe, runtime)  # first: much about it can be wrong, and tissue is slow
    runtime.progress("tissue", 0, 1)
    tissue = tissue_of(slide, recipe)
    runtime.progress("tissue", 1, 1)
    choice = choose_cells(
        slide.mpp,
        slide.size,
        tissue,
        encoder_mpp=encoder.mpp,
        encoder_um=getattr(encoder, "patch_um", None),
        mpp_embed=recipe.mpp_embed,
        **sides,
    )
    lattice = make_grid(slide.size, slide.mpp, tissue, choice, patch_px=encoder.patch_px)
    return Layout(tissue, encoder, choice, lattice)


def tissue_of(slide: Slide, recipe: Recipe) -> Geometry:
    """The tissue by the recipe's rule, or as outlined in the file it names.

    Raises
    ------
    UsageError : a file is to be shrunk
    """
    path = tissue_file(recipe)
    if path is None:
        return find_tissue(slide, recipe.tissue, recipe.tissue_downsample)
    if recipe.tissue_downsample is not None:
        raise UsageError(
            f"--tissue-downsample {recipe.tissue_downsample} is for a tissue rule, and {path.name} "
            "outlines the tissue itself; pass one of the two"
        )
    return outlined_area(path, frame_of(slide, recipe.origin))


def tissue_file(recipe: Recipe) -> Path | None:
    """The file that outlines the tissue, or None where a rule finds it.

    Raises
    ------
    UnknownNameError : neither a rule nor the name of a file
    """
    if recipe.tissue in TISSUE_RULES:
        return None
    path = Path(recipe.tissue)
    if not path.suffix:
        raise UnknownNameError.of("tissue rule", recipe.tissue, TISSUE_RULES)
    return path


def outlined_area(path: Path, frame: Frame) -> Geometry:
    """All that the regions of a file cover, whatever their class."""
    return union(region.geometry for region in read_annotation(path, frame).regions)


def describe_slide(slide: Slide) -> dict[str, Any]:
    """What is known of a slide, as JSON types."""
    return {
        "id": slide.id,
        "size": list(slide.size),
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "bounds": list(slide.bounds),
        "level_mpps": list(slide.level_mpps),
        "reader": slide.reader,
        "fingerprint": slide.fingerprint,
    }


def describe_grid(choice: GridChoice, grid: PatchGrid) -> dict[str, Any]:
    """The grid and why it is as it is, as JSON types."""
    return {
        "cell_um": grid.cell_um,
        "cell_px": grid.stride,
        "mpp_embed": grid.mpp_embed,
        "n_cells": len(grid),
        "shape": list(grid.shape),
        "reasons": list(choice.reasons),
    }


def _check_pixel_size(slide: Slide) -> Sequence[str]:
    """Say aloud what `mpp_source` says of a pixel size that was guessed or averaged."""
    if slide.mpp_source.startswith("guessed") or "warning" in slide.mpp_source:
        return [
            f"{slide.id}: pixel size {slide.mpp:g} µm/px ({slide.mpp_source}); pass --mpp if you "
            "know better"
        ]
    return []


def _check_on_slide(slide: Slide, coarse: Annotation, drawn: Geometry) -> Sequence[str]:
    width, height = slide.size
    x0, y0, x1, y1 = drawn.bounds
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise AnnotationError(
            f"{coarse.source}: the outline (x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}) lies "
            f"off the slide ({width} x {height} px): is it the right slide? If the coordinates "
            "are shifted, try --origin level0 or --origin bounds"
        )
    if x0 < -1 or y0 < -1 or x1 > width + 1 or y1 > height + 1:
        return [
            f"the outline (x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}) reaches past the slide "
            f"({width} x {height} px): is it the right slide, and the right --origin?"
        ]
    return []


def _check_on_tissue(drawn: Sequence[Geometry], tissue: Geometry) -> Sequence[str]:
    area = sum(g.area for g in drawn)
    on_tissue = sum(g.intersection(tissue).area for g in drawn)
    if area > 0 and on_tissue / area < FEW_ON_TISSUE:
        return [
            f"only {on_tissue / area:.0%} of the outlined area is on tissue: is it the right "
            "slide, and the right --origin? (--tissue changes how tissue is found)"
        ]
    return []


def _check_coarser_than_cells(grid: PatchGrid, drawn: Sequence[Geometry]) -> Sequence[str]:
    """An outline with more detail than the cells can hold loses by being refined."""
    covered = [coverage(grid, geometry) for geometry in drawn]
    misplaced = sum(float(np.minimum(share, 1 - share).sum()) for share in covered)
    area = sum(float(share.sum()) for share in covered)
    if area > 0 and misplaced / area > FINER_THAN_CELLS:
        return [
            f"the outline is finer than the cells of {grid.cell_um:.0f} µm ({misplaced / area:.0%} "
            "of its area is in cells that it only crosses): refining may make it coarser; pass a "
            "smaller --cell-um"
        ]
    return []


def _check_labelled(work: Work) -> None:
    for name, count in work.label_counts.items():
        if count:
            continue
        if name == work.selection.classes[0]:
            raise RefinerError(
                f"{work.coarse.source}: the outline covers all {len(work.grid)} tissue cells of "
                f"{work.slide.id}: nothing is left to tell it from; outline less"
            )
        raise RefinerError(
            f"{work.coarse.source}: no tissue cell of {work.slide.id} lies in an outline of class "
            f"{name!r}: is the outline on tissue, and larger than a cell of "
            f"{work.grid.cell_um:.0f} µm? (--cell-um, --tissue and --origin change that)"
        )
    for k, name in enumerate(work.selection.classes):
        if not (work.given.labels == k).any():
            raise RefinerError(
                f"no cell of {work.slide.id} is left of class {name!r}: the other outlines "
                "(--also) or the reviewed regions (--reviewed) contradict it in every cell; give "
                "an outline that they agree with, or leave it out of --class"
            )
