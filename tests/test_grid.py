from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from shapely import LineString, MultiPolygon, Point, Polygon, box

from recontour.annotations import read_annotation
from recontour.errors import AnnotationError, GridError, UnknownNameError
from recontour.grid import (
    GridChoice,
    choose_cells,
    coverage,
    label_patches,
    make_grid,
)
from recontour.types import Geometry, PatchGrid, Region


def lattice(
    rows: int, cols: int, stride: int = 10, origin: tuple[float, float] = (0.0, 0.0)
) -> PatchGrid:
    """Every cell of a small lattice."""
    r, c = np.indices((rows, cols), dtype=np.int32).reshape(2, -1)
    return PatchGrid(origin, (rows, cols), r, c, stride, stride, 64, 0.5, 0.5)


def boxes(grid: PatchGrid) -> np.ndarray:
    x = grid.origin[0] + grid.cols * grid.stride
    y = grid.origin[1] + grid.rows * grid.stride
    return shapely.box(x, y, x + grid.stride, y + grid.stride)


@st.composite
def areas(draw: st.DrawFn) -> Geometry:
    """Unions of boxes on half cells (borders run through centres), and stars, with holes."""
    half = st.integers(-4, 24).map(lambda i: i * 5)
    parts: list[shapely.Geometry] = []
    for _ in range(draw(st.integers(1, 4))):
        x, y = draw(half), draw(half)
        if draw(st.booleans()):
            w, h = draw(st.integers(1, 14)) * 5, draw(st.integers(1, 14)) * 5
            parts.append(box(x, y, x + w, y + h))
        else:
            rng = np.random.default_rng(draw(st.integers(0, 999)))
            radius = rng.uniform(3, 45, draw(st.integers(3, 40)))
            angle = np.linspace(0, 2 * np.pi, len(radius), endpoint=False)
            ring = np.c_[x + radius * np.cos(angle), y + radius * np.sin(angle)]
            parts.append(shapely.make_valid(Polygon(ring)))
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.difference(part) if draw(st.booleans()) else whole.union(part)
    found = [p for p in shapely.get_parts(whole) if p.geom_type == "Polygon" and p.area > 0]
    return MultiPolygon(found)


