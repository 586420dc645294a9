"""Small lesions stay where the evidence is for them, and flimsy ones go however large."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recontour.evidence import FOREGROUND, SUREST, Evidence, neighbour_weight, neighbours_of
from recontour.postprocess import clean_labels, rules_for, smooth_probs
from recontour.recipe import Recipe
from recontour.types import PatchGrid


def grid_of(tissue: np.ndarray) -> PatchGrid:
    rows, cols = (index.astype(np.int32) for index in np.nonzero(tissue))
    shape = (tissue.shape[0], tissue.shape[1])
    return PatchGrid((0.0, 0.0), shape, rows, cols, 64, 64, 64, 0.5, 0.5)


def slide(size: int = 40) -> np.ndarray:
    """P(tumour) of a slide as methods see it: a sure lesion, clear background, some wavering."""
    rng = np.random.default_rng(0)
    laid = np.clip(0.06 + 0.05 * rng.standard_normal((size, size)), 0.005, 0.3)
    laid[4:16, 4:16] = np.clip(0.93 + 0.04 * rng.standard_normal((12, 12)), 0.7, 0.995)
    return laid


def refined(
    laid: np.ndarray, tissue: np.ndarray | None = None, recipe: Recipe | None = None
) -> np.ndarray:
    """The label map, as `refine` decides it; `laid` is P(tumour), or (rows, cols, K)."""
    grid = grid_of(np.ones(laid.shape[:2], bool) if tissue is None else tissue)
    p = laid[grid.rows, grid.cols]
    probs = (np.stack([1 - p, p], axis=1) if p.ndim == 1 else p).astype(np.float32)
    rules = rules_for(recipe or Recipe(), grid)
    smooth = smooth_probs(grid, probs, rules)
    assert smooth.sum(axis=1) == pytest.approx(1, abs=1e-5)
    return clean_labels(grid, smooth, rules, raw=probs)


class TestLesions:
    @pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (1, 5)])
    def test_a_sure_lesion_of_a_few_cells_stays(self, shape: tuple[int, int]) -> None:
        laid, lesion = slide(), (slice(30, 30 + shape[0]), slice(25, 25 + shape[1]))
        laid[lesion] = 0.99
        found = refined(laid)
        assert (found[lesion] == 1).all()
        assert found.sum() == 144 + shape[0] * shape[1]
        by_size = refined(laid, recipe=Recipe(min_area_um2=6 * 32**2))
        assert by_size.sum() == pytest.approx(144, abs=4)  # as it was when size alone counted
        assert not by_size[lesion].any()

    @pytest.mark.parametrize("side", [1, 2, 5])
    def test_a_wavering_one_goes_even_where_it_is_larger(self, side: int) -> None:
        laid = slide()
        laid[30 : 30 + side, 25 : 25 + side] = 0.55
        assert not refined(laid, recipe=Recipe(smooth_cells=0))[28:, 20:].any()
        kept = refined(laid, recipe=Recipe(smooth_cells=0, min_area_um2=6 * 32**2))
        assert kept[28:, 20:].any() == (side == 5)  # size alone would keep it

    def test_what_has_no_neighbours_is_judged_by_itself(self) -> None:
        tissue = np.zeros((9, 9), bool)
        tissue[:4] = tissue[6, 2] = tissue[6, 6] = True
        laid = np.full((9, 9), 0.05)
        laid[6, 2], laid[6, 6] = 0.8, 0.4
        found = refined(laid, tissue)
        assert found[6, 2] == 1
        assert found.sum() == 1

    def test_probabilities_of_zero_and_one_do_not_overrule_everything(self) -> None:
        laid = (slide() > 0.5).astype(float)
        laid[30, 30] = laid[34:36, 20:22] = 1
        found = refined(laid)
        assert found[34:36, 20:22].all()  # as a vote of four cells
        assert found[4:16, 4:16].all()

    def test_the_threshold_is_where_evidence_starts(self) -> None:
        laid = slide()
        laid[30:33, 20:23] = 0.8
        assert refined(laid, recipe=Recipe(threshold=0.5, smooth_cells=0))[30:33, 20:23].all()
        strict = refined(laid, recipe=Recipe(threshold=0.75, smooth_cells=0))
        assert not strict[30:33, 20:23].any()

    def test_published_and_none_weigh_nothing(self) -> None:
        grid = grid_of(np.ones((3, 3), bool))
        for name in ("published", "none"):
            assert not rules_for(Recipe(postprocess=name), grid).by_evidence
        assert not rules_for(Recipe(min_area_um2=0), grid).by_evidence


class TestHoles:
    def test_a_sure_island_of_stroma_stays_open_and_a_wavering_one_closes(self) -> None:
        laid = slide()
        laid[7:9, 7:9] = 0.03
        laid[12:14, 12:14] = 0.42
        found = refined(laid)
        assert not found[7:9, 7:9].any()
        assert found[12:14, 12:14].all()

    @pytest.mark.parametrize(("cells", "open_"), [(5, False), (6, True)])
    def test_glass_says_nothing_but_a_lumen_stays(self, cells: int, open_: bool) -> None:
        tissue = np.ones((40, 40), bool)
        tissue[9, 6 : 6 + cells] = False
        found = refined(slide(), tissue)
        assert (found[9, 6 : 6 + cells] == 0).all() == open_


class TestClasses:
    """Class 1 is the lesion, class 2 lies in it, background around."""

    def laid(self, inner: float) -> np.ndarray:
        two = np.zeros((40, 40))
        two[9:11, 9:11] = inner
        p1 = np.clip(slide() - two, 0.005, None)
        return np.stack([1 - p1 - two, p1, two], axis=2)

    def test_a_sure_nest_of_another_class_stays(self) -> None:
        found = refined(self.laid(0.9))
        assert (found[9:11, 9:11] == 2).all()
        assert (found == 1).sum() == 140

    def test_a_wavering_one_goes_to_the_class_around_it(self) -> None:
        laid = self.laid(0.0)
        laid[9:11, 9:11] = [0.05, 0.46, 0.49]
        found = refined(laid)
        assert (found[9:11, 9:11] == 1).all()

    def test_two_classes_side_by_side_both_stay(self) -> None:
        laid = np.zeros((20, 20, 3))
        laid[..., 0] = 0.94
        laid[..., 1:] = 0.03
        laid[5:9, 5:9] = [0.04, 0.92, 0.04]
        laid[5:9, 9:12] = [0.04, 0.04, 0.92]
        found = refined(laid)
        assert (found[5:9, 5:9] == 1).all()
        assert (found[5:9, 9:12] == 2).all()
        assert (found > 0).sum() == 28

    def test_a_lone_small_lesion_of_its_class_is_not_given_away(self) -> None:
        laid = self.laid(0.0)
        laid[30, 30] = [0.01, 0.01, 0.98]
        assert refined(laid)[30, 30] == 2


class TestEvidence:
    @given(seed=st.integers(0, 10_000), classes=st.integers(2, 4))
    def test_support_is_the_sum_that_the_module_states(self, seed: int, classes: int) -> None:
        rng = np.random.default_rng(seed)
        grid = grid_of(rng.random((6, 7)) < 0.8)
        probs = rng.dirichlet(np.full(classes, 0.4), len(grid))
        evidence = Evidence.of(grid, probs)
        parts = rng.integers(0, 4, len(grid))
        found = evidence.support(parts, 3, FOREGROUND, 0)
        where = {
            (int(r), int(c)): i for i, (r, c) in enumerate(zip(grid.rows, grid.cols, strict=True))
        }
        for part in (1, 2, 3):
            expected = 0.0
            for (r, c), i in where.items():
                if parts[i] != part:
                    continue
                p = 1 - probs[i, 0]
                q = np.clip([p, 1 - p], 1 - SUREST, SUREST)
                expected += np.log(q[0] / q[1])
                for step in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                    j = where.get((r + step[0], c + step[1]))
                    if j is not None and parts[j] != part:
                        expected += evidence.weight * (1 - 2 * probs[j, 0])
            assert found[part] == pytest.approx(expected, abs=1e-6)

    def test_neighbours_count_where_they_foretell_and_not_where_they_do_not(self) -> None:
        rng = np.random.default_rng(1)
        around = neighbours_of(grid_of(np.ones((50, 50), bool)))

        def weight(p: np.ndarray) -> float:
            return neighbour_weight(np.stack([1 - p, p], axis=1), around)

        noise, block = rng.random(2500), np.zeros((50, 50))
        block[:, :25] = 1
        assert weight(noise) < 0.05
        assert weight(slide(50).ravel()) > 0.5
        assert weight(block.ravel()) > weight(slide(50).ravel())
        assert weight(np.ones(2500)) < np.log(2501)

    def test_it_is_what_gibbs_sampling_put_in(self) -> None:
        """Drawn from the field itself, the weight comes back."""
        rng, n, weight = np.random.default_rng(2), 60, 0.6
        y = rng.integers(0, 2, (n, n)).astype(float)
        odd = np.add.outer(np.arange(n), np.arange(n)) % 2 == 1
        for _ in range(200):
            for mask in (odd, ~odd):
                s = np.pad(2 * y - 1, 1)
                m = s[:-2, 1:-1] + s[2:, 1:-1] + s[1:-1, :-2] + s[1:-1, 2:]
                draw = rng.random((n, n)) < 1 / (1 + np.exp(-weight * m))
                y = np.where(mask, draw, y)
        p = y.ravel()
        around = neighbours_of(grid_of(np.ones((n, n), bool)))
        found = neighbour_weight(np.stack([1 - p, p], axis=1), around)
        assert found == pytest.approx(weight, abs=0.08)

    @given(seed=st.integers(0, 10_000), classes=st.integers(2, 4), hard=st.booleans())
    def test_any_map_gets_an_answer(self, seed: int, classes: int, hard: bool) -> None:
        rng = np.random.default_rng(seed)
        tissue = rng.random((9, 8)) < rng.choice([0.1, 0.6, 1.0])
        tissue[0, 0] = True
        laid = rng.dirichlet(np.full(classes, 0.5), (9, 8))
        if hard:
            laid = np.eye(classes)[laid.argmax(axis=2)]
        found = refined(laid, tissue)
        assert found.min() >= 0
        assert found.max() < classes
        assert np.array_equal(found, refined(laid, tissue))

    def test_one_class_everywhere_stays_as_it_is(self) -> None:
        assert refined(np.ones((5, 5))).all()
        assert not refined(np.zeros((5, 5))).any()
        assert refined(np.full((5, 5), 0.7)).all()
        assert not refined(np.full((5, 5), 0.5)).any()
