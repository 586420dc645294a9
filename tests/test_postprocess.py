from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import gaussian
from skimage.measure import label, regionprops

from recontour.errors import UnknownNameError, UsageError
from recontour.postprocess import Rules, clean_labels, rules_for, smooth_probs
from recontour.recipe import Recipe
from recontour.types import PatchGrid


def grid_of(tissue: np.ndarray, stride: int = 64) -> PatchGrid:
    rows, cols = np.nonzero(tissue)
    shape = (tissue.shape[0], tissue.shape[1])
    return PatchGrid(
        (0.0, 0.0),
        shape,
        rows.astype(np.int32),
        cols.astype(np.int32),
        stride,
        stride,
        64,
        0.5,
        0.5,
    )


def two_class(grid: PatchGrid, laid: np.ndarray) -> np.ndarray:
    """(n, 2) of a laid-out probability of the one class."""
    p = laid[grid.rows, grid.cols].astype(np.float32)
    return np.stack([1 - p, p], axis=1)


def sizes(mask: np.ndarray) -> list[int]:
    return sorted(int(p.area) for p in regionprops(label(mask, connectivity=1)))


def picture(text: str) -> np.ndarray:
    """Digits are classes, `.` is background, `_` is off tissue (-1)."""
    codes = {".": 0, "_": -1, "1": 1, "2": 2, "3": 3}
    return np.array([[codes[c] for c in line.strip()] for line in text.split()])


def decide(text: str, min_cells: float, classes: int = 2) -> str:
    """Clean a drawn map and draw the result."""
    drawn = picture(text)
    grid = grid_of(drawn >= 0)
    probs = np.eye(classes)[drawn[grid.rows, grid.cols]]
    cleaned = clean_labels(grid, probs, Rules(min_area_cells=min_cells))
    return "\n".join("".join(".123"[v] for v in row) for row in cleaned)


def same(found: str, expected: str) -> bool:
    return found.split() == expected.split()


class TestSmoothing:
    def test_a_probability_does_not_fade_at_the_edge_of_the_tissue(self) -> None:
        tissue = np.zeros((20, 20), bool)
        tissue[5:15, 5:15] = True
        grid = grid_of(tissue)
        smooth = smooth_probs(grid, two_class(grid, np.full((20, 20), 0.9)), Rules(sigma_cells=2))
        assert smooth[:, 1] == pytest.approx(0.9, abs=1e-5)

    def test_it_is_the_weighted_mean_of_the_tissue_around(self) -> None:
        rng = np.random.default_rng(0)
        tissue = rng.random((15, 17)) < 0.6
        grid, sigma = grid_of(tissue), 1.3
        laid = rng.random((15, 17))
        found = smooth_probs(grid, two_class(grid, laid), Rules(sigma_cells=sigma))[:, 1]
        reach = int(4 * sigma + 0.5)
        for value, r, c in zip(found, grid.rows, grid.cols, strict=True):
            d2 = (grid.rows - r) ** 2.0 + (grid.cols - c) ** 2.0
            w = np.exp(-d2 / (2 * sigma**2))
            w[(abs(grid.rows - r) > reach) | (abs(grid.cols - c) > reach)] = 0
            expected = (w * laid[grid.rows, grid.cols]).sum() / w.sum()
            assert value == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize("over_tissue", [True, False])
    def test_rows_still_sum_to_one_and_the_input_is_left_alone(self, over_tissue: bool) -> None:
        rng = np.random.default_rng(1)
        grid = grid_of(rng.random((30, 30)) < 0.7)
        probs = rng.dirichlet(np.ones(4), len(grid)).astype(np.float32)
        before = probs.copy()
        smooth = smooth_probs(grid, probs, Rules(sigma_cells=1, over_tissue=over_tissue))
        assert smooth.dtype == np.float32
        assert smooth.sum(axis=1) == pytest.approx(1, abs=1e-5)
        assert smooth.min() >= 0
        assert np.array_equal(probs, before)

    def test_no_sigma_no_change(self) -> None:
        grid = grid_of(np.ones((3, 3), bool))
        probs = two_class(grid, np.random.default_rng(2).random((3, 3)))
        assert np.array_equal(smooth_probs(grid, probs, Rules(sigma_cells=0)), probs)

    def test_wrong_shapes_and_nan_are_our_own_mistakes(self) -> None:
        grid = grid_of(np.ones((3, 3), bool))
        with pytest.raises(ValueError, match="K >= 2"):
            smooth_probs(grid, np.zeros((8, 2)), Rules())
        with pytest.raises(ValueError, match="finite"):
            smooth_probs(grid, np.full((9, 2), np.nan), Rules())


