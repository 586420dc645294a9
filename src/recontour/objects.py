"""From the area of a class to the objects a person sees: polygons with parent and score."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import shapely
from numpy.typing import NDArray

from recontour.geometry import polygonal, snap
from recontour.types import Geometry, PatchSet, Region, iter_polygons

NAMESPACE = uuid.UUID("6f6c0c9e-4a9b-5b0e-8a57-3d1a0f1b7c11")


def make_objects(
    areas: Sequence[Geometry],
    drawn: Sequence[Sequence[Region]],
    patches: PatchSet,
    probs: NDArray[np.float32],
    *,
    key: str,
) -> tuple[Region, ...]:
    """Split the area of each class into objects.

    Parameters
    ----------
    areas : one geometry a class k >= 1, level-0 px
    drawn : the coarse regions of each class; a new object's parent is the one it overlaps most,
        or the nearest where it overlaps none
    probs : (n, K), smoothed; an object's score is the mean probability of its class over the cells
        whose centre it holds (the cell nearest to it where it holds none)
    key : names the run; the same run gives the same ids

    Returns
    -------
    Regions, largest first within each class, valid at 0.01 px. Their properties carry the parent's
    classification, `metadata.parent`, and the measurements `confidence` and `area µm²`. Originals
    that are nobody's parent (two that grew into one) are listed in `metadata.replaces`, so that all
    are known to be superseded; only where nothing new was found can they not be.
    """
    objects: list[Region] = []
    mpp = patches.grid.mpp
    for k, (area, originals) in enumerate(zip(areas, drawn, strict=True), start=1):
        # Snapping can split a part at a pinch: each piece is an object of its own.
        parts = [q for p in iter_polygons(polygonal(area)) for q in iter_polygons(snap(p))]
        parts.sort(key=lambda p: (-p.area, p.bounds))
        scores = mean_probability(parts, patches, probs[:, k])
        parents = nearest_parents(parts, originals)
        for i, (part, score, parent) in enumerate(zip(parts, scores, parents, strict=True)):
            area_um2 = float(part.area) * mpp * mpp
            properties = {
                "objectType": "annotation",
                "measurements": {"confidence": float(score), "area µm²": area_um2},
                "metadata": {"parent": parent.id, "source": "recontour"},
            }
            if "classification" in parent.properties:
                properties["classification"] = parent.properties["classification"]
            identity = str(uuid.uuid5(NAMESPACE, f"{key}/{patches.classes[k]}/{i}"))
            objects.append(Region(identity, part, parent.label, float(score), properties))
    return _adopting(objects, drawn)


def _adopting(objects: Sequence[Region], drawn: Sequence[Sequence[Region]]) -> tuple[Region, ...]:
    """Name every original that is no object's parent in the object that stands for it."""
    if not objects:
        return ()
    parents = {region.properties["metadata"]["parent"] for region in objects}
    replaces: dict[str, list[str]] = {}
    for originals in drawn:
        left = [region for region in originals if region.id not in parents]
        same = [region for region in objects if left and region.label == left[0].label]
        heirs = nearest_parents([region.geometry for region in left], same or objects)
        for original, heir in zip(left, heirs, strict=True):
            replaces.setdefault(heir.id, []).append(original.id)
    return tuple(_with_replaced(region, replaces.get(region.id, ())) for region in objects)


def _with_replaced(region: Region, ids: Sequence[str]) -> Region:
    if not ids:
        return region
    metadata = {**region.properties["metadata"], "replaces": " ".join(ids)}
    return replace(region, properties={**region.properties, "metadata": metadata})


def mean_probability(
    parts: Sequence[Geometry], patches: PatchSet, prob: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Mean of `prob` (n,) over the cells whose centre each part holds, in [0, 1]."""
    tree = patches.grid.tree
    which, cells = tree.query(np.array(parts, dtype=object), predicate="contains")
    total = np.bincount(which, prob[cells].astype(np.float64), minlength=len(parts))
    count = np.bincount(which, minlength=len(parts))
    means = np.divide(total, count, out=np.zeros(len(parts)), where=count > 0)
    for i in np.flatnonzero(count == 0):
        means[i] = prob[tree.nearest(parts[int(i)])]
    return np.clip(means, 0.0, 1.0)


def nearest_parents(parts: Sequence[Geometry], originals: Sequence[Region]) -> list[Region]:
    """For each part the original it overlaps most, or the nearest where it overlaps none."""
    tree = shapely.STRtree([region.geometry for region in originals])
    parents = []
    for part in parts:
        hits = np.sort(tree.query(part, predicate="intersects"))
        shared = [float(part.intersection(originals[i].geometry).area) for i in hits]
        if shared and max(shared) > 0:
            parents.append(originals[int(hits[int(np.argmax(shared))])])
        else:
            parents.append(originals[int(tree.nearest(part))])
    return parents
