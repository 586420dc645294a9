from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import MultiPolygon, Point, Polygon, box
from shapely.affinity import translate

from recontour.geometry import polygonal, repair, simplify_shared, snap, union
from recontour.types import iter_polygons

coordinate = st.floats(-50, 50, allow_nan=False, width=32)
fine_coordinate = st.integers(-400, 400).map(lambda k: k / 200)  # half-way cases of rounding
ring = st.lists(
    st.tuples(coordinate | fine_coordinate, coordinate | fine_coordinate), min_size=3, max_size=14
)


def on_the_grid(geometry) -> bool:
    xy = shapely.get_coordinates(geometry)
    return bool((xy == np.round(xy, 2)).all())


def winding_area(ring: Polygon, cells: int = 400) -> float:
    """Area of the points that a ring goes round at least once, counted on a fine lattice."""
    x0, y0, x1, y1 = ring.bounds
    xs = x0 + (np.arange(cells) + 0.5) * (x1 - x0) / cells
    ys = y0 + (np.arange(cells) + 0.5) * (y1 - y0) / cells
    X, Y = np.meshgrid(xs, ys)
    winding = np.zeros(X.shape, int)
    points = shapely.get_coordinates(ring.exterior)
    for (ax, ay), (bx, by) in zip(points[:-1], points[1:], strict=True):
        left = (bx - ax) * (Y - ay) - (X - ax) * (by - ay) > 0
        winding += (ay <= Y) & (by > Y) & left
        winding -= (ay > Y) & (by <= Y) & ~left
    return float((winding != 0).mean() * (x1 - x0) * (y1 - y0))


def test_a_ring_that_loops_over_itself_keeps_all_it_goes_round():
    # A circle drawn one and a half times round: the second round must not become a hole.
    angle = np.linspace(0, 3 * np.pi, 200)
    radius = np.linspace(100, 120, 200)
    spiral = Polygon(np.c_[radius * np.cos(angle), radius * np.sin(angle)])
    fixed, what = repair(spiral)
    assert fixed.is_valid
    assert "crossed itself" in what
    assert fixed.area == pytest.approx(winding_area(spiral), rel=0.01)


def test_both_wings_of_a_bow_tie_stay():
    fixed, what = repair(Polygon([(0, 0), (10, 10), (10, 0), (0, 10)]))
    assert fixed.area == pytest.approx(50)
    assert "(5, 5)" in what


def test_a_valid_polygon_is_not_touched():
    ring = Point(0, 0).buffer(10).difference(Point(0, 0).buffer(5))
    fixed, what = repair(ring)
    assert what is None
    assert fixed.equals_exact(ring)


def test_a_hole_outside_its_shell_and_points_that_are_not_numbers_are_repaired():
    fixed, what = repair(
        Polygon([(0, 0), (10, 0), (10, 10), (0, 10)], [[(5, 5), (15, 5), (15, 8)]])
    )
    assert fixed.is_valid
    assert what
    with np.errstate(invalid="ignore"):
        square = Polygon([(0, 0), (10, 0), (np.nan, 5), (10, 10), (0, 10)])
    fixed, what = repair(square)
    assert fixed.area == 100
    assert "not numbers" in what


@pytest.mark.parametrize(
    "geometry", [Point(0, 0), shapely.LineString([(0, 0), (1, 1)]), Polygon(), MultiPolygon()]
)
def test_what_has_no_area_becomes_an_empty_polygon(geometry):
    fixed, what = repair(geometry)
    assert fixed.is_empty
    assert what


def test_a_collection_keeps_its_polygons_only():
    square = box(0, 0, 1, 1)
    mixed = shapely.GeometryCollection(
        [Point(5, 5), square, shapely.GeometryCollection([translate(square, 9), Point(0, 0)])]
    )
    assert polygonal(mixed).equals(MultiPolygon([square, translate(square, 9)]))
    assert polygonal(MultiPolygon([square])).equals_exact(square)
    assert polygonal(Point(0, 0)).is_empty


@given(ring)
@settings(max_examples=150, deadline=None)
def test_any_ring_is_valid_after_repair_and_covers_what_it_went_round(points):
    polygon = Polygon(points)
    fixed, _ = repair(polygon)
    assert fixed.is_valid
    assert isinstance(fixed, Polygon | MultiPolygon)
    if not fixed.is_empty and polygon.length < 1000 and fixed.area > 1:
        lattice = winding_area(polygon)
        pixel = 2 * polygon.length * max(np.ptp(np.array(points), axis=0)) / 400
        assert abs(fixed.area - lattice) <= pixel


@given(ring)
@settings(max_examples=150, deadline=None)
def test_any_ring_is_valid_after_rounding_to_two_decimals(points):
    fixed, _ = repair(Polygon(points))
    result = snap(fixed)
    assert result.is_valid
    assert on_the_grid(result)
    assert all(part.area > 0 for part in iter_polygons(result))
    assert not (isinstance(result, MultiPolygon) and len(result.geoms) == 1)
    assert snap(result).equals_exact(result)  # nothing more to do
    # No border moves by more than the snapping: area changes by a strip along it at most.
    assert abs(result.area - fixed.area) <= 0.03 * (fixed.length + 1)


