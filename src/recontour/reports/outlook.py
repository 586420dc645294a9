"""How much may be wrong, why it changed and where to look first: sentences from `run.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from recontour.expected import percent
from recontour.reports.summary import format_area
from recontour.trust import MIN_CELLS, MIN_SHARE
from recontour.types import BACKGROUND

GLASS = 0.05  # of the given outline: less is the rim of any careful drawing
NONE = "No cell changed its class and none is uncertain: no place to look at first."


def sentences(facts: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """What to know before looking; none where a run has no estimate (those of older versions).

    Parameters
    ----------
    facts : as in `run.json`
    recipe : settings, for the limits
    """
    estimate, first = facts.get("estimate"), facts.get("look_first")
    if not estimate or not first:
        return []
    said = [errors(estimate), *changed(estimate), *off_tissue(facts)]
    said += [*held_back(estimate, recipe), *told(facts), *target(facts), review(first)]
    if estimate["source"] == "assumed":
        said.append(
            "A class has too few cells to measure on: the chances of being wrong are the method's "
            "own, toned down."
        )
    said += little_outside(facts)
    validity = facts.get("validity") or {}
    if validity.get("verdict") in ("doubtful", "invalid") and judged(validity):
        said.append(
            f"The given outline looks {validity['verdict']}: if it is wrong as a whole, so are "
            "these figures."
        )
    return said


def little_outside(facts: Mapping[str, Any]) -> Iterator[str]:
    """That errors inside a very generous outline go unseen: there is little to tell them by."""
    labels = facts.get("labels") or {}
    outside, cells = labels.get(BACKGROUND), sum(labels.values())
    if outside is not None and outside < max(MIN_CELLS, MIN_SHARE * cells):
        yield (
            f"Only {outside:,} of {cells:,} tissue cells lie outside the given outline: whatever "
            "else it holds that it should not cannot be seen, and these figures are too low."
        )


def judged(validity: Mapping[str, Any]) -> bool:
    """Whether the outline could be judged at all; too few cells say neither yes nor no."""
    return validity.get("signals") != {}


def verdict(validity: Mapping[str, Any]) -> str:
    """`valid (0.75)`; the score runs from 0 to 1."""
    if not judged(validity):
        return "cannot be judged"
    return f"{validity['verdict']} ({validity['score']:.2f})"


def errors(estimate: Mapping[str, Any]) -> str:
    """The estimated error of the given outline and of the refined one."""
    given, refined = estimate["given"], estimate["refined"]
    said = (
        f"Estimated without truth: about {percent(given['wrong_share'])} of the cells are wrong as "
        f"given, {percent(refined['wrong_share'])} as refined "
        f"({format_area(refined['wrong_um2'])})."
    )
    parts = []
    if given["ppv"] is not None:
        parts.append(f"Of what the given outline holds, about {percent(given['ppv'])} is right")
    if given["npv"] is not None:
        outside = f"of what it leaves out, {percent(given['npv'])}"
        parts.append(outside if parts else outside[0].upper() + outside[1:] + " is right")
    if parts:
        said = f"{said} {'; '.join(parts)}."
    if percent(refined["wrong_share"]) != percent(given["wrong_share"]) and worse(estimate):
        said += " By this estimate the refined outline is the worse one: compare before you use it."
    return said


def worse(estimate: Mapping[str, Any]) -> bool:
    """Whether more is expected to be wrong after than before."""
    return bool(estimate["refined"]["wrong_share"] > estimate["given"]["wrong_share"])


def changed(estimate: Mapping[str, Any]) -> Iterator[str]:
    """What speaks for what was added, removed or given another class."""
    looks = {
        "added": "look like what is outlined",
        "removed": "look like what lies outside",
        "swapped": "look like the class they became",
    }
    for kind, name in (("added", "Added"), ("removed", "Removed"), ("swapped", "Another class")):
        n = estimate["changed"][kind]
        if not n["cells"]:
            continue
        parts = []
        if n["alike"] is not None:
            parts.append(f"{percent(n['alike'] / n['cells'])} {looks[kind]}")
        if n["reviewed"]:
            parts.append(f"{percent(n['reviewed'] / n['cells'])} were reviewed by a person")
        if n["method_alone"] and n["alike"] is not None:
            parts.append(f"for {percent(n['method_alone'] / n['cells'])} only the method speaks")
        cells = f"{n['cells']:,} tissue cell{'' if n['cells'] == 1 else 's'}"
        yield f"{name}: {cells}" + (f"; {', '.join(parts)}." if parts else ".")


def off_tissue(facts: Mapping[str, Any]) -> Iterator[str]:
    """How much was drawn on glass, where that is worth a word: it explains most of what goes."""
    areas = (facts.get("areas_um2") or {}).values()
    coarse = sum(area["coarse"] for area in areas)
    glass = coarse - sum(area.get("coarse_on_tissue", area["coarse"]) for area in areas)
    if coarse and glass > GLASS * coarse:
        yield f"{format_area(glass)} of the given outline lies on glass and is in no cell."


def held_back(estimate: Mapping[str, Any], recipe: Mapping[str, Any]) -> Iterator[str]:
    """What the user's limits kept as it was."""
    limits = []
    if recipe.get("only"):
        limits.append(f"--only {recipe['only']}")
    if recipe.get("within_um"):
        limits.append(f"--within-um {recipe['within_um']:g}")
    held = estimate["held_back"]
    if limits and held["cells"]:
        area = format_area(held["um2"])
        yield f"Because of {' and '.join(limits)}, {area} stays that the method would have changed."


