"""The nouns of recontour. Geometry is in level-0 px, x right, y down, unless a name says otherwise.

Points are (x, y); arrays that are images are [row, col]. n patches, d features, K classes
(background included, always index 0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon, STRtree, points

from recontour.memo import Memo as Memo
from recontour.recipe import Progress as Progress
from recontour.recipe import Recipe as Recipe
from recontour.recipe import Runtime as Runtime
from recontour.recipe import digest as digest
from recontour.recipe import no_progress as no_progress

Geometry: TypeAlias = Polygon | MultiPolygon
BACKGROUND = "background"
UNLABELLED = -1
COARSE_TRUST = 0.85
"""How far a label of a coarse outline is trusted before anything is known about its errors.

About what the LC-MIL paper reports of its coarse outlines: 0.835, 0.834 and 0.750 of the cells are
right on its three data sets. What a `PatchSet` without `trust` means of every labelled cell.
"""


@dataclass(frozen=True)
class Frame:
    """How the coordinates of an annotation file relate to a slide.

    level-0 px = file coordinates + `origin`. `origin` is (bounds-x, bounds-y) for files that
    QuPath wrote on a slide with `openslide.bounds-*`, else (0, 0). `size` is the (width, height)
    in level-0 px of the area the file's coordinates span (a mask covers exactly this area);
    None when no slide is at hand.
    """

    origin: tuple[float, float] = (0.0, 0.0)
    size: tuple[int, int] | None = None
    mpp: float | None = None
    slide_id: str | None = None
    """Whose outlines are wanted, of files that hold those of several slides."""
    entry: str | None = None
    """Which outlines are wanted (`SLIDE`, `VARIANT` or `SLIDE/VARIANT`), of such files."""


@dataclass(frozen=True)
class Ring:
    """A closed line as a file has it: not repaired, it may cross itself.

    Attributes
    ----------
    coordinates : (x, y), level-0 px, the first point not repeated at the end
    group : what the file calls it ("_0", "Tumor", "exclusion", …)
    inside : False: what it encloses is cut out
    label : the class it outlines; of one that is cut out, the class it is cut from (None: all)
    published : False: the published code does not know its group and passes over it
    """

    coordinates: tuple[tuple[float, float], ...]
    group: str = ""
    inside: bool = True
    label: str | None = None
    published: bool = True


@dataclass(frozen=True)
class Region:
    """One outlined object.

    `properties` are the GeoJSON properties as they came (classification, name, metadata,
    measurements, …); for a new object, those to be written. `label` is the class name, None for
    an unclassified object. `score` is a confidence in [0, 1] or None.
    """

    id: str
    geometry: Geometry
    label: str | None = None
    score: float | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Annotation:
    """The regions of one slide, and the file they came from.

    Attributes
    ----------
    slide_id : name of the slide
    regions : the polygonal objects, valid, in level-0 px. Objects that another object of the
        same file names as its parent, or replaces, are superseded: left out here, kept in
        `originals`
    source : file name, or what made it
    originals : the features exactly as they came (raw GeoJSON dictionaries, file coordinates),
        points, lines and superseded objects included; empty for formats other than GeoJSON
    notes : one sentence for each repair or oddity, for the user
    rings : of formats whose objects are single rings (ASAP, ImageScope, `.sav`): each as it came,
        for the published label rule; empty for the others
    """

    slide_id: str
    regions: tuple[Region, ...]
    source: str = ""
    originals: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    rings: tuple[Ring, ...] = ()


@dataclass(frozen=True)
class PatchGrid:
    """A lattice over the slide and those of its cells that take part.

    Attributes
    ----------
    origin : (x, y) of the lattice's corner, level-0 px
    shape : (rows, cols) of the full lattice
    rows, cols : int32 (n,), the cells that take part, sorted by row then column
    stride : px, side of the cell that gets a label
    size : px, side of what the encoder sees, centred on the cell (>= stride or equal)
    patch_px : px, side of a patch as fed to a patch-wise encoder
    mpp : µm per level-0 px of the slide
    mpp_embed : µm/px at which the slide is read for embedding
    """

    origin: tuple[float, float]
    shape: tuple[int, int]
    rows: NDArray[np.int32]
    cols: NDArray[np.int32]
    stride: int
    size: int
    patch_px: int
    mpp: float
    mpp_embed: float

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def cell_um(self) -> float:
        """Side of a cell, µm."""
        return self.stride * self.mpp

    @property
    def centres(self) -> NDArray[np.float64]:
        """(n, 2) centres (x, y) of the cells, level-0 px."""
        x = self.origin[0] + (self.cols + 0.5) * self.stride
        y = self.origin[1] + (self.rows + 0.5) * self.stride
        return np.stack([x, y], axis=1)

    @cached_property
    def tree(self) -> STRtree:
        """Of the centres, in grid order: which cells a polygon holds."""
        return STRtree(points(self.centres))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "tree"}

    def scatter(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Lay (n,) values out as float32 (rows, cols), NaN where no cell takes part."""
        out = np.full(self.shape, np.nan, np.float32)
        out[self.rows, self.cols] = values
        return out


