"""What every refiner shares: checked input, rows of many slides as one table, standardisation."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from recontour.errors import RefinerError, UsageError
from recontour.memo import Memo, recall
from recontour.types import COARSE_TRUST, UNLABELLED, PatchSet

T = TypeVar("T")

VIEWS = ("cell", "context", "both")
CHUNK = 4096  # rows: 7 MB of float32 at d = 424, so 100,000 cells never exist twice


@dataclass(frozen=True)
class Cells:
    """The cells of one slide or many as one table of n rows, without copying the features.

    Attributes
    ----------
    blocks : for each slide the (n_i, d_v) arrays of its views; side by side they make d columns
    starts : first row of each slide, and n at the end
    labels : int8 (n,), -1 unlabelled
    trust : float64 (n,), the weight of a label: its trust relative to that of a coarse one
        (`COARSE_TRUST`), so 1 where nothing is said, and 1.18 where a person is certain
    classes : K names
    dim : d
    memo : of the one slide, where it has one
    """

    blocks: tuple[tuple[NDArray[Any], ...], ...]
    starts: NDArray[np.intp]
    labels: NDArray[np.int8]
    trust: NDArray[np.float64]
    classes: tuple[str, ...]
    dim: int
    memo: Memo | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def once(self, name: Hashable, compute: Callable[[], T]) -> T:
        """What hangs on the features alone, computed once for all outlines of a slide."""
        return recall(self.memo, name, self.blocks[0], compute)

    def rows(self, index: NDArray[np.intp]) -> NDArray[np.float32]:
        """The rows `index` (m,) as float32 (m, d)."""
        out = np.empty((len(index), self.dim), np.float32)
        if len(self.blocks) == 1:
            _fill(out, self.blocks[0], index)
            return out
        slide = np.searchsorted(self.starts, index, side="right") - 1
        for i in np.unique(slide):
            where = np.flatnonzero(slide == i)
            part = np.empty((len(where), self.dim), np.float32)
            _fill(part, self.blocks[i], index[where] - self.starts[i])
            out[where] = part
        return out

    def chunks(self, size: int = CHUNK) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Every row once, in order: (which rows, float32 (m, d) to be written on), m <= `size`."""
        for views, start in zip(self.blocks, self.starts, strict=False):
            for i in range(0, len(views[0]), size):
                part = [view[i : i + size].astype(np.float32) for view in views]  # always a copy
                x = part[0] if len(part) == 1 else np.concatenate(part, axis=1)
                yield slice(int(start) + i, int(start) + i + len(x)), x


def _fill(out: NDArray[np.float32], views: tuple[NDArray[Any], ...], index: NDArray[Any]) -> None:
    column = 0
    for view in views:
        out[:, column : column + view.shape[1]] = view[index]
        column += view.shape[1]


def table(patch_sets: Sequence[PatchSet], views: str = "cell") -> Cells:
    """The cells of `patch_sets` as one table.

    Parameters
    ----------
    patch_sets : at least one; the same classes and feature widths in all
    views : "cell", "context" (the window twice as wide) or "both"

    Raises
    ------
    RefinerError : nothing to learn from, or the sets do not fit together
    """
    if isinstance(patch_sets, PatchSet):
        raise TypeError("a refiner takes a sequence of patch sets: fit([patches])")
    if not patch_sets:
        raise RefinerError("no slide to learn from: fit needs at least one patch set")
    blocks = tuple(_views(p, views) for p in patch_sets)
    classes = patch_sets[0].classes
    widths = {tuple(v.shape[1] for v in block) for block in blocks}
    if len(widths) > 1:
        raise RefinerError(
            f"the slides have features of different widths ({', '.join(map(str, sorted(widths)))});"
            " embed them with one encoder"
        )
    for p in patch_sets:
        if p.classes != classes:
            raise RefinerError(
                f"{p.slide_id} has the classes {', '.join(p.classes)}, "
                f"{patch_sets[0].slide_id} has {', '.join(classes)}; refine one list of classes"
            )
    sizes = [len(p) for p in patch_sets]
    return Cells(
        blocks=blocks,
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.intp),
        labels=np.concatenate([np.asarray(p.labels, np.int8) for p in patch_sets]),
        trust=np.concatenate([_weights(p) for p in patch_sets]),
        classes=classes,
        dim=sum(next(iter(widths))),
        memo=patch_sets[0].memo if len(patch_sets) == 1 else None,
    )


def _weights(patches: PatchSet) -> NDArray[np.float64]:
    """(n,) trust relative to that of a coarse label.

    Raises
    ------
    RefinerError : trust outside 0..1, or not one number a cell
    """
    if patches.trust is None:
        return np.ones(len(patches))
    trust = np.asarray(patches.trust, np.float32)
    if trust.shape != (len(patches),):
        raise RefinerError(
            f"{patches.slide_id}: trust of shape {trust.shape} for {len(patches)} labels"
        )
    if not np.all((trust >= 0) & (trust <= 1)):
        raise RefinerError(f"{patches.slide_id}: trust must lie between 0 and 1")
    # In single precision first: an array of COARSE_TRUST is then exactly as good as none.
    weights: NDArray[np.float64] = trust.astype(np.float64) / float(np.float32(COARSE_TRUST))
    return weights


