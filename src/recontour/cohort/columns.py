"""What the columns of a manifest are called, here and elsewhere, and how their cells are read.

slide2vec (https://clemsgrs.github.io/slide2vec/manifest.html) has `sample_id`, `image_path`,
`mask_path` (a binary mask of the tissue), `spacing_at_level_0` (µm/px) and `patient_id`; TRIDENT
(https://trident-docs.readthedocs.io, `--custom_list_of_wsis`) has `wsi` and `mpp`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from recontour.errors import UsageError
from recontour.recipe import Recipe

ALIASES: dict[str, tuple[str, ...]] = {
    "id": ("sample_id", "slide_id"),
    "slide": ("image_path", "wsi", "slide_path", "wsi_path"),
    "coarse": ("outline", "coarse_path", "annotation", "annotation_path"),
    "mpp": ("spacing_at_level_0",),
    "classes": ("class",),
    "reviewed": (),
    "also": (),
    "tissue": ("mask_path", "tissue_mask_path"),
}
"""Our column, and the names of others for it."""

_PER_ROW = (
    *("reader", "origin", "entry", "exclude_classes", "tissue", "tissue_downsample"),
    *("mpp_embed", "cell_um", "patch_um", "cell_px", "patch_px", "label_rule", "threshold"),
    *("smooth_cells", "min_area_um2", "simplify_um", "only", "within_um", "band"),
    *("error_target", "reviewed_sample"),
)
_TYPES = {field.name: str(field.type) for field in fields(Recipe)}
SETTINGS = {name: _TYPES[name] for name in _PER_ROW if name in _TYPES}
"""Settings that may differ from slide to slide, and their types."""

FOR_ALL = tuple(name for name in _TYPES if name not in SETTINGS and name not in ALIASES)
"""Settings of the whole cohort: one method, one encoder."""

BETWEEN = re.compile(r"[;|]")
"""Between several names or files in one cell."""

_YES, _NO = {"true", "yes", "1"}, {"false", "no", "0"}
_NEAR = 0.8  # "coase" for "coarse" is near, "stage" for "slide" is not


@dataclass(frozen=True)
class Columns:
    """Which column of a file holds what.

    Attributes
    ----------
    place : our name -> index
    extra : the name as spelled -> index, of those that are not ours
    notes : sentences for the user
    """

    place: dict[str, int]
    extra: dict[str, int]
    notes: tuple[str, ...]


def find_columns(header: Sequence[str]) -> Columns:
    """Tell the columns by the names in the first line, in any case.

    Raises
    ------
    UsageError : no column of slides, or one name twice
    """
    plain = [re.sub(r"[\s-]+", "_", name.strip().casefold()) for name in header]
    twice = sorted({name for name in plain if name and plain.count(name) > 1})
    if twice:
        raise UsageError(f"column {', '.join(map(repr, twice))} is there twice")
    place: dict[str, int] = {}
    notes = []
    for ours in {**ALIASES, **SETTINGS}:
        for name in (ours, *ALIASES.get(ours, ())):
            if name in plain and ours not in place:
                place[ours] = plain.index(name)
                if name != ours:
                    notes.append(f"column {header[place[ours]].strip()!r} is read as {ours!r}")
    used = set(place.values())
    extra = {header[i].strip(): i for i, name in enumerate(plain) if name and i not in used}
    if "slide" not in place:
        near = _meant([name for name in plain if name], ("slide", *ALIASES["slide"]))
        raise UsageError(
            f"no column 'slide' (or {', '.join(map(repr, ALIASES['slide']))}); "
            + (near or f"the first line has: {', '.join(header)}")
        )
    free = [name for name in {**ALIASES, **SETTINGS} if name not in place]
    for name, i in extra.items():
        if plain[i] in FOR_ALL:
            option = plain[i].replace("_", "-")
            notes.append(f"column {name!r} is kept but not used: pass --{option} for all slides")
        elif near := _meant([name], free):
            notes.append(f"column {name!r} ignored: {near}")
    return Columns(place, extra, tuple(notes))


def _meant(names: Sequence[str], known: Sequence[str]) -> str:
    for name in names:
        close = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=_NEAR)
        if close:
            return (
                f"did you mean {close[0]!r}?"
                if len(names) == 1
                else (f"did you mean {close[0]!r} by {name!r}?")
            )
    return ""


def several(text: str) -> tuple[str, ...]:
    """The names or files in a cell, `;` or `|` between them."""
    return tuple(part.strip() for part in BETWEEN.split(text) if part.strip())


def number(name: str, text: str) -> float:
    """A finite number; a decimal comma is one.

    Raises
    ------
    UsageError : no number
    """
    plain = text.replace(",", ".") if text.count(",") == 1 and "." not in text else text
    try:
        value = float(plain)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{name} {text!r} is no number")
    return value


def setting(name: str, text: str) -> Any:
    """A cell of a column that is a field of `Recipe`, as a JSON type.

    Raises
    ------
    UsageError : it cannot be read as such
    """
    kind = SETTINGS[name]
    if kind.startswith("tuple"):
        return list(several(text))
    if kind.startswith("bool"):
        if text.casefold() not in _YES | _NO:
            raise UsageError(f"{name} {text!r} is neither true nor false")
        return text.casefold() in _YES
    if kind.startswith("float"):
        return number(name, text)
    if kind.startswith("int"):
        value = number(name, text)
        if value != int(value):
            raise UsageError(f"{name} {text!r} is no whole number")
        return int(value)
    return text
