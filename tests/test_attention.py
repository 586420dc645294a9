"""What a person should look at first, and how much is expected to be wrong, told without truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from shapely import Polygon, box, union_all

from recontour.attention import NUMBERED, Ranking, rank_changes, state_places
from recontour.changes import find_changes
from recontour.expected import (
    chance_wrong,
    expected_errors,
    looks_like,
    percent,
    why_changed,
)
from recontour.geometry import union
from recontour.grid import label_patches
from recontour.reasons import Evidence
from recontour.spots import SCREEN_CELLS
from recontour.types import Geometry, PatchGrid, PatchSet, Region

CELL = 10  # px, and µm: 1 µm/px
NAMES = ("background", "Tumor")


def lattice(rows: int = 60, cols: int = 100) -> PatchGrid:
    row, col = (x.ravel().astype(np.int32) for x in np.indices((rows, cols)))
    return PatchGrid((0.0, 0.0), (rows, cols), row, col, CELL, CELL, CELL, 1.0, 1.0)


class Case:
    """A slide of 60 x 100 cells, what was given, what was found, and how sure that is."""

    def __init__(
        self,
        given: dict[str, Geometry],
        found: dict[str, Geometry],
        doubt: dict[Geometry, float] | None = None,
        base: float = 0.02,
        **said: object,
    ) -> None:
        self.grid = lattice()
        names = ("background", *given)
        self.drawn, self.areas = list(given.values()), list(found.values())
        before = label_patches(self.grid, [[area] for area in self.drawn])
        after = label_patches(self.grid, [[area] for area in self.areas])
        wrong = np.full(len(self.grid), base)
        for area, chance in (doubt or {}).items():
            wrong[label_patches(self.grid, [[area]]) == 1] = chance
        k = len(names)
        probs = np.repeat((wrong / (k - 1))[:, None], k, axis=1)
        probs[np.arange(len(probs)), after] = 1 - wrong
        self.wrong = wrong
        self.evidence = Evidence(
            **{
                "classes": names,
                "probs": probs.astype(np.float32),
                "given": before,
                "refined": after,
                "alike": after,
                "method": after,
                "second": after,
                "reviewed": np.zeros(len(after), bool),
                **said,
            }
        )
        features = np.zeros((len(after), 1), np.float16)
        self.patches = PatchSet("case", self.grid, features, before, names)
        self.changes = find_changes(
            self.areas,
            self.drawn,
            self.patches,
            self.evidence.probs,
            box(0, 0, 1000, 600),
            key="k",
            uncertain=wrong > 0.35,
        )

    def ranked(self, **limits: float) -> Ranking:
        return rank_changes(self.changes, self.grid, self.evidence, self.drawn, **limits)

    def facts(self, ranking: Ranking) -> dict:
        return state_places(ranking, self.evidence, self.grid)


GIVEN = box(100, 100, 400, 400)


def test_what_is_most_wrong_comes_first_not_what_is_largest() -> None:
    sure, doubted = box(400, 100, 600, 290), box(700, 500, 800, 580)
    case = Case({"Tumor": GIVEN}, {"Tumor": union([GIVEN, sure, doubted])}, {doubted: 0.34})
    found = case.ranked()
    assert [place.region.label for place in found.places] == ["Tumor: added"] * 2
    first, second = found.places
    assert first.region.geometry.equals(doubted)
    assert second.region.geometry.equals(sure)
    assert first.area_um2 == 100 * 80
    assert first.wrong_share == pytest.approx(0.34)
    assert "looks like what the outline holds" in first.reason
    assert "316 µm away from the given outline" in first.reason
    assert "estimated 34 % of it wrong" in first.reason
    assert "away" not in second.reason  # it touches what was given
    assert doubted.contains(box(*first.spot, *first.spot).centroid)


def test_an_uncertain_area_and_the_change_it_lies_in_count_once() -> None:
    added = box(400, 100, 500, 200)
    case = Case({"Tumor": GIVEN}, {"Tumor": union([GIVEN, added])}, {added: 0.48})
    assert {region.label for region in case.changes} == {"Tumor: added", "uncertain"}
    found = case.ranked()
    assert len(found.places) == 1
    assert sum(len(place.cells) for place in found.places) == 100
    assert [r.properties["measurements"]["rank"] for r in found.changes] == [1, 2]


def test_reviewing_the_first_places_settles_what_it_says() -> None:
    added = [box(420 + 60 * i, 420, 460 + 60 * i, 460) for i in range(9)]
    doubt = {part: 0.05 + 0.03 * i for i, part in enumerate(added)}
    case = Case({"Tumor": GIVEN}, {"Tumor": union([GIVEN, *added])}, doubt, base=0.0)
    found = case.ranked()
    assert len(found.places) == NUMBERED
    settled = [case.wrong[place.cells].sum() for place in found.places]
    assert settled == sorted(settled, reverse=True)
    review = case.facts(found)["review"]
    assert review["places"] == 5
    assert review["settle"] == pytest.approx(sum(settled[:5]) / case.wrong.sum())
    assert review["cells_share"] == pytest.approx(5 * 16 / 6000)
    assert review["in_changes"] == pytest.approx(1.0)
    # The ninth is listed after them all, without a number.
    last = found.changes[-1]
    assert last.properties["measurements"]["rank"] == NUMBERED + 1
    assert "name" not in last.properties


def test_a_change_larger_than_a_screen_is_cut_into_places() -> None:
    wide = box(0, 420, 1000, 480)  # 100 x 6 cells
    worst = box(700, 420, 800, 480)
    case = Case({"Tumor": GIVEN}, {"Tumor": union([GIVEN, wide])}, {wide: 0.1, worst: 0.3})
    found = case.ranked()
    assert not found.places[0].whole
    assert len(found.places[0].cells) == SCREEN_CELLS * 6
    assert worst.buffer(100).contains(box(*found.places[0].spot, *found.places[0].spot).centroid)
    taken = np.concatenate([place.cells for place in found.places])
    assert len(np.unique(taken)) == len(taken)
    (change,) = found.changes
    assert change.properties["name"].startswith("#1, #2, ")
    assert change.properties["measurements"]["rank"] == 1


def test_changes_say_in_qupath_why_and_how_wrong() -> None:
    added = box(400, 100, 500, 200)
    case = Case({"Tumor": GIVEN}, {"Tumor": union([GIVEN, added])}, {added: 0.2})
    (change,) = case.ranked().changes
    assert change.properties["name"] == "#1 Tumor: added"
    assert change.properties["classification"]["name"] == "Tumor: added"
    measured = change.properties["measurements"]
    assert measured["rank"] == 1
    assert measured["expected wrong"] == pytest.approx(0.2)
    assert measured["expected wrong µm²"] == pytest.approx(0.2 * 100 * 100)
    assert measured["area µm²"] == 100 * 100
    assert "looks like what the outline holds" in change.properties["metadata"]["reason"]
    described = change.properties["metadata"]["ANNOTATION_DESCRIPTION"]
    assert described == change.properties["metadata"]["reason"]
    assert change.id == case.changes[0].id


def test_reasons_tell_who_speaks_for_a_change() -> None:
    added, lost = box(400, 100, 500, 200), box(100, 100, 200, 200)
    found = union([GIVEN.difference(lost), added])
    changed = union_all([added, lost])

    def reasons(**said: object) -> dict[str, str]:
        case = Case({"Tumor": GIVEN}, {"Tumor": found}, {changed: 0.2}, **said)
        return {place.region.label: place.reason for place in case.ranked().places}

    plain = reasons()
    assert plain["Tumor: removed"].startswith("looks like what lies outside; estimated 20 %")
    n = len(lattice())
    alone = reasons(alike=np.zeros(n, int))
    assert alone["Tumor: added"].startswith(
        "looks like what lies outside, but the method takes it for Tumor"
    )
    unmeasured = reasons(alike=None, second=None)
    assert unmeasured["Tumor: added"].startswith("the method takes it for Tumor")
    dropped = reasons(method=np.ones(n, int))
    assert dropped["Tumor: removed"].startswith("too small a part to stay")
    finer = reasons(method=np.ones(n, int), finer=True)
    assert "too small" not in finer["Tumor: removed"]
    assert reasons(reviewed=np.ones(n, bool))["Tumor: added"] == "a person has reviewed it"


def test_an_uncertain_area_says_what_it_was_and_who_disagrees() -> None:
    doubted = box(200, 200, 300, 300)
    agreed = Case({"Tumor": GIVEN}, {"Tumor": GIVEN}, {doubted: 0.4})
    (place,) = agreed.ranked().places
    assert place.reason == (
        "given and kept as Tumor; the chance of Tumor is 60 %; estimated 40 % of it wrong"
    )
    other = Case({"Tumor": GIVEN}, {"Tumor": GIVEN}, {doubted: 0.5}, second=np.zeros(6000, int))
    assert other.ranked().places[0].reason == (
        "given and kept as Tumor; a second model says background; as likely wrong as right"
    )


def test_a_limit_that_stopped_the_border_is_named() -> None:
    near, far = box(400, 100, 450, 200), box(400, 250, 420, 350)
    lost = box(100, 100, 150, 400)
    found = union([GIVEN.difference(lost), near, far])
    case = Case({"Tumor": GIVEN}, {"Tumor": found}, {union_all([near, far, lost]): 0.2})
    said = {
        place.region.geometry.bounds: place.reason for place in case.ranked(within_px=50).places
    }
    assert "touches the limit --within-um 50" in said[near.bounds]
    assert "touches the limit" in said[lost.bounds]
    assert "touches the limit" not in said[far.bounds]
    assert not any("limit" in place.reason for place in case.ranked().places)


def test_a_given_outline_that_goes_is_named() -> None:
    second = box(600, 100, 700, 200)
    case = Case({"Tumor": union([GIVEN, second])}, {"Tumor": GIVEN}, {second: 0.3})
    (place,) = case.ranked().places
    assert "all of a given outline goes" in place.reason


def test_one_class_that_becomes_another_names_both() -> None:
    stroma = box(400, 100, 600, 400)
    swapped = box(400, 100, 450, 290)
    case = Case(
        {"Tumor": GIVEN, "Stroma": stroma},
        {"Tumor": union([GIVEN, swapped]), "Stroma": stroma.difference(swapped)},
        {swapped: 0.3},
    )
    found = case.ranked()
    assert {r.label for r in found.changes} == {"Tumor: added", "Stroma: removed"}
    (place,) = found.places  # the same cells: one place to look at
    assert "given as Stroma, looks like outlined Tumor" in place.reason
    doubted = box(420, 200, 480, 300)
    torn = Case(
        {"Tumor": GIVEN, "Stroma": stroma}, {"Tumor": GIVEN, "Stroma": stroma}, {doubted: 0.6}
    )
    assert "of Stroma" in torn.ranked().places[0].reason


def test_nothing_changed_and_nothing_uncertain_has_no_places() -> None:
    case = Case({"Tumor": GIVEN}, {"Tumor": GIVEN})
    found = case.ranked()
    assert found.places == found.changes == ()
    facts = case.facts(found)
    assert facts["places"] == []
    assert facts["review"] == {"places": 0, "settle": 0.0, "cells_share": 0.0, "in_changes": 0.0}


def test_an_outline_that_vanished_is_one_change() -> None:
    case = Case({"Tumor": GIVEN}, {"Tumor": Polygon()}, {GIVEN: 0.3})
    assert case.ranked(within_px=50).places
    certain = Case({"Tumor": GIVEN}, {"Tumor": Polygon()}, base=0.0)
    found = certain.ranked()
    assert found.places == ()  # nothing is expected to be wrong: listed, but no place to look at
    assert [r.properties["measurements"]["rank"] for r in found.changes] == [1]


def test_a_change_between_cell_centres_is_ranked_too() -> None:
    thin = Region("a", box(401, 100, 404, 400), "Tumor: added", None, {})
    case = Case({"Tumor": GIVEN}, {"Tumor": GIVEN})
    found = rank_changes([thin], case.grid, case.evidence, case.drawn)
    assert found.places == ()
    assert found.changes[0].properties["measurements"]["rank"] == 1


# --- how much is expected to be wrong ------------------------------------------------------------


def random_probs(n: int, k: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).dirichlet(np.ones(k), n)


@given(st.integers(0, 40), st.integers(2, 5), st.integers(0, 99))
def test_expected_errors_add_up(n: int, k: int, seed: int) -> None:
    probs = random_probs(n, k, seed)
    labels = np.random.default_rng(seed).integers(-1, k, n)
    names = [f"c{i}" for i in range(k)]
    found = expected_errors(probs, labels, names, cell_um2=4.0)
    assert found["cells"] == np.count_nonzero(labels >= 0)
    assert found["wrong_um2"] == pytest.approx(4 * found["wrong_cells"])
    assert sum(c["wrong"] for c in found["classes"].values()) == pytest.approx(found["wrong_cells"])
    # What is missed of one class is what is wrongly called another.
    assert sum(c["missed"] for c in found["classes"].values()) == pytest.approx(
        found["wrong_cells"]
    )
    assert np.isfinite(found["wrong_share"])
    assert (found["ppv"] is None) == (not (labels > 0).any())
    assert not chance_wrong(probs, labels)[labels < 0].any()


def test_expected_errors_are_the_errors_there_are_when_probabilities_hold() -> None:
    probs = random_probs(40_000, 3, 1)
    rng = np.random.default_rng(2)
    truth = (probs.cumsum(axis=1) > rng.random((len(probs), 1))).argmax(axis=1)
    labels = probs.argmax(axis=1)
    found = expected_errors(probs, labels, ("a", "b", "c"), 1.0)
    assert found["wrong_share"] == pytest.approx(np.mean(truth != labels), abs=0.01)
    assert found["ppv"] == pytest.approx(np.mean((truth == labels)[labels > 0]), abs=0.01)


def test_looks_are_told_apart_from_how_common_a_class_is() -> None:
    labels = np.r_[np.zeros(90, int), np.ones(10, int), [-1]]
    unseen = np.array([[0.8, 0.2]] * 101)  # improbable, but twice as likely as elsewhere
    assert (looks_like(unseen, labels) == 1).all()
    assert (looks_like(np.array([[0.95, 0.05]] * 101), labels) == 0).all()


def test_changed_cells_are_counted_by_what_speaks_for_them() -> None:
    given = np.array([0, 0, 0, 1, 1, 2, -1])
    refined = np.array([1, 1, 0, 0, 1, 1, 1])
    alike = np.array([1, 0, 0, 0, 1, 1, 1])
    reviewed = np.array([0, 0, 0, 0, 0, 1, 0], bool)
    found = why_changed(given, refined, alike, reviewed)
    assert found["added"] == {"cells": 2, "reviewed": 0, "alike": 1, "method_alone": 1}
    assert found["removed"] == {"cells": 1, "reviewed": 0, "alike": 1, "method_alone": 0}
    assert found["swapped"] == {"cells": 1, "reviewed": 1, "alike": 0, "method_alone": 0}
    assert why_changed(given, refined, None, reviewed)["added"]["alike"] is None


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (0.001, "<1 %"), (0.084, "8 %"), (1, "100 %")]
)
def test_shares_read_well(share: float, text: str) -> None:
    assert percent(share) == text
