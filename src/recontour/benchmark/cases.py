"""One case, made ready: slide, truth and outlines in, label maps and patch sets out."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.annotations import read_annotation, write_annotation
from recontour.benchmark.records import Results
from recontour.benchmark.spec import COARSE, OutlineSpec, Plan
from recontour.datasets import Case, Outlines
from recontour.errors import AnnotationError, MissingFileError, TissueError
from recontour.geometry import union
from recontour.grid import centres_inside
from recontour.labelling import known_regions, label_outlines
from recontour.preparation import describe_grid, describe_slide, embed_cells, lay_out
from recontour.recipe import Recipe, Runtime, digest
from recontour.simulation import Severity, simulate_coarse
from recontour.slides import frame_of, open_slide
from recontour.types import (
    BACKGROUND,
    Annotation,
    Encoder,
    Frame,
    Geometry,
    PatchGrid,
    PatchSet,
    Region,
    Slide,
)

UNCLASSIFIED = "Unclassified"

Map = NDArray[np.int8]


@dataclass(frozen=True)
class Opened:
    """A case whose slide is open and whose truth is read.

    Attributes
    ----------
    fine : the truth as the file has it
    classes : background and the classes that are the truth
    regions : of each class k >= 1
    left_out : regions of excluded classes: cells in them take no part
    inputs : digest of the slide, the truth and the settings
    notes : sentences on the truth: repairs, and what the label rule passes over
    """

    case: Case
    plan: Plan
    slide: Slide
    fine: Annotation
    classes: tuple[str, ...]
    regions: tuple[tuple[Region, ...], ...]
    left_out: tuple[Region, ...]
    inputs: str
    notes: tuple[str, ...]

    def frame(self, outlines: Outlines | None = None) -> Frame:
        """Where the coordinates of an annotation file lie on the slide."""
        return frame_of(
            self.slide, self.plan.recipe.origin, None if outlines is None else outlines.entry
        )


@dataclass(frozen=True)
class Laid:
    """A case cut into cells for one encoder; nothing is embedded yet.

    Attributes
    ----------
    lattice : every tissue cell, which is what gets embedded
    kept : which of its cells take part (those not excluded)
    grid : those cells
    full : every cell of the lattice, tissue or not
    truth : int8 (rows, cols)
    """

    opened: Opened
    encoder: Encoder
    tissue: Geometry
    lattice: PatchGrid
    kept: NDArray[np.bool_]
    grid: PatchGrid
    full: PatchGrid
    truth: Map
    facts: dict[str, Any]

    @property
    def true_labels(self) -> NDArray[np.int8]:
        """int8 (n,): the truth of the cells that take part."""
        return self.truth[self.grid.rows, self.grid.cols]

    def patch_set(self, runtime: Runtime) -> PatchSet:
        """The features of the cells that take part; the labels are all background as yet."""
        features = embed_cells(self.opened.slide, self.lattice, self.encoder, runtime)
        cell, context = features.cell, features.context
        if not self.kept.all():
            cell = cell[self.kept]
            context = None if context is None else context[self.kept]
        labels = np.zeros(len(self.grid), np.int8)
        return PatchSet(self.opened.slide.id, self.grid, cell, labels, self.opened.classes, context)


@contextlib.contextmanager
def open_case(case: Case, plan: Plan) -> Iterator[Opened]:
    """Open the slide and read the truth.

    Classes are those of the recipe, else those the data set names, else all of the truth that are
    not excluded; of those named, the ones that the truth of this case holds.

    Raises
    ------
    AnnotationError : the truth holds none of the classes
    RecontourError : a file cannot be read
    """
    recipe = plan.recipe
    mpp = recipe.mpp if recipe.mpp is not None else case.mpp
    slide = open_slide(case.slide, mpp, recipe.reader)
    with contextlib.closing(slide):
        frame = frame_of(slide, recipe.origin, case.fine.entry)
        fine = read_annotation(case.fine.path, frame)
        wanted = recipe.classes or case.classes
        known, notes = known_regions(fine, fine.regions, recipe.label_rule)
        names, regions, left_out = _sort(fine, known, wanted, recipe.exclude_classes)
        inputs = digest(
            {
                "plan": plan.fixed(),
                "slide": [slide.fingerprint, slide.mpp],
                "fine": [file_digest(case.fine.path), case.fine.entry],
                "classes": list(names),
            }
        )
        said = (*notes, *fine.notes)
        yield Opened(case, plan, slide, fine, (BACKGROUND, *names), regions, left_out, inputs, said)


def lay_out_case(opened: Opened, encoder: str, runtime: Runtime) -> Laid:
    """Find tissue, lay the grid, and label every cell with the truth.

    Raises
    ------
    TissueError : no tissue, or all of it is excluded
    """
    recipe = replace(opened.plan.recipe, encoder=encoder)
    layout = lay_out(opened.slide, recipe, runtime)
    lattice = layout.lattice
    kept = np.ones(len(lattice), bool)
    if opened.left_out:
        kept[centres_inside(lattice, union(r.geometry for r in opened.left_out))] = False
    if not kept.any():
        raise TissueError(f"{opened.case.id}: the excluded regions cover all of the tissue")
    grid = replace(lattice, rows=lattice.rows[kept], cols=lattice.cols[kept])
    rows, cols = np.indices(lattice.shape, dtype=np.int32).reshape(2, -1)
    full = replace(lattice, rows=rows, cols=cols)
    truth = _labels(full, opened.regions, opened.fine, recipe)
    return Laid(
        opened=opened,
        encoder=layout.encoder,
        tissue=layout.tissue,
        lattice=lattice,
        kept=kept,
        grid=grid,
        full=full,
        truth=truth,
        facts={
            "slide": describe_slide(opened.slide),
            "grid": describe_grid(layout.choice, grid),
            "encoder": layout.encoder.identifier,
        },
    )


def outlines_of(spec: OutlineSpec, case: Case, drawn: Sequence[str]) -> list[OutlineSpec]:
    """The outlines of a case that a kind stands for: one, or all that were drawn, or none."""
    if spec.simulated:
        return [spec]
    if spec.kind == "drawn":
        return [OutlineSpec(name, name) for name in drawn]
    return [spec] if spec.kind in case.coarse else []


def outline_digest(spec: OutlineSpec, case: Case, seed: int) -> str:
    """Names what an outline is made of."""
    if spec.simulated:
        return digest([spec.kind, dict(spec.severity), spec.outline_seed(seed)])
    outlines = case.coarse[spec.kind]
    return digest([file_digest(outlines.path), outlines.entry])


def coarse_map(laid: Laid, spec: OutlineSpec, seed: int, results: Results) -> Map:
    """The coarse label of every cell, int8 (rows, cols).

    A simulated outline is made once and kept as GeoJSON, for every encoder and method, and for
    whoever wants to look at it.

    Raises
    ------
    AnnotationError : nothing can be simulated, or the outline holds none of the classes
    """
    opened = laid.opened
    if not spec.simulated:
        outlines = opened.case.coarse[spec.kind]
        coarse = read_annotation(outlines.path, opened.frame(outlines))
    else:
        seed = spec.outline_seed(seed)
        made_of = digest([opened.inputs, outline_digest(spec, opened.case, seed)])
        path = results.outline_file(opened.case.id, f"{spec.label}_{made_of[:8]}", seed)
        if not path.exists():
            made = _simulate(laid, spec, seed)
            write_annotation(made, path, opened.frame())
        # Read back, so that the first run and a resumed one see the same coordinates.
        coarse = read_annotation(path, opened.frame())
    regions = _matching(coarse, opened)
    return _labels(laid.full, regions, coarse, opened.plan.recipe)


def file_digest(path: Path) -> str:
    """Hex SHA-256 (16 digits) of a file's content.

    Raises
    ------
    MissingFileError : no such file
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except FileNotFoundError as error:
        raise MissingFileError(f"no such file: {path}") from error