@dataclass(frozen=True)
class PatchSet:
    """What a refiner sees of one slide: arrays only.

    Attributes
    ----------
    features : float16 or float32 (n, d), the cell
    context : (n, d) of a window twice as wide, or None
    labels : int8 (n,), -1 unlabelled, 0 background, k >= 1 class `classes[k]`
    trust : float32 (n,) in [0, 1], or None: the chance, known beforehand, that a cell's label is
        right. `COARSE_TRUST` is what a label of the coarse outline gets whose error is unknown,
        and what None means for every cell; 1: reviewed by a person, certain; 0: says nothing; in
        between: e.g. what the agreement of several annotators is worth
    classes : K names, `classes[0]` is "background"
    memo : what was found out from `features` and `context` alone; None: nothing is kept
    """

    slide_id: str
    grid: PatchGrid
    features: NDArray[Any]
    labels: NDArray[np.int8]
    classes: tuple[str, ...]
    context: NDArray[Any] | None = None
    trust: NDArray[np.float32] | None = None
    memo: Memo | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Refinement:
    """What a run found.

    Attributes
    ----------
    patches : cells, features and coarse labels
    probs : float32 (n, K), rows sum to 1
    annotation : the new objects
    changes : added, removed and uncertain areas
    coarse : the annotation the run started from
    tissue : where refinement took place (excluded regions cut out)
    recipe : the settings
    facts : figures and choices for `run.json` (JSON types, unrounded)
    warnings : sentences for the user, most important first
    timings : seconds of each stage
    calibrated : float32 (n, K), rows sum to 1: the chance of each class, over smoothed
        probabilities; None where a refinement was put together without (see
        `recontour.calibration`)
    """

    patches: PatchSet
    probs: NDArray[np.float32]
    annotation: Annotation
    changes: Annotation
    coarse: Annotation
    tissue: Geometry
    recipe: Recipe
    facts: Mapping[str, Any]
    warnings: tuple[str, ...]
    timings: Mapping[str, float]
    calibrated: NDArray[np.float32] | None = None


@runtime_checkable
class Slide(Protocol):
    """A slide reader. Safe to use from several threads.

    Attributes
    ----------
    id : name without folder and suffix
    size : (width, height), level-0 px
    mpp : µm per level-0 px (square pixels)
    mpp_source : where `mpp` came from, in words
    bounds : (x, y, width, height) of the non-empty area, level-0 px; the whole slide when unknown
    level_mpps : µm/px of each stored level, finest first
    reader : name of the reader
    fingerprint : digest of the file's content, stable across renames
    """

    id: str
    size: tuple[int, int]
    mpp: float
    mpp_source: str
    bounds: tuple[int, int, int, int]
    level_mpps: tuple[float, ...]
    reader: str
    fingerprint: str

    def read_region(
        self, x: float, y: float, size: tuple[int, int], mpp: float
    ) -> NDArray[np.uint8]:
        """RGB uint8 (h, w, 3) of `size` = (w, h) px at `mpp`, whose corner is (x, y) level-0 px.

        Outside the slide is white.
        """
        ...

    def close(self) -> None:
        """Release the file."""
        ...