class TestChoice:
    def test_a_usual_slide_gets_32_um_cells_at_the_encoders_resolution(self) -> None:
        choice = choose_cells(0.25, (40000, 30000), box(0, 0, 20000, 20000), encoder_mpp=0.5)
        assert (choice.cell_px, choice.size_px, choice.mpp_embed) == (128, 128, 0.5)
        assert choice.n_cells == 156 * 156  # the next centre would be at 20,032
        assert "32 µm" in choice.reasons[0]

    def test_a_coarse_slide_gets_cells_it_can_fill_and_is_magnified_two_and_a_half_times(
        self,
    ) -> None:
        size = (2911, 2361)  # a breast section at 4 µm/px
        choice = choose_cells(4.0, size, box(0, 0, *size), encoder_mpp=0.5)
        assert 32 <= choice.cell_px <= 64
        assert choice.mpp_embed == 4.0 / 2.5
        assert any("coarse" in r for r in choice.reasons)
        assert any("2.5 times" in r for r in choice.reasons)

    def test_a_small_region_gets_smaller_cells(self) -> None:
        tile = (1201, 1201)  # a prostate tile at 0.5 µm/px
        choice = choose_cells(0.5, tile, box(0, 0, *tile), encoder_mpp=0.5)
        assert choice.cell_px == 32
        assert choice.n_cells >= 1000
        assert any("halved" in r and "361" in r for r in choice.reasons)

    @pytest.mark.parametrize(("mpp", "smallest"), [(0.25, 32), (0.5, 16), (1.0, 16), (4.0, 16)])
    def test_cells_stay_above_8_um_and_16_px(self, mpp: float, smallest: int) -> None:
        choice = choose_cells(mpp, (200, 200), box(0, 0, 200, 200), encoder_mpp=0.5)
        assert choice.cell_px == smallest
        assert any("only" in r for r in choice.reasons)

    def test_a_huge_slide_gets_larger_cells(self) -> None:
        size = (120_000, 80_000)
        choice = choose_cells(0.25, size, box(0, 0, *size), encoder_mpp=0.5)
        assert choice.cell_px == 256
        assert choice.n_cells <= 200_000
        assert any("doubled" in r for r in choice.reasons)

    def test_what_the_user_fixes_wins(self) -> None:
        tile = (600, 600)
        choice = choose_cells(
            0.5, tile, box(0, 0, *tile), encoder_mpp=0.5, cell_um=50, mpp_embed=0.1, patch_um=100
        )
        assert (choice.cell_px, choice.size_px, choice.mpp_embed) == (100, 200, 0.1)
        assert choice.n_cells == 36
        assert "as asked for" in choice.reasons[0]
        assert any("magnified 5 times" in r for r in choice.reasons)
        assert any("only 36" in r for r in choice.reasons)

    def test_an_encoder_of_a_fixed_field_sees_around_small_cells(self) -> None:
        def sizes(**fixed: Any) -> tuple[int, int]:
            found = choose_cells(
                0.25,
                (20000, 20000),
                box(0, 0, 20000, 20000),
                encoder_mpp=0.28,
                encoder_um=62.72,
                **fixed,
            )
            return found.cell_px, found.size_px

        assert sizes() == (128, 251)
        assert sizes(cell_um=60) == (240, 240)  # near enough
        assert sizes(cell_um=80) == (320, 320)
        assert sizes(patch_px=128) == (128, 128)

    def test_sides_can_be_given_in_px(self) -> None:
        tile = (900, 700)
        choice = choose_cells(
            0.5, tile, box(0, 0, *tile), encoder_mpp=0.5, cell_px=128, patch_px=256
        )
        assert (choice.cell_px, choice.size_px) == (128, 256)
        assert choice.n_cells == 7 * 5  # the centres of the last ones are still on the slide
        assert "64 µm (128 px): as asked for" in choice.reasons[0]

    @pytest.mark.parametrize(
        ("fixed", "words"),
        [
            ({"cell_um": 64.0, "cell_px": 128}, "--cell-um 64 and --cell-px 128: pass one"),
            ({"patch_um": 64.0, "patch_px": 128}, "--patch-um 64 and --patch-px 128: pass one"),
            ({"cell_px": 0}, "--cell-px 0 is not a length"),
            ({"cell_px": 128, "patch_px": 64}, "--patch-px 64 is less than the cell"),
            ({"cell_px": 10_000}, "5000 µm is 1e+04 px of this slide"),
            ({"mpp_embed": -1.0}, "--mpp-embed -1 is not a length"),
        ],
    )
    def test_sides_that_make_no_sense_are_refused(self, fixed: dict, words: str) -> None:
        with pytest.raises(GridError, match=re.escape(words)):
            choose_cells(0.5, (900, 700), box(0, 0, 900, 700), encoder_mpp=0.5, **fixed)

    @pytest.mark.parametrize("cell_um", [0.0, -3.0, float("nan"), 0.1, 1e9])
    def test_a_nonsense_cell_is_refused(self, cell_um: float) -> None:
        with pytest.raises(GridError, match="--cell-um"):
            choose_cells(0.5, (500, 500), box(0, 0, 9, 9), encoder_mpp=0.5, cell_um=cell_um)

    def test_a_resolution_that_makes_cells_huge_is_refused(self) -> None:
        tile = (600, 600)
        for cell_um, mpp_embed in ((None, 0.001), (2500, None)):
            with pytest.raises(GridError, match="larger --mpp-embed or a smaller --cell-um"):
                choose_cells(
                    5.0, tile, box(0, 0, *tile), encoder_mpp=0.5,
                    cell_um=cell_um, mpp_embed=mpp_embed or 0.5,
                )  # fmt: skip

    def test_a_lattice_beyond_all_bounds_is_refused(self) -> None:
        with pytest.raises(GridError, match="larger --cell-um"):
            choose_cells(0.25, (90000, 90000), box(0, 0, 9, 9), encoder_mpp=0.5, cell_um=1)