def _simulate(laid: Laid, spec: OutlineSpec, seed: int) -> Annotation:
    opened = laid.opened
    chosen = [region for group in opened.regions for region in group]
    fine = replace(opened.fine, regions=(*chosen, *opened.left_out))
    return simulate_coarse(
        fine,
        kind=spec.kind,
        seed=seed,
        mpp=opened.slide.mpp,
        size=opened.slide.size,
        tissue=laid.tissue,
        severity=Severity(**spec.severity),
        exclude=sorted({region.label or "" for region in opened.left_out}),
    )


def _labels(
    full: PatchGrid, regions: Sequence[Sequence[Region]], source: Annotation, recipe: Recipe
) -> Map:
    """The label of every cell of the lattice, by the recipe's rule."""
    return label_outlines(full, source, regions, recipe.label_rule).reshape(full.shape)


def _sort(
    fine: Annotation, known: Sequence[Region], wanted: Sequence[str], exclude: Sequence[str]
) -> tuple[tuple[str, ...], tuple[tuple[Region, ...], ...], tuple[Region, ...]]:
    """Names and regions of the classes that are the truth, and the regions left out."""
    asked = {name.casefold() for name in wanted}
    by_class: dict[str, list[Region]] = {}
    spelling: dict[str, str] = {}
    left_out: list[Region] = []
    for region in known:
        name = region.label or UNCLASSIFIED
        key = name.casefold()
        if key not in asked and any(fnmatchcase(key, p.casefold()) for p in exclude):
            left_out.append(region)
        elif not asked or key in asked:
            spelling.setdefault(key, name)
            by_class.setdefault(key, []).append(region)
    if not by_class:
        held = sorted({r.label or UNCLASSIFIED for r in fine.regions}) or ["nothing"]
        what = ", ".join(wanted) or "no class that is not excluded"
        raise AnnotationError(f"{fine.source}: the truth has no {what}; it has {', '.join(held)}")
    # As asked for; without that, in order of their names.
    keys = [n.casefold() for n in wanted if n.casefold() in by_class] or sorted(by_class)
    names = tuple(spelling[key] for key in keys)
    return names, tuple(tuple(by_class[key]) for key in keys), tuple(left_out)


def _matching(coarse: Annotation, opened: Opened) -> list[list[Region]]:
    """The regions of each class; of a lone class, also those that have another name or none."""
    exclude = opened.plan.recipe.exclude_classes
    known, _ = known_regions(coarse, coarse.regions, opened.plan.recipe.label_rule)
    named = [(r, (r.label or UNCLASSIFIED).casefold()) for r in known]
    wanted = [name.casefold() for name in opened.classes[1:]]
    groups = [[r for r, name in named if name == key] for key in wanted]
    if len(wanted) == 1 and not groups[0]:
        groups = [
            [r for r, name in named if not any(fnmatchcase(name, p.casefold()) for p in exclude)]
        ]
    if not any(groups):
        held = ", ".join(sorted({name for _, name in named})) or "nothing"
        raise AnnotationError(
            f"{coarse.source}: the {COARSE} outline has none of {', '.join(opened.classes[1:])}; "
            f"it has {held}"
        )
    return groups
