"""Outlines that are wrong as a whole are told from sloppy ones, and the way out is named."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from shapely import box
from shapely.affinity import scale, translate

from recontour.appearance import belonging, look_at
from recontour.grid import label_patches
from recontour.misplaced import propose_place
from recontour.refiners import make_refiner
from recontour.types import PatchGrid, PatchSet
from recontour.validity import Validity, judge

STRIDE = 64


def tissue(
    seed: int = 0, side: int = 48, lesion: tuple[int, int, int, int] = (14, 10, 32, 30)
) -> tuple[PatchSet, np.ndarray]:
    """A slide whose lesion (first and last row and column) is one tissue, the rest several."""
    rng = np.random.default_rng(seed)
    rows, cols = np.indices((side, side)).reshape(2, -1).astype(np.int32)
    grid = PatchGrid((0.0, 0.0), (side, side), rows, cols, STRIDE, STRIDE, 64, 0.5, 0.5)
    truth = (rows >= lesion[0]) & (rows < lesion[2]) & (cols >= lesion[1]) & (cols < lesion[3])
    kinds = np.argmax(
        [gaussian_filter(rng.standard_normal((side, side)), 4) for _ in range(4)], axis=0
    ).ravel()
    kinds[truth] = 4
    looks = rng.normal(size=(5, 40))
    x = looks[kinds] + rng.normal(size=(side * side, 40))
    labels = truth.astype(np.int8)
    return PatchSet("s", grid, x.astype(np.float32), labels, ("background", "Tumor")), truth


def judged(patches: PatchSet, labels: np.ndarray) -> Validity:
    patches = dataclasses.replace(patches, labels=labels.astype(np.int8))
    return judge(patches, make_refiner("em", seed=0).fit([patches]).predict_proba(patches))


def moved(labels: np.ndarray, rows: int, cols: int, side: int = 48) -> np.ndarray:
    return np.roll(labels.reshape(side, side), (rows, cols), (0, 1)).ravel()


@pytest.mark.parametrize("seed", range(3))
def test_a_sloppy_outline_is_valid(seed: int) -> None:
    patches, truth = tissue(seed)
    found = judged(patches, moved(truth, 3, 2))
    assert (found.verdict, found.reasons) == ("valid", ())
    assert found.ppv > 0.6
    assert found.npv > 0.8
    assert found.error_rate < 0.3
    json.dumps([dict(found.signals), found.score])


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_outline_is_recognised_as_flipped(seed: int) -> None:
    patches, truth = tissue(seed)
    found = judged(patches, ~moved(truth, 2, 2))
    assert found.verdict != "valid"
    assert "inside and outside swapped" in found.reasons[0]


def test_most_outlines_of_another_slide_are_noticed() -> None:
    # Not all: of 24 such slides 18 are, the others happen to follow another tissue of the slide.
    flagged = 0
    for seed in range(12):
        patches, truth = tissue(seed)
        _, theirs = tissue(seed + 100, lesion=(30, 26, 47, 47))
        found = judged(patches, theirs)
        assert found.score < judged(patches, truth).score
        if found.verdict != "valid":
            flagged += 1
            assert any("of another slide" in reason for reason in found.reasons)
    assert flagged >= 8


def test_an_outline_that_parts_nothing_is_no_better_than_its_copies() -> None:
    patches, truth = tissue()
    noise = np.random.default_rng(0).normal(size=patches.features.shape).astype(np.float32)
    look = look_at(dataclasses.replace(patches, features=noise))
    assert look is not None
    assert abs(belonging(look, look.labels)) < 0.5
    own = look_at(patches)
    assert own is not None
    assert belonging(own, own.labels) > 1


def test_many_cells_are_averaged_and_say_the_same() -> None:
    patches, truth = tissue(side=150, lesion=(40, 30, 100, 95))
    look = look_at(patches)
    assert look is not None
    assert look.side == 2
    assert len(look.rows) == 75 * 75
    assert look.mean(truth.astype(float)).sum() * 4 == pytest.approx(truth.sum())
    assert belonging(look, look.labels) > 1


def test_glass_between_pieces_of_tissue_is_no_tissue() -> None:
    patches, truth = tissue()
    kept = (patches.grid.cols < 20) | (patches.grid.cols > 24)
    grid = dataclasses.replace(
        patches.grid, rows=patches.grid.rows[kept], cols=patches.grid.cols[kept]
    )
    parts = dataclasses.replace(
        patches, grid=grid, features=patches.features[kept], labels=patches.labels[kept]
    )
    assert judged(parts, truth[kept]).verdict == "valid"
    assert judged(parts, ~truth[kept]).verdict != "valid"


def test_three_classes() -> None:
    patches, truth = tissue()
    rng = np.random.default_rng(1)
    second = (patches.grid.rows >= 36) & (patches.grid.cols >= 30)
    x = patches.features.copy()
    x[second] = 2 * rng.normal(size=40) + rng.normal(size=(int(second.sum()), 40))
    three = dataclasses.replace(patches, features=x, classes=("background", "Tumor", "Stroma"))
    assert judged(three, np.where(second, 2, truth)).verdict == "valid"
    wrong = judged(three, moved(np.where(second, 2, truth), 20, 24))
    assert wrong.verdict != "valid"


@pytest.mark.parametrize("label", [-1, 0, 1])
def test_one_class_alone_cannot_be_judged(label: int) -> None:
    patches, _ = tissue()
    patches = dataclasses.replace(patches, labels=np.full(len(patches), label, np.int8))
    found = judge(patches, np.full((len(patches), 2), 0.5, np.float32))
    assert (found.verdict, found.score) == ("doubtful", 0.5)
    assert "cannot be judged" in found.reasons[0]
    assert np.isfinite([found.ppv, found.npv, found.error_rate]).all()


def test_few_cells_cannot_be_judged() -> None:
    patches, truth = tissue(side=7, lesion=(1, 1, 5, 6))
    found = judge(patches, np.full((49, 2), 0.5, np.float32))
    assert "20 cells lie inside and 29 outside" in found.reasons[0]
    del truth


@pytest.mark.parametrize("value", [np.nan, np.inf, 3.5])
def test_odd_features_are_no_crash(value: float) -> None:
    patches, _ = tissue()
    odd = dataclasses.replace(patches, features=np.full_like(patches.features, value))
    found = judge(odd, np.full((len(patches), 2), 0.5, np.float32))
    assert found.verdict != "valid"
    assert all(np.isfinite(v) for v in found.signals.values())


def test_same_seed_same_verdict() -> None:
    patches, truth = tissue()
    assert judged(patches, truth) == judged(patches, truth)


LESION = box(10 * STRIDE, 14 * STRIDE, 30 * STRIDE, 32 * STRIDE)


def labelled(patches: PatchSet, drawn: object) -> PatchSet:
    return dataclasses.replace(patches, labels=label_patches(patches.grid, [[drawn]]))


@pytest.mark.parametrize("counted", ["bounds", "level0"])
def test_coordinates_counted_from_the_wrong_origin(counted: str) -> None:
    # The slide's bounds start at (896, 768); the file was read as if it counted from `counted`.
    patches, _ = tissue()
    offset = (14.0 * STRIDE, 12.0 * STRIDE)
    sign = 1 if counted == "bounds" else -1
    drawn = translate(LESION, sign * offset[0], sign * offset[1])
    if counted == "level0":
        patches, _ = tissue(lesion=(24, 22, 44, 42))
        drawn = translate(
            box(22 * STRIDE, 24 * STRIDE, 42 * STRIDE, 44 * STRIDE), -offset[0], -offset[1]
        )
    origin = offset if counted == "bounds" else (0.0, 0.0)
    proposal = propose_place(labelled(patches, drawn), [drawn], offset=offset, origin=origin)
    assert proposal is not None
    assert proposal.kind == "origin"
    other = "level0" if counted == "bounds" else "bounds"
    assert f"pass --origin {other}" in str(proposal)


@pytest.mark.parametrize("factor", [0.5, 1.4])
def test_an_outline_drawn_on_an_image_of_another_resolution(factor: float) -> None:
    patches, _ = tissue()
    drawn = scale(LESION, factor, factor, origin=(0, 0))
    proposal = propose_place(labelled(patches, drawn), [drawn], scales=(0.5, 1 / factor, 2.0))
    assert proposal is not None
    assert proposal.kind == "scale"
    assert proposal.scale == pytest.approx(1 / factor, abs=1e-3)


def test_a_good_outline_is_left_where_it_is() -> None:
    patches, _ = tissue()
    offset = (8.0 * STRIDE, 8.0 * STRIDE)
    assert propose_place(labelled(patches, LESION), [LESION], offset=offset, origin=offset) is None
