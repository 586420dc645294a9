"""How wrong a simulated outline becomes, and how far each hand may go wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from recontour.errors import UnknownNameError, UsageError

PUBLISHED_CELLS = 5
"""The published dilation: an 11 x 11 square, five cells on each side."""
PUBLISHED_UM = 311.0
"""µm, those five cells of 256 px at the 0.243 µm/px of CAMELYON16."""
FIELD_SHARE = 16
"""On a slide whose short side is less than this many dilations, the dilation shrinks with it."""
LESION_SHARE = 6
"""Hand-drawn errors are at most the lesion's size (root of its area) divided by this."""

SHIFT_SLIPS = 1.5
VALID_SHARE = 0.55
"""More than the half that makes an outline valid, as cells and areas do not count alike."""
LEFT_SHARE = 0.25
"""Of what is no lesion, so much is at least left outside: slivers hold no cell's centre."""
LIMIT_SHARES = (0.53, 0.1)
"""The same two, for outlines that go as far as they can."""
VALID_STEPS = (0.7, 0.5, 0.35, 0.25, 0.15)
LIMIT_STEPS = 6
"""Halvings on the way to the largest errors that leave the outline valid."""
GROUP_EXCESS = 0.3
"""Kinds that add errors of their own start from outlines that are at most this wrong."""


@dataclass(frozen=True)
class Severity:
    """How wrong the outline becomes. Lengths in µm; None: from the slide and the lesion.

    Attributes
    ----------
    dilation_um : `published`: how far the lesion is dilated before the hull. None: 311 µm, or a
        sixteenth of the slide's short side where that is less
    slip_um : all others: the length by which a hand goes wrong. None: the default dilation, but no
        more than a sixth of the lesion's size. A group of lesions closer together than twice this
        is outlined as one
    lesions : `published`: how many of the largest lesions are kept
    cut : share of each lesion cut off by a straight line first (PAIP2020: 0.5)
    drop : `missed`: share of the lesions' area left out, about
    excess : `generous`: share of the outline that is no lesion
    keep : `tight`: share of the area that stays inside
    flip : `flipped`: share of the outlined area left out; as much is put in elsewhere
    slips : `shifted`, `wobbly`: `slip_um`, where it is None, is so many times the default
    valid : all but `published`: make the errors smaller, in steps, until the outline is valid in
        the paper's sense (PPV and NPV over one half, by area, with a margin); of a lesion that
        covers nearly all tissue little can be missed. Off tissue and off the slide do not count
    to_limit : with `valid`: where the outline is not valid, make the errors smaller by no more than
        it takes, found by bisection
    """

    dilation_um: float | None = None
    slip_um: float | None = None
    lesions: int = 1
    cut: float = 0.0
    drop: float = 0.4
    excess: float = 0.35
    keep: float = 0.5
    flip: float = 0.25
    slips: float = 1.0
    valid: bool = True
    to_limit: bool = False

    def __post_init__(self) -> None:
        for name in ("cut", "drop", "excess", "keep", "flip"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise UsageError(f"{name} {value:g} is no share; pass a number from 0 up to 1")
        for name in ("dilation_um", "slip_um"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value >= 0):
                raise UsageError(f"{name} {value:g} is no length; pass a number of µm, 0 or more")
        if not (np.isfinite(self.slips) and self.slips > 0):
            raise UsageError(f"slips {self.slips:g} is no factor; pass a number above 0")
        if self.lesions < 1:
            raise UsageError(f"lesions {self.lesions}: at least one must be kept")


MILD, HARD = "mild", "hard"
SEVERITIES: Mapping[str, Severity] = {
    MILD: Severity(),
    HARD: Severity(drop=0.6, excess=0.48, keep=0.35, flip=0.4, slips=4.0, to_limit=True),
}
"""Committed recipes by name: figures refer to them, so they never change.

`mild`: quick, decent work. `hard`: errors about twice as large, cut back to where the outline is
just valid; of a lesion that covers most of the tissue little can go wrong before it is not.
"""


def named_severity(name: str) -> Mapping[str, Any]:
    """What a committed recipe sets apart from the defaults; empty for `mild`.

    Raises
    ------
    UnknownNameError : no such recipe
    """
    if name not in SEVERITIES:
        raise UnknownNameError.of("severity", name, tuple(SEVERITIES))
    default = Severity()
    return {
        field.name: value
        for field in fields(Severity)
        if (value := getattr(SEVERITIES[name], field.name)) != getattr(default, field.name)
    }