class TestLattice:
    def test_cells_take_part_when_their_centre_is_on_tissue(self) -> None:
        tissue = Point(300, 200).buffer(150).difference(Point(310, 210).buffer(60))
        choice = GridChoice(16, 16, 0.5, 0, ())
        grid = make_grid((601, 399), 0.25, tissue, choice, patch_px=64)
        assert grid.shape == (25, 38)
        expected = [
            (r, c)
            for r in range(25)
            for c in range(38)
            if tissue.intersects(Point(c * 16 + 8, r * 16 + 8))
        ]
        assert list(zip(grid.rows.tolist(), grid.cols.tolist(), strict=True)) == expected
        assert grid.rows.dtype == grid.cols.dtype == np.int32

    def test_tissue_over_the_whole_slide_takes_cells_up_to_the_edge_and_none_past_it(self) -> None:
        choice = GridChoice(100, 100, 0.5, 0, ())
        grid = make_grid((350, 349), 0.5, box(-50, -50, 500, 500), choice, patch_px=64)
        assert grid.shape == (4, 4)
        # 350 px: the last centre lies on the edge; 349 px: a pixel past it.
        assert len(grid) == 3 * 4
        assert grid.centres.max(axis=0).tolist() == [350, 250]

    def test_the_count_that_was_announced_is_the_count_there_is(self) -> None:
        tissue = Point(2000, 2000).buffer(1500)
        choice = choose_cells(0.5, (4000, 4000), tissue, encoder_mpp=0.5, origin=(7, 3))
        grid = make_grid((4000, 4000), 0.5, tissue, choice, patch_px=64, origin=(7, 3))
        assert len(grid) == choice.n_cells
        assert grid.origin == (7.0, 3.0)

    @pytest.mark.parametrize("tissue", [Polygon(), box(1, 1, 2, 2), box(900, 900, 950, 950)])
    def test_no_cell_on_tissue_is_an_error_that_says_what_to_do(self, tissue: Geometry) -> None:
        with pytest.raises(GridError, match="smaller --cell-um"):
            make_grid((800, 800), 0.5, tissue, GridChoice(64, 64, 0.5, 0, ()), patch_px=64)


class TestCentreRule:
    @given(area=areas())
    @settings(max_examples=60, deadline=None)
    def test_every_cell_agrees_with_shapely(self, area: Geometry) -> None:
        grid = lattice(12, 11)
        expected = [area.intersects(Point(x, y)) for x, y in grid.centres]
        assert label_patches(grid, [[area]]).tolist() == expected

    def test_fifty_thousand_vertices_agree_with_shapely(self) -> None:
        angle = np.linspace(0, 2 * np.pi, 50_000, endpoint=False)
        radius = 700 * (1 + 0.2 * np.sin(40 * angle))
        area = Polygon(np.c_[800 + radius * np.cos(angle), 800 + radius * np.sin(angle)])
        grid = lattice(160, 160)
        shapely.prepare(area)
        expected = shapely.intersects(area, shapely.points(grid.centres))
        assert np.array_equal(label_patches(grid, [[area]]) == 1, expected)

    def test_holes_subtract(self) -> None:
        ring = box(0, 0, 100, 100).difference(box(30, 30, 70, 70))
        labels = lattice(10, 10).scatter(label_patches(lattice(10, 10), [[ring]]))
        assert labels[5, 5] == 0
        assert labels[1, 1] == 1
        assert labels.sum() == 100 - 16

    def test_of_overlapping_regions_the_smaller_wins(self) -> None:
        grid = lattice(10, 10)
        whole, nest, core = box(0, 0, 100, 100), box(20, 20, 80, 80), box(40, 40, 60, 60)
        for regions in ([[whole, core], [nest]], [[core, whole], [nest]]):
            labels = grid.scatter(label_patches(grid, regions))
            assert labels[0, 0] == 1
            assert labels[3, 3] == 2
            assert labels[4, 4] == 1

    def test_a_border_through_the_centres_leaves_no_cell_between_two_regions(self) -> None:
        grid = lattice(4, 4)
        labels = label_patches(grid, [[box(0, 0, 15, 40)], [box(15, 0, 40, 40)]])
        assert set(labels.tolist()) == {1, 2}

    def test_exclusions_are_background(self) -> None:
        grid = lattice(4, 4)
        labels = label_patches(grid, [[box(0, 0, 40, 40)]], exclusions=[box(0, 0, 20, 40)])
        assert grid.scatter(labels).tolist() == [[0, 0, 1, 1]] * 4

    def test_regions_and_nothing_and_an_outline_off_the_slide(self) -> None:
        grid = lattice(3, 3)
        region = Region("a", box(0, 0, 12, 12), "Tumor")
        assert label_patches(grid, [[region]]).tolist() == [1] + [0] * 8
        assert not label_patches(grid, [[]]).any()
        assert not label_patches(grid, [[Polygon()], [box(500, 500, 600, 600)]]).any()
        assert label_patches(grid, [[region]]).dtype == np.int8

    def test_lines_and_unknown_rules_are_refused(self) -> None:
        with pytest.raises(AnnotationError, match="LineString"):
            label_patches(lattice(2, 2), [[LineString([(0, 0), (9, 9)])]])  # type: ignore[list-item]
        with pytest.raises(UnknownNameError, match="centre, published"):
            label_patches(lattice(2, 2), [[]], "touch")