class TestCleaning:
    def test_the_threshold_is_exclusive(self) -> None:
        grid = grid_of(np.ones((1, 3), bool))
        probs = two_class(grid, np.array([[0.25, 0.5, 0.75]]))
        rules = Rules(threshold=0.5, min_area_cells=0)
        assert clean_labels(grid, probs, rules).tolist() == [[0, 0, 1]]

    def test_specks_go_and_small_holes_close_and_large_ones_stay(self) -> None:
        found = decide(
            """
            1...........
            ............
            ..11111111..
            ..1.111..1..
            ..11111..1..
            ..11111111..
            ............
            ..........11
            """,
            min_cells=3,
        )
        assert same(
            found,
            """
            ............
            ............
            ..11111111..
            ..11111..1..
            ..11111..1..
            ..11111111..
            ............
            ............
            """,
        )

    def test_a_lumen_is_a_hole_like_any_other(self) -> None:
        # On tissue alone it would not be seen at all, and the area would be counted as closed.
        ring = "11111 1___1 1___1 11111"
        assert same(decide(ring, min_cells=6), "11111 1...1 1...1 11111")
        assert same(decide(ring, min_cells=7), "11111 11111 11111 11111")

    def test_objects_go_before_holes_are_looked_at(self) -> None:
        # Holes first would see eight cells around a speck, and fill them.
        assert same(
            decide("11111 1...1 1.1.1 1...1 11111", min_cells=9), "11111 1...1 1...1 1...1 11111"
        )

    def test_corners_do_not_join(self) -> None:
        assert same(decide("11... 11... ..11. ..11.", min_cells=5), "..... ..... ..... .....")

    def test_the_class_is_the_likeliest_of_the_foreground(self) -> None:
        grid = grid_of(np.ones((1, 3), bool))
        probs = np.array([[0.4, 0.35, 0.25], [0.6, 0.0, 0.4], [0.2, 0.4, 0.4]])
        assert clean_labels(grid, probs, Rules(min_area_cells=0)).tolist() == [[1, 0, 1]]

    def test_a_speck_of_another_class_goes_to_the_class_around_it(self) -> None:
        assert same(
            decide("1111. 1211. 1111. 22222 22222", min_cells=3, classes=3),
            "1111. 1111. 1111. 22222 22222",
        )

    def test_a_hole_goes_to_the_class_most_common_around_it(self) -> None:
        assert same(
            decide("111222 111222 11..22 111222", min_cells=3, classes=3),
            "111222 111222 111122 111222",
        )

    def test_an_object_of_small_parts_only_takes_their_most_common_class(self) -> None:
        assert same(
            decide("....... .11222. ....... .......", min_cells=4, classes=3),
            "....... .22222. ....... .......",
        )

    @given(
        seed=st.integers(0, 10_000),
        classes=st.integers(2, 5),
        min_cells=st.sampled_from([0, 2, 6.5]),
    )
    @settings(max_examples=60, deadline=None)
    def test_nothing_too_small_is_left(self, seed: int, classes: int, min_cells: float) -> None:
        rng = np.random.default_rng(seed)
        grid = grid_of(rng.random((14, 19)) < 0.8)
        probs = rng.dirichlet(np.ones(classes), len(grid))
        found = clean_labels(grid, probs, Rules(threshold=0.6, min_area_cells=min_cells))
        assert found.dtype == np.int8
        assert found.shape == grid.shape
        for k in range(1, classes):
            assert all(size >= min_cells for size in sizes(found == k))
        if found.any():
            assert all(size >= min_cells for size in sizes(found == 0))

    def test_all_background_stays_background(self) -> None:
        assert same(decide("... ...", min_cells=100), "... ...")


