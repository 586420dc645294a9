from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from shapely import Point, Polygon, affinity, box

from recontour.grid import coverage
from recontour.metrics.polygons import polygon_iou
from recontour.postprocess import Rules, clean_labels, smooth_probs
from recontour.tracing import trace_regions
from recontour.types import Geometry, PatchGrid, iter_polygons

STRIDE = 64


def grid_of(tissue: np.ndarray, origin: tuple[float, float] = (0.0, 0.0)) -> PatchGrid:
    rows, cols = np.nonzero(tissue)
    shape = (tissue.shape[0], tissue.shape[1])
    rows, cols = rows.astype(np.int32), cols.astype(np.int32)
    return PatchGrid(origin, shape, rows, cols, STRIDE, STRIDE, 64, 0.5, 0.5)


def random_field(
    seed: int, shape: tuple[int, int], classes: int, scale: float, tissue_share: float
) -> tuple[PatchGrid, np.ndarray]:
    """Patches of each class with soft borders, on patches of tissue."""
    rng = np.random.default_rng(seed)
    z = np.stack([gaussian_filter(rng.standard_normal(shape), scale) for _ in range(classes)])
    z = np.exp(3 * z / (z.std() + 1e-9))
    ground = gaussian_filter(rng.standard_normal(shape), 2 * scale)
    tissue = ground <= np.quantile(ground, tissue_share)
    origin = tuple(rng.uniform(-50, 50, 2).round(3).tolist())
    return grid_of(tissue, origin), (z / z.sum(axis=0))[:, tissue].T.astype(np.float32)


def trace(grid: PatchGrid, probs: np.ndarray, rules: Rules) -> tuple[np.ndarray, list[Geometry]]:
    smooth = smooth_probs(grid, probs, rules)
    labels = clean_labels(grid, smooth, rules)
    return labels, trace_regions(grid, smooth, labels, rules)


def label_at_centres(grid: PatchGrid, areas: Sequence[Geometry]) -> np.ndarray:
    """(rows, cols): which area each centre of the lattice lies in; -1 for several."""
    rows, cols = grid.shape
    x = grid.origin[0] + (np.arange(cols) + 0.5) * grid.stride
    y = grid.origin[1] + (np.arange(rows) + 0.5) * grid.stride
    found = np.zeros(grid.shape, int)
    for k, area in enumerate(areas, start=1):
        inside = shapely.contains_xy(area, *np.meshgrid(x, y))
        found[inside] = np.where(found[inside] == 0, k, -1)
    return found


def cells(grid: PatchGrid, mask: np.ndarray) -> Geometry:
    rows, cols = np.nonzero(mask)
    x, y = grid.origin[0] + cols * grid.stride, grid.origin[1] + rows * grid.stride
    return shapely.union_all(shapely.box(x, y, x + grid.stride, y + grid.stride))


def frame(grid: PatchGrid) -> Polygon:
    (x, y), (rows, cols) = grid.origin, grid.shape
    return box(x, y, x + cols * grid.stride, y + rows * grid.stride)


def assert_ready_for_qupath(areas: Sequence[Geometry]) -> None:
    """Valid with the coordinates as they are written: two decimals."""
    for area in areas:
        assert area.geom_type in ("Polygon", "MultiPolygon")
        written = shapely.transform(area, lambda xy: np.round(xy, 2))
        assert (
            np.abs(shapely.get_coordinates(written) - shapely.get_coordinates(area)).max(initial=0)
            < 1e-6
        )
        assert written.is_valid, shapely.is_valid_reason(written)
        assert all(p.area > 0 for p in iter_polygons(written))


def overlap(areas: Sequence[Geometry]) -> float:
    return max((a.intersection(b).area for a, b in combinations(areas, 2)), default=0.0)