class TestPublishedRule:
    def test_a_square_loses_its_outline(self) -> None:
        grid = lattice(10, 10)
        labels = grid.scatter(label_patches(grid, [[box(20, 20, 80, 80)]], "published"))
        assert np.argwhere(labels == 1).min() == 3
        assert np.argwhere(labels == 1).max() == 7
        assert labels.sum() == 25

    @given(area=areas(), left_out=areas())
    @settings(max_examples=30, deadline=None)
    def test_it_is_what_pillow_draws(self, area: Geometry, left_out: Geometry) -> None:
        grid = lattice(12, 11)
        image = Image.new("1", (11, 12), 0)
        draw = ImageDraw.Draw(image)
        shells = [p.exterior for p in area.geoms]
        holes = [r for p in area.geoms for r in p.interiors]
        for ring in shells:
            draw.polygon([(x / 10, y / 10) for x, y in ring.coords[:-1]], fill=1, outline=0)
        for ring in [*holes, *(p.exterior for p in left_out.geoms)]:
            draw.polygon([(x / 10, y / 10) for x, y in ring.coords[:-1]], fill=0, outline=0)
        found = label_patches(grid, [[area]], "published", exclusions=[left_out])
        assert np.array_equal(found.reshape(12, 11), np.array(image, np.int8))

    def test_of_two_classes_the_smaller_wins(self) -> None:
        grid = lattice(12, 12)
        labels = grid.scatter(
            label_patches(grid, [[box(40, 40, 80, 80)], [box(0, 0, 120, 120)]], "published")
        )
        assert labels[6, 6] == 1
        assert labels[2, 2] == 2


class TestCoverage:
    @given(area=areas(), shift=st.tuples(st.floats(-30, 30), st.floats(-30, 30)))
    @settings(max_examples=60, deadline=None)
    def test_it_is_the_area_shapely_cuts(self, area: Geometry, shift: tuple[float, float]) -> None:
        grid = lattice(9, 11, origin=shift)
        expected = shapely.area(shapely.intersection(area, boxes(grid))) / 100
        found = coverage(grid, area)
        assert found.dtype == np.float32
        assert found == pytest.approx(expected, abs=1e-6)
        assert found.min() >= 0
        assert found.max() <= 1

    def test_areas_add_up_over_a_wide_lattice(self) -> None:
        angle = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
        radius = 9000 * (1 + 0.1 * np.sin(90 * angle))
        area = Polygon(np.c_[9999 + radius * np.cos(angle), 9999 + radius * np.sin(angle)])
        grid = lattice(500, 500, stride=40)
        assert coverage(grid, area).sum(dtype=float) * 1600 == pytest.approx(area.area, rel=1e-6)

    def test_only_the_cells_that_take_part_are_told(self) -> None:
        grid = make_grid(
            (100, 100), 0.5, box(0, 0, 30, 10), GridChoice(10, 10, 0.5, 0, ()), patch_px=64
        )
        assert coverage(grid, box(5, 0, 20, 100)).tolist() == [0.5, 1.0, 0.0]

    def test_nothing_covers_nothing_and_lines_are_refused(self) -> None:
        assert not coverage(lattice(3, 3), Polygon()).any()
        with pytest.raises(AnnotationError, match="LineString"):
            coverage(lattice(2, 2), LineString([(0, 0), (9, 9)]))  # type: ignore[arg-type]


@pytest.mark.real_data
def test_real_lesions_are_counted_exactly_and_published_labels_lose_their_rim(
    shared_data: Path,
) -> None:
    kept = []
    for path in sorted((shared_data / "camelyon16").glob("tumor_0*.fine.geojson.gz"))[:3]:
        areas = [r.geometry for r in read_annotation(path).regions]
        whole = shapely.union_all(areas)
        x0, y0, x1, y1 = np.floor(np.array(whole.bounds) / 256).astype(int).tolist()
        grid = lattice(y1 - y0 + 1, x1 - x0 + 1, 256, (x0 * 256.0, y0 * 256.0))
        assert coverage(grid, whole).sum(dtype=float) * 256**2 == pytest.approx(whole.area)

        centre = label_patches(grid, [areas])
        shapely.prepare(whole)
        assert np.array_equal(centre == 1, shapely.intersects(whole, shapely.points(grid.centres)))
        published = label_patches(grid, [areas], "published")
        kept.append(published.sum() / centre.sum())
    assert len(kept) == 3
    assert min(kept) > 0.3
    assert max(kept) < 1.0
