"""What a run has to say: its objects, its changes, and the figures for `run.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recontour.calibration import calibrate, sure_cells
from recontour.changes import find_changes, uncertain_cells
from recontour.embedding import Features
from recontour.expected import confidence_counts
from recontour.grid import label_patches
from recontour.objects import make_objects
from recontour.postprocess import Rules
from recontour.preparation import Work, describe_grid, describe_slide
from recontour.recipe import Recipe, digest
from recontour.trust import noise_found
from recontour.types import Geometry, PatchSet, Region

Probs = NDArray[np.float32]


def list_objects(
    work: Work, areas: Sequence[Geometry], patches: PatchSet, probs: Probs, key: str
) -> tuple[Region, ...]:
    """The new objects, with parents and scores."""
    return make_objects(areas, work.selection.regions, patches, probs, key=key)


def list_changes(
    work: Work,
    areas: Sequence[Geometry],
    patches: PatchSet,
    confidence: Confidence,
    rules: Rules,
    key: str,
) -> tuple[Region, ...]:
    """Areas added, removed and uncertain."""
    return find_changes(
        areas,
        work.drawn,
        patches,
        confidence.probs,
        work.tissue,
        key=key,
        uncertain=confidence.uncertain,
        min_uncertain_cells=rules.min_area_cells,
    )


class Confidence(NamedTuple):
    """How sure a run is: calibrated (n, K), the cells to look at (n,), figures for `run.json`.

    `unseen` (n, K) is what a model says that has not seen the cell.
    """

    probs: Probs
    uncertain: NDArray[np.bool_]
    facts: Mapping[str, Any]
    unseen: Probs


def state_confidence(patches: PatchSet, smooth: Probs, recipe: Recipe) -> Confidence:
    """Calibrate, and name the cells that are uncertain by the recipe's error target or without."""
    found = calibrate(patches, smooth, seed=recipe.seed, sample=recipe.reviewed_sample)
    uncertain = uncertain_cells(found.probs)
    facts: dict[str, Any] = {**found.facts, "error_target": None}
    if recipe.error_target is not None:
        sure = sure_cells(patches, smooth, found, recipe.error_target)
        uncertain = ~sure.cells
        facts["error_target"] = dict(sure.facts)
    return Confidence(found.probs, uncertain, facts, found.unseen)


def state_facts(
    work: Work,
    features: Features,
    areas: Sequence[Geometry],
    patches: PatchSet,
    probs: Probs,
    confidence: Confidence,
    objects: Sequence[Region],
    rules: Rules,
    trust: Mapping[str, Any],
) -> dict[str, Any]:
    """Figures and choices of a run, as JSON types, unrounded."""
    classes = patches.classes
    um2 = work.slide.mpp**2
    refined = label_patches(work.grid, [[area] for area in areas])
    changed = int(np.count_nonzero(refined != work.labels))
    return {
        "slide": describe_slide(work.slide),
        "grid": describe_grid(work.choice, work.grid),
        "classes": list(classes),
        "notes": list(work.selection.notes),
        "labels": work.label_counts,
        "areas_um2": {
            name: {
                "coarse": drawn.area * um2,
                "coarse_on_tissue": drawn.intersection(work.tissue).area * um2,
                "refined": area.area * um2,
                "added": area.difference(drawn).area * um2,
                "removed": drawn.difference(area).area * um2,
            }
            for name, drawn, area in zip(classes[1:], work.drawn, areas, strict=True)
        },
        "tissue_um2": work.tissue.area * um2,
        "cells": {
            "changed": changed,
            "changed_share": changed / len(work.grid),
            "uncertain": int(np.count_nonzero(confidence.uncertain)),
        },
        "confidence": {
            **confidence.facts,
            "cells_by_confidence": confidence_counts(confidence.probs, refined),
        },
        "given": dict(work.given.facts),
        "noise": noise_found(patches, probs),
        "trust": dict(trust),
        "encoder": work.encoder.identifier,
        "embedding": features.effort.facts(),
        "postprocessing": {
            "threshold": rules.threshold,
            "sigma_cells": rules.sigma_cells,
            "min_area_um2": rules.min_area_cells * work.grid.cell_um**2,
            "small_parts": "by evidence" if rules.by_evidence else "by size",
            "simplify_um": rules.simplify_px * work.slide.mpp,
        },
        "objects": [
            {
                "id": region.id,
                "class": region.label,
                "area_um2": region.geometry.area * um2,
                "score": region.score,
                "parent": region.properties["metadata"]["parent"],
            }
            for region in objects
        ],
    }


def object_key(work: Work, recipe: Recipe) -> str:
    """Names what the ids of new objects depend on: the same run gives the same ids."""
    regions = [[r.id, r.geometry.wkb_hex] for group in work.selection.regions for r in group]
    # The tissue itself: `recipe.tissue` may be a path, which is another on another machine.
    settings = replace(recipe, tissue=work.tissue.wkb_hex)
    told = [] if work.given.trust is None else [[work.given.labels.tobytes().hex()]]
    told += [] if work.given.trust is None else [[work.given.trust.tobytes().hex()]]
    return digest([work.slide.fingerprint, regions, settings.digest(), *told])
