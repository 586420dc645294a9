"""Which regions of truth, prediction and coarse outline are compared, class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from recontour.errors import AnnotationError, UnknownNameError
from recontour.geometry import union
from recontour.labelling import known_regions, label_outlines
from recontour.types import Annotation, Geometry, PatchGrid, Region

UNCLASSIFIED = "Unclassified"
TRUTH = "truth"
UNNAMED = "Tumor"
"""What readers call the only class of formats that have no names for classes."""

Groups = list[list[Region]]


@dataclass(frozen=True)
class Outlines:
    """The outlines that are compared.

    Attributes
    ----------
    names : the classes
    annotations : role (`truth`, `prediction`, `coarse`) -> the file
    groups : role -> for each class its regions
    cut : regions of the truth that count as background
    left_out : regions of the truth whose cells take no part
    notes : what the reader of the figures must know
    """

    names: tuple[str, ...]
    annotations: Mapping[str, Annotation]
    groups: Mapping[str, Groups]
    cut: tuple[Region, ...]
    left_out: tuple[Region, ...]
    notes: tuple[str, ...]

    def label(self, grid: PatchGrid, role: str, rule: str) -> NDArray[np.int8]:
        """int8 (n,): the label of each cell by the outlines of a role."""
        return label_outlines(
            grid,
            self.annotations[role],
            self.groups[role],
            rule,
            exclusions=self.cut if role == TRUTH else (),
        )

    def areas(self, role: str) -> dict[str, Geometry]:
        """Class name -> all it covers, level-0 px."""
        found = {
            name: union([r.geometry for r in group])
            for name, group in zip(self.names, self.groups[role], strict=True)
        }
        if role == TRUTH and self.cut:
            hole = union([r.geometry for r in self.cut])
            return {name: union([g.difference(hole)]) for name, g in found.items()}
        return found

    def shapes(self, role: str) -> list[Geometry]:
        """Every outline of a role."""
        return [region.geometry for group in self.groups[role] for region in group]


def sort_outlines(
    truth: Annotation,
    others: Mapping[str, Annotation],
    *,
    classes: Sequence[str],
    exclude: Sequence[str],
    subtract: Sequence[str],
    label_rule: str,
) -> Outlines:
    """Pick the regions to compare, by class, from the truth and the files judged by it.

    Parameters
    ----------
    others : role -> file
    classes, exclude, subtract : as `recontour.evaluation.evaluate`
    label_rule : the published rule passes over rings whose groups it does not know

    Raises
    ------
    UnknownNameError : a class that the truth does not have
    AnnotationError : nothing to compare with
    """
    notes: list[str] = []
    cut, rest = _split(truth.regions, subtract)
    known: dict[str, list[Region]] = {}
    for role, annotation, regions in (
        (TRUTH, truth, rest),
        *((role, other, list(other.regions)) for role, other in others.items()),
    ):
        known[role], said = known_regions(annotation, regions, label_rule)
        notes += said
    left_out, rest = _split(known[TRUTH], exclude)
    names = _class_names(rest, classes, truth)
    groups = {TRUTH: _by_class(rest, names)}
    for role, annotation in others.items():
        groups[role] = _matching(annotation, known[role], names, role, notes)
    if cut:
        notes.append(f"{len(cut)} regions were cut out of the truth")
    return Outlines(
        names=names,
        annotations={TRUTH: truth, **others},
        groups=groups,
        cut=tuple(cut),
        left_out=tuple(left_out),
        notes=tuple(dict.fromkeys(notes)),
    )


def _split(regions: Sequence[Region], patterns: Sequence[str]) -> tuple[list[Region], list[Region]]:
    """Those whose class matches a pattern, and the others."""
    hit: list[Region] = []
    miss: list[Region] = []
    for region in regions:
        name = (region.label or "").casefold()
        found = any(fnmatchcase(name, pattern.casefold()) for pattern in patterns)
        (hit if found else miss).append(region)
    return hit, miss


def _name(region: Region) -> str:
    return region.label or UNCLASSIFIED


def _class_names(
    regions: Sequence[Region], wanted: Sequence[str], truth: Annotation
) -> tuple[str, ...]:
    present = {_name(region).casefold(): _name(region) for region in reversed(regions)}
    if not present:
        raise AnnotationError(f"the truth ({truth.source or truth.slide_id}) has no region")
    for name in wanted:
        if name.casefold() not in present:
            raise UnknownNameError.of("class of the truth", name, list(present.values()))
    return tuple(wanted) if wanted else tuple(sorted(present.values()))


def _by_class(regions: Sequence[Region], names: Sequence[str]) -> Groups:
    return [[r for r in regions if _name(r).casefold() == n.casefold()] for n in names]


def _matching(
    annotation: Annotation,
    regions: Sequence[Region],
    names: Sequence[str],
    role: str,
    notes: list[str],
) -> Groups:
    """The regions of each class; of a lone class also those whose file does not name one."""
    groups = _by_class(regions, names)
    if len(names) == 1 and not groups[0]:
        unclassified = [r for r in regions if r.label is None]
        if unclassified:
            notes.append(f"the unclassified regions of the {role} were taken as {names[0]}")
            return [unclassified]
        # Masks, ASAP and `.sav` have no names for classes, or not the user's.
        if not annotation.originals and regions and all(r.label == UNNAMED for r in regions):
            notes.append(f"the only class of the {role}, {UNNAMED}, was taken as {names[0]}")
            return [list(regions)]
    present = sorted({_name(r) for r in regions}) or ["nothing"]
    for name, group in zip(names, groups, strict=True):
        if not group:
            notes.append(f"the {role} has no {name} (it holds: {', '.join(present)})")
    return groups