@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 26), st.integers(1, 26)),
    classes=st.integers(2, 5),
    scale=st.sampled_from([0.4, 1.0, 2.5]),
    tissue_share=st.sampled_from([0.5, 0.9, 1.0]),
    threshold=st.sampled_from([0.3, 0.5, 0.6, 0.95]),
    simplify=st.sampled_from([0.0, 1 / 20]),
    min_cells=st.sampled_from([0, 6]),
)
@settings(max_examples=120, deadline=None)
def test_the_polygons_say_of_every_centre_what_the_label_map_says(
    seed: int,
    shape: tuple[int, int],
    classes: int,
    scale: float,
    tissue_share: float,
    threshold: float,
    simplify: float,
    min_cells: float,
) -> None:
    grid, probs = random_field(seed, shape, classes, scale, tissue_share)
    rules = Rules(threshold, 0.7, min_cells, simplify * STRIDE)
    labels, areas = trace(grid, probs, rules)
    assert len(areas) == classes - 1
    assert np.array_equal(label_at_centres(grid, areas), labels)
    assert_ready_for_qupath(areas)
    # No overlap beyond the rounding of the coordinates.
    length = sum(area.length for area in areas)
    assert overlap(areas) <= 0.02 * length
    assert all(a.difference(frame(grid)).area <= 0.02 * a.length for a in areas)


class TestBorders:
    def test_the_border_runs_where_the_probability_crosses_the_threshold(self) -> None:
        grid = grid_of(np.ones((10, 10), bool))
        p = np.tile(np.linspace(0, 0.9, 10), (10, 1))[grid.rows, grid.cols]
        rules = Rules(0.36, 0, 0, 0)  # between the fourth and the seventh centre: at column 3.6
        probs = np.stack([1 - p, p], axis=1)
        (area,) = trace_regions(grid, probs, clean_labels(grid, probs, rules), rules)
        assert area.bounds == pytest.approx((4.1 * STRIDE, 0, 10 * STRIDE, 10 * STRIDE), abs=0.02)

    def test_a_sure_disc_keeps_its_area_and_its_roundness(self) -> None:
        grid = grid_of(np.ones((60, 60), bool))
        disc = Point(30 * STRIDE, 30 * STRIDE).buffer(20 * STRIDE)
        x, y = grid.centres.T
        p = 1 / (1 + np.exp((np.hypot(x - 30 * STRIDE, y - 30 * STRIDE) - 20 * STRIDE) / STRIDE))
        probs = np.stack([1 - p, p], axis=1)
        _, (area,) = trace(grid, probs, Rules(simplify_px=STRIDE / 20))
        assert area.symmetric_difference(disc).area / disc.area < 0.01
        blocky = cells(grid, grid.scatter(p) > 0.5)
        assert area.symmetric_difference(disc).area < 0.3 * blocky.symmetric_difference(disc).area

    def test_off_tissue_counts_as_nothing(self) -> None:
        tissue = np.zeros((8, 8), bool)
        tissue[2:6, 2:6] = True
        grid = grid_of(tissue)
        probs = np.tile([0.0, 1.0], (16, 1))
        rules = Rules(sigma_cells=0, min_area_cells=0)
        _, (area,) = trace(grid, probs, rules)
        # Halfway between the outermost centres and the next; corners are rounded, so that less
        # is lost than if they were cut (an eighth of a cell each).
        assert area.bounds == (2 * STRIDE, 2 * STRIDE, 6 * STRIDE, 6 * STRIDE)
        assert (16 - 4 / 8) * STRIDE**2 < area.area < 16 * STRIDE**2

    @pytest.mark.parametrize("p", [0.55, 0.8, 1.0])
    def test_an_area_ends_at_the_edge_of_the_lattice_and_not_before(self, p: float) -> None:
        grid = grid_of(np.ones((6, 9), bool), (17.0, 5.0))
        probs = np.tile([1 - p, p], (54, 1))
        _, (area,) = trace(grid, probs, Rules(simplify_px=3))
        assert area.equals(box(17, 5, 17 + 9 * STRIDE, 5 + 6 * STRIDE))

    def test_an_area_ends_at_the_edge_of_the_slide(self) -> None:
        grid = grid_of(np.ones((3, 3), bool))
        probs = np.tile([0.0, 1.0], (9, 1))
        labels = np.ones((3, 3), np.int8)
        size = (3 * STRIDE - 20, 3 * STRIDE - 7)
        (area,) = trace_regions(grid, probs, labels, Rules(), slide_size=size)
        assert area.equals(box(0, 0, *size))

    def test_simplification_moves_the_border_within_its_tolerance(self) -> None:
        grid, probs = random_field(4, (50, 50), 2, 2.0, 0.9)
        _, (fine,) = trace(grid, probs, Rules())
        tolerance = STRIDE / 20
        _, (simple,) = trace(grid, probs, Rules(simplify_px=tolerance))
        assert shapely.get_num_coordinates(simple) < 0.8 * shapely.get_num_coordinates(fine)
        moved = shapely.hausdorff_distance(fine.boundary, simple.boundary, densify=0.05)
        assert moved <= tolerance + 0.02
        assert simple.area == pytest.approx(fine.area, rel=0.005)


