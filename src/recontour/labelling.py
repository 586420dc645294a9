"""Which cells the outlines of a file label: by its regions, or by its rings as they came.

The published label rule reads rings, not regions: unrepaired, and only those of the groups that the
published code knows. Where a file's objects are rings (ASAP, ImageScope, `.sav`), so is it done.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recontour.errors import AnnotationError
from recontour.grid import label_patches
from recontour.published_labels import Points, RingSet, label_published
from recontour.types import Annotation, PatchGrid, Region, Ring

PUBLISHED = "published"


def label_outlines(
    grid: PatchGrid,
    annotation: Annotation,
    regions: Sequence[Sequence[Region]],
    rule: str,
    *,
    exclusions: Sequence[Region] = (),
) -> NDArray[np.int8]:
    """A label for each cell, from the outlines of one file.

    Parameters
    ----------
    grid : n cells
    annotation : the file the regions are of
    regions : for each class k >= 1, its regions
    rule : `centre` or `published`, see `recontour.grid.label_patches`
    exclusions : regions of the file that are background whatever else says

    Returns
    -------
    int8 (n,), 0 background, k the class at `regions[k - 1]`

    Raises
    ------
    UnknownNameError : no such rule
    AnnotationError : the published rule passes over all rings of the file
    """
    if rule != PUBLISHED or not annotation.rings:
        return label_patches(grid, regions, rule, exclusions=exclusions)
    _check_known(annotation)
    cut = _of_classes(annotation.rings, exclusions, inside=True)
    return label_published(grid, [_ring_set(annotation.rings, group, cut) for group in regions])


def known_regions(
    annotation: Annotation, regions: Sequence[Region], rule: str
) -> tuple[list[Region], list[str]]:
    """The regions a label rule knows, and a sentence for each group of rings it passes over.

    Raises
    ------
    AnnotationError : nothing is left
    """
    if rule != PUBLISHED or not annotation.rings:
        return list(regions), []
    _check_known(annotation)
    known = {_class(ring.label) for ring in annotation.rings if ring.inside and ring.published}
    return [r for r in regions if _class(r.label) in known], passed_over(annotation, rule)


def passed_over(annotation: Annotation, rule: str) -> list[str]:
    """A sentence for each group of rings that a label rule does not know, and leaves aside."""
    if rule != PUBLISHED:
        return []
    return [
        f"{annotation.source}: the published reader ignores {count} ring(s) of group '{group}'"
        for group, count in _groups(annotation.rings, published=False)
    ]


def _check_known(annotation: Annotation) -> None:
    """Refuse a file in which the published rule knows no lesion.

    Raises
    ------
    AnnotationError : says which groups there are and which are known
    """
    if any(ring.inside and ring.published for ring in annotation.rings):
        return
    groups = ", ".join(
        f"'{group}' ({count})" for group, count in _groups(annotation.rings, published=False)
    )
    raise AnnotationError(
        f"{annotation.source}: the published label rule reads the groups _0, _1, Tumor and "
        f"Metastases as lesions, spelled so, and the file has only {groups or 'exclusions'}: "
        "nothing is left. Rename the groups in the file, or pass --label-rule centre, which knows "
        "them in any case"
    )


def _groups(rings: Sequence[Ring], *, published: bool) -> list[tuple[str, int]]:
    return list(Counter(r.group for r in rings if r.published is published).items())


def _ring_set(rings: Sequence[Ring], regions: Sequence[Region], cut: list[Ring]) -> RingSet:
    holes = [r for r in rings if not r.inside and r.published and r.label is None]
    holes += [r for r in _of_classes(rings, regions, inside=False) if r.published]
    return RingSet(
        lesions=[
            _points(ring) for ring in _of_classes(rings, regions, inside=True) if ring.published
        ],
        exclusions=[_points(ring) for ring in (*holes, *cut)],
        area=math.fsum(region.geometry.area for region in regions),
    )


def _of_classes(rings: Sequence[Ring], regions: Sequence[Region], *, inside: bool) -> list[Ring]:
    """The rings of the classes that the regions have."""
    labels = {region.label for region in regions}
    return [r for r in rings if r.inside is inside and r.label in labels]


def _points(ring: Ring) -> Points:
    return np.array(ring.coordinates, np.float64).reshape(-1, 2)


def _class(label: str | None) -> str:
    return (label or "").casefold()