def _views(patches: PatchSet, views: str) -> tuple[NDArray[Any], ...]:
    who = patches.slide_id
    wanted: list[tuple[str, NDArray[Any] | None]] = []
    if views in ("cell", "both"):
        wanted.append(("features", patches.features))
    if views in ("context", "both"):
        wanted.append(("context", patches.context))
    found = []
    for name, array in wanted:
        if array is None:
            raise RefinerError(f"{who} has no context features; use views='cell'")
        if array.ndim != 2 or len(array) != len(patches.labels):
            raise RefinerError(
                f"{who}: {name} of shape {array.shape} for {len(patches.labels)} labels"
            )
        if not np.issubdtype(array.dtype, np.floating):
            raise RefinerError(f"{who}: {name} are {array.dtype}, not floating point")
        found.append(array)
    return tuple(found)


def check_patch_sets(cells: Cells) -> None:
    """Refuse what no refiner can learn from.

    Raises
    ------
    RefinerError : a label outside -1..K-1, or a class without a trusted cell
    """
    labels, classes = cells.labels, cells.classes
    if len(classes) < 2:
        raise RefinerError("one class only: a refiner needs background and at least one other")
    wrong = (labels < UNLABELLED) | (labels >= len(classes))
    if wrong.any():
        raise RefinerError(
            f"label {labels[wrong][0]} is none of -1 (unlabelled) to {len(classes) - 1}"
        )
    for k, name in enumerate(classes):
        of_class = labels == k
        if not of_class.any():
            reason = (
                "the outline covers all of the tissue" if k == 0 else "none lies inside its outline"
            )
            raise RefinerError(f"class {name!r} has no tissue cell: {reason}")
        if not cells.trust[of_class].any():
            raise RefinerError(f"class {name!r} has no cell with any trust")


@dataclass(frozen=True)
class ZScore:
    """Per-column standardisation: (x - mean) / std; columns that never change become 0."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    @classmethod
    def of(cls, cells: Cells) -> ZScore:
        """Mean and standard deviation of every row, in one pass (Chan et al. 1979).

        Raises
        ------
        RefinerError : a feature is NaN or infinite
        """
        return cells.once("z-score", lambda: cls._of(cells))

    @classmethod
    def _of(cls, cells: Cells) -> ZScore:
        count = 0
        mean = np.zeros(cells.dim)
        squares = np.zeros(cells.dim)
        for _, x in cells.chunks():
            with np.errstate(invalid="ignore", over="ignore"):
                here = x.mean(axis=0, dtype=np.float64)
                x -= here.astype(np.float32)
                # The remainder of the float32 mean is put back, so a far offset costs no digits.
                rest = x.mean(axis=0, dtype=np.float64)
                spread = np.einsum("ij,ij->j", x, x, dtype=np.float64) - len(x) * rest**2
                here = here.astype(np.float32) + rest
            total = count + len(x)
            delta = here - mean
            squares += spread + delta**2 * count * len(x) / total
            mean += delta * len(x) / total
            count = total
        if not (np.isfinite(mean).all() and np.isfinite(squares).all()):
            raise RefinerError("features hold NaN or infinite values; embed the slide again")
        std = np.sqrt(np.maximum(squares / max(count, 1), 0))
        # Below float32 resolution a spread is rounding, and dividing by it would amplify noise.
        std[std <= 1e-6 * np.abs(mean)] = np.inf
        std[std == 0] = np.inf
        return cls(mean.astype(np.float32), std.astype(np.float32))

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Standardise float32 (m, d) in place and return it.

        Raises
        ------
        RefinerError : a feature is NaN or infinite
        """
        x -= self.mean
        x /= self.std
        if not np.isfinite(x.sum(dtype=np.float64)):
            raise RefinerError("features hold NaN or infinite values; embed the slide again")
        return x


def unit_rows(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale every row of float32 (n, d) to length 1, in place; rows of zeros stay. Returns `x`.

    Raises
    ------
    RefinerError : a value is NaN or infinite
    """
    length = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
    if not np.isfinite(length).all():
        raise RefinerError("features hold NaN or infinite values; embed the slide again")
    x /= np.where(length > 0, length, 1).astype(np.float32)[:, None]
    return x


def check_predict(cells: Cells, classes: tuple[str, ...], dim: int) -> None:
    """Refuse cells that do not look like those a refiner was fitted on."""
    if cells.classes != classes:
        raise RefinerError(
            f"fitted for the classes {', '.join(classes)}, asked for {', '.join(cells.classes)}"
        )
    if cells.dim != dim:
        raise RefinerError(f"fitted on {dim} features, given {cells.dim}; use one encoder")


def not_fitted(name: str) -> RefinerError:
    """The error for a prediction before any fit."""
    return RefinerError(f"{name} has not learned yet: call fit before predict_proba")


def require(condition: bool, option: str, value: object, expected: str) -> None:
    """Refuse an option's value in one sentence.

    Raises
    ------
    UsageError : `condition` is false
    """
    if not condition:
        raise UsageError(f"option {option}={value!r} must be {expected}")


def whole(value: object, least: int) -> bool:
    """Whether `value` is a whole number (not a bool) of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        return False
    return int(value) >= least


def number(value: object, least: float, *, above: bool = False) -> bool:
    """Whether `value` is a finite number of at least (or above) `least`."""
    if not isinstance(value, int | float | np.number) or isinstance(value, bool):
        return False
    x = float(value)
    return bool(np.isfinite(x)) and (x > least if above else x >= least)


def check_views(views: object) -> None:
    """Refuse a `views` that is none of `VIEWS`."""
    require(views in VIEWS, "views", views, "one of " + ", ".join(VIEWS))
