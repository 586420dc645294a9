"""The judgement on a run's outline, with the place where it would fit better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.misplaced import SCALES, propose_place
from recontour.preparation import Work
from recontour.recipe import Recipe
from recontour.slides import frame_of
from recontour.trust import TrustReport
from recontour.types import PatchSet
from recontour.validity import Validity, judge


def judge_outline(
    work: Work, patches: PatchSet, probs: NDArray[np.float32], recipe: Recipe
) -> tuple[Validity, dict[str, Any]]:
    """The verdict, with a better place among its reasons, and `validity` of `run.json`."""
    validity = judge(patches, probs, seed=recipe.seed)
    proposal = None
    if validity.signals and validity.verdict != "valid":
        slide = work.slide
        proposal = propose_place(
            patches,
            work.drawn,
            offset=(float(slide.bounds[0]), float(slide.bounds[1])),
            origin=frame_of(slide, recipe.origin).origin,
            scales=(*SCALES, *(f for m in slide.level_mpps for f in _both(m / slide.mpp))),
        )
    if proposal is not None:
        validity = replace(validity, reasons=(str(proposal), *validity.reasons))
    facts = asdict(validity)
    facts["reasons"], facts["signals"] = list(validity.reasons), dict(validity.signals)
    facts["proposal"] = proposal and proposal._asdict()
    return validity, facts


def doubts(validity: Validity, trust: TrustReport) -> Sequence[str]:
    """What is said as warnings: the verdict in a sentence, then what `trust` does not repeat."""
    if validity.verdict == "valid" or not validity.signals:
        return [*validity.reasons, *trust.warnings]
    said = "; ".join(validity.reasons)
    return [f"the coarse outline looks {validity.verdict}: {said}", *trust.warnings]


def _both(ratio: float) -> tuple[float, float]:
    return ratio, 1 / ratio