class TestHoles:
    def ring(self) -> tuple[PatchGrid, np.ndarray]:
        laid = np.zeros((20, 20))
        laid[2:18, 2:18] = 0.9
        laid[6:12, 6:12] = 0.1  # stroma inside the tumour
        laid[14, 14] = 0.1  # a misread cell
        laid[0, 19] = 0.9  # a speck
        grid = grid_of(np.ones((20, 20), bool))
        p = laid[grid.rows, grid.cols]
        return grid, np.stack([1 - p, p], axis=1)

    def test_a_hole_stays_a_hole_a_filled_one_stays_filled_a_speck_stays_away(self) -> None:
        grid, probs = self.ring()
        labels, (area,) = trace(grid, probs, Rules(sigma_cells=0))
        assert labels[14, 14] == 1
        assert isinstance(area, Polygon)
        assert len(area.interiors) == 1
        hole = Polygon(area.interiors[0])
        assert hole.contains(Point(9 * STRIDE, 9 * STRIDE))
        assert hole.area / STRIDE**2 == pytest.approx(36, rel=0.03)
        assert not area.contains(Point(19.5 * STRIDE, 0.5 * STRIDE))

    def test_without_a_smallest_area_every_one_is_there(self) -> None:
        grid, probs = self.ring()
        _, (area,) = trace(grid, probs, Rules(sigma_cells=0, min_area_cells=0))
        assert sorted(len(p.interiors) for p in iter_polygons(area)) == [0, 2]

    def test_a_nest_in_a_hole_is_a_part_of_its_own(self) -> None:
        laid = np.ones((21, 21))
        laid[3:18, 3:18] = 0
        laid[7:14, 7:14] = 1
        grid = grid_of(np.ones((21, 21), bool))
        p = laid[grid.rows, grid.cols]
        _, (area,) = trace(grid, np.stack([1 - p, p], axis=1), Rules(sigma_cells=0))
        assert sorted(len(p.interiors) for p in iter_polygons(area)) == [0, 1]
        assert area.is_valid


