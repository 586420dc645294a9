"""The second, finer look at the border."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from recontour import Recipe, Runtime, open_slide, refine_slide
from recontour.band import (
    WIDTH_CELLS,
    Surface,
    find_band,
    interpolate,
    label_finely,
    move_only,
    sharpen,
)
from recontour.embedding import embed_patches
from recontour.encoders import load_encoder
from recontour.errors import UsageError
from recontour.geometry import union
from recontour.metrics.polygons import polygon_iou
from recontour.postprocess import clean_labels, rules_for, smooth_probs
from recontour.preparation import Work, prepare
from recontour.refiners import make_refiner
from recontour.tracing import trace_regions
from recontour.types import Annotation, PatchGrid, Region

QUICK = Recipe(encoder="colour", method="logistic")


def grid_of(tissue: NDArray[np.bool_], stride: int = 64) -> PatchGrid:
    rows, cols = (index.astype(np.int32) for index in np.nonzero(tissue))
    shape = (tissue.shape[0], tissue.shape[1])
    return PatchGrid((10.0, 20.0), shape, rows, cols, stride, stride, 64, 0.5, 0.5)


def finer(grid: PatchGrid, stride: int) -> PatchGrid:
    """Every cell of the lattice, at another stride."""
    shape = tuple(int(np.ceil(n * grid.stride / stride)) for n in grid.shape)
    rows, cols = np.indices(shape, dtype=np.int32).reshape(2, -1)
    return replace(grid, shape=shape, rows=rows, cols=cols, stride=stride)


@pytest.fixture(scope="module")
def work(scene, tmp_path_factory) -> Work:
    return prepare(open_slide(scene.slide), scene.coarse, QUICK, Runtime(use_cache=False))


class TestRefine:
    def test_it_redraws_the_border_and_leaves_the_rest(self, scene, tmp_path) -> None:
        runtime = Runtime(cache_dir=tmp_path)
        plain = refine_slide(scene.slide, scene.coarse, QUICK, runtime=runtime)
        found = refine_slide(scene.slide, scene.coarse, replace(QUICK, band=2), runtime=runtime)
        old, new = (union(r.geometry for r in f.annotation.regions) for f in (plain, found))
        assert shapely.is_valid(new)
        assert old.symmetric_difference(new).area > 0
        cell = plain.patches.grid.stride
        # By two coarse cells from the old border nothing has changed.
        assert old.symmetric_difference(new).difference(
            shapely.boundary(old).buffer(2.5 * cell)
        ).area == pytest.approx(0, abs=1)
        truth = union(r.geometry for r in scene.made.truth.regions)
        assert polygon_iou(truth, new) > polygon_iou(truth, old) - 0.02
        assert np.array_equal(plain.probs, found.probs)
        assert found.timings["band"] > 0

    def test_its_features_are_cached(self, scene, tmp_path) -> None:
        seen: list[tuple[int, int]] = []

        def watch(stage: str, done: int, total: int) -> None:
            if stage == "embed":
                seen.append((done, total))

        recipe = replace(QUICK, band=2)
        first = refine_slide(scene.slide, scene.coarse, recipe, runtime=Runtime(cache_dir=tmp_path))
        again = refine_slide(
            scene.slide, scene.coarse, recipe, runtime=Runtime(cache_dir=tmp_path, progress=watch)
        )
        totals = {total for _, total in seen}
        assert len(totals) == 2  # the slide, then the band
        for total in totals:  # from nothing to all in one step: nothing was computed
            assert [done for done, of in seen if of == total] == [0, total]
        assert [r.geometry.wkb for r in first.annotation.regions] == [
            r.geometry.wkb for r in again.annotation.regions
        ]

    @pytest.mark.parametrize("band", [0, 3, -2])
    def test_other_factors_are_refused_before_anything_is_read(self, scene, band: int) -> None:
        with pytest.raises(UsageError, match=f"--band {band} must be"):
            refine_slide(scene.slide, scene.coarse, replace(QUICK, band=band))

    def test_the_command_line_knows_it(self, scene, cli, tmp_path) -> None:
        out = tmp_path / "out"
        answer = cli(
            "refine", scene.slide, scene.coarse, "-o", out, "--encoder", "colour",
            "--method", "logistic", "--band", 2, "-q",
        )  # fmt: skip
        assert answer.code == 0, answer.err
        assert (out / "refined.geojson").exists()
        assert cli("refine", scene.slide, scene.coarse, "-o", out, "--band", 3).code == 2

    def test_excluded_areas_stay_out_and_classes_do_not_overlap(self, scene, tmp_path) -> None:
        """Two classes, one area left out, a patch-wise encoder."""
        truth = union(r.geometry for r in scene.made.truth.regions)
        x0, y0, x1, y1 = truth.bounds
        left, right = (
            shapely.box(x0, y0, (x0 + x1) / 2, y1),
            shapely.box((x0 + x1) / 2, y0, x1, y1),
        )
        hole = shapely.box(*truth.representative_point().buffer(150).bounds)
        regions = tuple(
            Region(name, geometry, name)
            for name, geometry in (
                ("A", truth.intersection(left)),
                ("B", truth.intersection(right)),
                ("Ignore", hole),
            )
        )
        recipe = replace(QUICK, classes=("A", "B"), band=2)
        found = refine_slide(
            scene.slide, Annotation("s", regions), recipe, runtime=Runtime(cache_dir=tmp_path)
        )
        a, b = (
            union(r.geometry for r in found.annotation.regions if r.label == name) for name in "AB"
        )
        assert a.area > 0
        assert b.area > 0
        assert a.intersection(b).area < 1
        assert union([a, b]).intersection(hole).area < 4  # of 90,000: rounding


class TestSharpen:
    def surface(self, work: Work) -> tuple[Surface, tuple]:
        features = embed_patches(work.slide, work.lattice, work.encoder)
        patches = work.patch_set(features)
        refiner = make_refiner("logistic", seed=0).fit([patches])
        probs = refiner.predict_proba(patches)
        rules = rules_for(QUICK, work.grid)
        smooth = smooth_probs(work.grid, probs, rules)
        labels = clean_labels(work.grid, smooth, rules, raw=probs)
        return Surface(work.grid, smooth, labels, rules), (patches, probs, refiner)

    def test_only_a_band_of_half_the_stride_is_embedded(self, work, monkeypatch) -> None:
        first, rest = self.surface(work)
        asked: list[PatchGrid] = []

        def spy(slide, grid, encoder, **options):
            asked.append(grid)
            return embed_patches(slide, grid, encoder, **options)

        monkeypatch.setattr("recontour.preparation.embed_patches", spy)
        found = sharpen(first, work, *rest, 2, Runtime(use_cache=False))
        (band,) = asked
        assert band.stride == round(work.grid.stride / 2)
        assert band.size == work.grid.size  # the same field of view: the classifier applies
        assert len(band) < len(found.grid)
        (area,) = trace_regions(*first)
        far = shapely.distance(shapely.points(band.centres), shapely.boundary(area))
        inner = work.slide.size
        on_slide = (band.centres > 0).all(axis=1) & (band.centres < inner).all(axis=1)
        assert far[on_slide].max() < (WIDTH_CELLS + 1.5) * work.grid.stride
        assert found.rules.sigma_cells * found.grid.stride == pytest.approx(
            first.rules.sigma_cells * first.grid.stride
        )
        assert found.probs.sum(axis=1) == pytest.approx(1, abs=1e-5)

    def test_off_or_nothing_found_changes_nothing(self, work) -> None:
        first, rest = self.surface(work)
        assert sharpen(first, work, *rest, 1, Runtime(use_cache=False)) is first
        nothing = first._replace(labels=np.zeros_like(first.labels))
        assert sharpen(nothing, work, *rest, 2, Runtime(use_cache=False)) is nothing

    def test_an_outline_kept_as_it_is_comes_out_finer(self, work) -> None:
        """`identity` answers with the coarse labels: the band cannot do harm to them."""
        first, (patches, _, _) = self.surface(work)
        refiner = make_refiner("identity").fit([patches])
        probs = refiner.predict_proba(patches)
        smooth = smooth_probs(work.grid, probs, first.rules)
        labels = clean_labels(work.grid, smooth, first.rules, raw=probs)
        before = first._replace(probs=smooth, labels=labels)
        after = sharpen(before, work, patches, probs, refiner, 2, Runtime(use_cache=False))
        (old,), (new,) = trace_regions(*before), trace_regions(*after)
        assert polygon_iou(old, new) > 0.95

    @pytest.mark.parametrize("encoder", ["colour", "efficientnet_lite0"])
    def test_a_fine_cell_is_seen_as_a_coarse_one_with_its_centre(self, scene, encoder) -> None:
        """Patch by patch and dense: what a cell is worth does not depend on the stride."""
        slide, chosen = open_slide(scene.slide), load_encoder(encoder)
        rows, cols = np.indices((3, 4), dtype=np.int32).reshape(2, -1) + 8
        coarse = PatchGrid((0.0, 0.0), (24, 24), rows, cols, 64, 64, chosen.patch_px, 0.5, 1.0)
        fine = replace(coarse, origin=(16.0, 16.0), shape=(48, 48), stride=32)
        fine = replace(fine, rows=2 * rows, cols=2 * cols)
        assert np.array_equal(fine.centres, coarse.centres)
        one, other = (embed_patches(slide, grid, chosen) for grid in (coarse, fine))
        for view in ("cell", "context"):
            a, b = getattr(one, view), getattr(other, view)
            assert a.astype(float) == pytest.approx(b.astype(float), abs=0.02)
            assert len(np.unique(a, axis=0)) == 12

    def test_a_slide_of_a_few_cells(self) -> None:
        labels = np.array([[0, 1], [0, 1]], np.int8)
        fine = finer(grid_of(np.ones((2, 2), bool)), 32)
        assert find_band(fine, np.kron(labels, np.ones((2, 2), np.int8)), 2.0).all()
        lone = interpolate(grid_of(np.ones((1, 1), bool)), np.array([[0.2, 0.8]]), fine)
        assert lone[:, 1] == pytest.approx(0.8)


class TestParts:
    def test_interpolation_is_exact_for_a_plane_and_ignores_glass(self) -> None:
        tissue = np.ones((8, 9), bool)
        grid = grid_of(tissue)
        p = 0.1 + 0.05 * grid.rows + 0.03 * grid.cols
        fine = finer(grid, 32)
        found = interpolate(grid, np.stack([1 - p, p], axis=1), fine)
        y, x = (fine.rows + 0.5) / 2 - 0.5, (fine.cols + 0.5) / 2 - 0.5
        inner = (y >= 0) & (y <= 7) & (x >= 0) & (x <= 8)
        assert found[inner, 1] == pytest.approx((0.1 + 0.05 * y + 0.03 * x)[inner], abs=1e-5)
        tissue[3:5, 3:5] = False
        grid = grid_of(tissue)
        flat = interpolate(grid, np.tile([0.3, 0.7], (len(grid), 1)), fine)
        assert flat == pytest.approx(np.tile([0.3, 0.7], (len(fine), 1)), abs=1e-5)

    def test_an_odd_stride_does_not_nest_and_need_not(self) -> None:
        grid = grid_of(np.ones((6, 6), bool), stride=63)
        fine = finer(grid, 32)
        probs = np.tile([0.2, 0.8], (36, 1)).astype(np.float32)
        labels = np.ones((6, 6), np.int8)
        first = Surface(grid, probs, labels, rules_for(Recipe(), grid))
        laid = label_finely(first, fine, trace_regions(*first))
        inside = (fine.centres - np.array(grid.origin) < 6 * 63).all(axis=1)
        assert laid[fine.rows[inside], fine.cols[inside]].all()

    def test_the_band_lies_on_both_sides_of_the_border(self) -> None:
        fine = grid_of(np.ones((12, 12), bool))
        labels = np.zeros((12, 12), np.int8)
        labels[:, 6:] = 1
        band = fine.scatter(find_band(fine, labels, 2.0)) == 1
        assert band.any(axis=0).tolist() == [False] * 3 + [True] * 6 + [False] * 3
        assert not find_band(fine, np.ones((12, 12), np.int8), 2.0).any()

    def test_it_moves_borders_and_makes_and_ends_nothing(self) -> None:
        before = np.zeros((12, 12), np.int8)
        before[1:5, 1:5] = 1
        before[2, 2] = 0  # a hole
        before[8:10, 8:10] = 2
        labels = before.copy()
        labels[1:5, 5] = 1  # moved: stays
        labels[2, 2] = 1  # the hole is gone: back
        labels[7, 1] = 1  # new: away
        labels[8:10, 8:10] = 0  # gone: back
        expected = before.copy()
        expected[1:5, 5] = 1
        assert np.array_equal(move_only(labels, before), expected)
