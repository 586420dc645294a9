"""What a run tells without any truth: how much is wrong, why it changed, where to look first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from recontour.attention import rank_changes, state_places
from recontour.calibration import decisions
from recontour.expected import expected_errors, looks_like, why_changed
from recontour.grid import label_patches
from recontour.postprocess import Rules, decide_cells
from recontour.preparation import Work
from recontour.reasons import Evidence
from recontour.recipe import Recipe
from recontour.review import reviewed_cells
from recontour.slides import frame_of
from recontour.summary import Confidence, Probs
from recontour.types import Geometry, PatchSet, Region


class Guidance(NamedTuple):
    """The changes in the order to look at them, with reasons; `estimate` and `look_first` facts."""

    changes: tuple[Region, ...]
    facts: dict[str, Any]


def guide(
    work: Work,
    areas: Sequence[Geometry],
    changes: Sequence[Region],
    patches: PatchSet,
    smooth: Probs,
    confidence: Confidence,
    rules: Rules,
    recipe: Recipe,
) -> Guidance:
    """Estimate the errors of what was given and of what came, and rank the changes.

    Parameters
    ----------
    areas : refined area of each class k >= 1, level-0 px
    smooth : (n, K), what decided
    """
    cell_um2 = work.grid.cell_um**2
    refined = label_patches(work.grid, [[area] for area in areas])
    measured = confidence.facts["source"] != "assumed"
    evidence = Evidence(
        classes=patches.classes,
        probs=confidence.probs,
        given=work.labels,
        refined=refined,
        alike=looks_like(confidence.unseen, patches.labels) if measured else None,
        method=decide_cells(smooth, rules),
        second=decisions(confidence.unseen) if measured else None,
        reviewed=reviewed_cells(patches),
        finer=recipe.band > 1,
    )
    ranking = rank_changes(
        changes,
        work.grid,
        evidence,
        work.drawn,
        within_px=recipe.within_um and recipe.within_um / work.slide.mpp,
    )
    held = (evidence.method != refined) & (refined == work.labels)
    corner = frame_of(work.slide, recipe.origin).origin
    facts = {
        "estimate": {
            "source": confidence.facts["source"],
            "given": expected_errors(confidence.probs, work.labels, patches.classes, cell_um2),
            "refined": expected_errors(confidence.probs, refined, patches.classes, cell_um2),
            "changed": why_changed(work.labels, refined, evidence.alike, evidence.reviewed),
            "held_back": {
                "cells": int(np.count_nonzero(held)),
                "um2": float(np.count_nonzero(held) * cell_um2),
            },
        },
        "look_first": state_places(ranking, evidence, work.grid, corner),
    }
    return Guidance(ranking.changes, facts)