class TestPublished:
    """The published chain, written with scikit-image on the laid-out map."""

    def test_it_is_gaussian_threshold_objects_holes_on_the_full_grid(self) -> None:
        rng = np.random.default_rng(3)
        tissue = gaussian(rng.standard_normal((90, 110)), 9) > -0.03
        tissue &= rng.random(tissue.shape) > 0.05  # lumina of one cell
        laid = gaussian(rng.standard_normal((90, 110)), 4)
        laid = 1 / (1 + np.exp(-60 * laid))
        grid = grid_of(tissue)
        rules = rules_for(Recipe(postprocess="published"), grid)
        probs = two_class(grid, laid)
        smooth = smooth_probs(grid, probs, rules)
        found = clean_labels(grid, smooth, rules, raw=probs)

        blurred = gaussian(np.where(tissue, laid, 0), sigma=1)
        assert smooth[:, 1] == pytest.approx(blurred[tissue], abs=1e-5)
        mask = blurred > 0.6
        assert (mask & ~tissue).any()  # decided off tissue too, where it may join two objects
        for keep in (True, False):  # objects, then holes
            for part in regionprops(label(mask == keep, connectivity=1)):
                if part.area < 100:
                    mask[tuple(part.coords.T)] = not keep
        assert 0.1 < mask.mean() < 0.9
        assert np.array_equal(found == 1, mask)

    def test_votes_go_straight_to_the_morphology(self) -> None:
        grid = grid_of(np.ones((20, 20), bool))
        laid = np.zeros((20, 20))
        laid[2:14, 2:14] = 1
        rules = rules_for(Recipe(postprocess="published"), grid)
        probs = two_class(grid, laid)
        smooth = smooth_probs(grid, probs, rules)
        assert np.array_equal(clean_labels(grid, smooth, rules, raw=probs), laid)  # corners kept


class TestRules:
    def test_a_recipe_speaks_of_um_and_the_rules_of_cells(self) -> None:
        grid = grid_of(np.ones((2, 2), bool))  # 64 px at 0.5 µm/px: 32 µm
        rules = rules_for(Recipe(min_area_um2=10_240, simplify_um=2, threshold=0.4), grid)
        assert rules == Rules(0.4, 0.4, 10, 4)
        assert rules_for(Recipe(), grid) == Rules(0.5, 0.4, 6, 3.2, by_evidence=True)

    def test_a_method_says_how_much_smoothing_its_answers_need_unless_the_recipe_does(self) -> None:
        grid = grid_of(np.ones((2, 2), bool))
        assert rules_for(Recipe(method="logistic"), grid).sigma_cells == 0.7
        assert rules_for(Recipe(), grid, "oracle").sigma_cells == 0.7
        assert rules_for(Recipe(smooth_cells=1), grid).sigma_cells == 1

    @pytest.mark.parametrize(
        "recipe",
        [
            Recipe(threshold=0),
            Recipe(threshold=1),
            Recipe(threshold=float("nan")),
            Recipe(smooth_cells=-1),
            Recipe(min_area_um2=-1),
            Recipe(simplify_um=-1),
        ],
    )
    def test_settings_out_of_range_are_refused(self, recipe: Recipe) -> None:
        with pytest.raises(UsageError):
            rules_for(recipe, grid_of(np.ones((2, 2), bool)))

    def test_none_decides_each_cell_alone_and_removes_nothing(self) -> None:
        grid = grid_of(np.ones((6, 6), bool))
        laid = np.zeros((6, 6))
        laid[1, 1] = laid[3:, 3:] = 0.51  # a single cell, and a block
        laid[4, 4] = 0.49  # with a hole of one cell
        rules = rules_for(Recipe(postprocess="none"), grid)
        smooth = smooth_probs(grid, two_class(grid, laid), rules)
        assert np.array_equal(clean_labels(grid, smooth, rules), laid > 0.5)
        stricter = rules_for(Recipe(postprocess="none", threshold=0.6), grid)
        assert not clean_labels(grid, smooth, stricter).any()

    def test_an_unknown_preset_is_refused(self) -> None:
        with pytest.raises(UnknownNameError, match="default, none, published"):
            rules_for(Recipe(postprocess="best"), grid_of(np.ones((2, 2), bool)))