def told(facts: Mapping[str, Any]) -> Iterator[str]:
    """What further outlines and a review said, so that a file that said nothing is noticed."""
    given = facts.get("given") or {}
    cells = (facts.get("grid") or {}).get("n_cells")
    if also := given.get("also"):
        tied = given["tied_cells"]
        left = f"; {tied:,} of these are ties, left to the method" if tied else ""
        yield (
            f"{len(also) + 1} outlines were given: they differ on {given['disagreed_cells']:,} of "
            f"{cells:,} tissue cells{left}."
        )
    if reviewed := given.get("reviewed"):
        counts = [f"{n:,} {name}" for name, n in reviewed["cells"].items() if n]
        other = reviewed.get("other_classes") or ()
        means = f" (not refined, so background: {', '.join(other)})" if other else ""
        yield f"Reviewed: {', '.join(counts) or 'no'} tissue cells, by {reviewed['source']}{means}."


def target(facts: Mapping[str, Any]) -> Iterator[str]:
    """How much of the tissue can be kept for `--error-target`."""
    found = (facts.get("confidence") or {}).get("error_target")
    if not found:
        return
    aim = f"Error target {100 * found['target']:g} %"
    if not found["share"]:
        yield f"{aim}: no cell is sure enough; all are listed as uncertain."
        return
    error = found["expected_error"]
    expected = (
        "" if error is None else f", of which about {percent(error)} are expected to be wrong"
    )
    how = {"estimate": "an estimate, without truth", "conformal": "from the reviewed sample"}
    yield (
        f"{aim}: {percent(found['share'])} of the cells are sure enough{expected} "
        f"({how[found['how']]}); the others are listed as uncertain."
    )


def review(first: Mapping[str, Any]) -> str:
    """What looking at the first places would bring."""
    gain = first["review"]
    n = gain["places"]
    if not n:
        return NONE
    places = "first place" if n == 1 else f"first {n} places"
    said = (
        f"Looking at the {places} ({percent(gain['cells_share'])} of the tissue) would settle "
        f"about {percent(gain['settle'])} of the errors to expect"
    )
    rest = 1 - gain["in_changes"]
    return f"{said}; {percent(rest)} of them lie outside of all listed changes."


def brief(place: Mapping[str, Any]) -> str:
    """`Tumor: added, 0.42 mm²`."""
    part = "" if place["whole"] else " (part of a larger one)"
    return f"{place['what']}, {format_area(place['area_um2'])}{part}"


def where(place: Mapping[str, Any]) -> str:
    """Where QuPath shows it, and in level-0 px."""
    x, y = f"{place['qupath_x_um']:,.0f}", f"{place['qupath_y_um']:,.0f}"
    return f"x {x}, y {y} µm"


def where_px(place: Mapping[str, Any]) -> str:
    """In level-0 px."""
    return f"x {place['x_px']:,.0f}, y {place['y_px']:,.0f} px"