class TestClasses:
    def test_two_classes_share_their_border(self) -> None:
        grid, probs = random_field(2, (40, 40), 3, 3.0, 0.9)
        for simplify_px in (0.0, STRIDE / 20):
            _, areas = trace(grid, probs, Rules(simplify_px=simplify_px))
            together = shapely.union_all(areas)
            # Overlap would make the sum larger than the whole, a gap would leave thin holes.
            assert sum(a.area for a in areas) == pytest.approx(together.area, rel=1e-9)
            slivers = [
                Polygon(ring)
                for p in iter_polygons(together)
                for ring in p.interiors
                if Polygon(ring).buffer(-STRIDE / 20).is_empty
            ]
            assert not slivers
            assert shapely.coverage_is_valid(areas)
            assert areas[0].intersection(areas[1]).length > 10 * STRIDE

    def test_two_classes_are_drawn_finer_than_their_cells(self) -> None:
        """From the share of each cell that a class covers, against the same cells as squares."""
        grid = grid_of(np.ones((40, 40), bool))
        disc = shapely.Point(20 * STRIDE, 20 * STRIDE).buffer(14 * STRIDE)
        half = affinity.rotate(
            shapely.box(-99 * STRIDE, -99 * STRIDE, 20 * STRIDE, 99 * STRIDE),
            25,
            origin=(20 * STRIDE, 20 * STRIDE),
        )
        truth = [disc.intersection(half), disc.difference(half)]
        shares = [coverage(grid, area) for area in truth]
        probs = np.stack([1 - sum(shares), *shares], axis=1)
        rules = Rules(sigma_cells=0, min_area_cells=0)
        labels = clean_labels(grid, probs, rules)
        for k, area in enumerate(trace_regions(grid, probs, labels, rules)):
            rows, cols = np.nonzero(labels == k + 1)
            squares = shapely.union_all(
                shapely.box(cols * STRIDE, rows * STRIDE, (cols + 1) * STRIDE, (rows + 1) * STRIDE)
            )
            assert polygon_iou(truth[k], area) > polygon_iou(truth[k], squares) + 0.02

    def test_dividing_the_foreground_does_not_change_it(self) -> None:
        grid, probs = random_field(5, (40, 40), 4, 2.5, 0.9)
        rules = Rules(sigma_cells=0, min_area_cells=0)
        labels = clean_labels(grid, probs, rules)
        areas = trace_regions(grid, probs, labels, rules)
        merged = np.stack([probs[:, 0], 1 - probs[:, 0]], axis=1)
        (whole,) = trace_regions(grid, merged, (labels > 0).astype(np.int8), rules)
        assert shapely.union_all(areas).symmetric_difference(whole).area < 1e-4 * whole.area

    def test_no_third_class_creeps_between_two(self) -> None:
        # Left class 1, right class 2; class 3 is second everywhere and would win in between.
        grid = grid_of(np.ones((6, 10), bool))
        probs = np.zeros((60, 4))
        left = grid.cols < 5
        probs[left] = [0, 0.55, 0.0, 0.45]
        probs[~left] = [0, 0.0, 0.55, 0.45]
        _, areas = trace(grid, probs, Rules(sigma_cells=0))
        assert areas[2].is_empty
        assert areas[0].equals(box(0, 0, 5 * STRIDE, 6 * STRIDE))
        assert areas[1].equals(box(5 * STRIDE, 0, 10 * STRIDE, 6 * STRIDE))

    @pytest.mark.parametrize("present", [1, 2, 3])
    def test_absent_classes_are_empty(self, present: int) -> None:
        grid = grid_of(np.ones((5, 5), bool))
        probs = np.zeros((25, 4))
        probs[:, present] = 1
        _, areas = trace(grid, probs, Rules(simplify_px=3))
        assert [not a.is_empty for a in areas] == [k == present for k in (1, 2, 3)]


class TestNothing:
    def test_no_foreground_is_an_empty_area(self) -> None:
        grid = grid_of(np.ones((5, 5), bool))
        _, areas = trace(grid, np.tile([1.0, 0.0, 0.0], (25, 1)), Rules(simplify_px=3))
        assert [a.is_empty for a in areas] == [True, True]

    def test_a_lattice_of_one_cell(self) -> None:
        grid = grid_of(np.ones((1, 1), bool))
        _, (area,) = trace(grid, np.array([[0.2, 0.8]]), Rules(min_area_cells=0))
        assert area.equals(box(0, 0, STRIDE, STRIDE))

    def test_a_label_map_of_another_grid_is_our_own_mistake(self) -> None:
        grid = grid_of(np.ones((5, 5), bool))
        with pytest.raises(ValueError, match="labels must be"):
            trace_regions(grid, np.zeros((25, 2)), np.zeros((4, 5), np.int8), Rules())


def test_the_input_is_left_alone() -> None:
    grid, probs = random_field(1, (12, 12), 3, 1.5, 0.8)
    labels = clean_labels(grid, probs, Rules())
    before = probs.copy(), labels.copy()
    trace_regions(grid, probs, labels, Rules(simplify_px=3))
    assert np.array_equal(probs, before[0])
    assert np.array_equal(labels, before[1])