@given(st.lists(ring, min_size=1, max_size=3))
@settings(max_examples=80, deadline=None)
def test_polygons_with_holes_are_valid_after_rounding(rings):
    shapes = [repair(Polygon(points))[0] for points in rings]
    holed = polygonal(shapes[0].difference(union(shapes[1:])))
    result = snap(holed)
    assert result.is_valid
    assert on_the_grid(result)


def test_a_part_thinner_than_the_grid_goes_and_the_rest_stays():
    pair = MultiPolygon([box(0, 0, 10, 10), box(20, 0, 30, 0.001)])
    assert snap(pair).equals_exact(box(0, 0, 10, 10), 0, normalize=True)
    assert snap(box(0, 0, 10, 0.001)).is_empty


def test_a_neck_thinner_than_the_grid_does_not_make_the_polygon_cross_itself():
    neck = Polygon(
        [(0, 0), (5, 4.9996), (10, 0), (10, 10), (5, 5.0003), (0, 10)],
    )
    result = snap(neck)
    assert result.is_valid
    assert result.area == pytest.approx(50, abs=0.1)


def test_what_is_on_the_grid_already_is_returned_point_for_point():
    ring = snap(Point(1234.567, 8.9).buffer(50))
    assert np.array_equal(shapely.get_coordinates(snap(ring)), shapely.get_coordinates(ring))


def test_union_of_nothing_is_empty_and_of_overlaps_is_their_cover():
    assert union([]).is_empty
    assert union([Polygon(), box(0, 0, 2, 1), box(1, 0, 3, 1)]).equals(box(0, 0, 3, 1))


def wiggly_map(seed: int, size: int = 24) -> list:
    """A rough map of three classes with ragged shared borders, islands and holes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, (size // 4, size // 4))
    classes = np.kron(coarse, np.ones((4, 4), int))
    noise = rng.random(classes.shape) < 0.15
    classes[noise] = rng.integers(0, 4, noise.sum())
    squares = [(k, box(x, y, x + 1, y + 1)) for (y, x), k in np.ndenumerate(classes)]
    return [union([square for j, square in squares if j == k]) for k in (1, 2, 3)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tolerance", [0.4, 0.8])
def test_simplified_neighbours_neither_overlap_nor_part(seed, tolerance):
    before = wiggly_map(seed)
    after = simplify_shared(before, tolerance)
    for old, new in zip(before, after, strict=True):
        assert new.is_valid
        assert shapely.hausdorff_distance(old.boundary, new.boundary, densify=0.2) <= (
            tolerance + 1e-6
        )
    for i in range(3):
        for j in range(i):
            assert after[i].intersection(after[j]).area == pytest.approx(0, abs=1e-9)
    assert shapely.coverage_is_valid(np.array(after, dtype=object))


def test_simplifying_a_dense_circle_leaves_few_points_within_the_tolerance():
    circle = Point(0, 0).buffer(1000, quad_segs=500)
    (result,) = simplify_shared([circle], 2.0)
    assert len(result.exterior.coords) < 70
    assert shapely.hausdorff_distance(circle.boundary, result.boundary, densify=0.01) <= 2.01


def test_two_halves_of_a_disc_share_one_simplified_border():
    disc = Point(0, 0).buffer(500, quad_segs=200)
    t = np.linspace(-600, 600, 400)
    wavy = Polygon([(-900, -600), *zip(9 * np.sin(t / 40), t, strict=True), (-900, 600)])
    left, right = disc.intersection(wavy), disc.difference(wavy)
    new_left, new_right = simplify_shared([left, right], 3.0)
    assert new_left.intersection(new_right).area == pytest.approx(0, abs=1e-9)
    assert new_left.union(new_right).interiors[:] == []
    assert len(new_left.exterior.coords) < len(left.exterior.coords) / 4


def test_an_island_that_touches_its_lake_at_a_corner_stays_an_island():
    lake = Polygon(box(0, 0, 40, 40).exterior, [box(10, 10, 30, 30).exterior])
    stairs = Polygon([(10, 10), (14, 10.5), (18, 10.2), (20, 20), (11, 18)])
    assert stairs.touches(lake)
    land = shapely.union_all([lake, stairs])
    (result,) = simplify_shared([land], 0.6)
    assert len(shapely.get_coordinates(result)) < len(shapely.get_coordinates(land))
    assert result.area == pytest.approx(land.area, abs=8)
    both = simplify_shared([lake, stairs], 0.6)
    assert both[0].equals(lake)
    assert both[1].touches(both[0])


def test_nothing_to_simplify_is_nothing_done():
    assert simplify_shared([], 1) == []
    assert simplify_shared([Polygon()], 1)[0].is_empty
    square = box(0, 0, 1, 1)
    assert simplify_shared([square], 0)[0].equals_exact(square)
    empty, kept = simplify_shared([Polygon(), square], 0.1)
    assert empty.is_empty
    assert kept.equals(square)