@runtime_checkable
class PlanningSlide(Slide, Protocol):
    """A slide reader that reads faster when it knows what it will be asked for.

    Attributes
    ----------
    threads : how many threads the reader may start to fill one large region
    """

    threads: int

    def plan_reads(
        self, regions: Sequence[tuple[float, float, tuple[int, int], float]]
    ) -> AbstractContextManager[None]:
        """Expect `read_region(x, y, size, mpp)` of each of `regions`, in about this order.

        Within the context each stored tile is decoded once and kept until the last of the regions
        that need it was read, as far as memory allows. Other regions may be read all the same, and
        planned ones left out.
        """
        ...


@runtime_checkable
class Encoder(Protocol):
    """Turns patches into features; owns its normalisation.

    Attributes
    ----------
    identifier : unique to the weights and to what is computed from them; part of the cache key
    mpp : µm/px it is meant for
    patch_px : side of a patch
    dim : d

    An encoder whose features are too large to be kept twice says `context = False`: then only the
    cell is embedded, and no window twice as wide. One that was trained on a fixed field of view
    says `patch_um`, its side in µm: it then sees at least that much, however small the cell.
    One whose weights the user chooses outside of the recipe has a static `weights_name()`: other
    weights make another run.
    """

    identifier: str
    mpp: float
    patch_px: int
    dim: int

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (B, H, W, 3) -> float32 (B, d)."""
        ...


@runtime_checkable
class DenseEncoder(Encoder, Protocol):
    """A fully convolutional encoder.

    Attributes
    ----------
    dense_stride : px between neighbours of the dense map; window sides are multiples of `align`
    align : px; windows start and end on multiples of it, so that maps do not depend on the window
    halo : px of surroundings a window needs on each side
    """

    dense_stride: int
    align: int
    halo: int

    def dense(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (B, H, W, 3) -> float32 (B, H / dense_stride, W / dense_stride, d)."""
        ...


@runtime_checkable
class Refiner(Protocol):
    """Learns from coarse labels, answers with probabilities. Knows arrays only.

    May have `notes`, a tuple of sentences about its last fit: a run shows them as warnings.

    One that learns for minutes may have `progress`, which is set before it is fitted, and
    `expect(cells)`, which tells the seconds and bytes that learning takes (`--dry-run`).
    """

    def fit(self, patch_sets: Sequence[PatchSet]) -> Refiner:
        """Learn from one slide or many; forgets what it learned before."""
        ...

    def predict_proba(self, patches: PatchSet) -> NDArray[np.float32]:
        """float32 (n, K), rows sum to 1."""
        ...


@runtime_checkable
class WarmRefiner(Refiner, Protocol):
    """A refiner that can start from its last answer when an outline was edited."""

    def refit(self, patch_sets: Sequence[PatchSet]) -> Refiner:
        """Learn from the cells of the last `fit` or `refit`, whose labels may be others.

        Cells whose label is another start afresh. Where the cells or the classes are others than
        last time, or nothing was learned yet, it is `fit`.
        """
        ...


class AnnotationFormat(Protocol):
    """Reads and writes one file format."""

    def read(self, path: Path, frame: Frame) -> Annotation:
        """Read a file into level-0 px."""
        ...

    def write(self, annotation: Annotation, path: Path, frame: Frame) -> None:
        """Write the regions (not the originals), atomically."""
        ...


def iter_polygons(geometry: Geometry) -> Iterator[Polygon]:
    """The parts of a Polygon or MultiPolygon; none of an empty one."""
    if geometry.is_empty:
        return
    if isinstance(geometry, Polygon):
        yield geometry
    else:
        yield from geometry.geoms
