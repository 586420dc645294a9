"""Generated slides: real files, known truth, and hard enough to be worth refining."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import shapely

from recontour.errors import UsageError
from recontour.generated import GeneratedSlide, generate_slide
from recontour.generated.paint import Painter
from recontour.generated.planning import plan_layout
from recontour.generated.population import place_nuclei

SIDE = 1024


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> GeneratedSlide:
    return generate_slide(tmp_path_factory.mktemp("slide") / "case.tif", size=(SIDE, SIDE), seed=3)


def rasterise(polygons: list[shapely.Polygon], side: int, pitch: float) -> np.ndarray:
    centres = (np.arange(side) + 0.5) * pitch
    x, y = np.meshgrid(centres, centres)
    joined = shapely.union_all(polygons)
    shapely.prepare(joined)
    return shapely.contains_xy(joined, x, y)


def test_openslide_opens_it_with_the_right_pixel_size(slide: GeneratedSlide) -> None:
    with openslide.OpenSlide(str(slide.path)) as opened:
        assert opened.dimensions == slide.size == (SIDE, SIDE)
        assert opened.level_count >= 2
        assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(slide.mpp, rel=1e-4)
        assert float(opened.properties["openslide.mpp-y"]) == pytest.approx(slide.mpp, rel=1e-4)


def test_every_level_shows_the_same_tissue(slide: GeneratedSlide) -> None:
    with openslide.OpenSlide(str(slide.path)) as opened:
        full = np.asarray(opened.read_region((0, 0), 0, opened.dimensions).convert("RGB"), float)
        size = opened.level_dimensions[1]
        small = np.asarray(opened.read_region((0, 0), 1, size).convert("RGB"), float)
    step = SIDE // size[0]
    blocks = full.reshape(size[1], step, size[0], step, 3).mean((1, 3))
    difference = blocks - small
    # JPEG blurs colour at each level on its own, but shifts nothing.
    assert np.abs(difference).mean() < 6
    assert np.abs(difference.mean((0, 1))).max() < 1.5


def test_truth_is_valid_and_as_large_as_asked(slide: GeneratedSlide) -> None:
    nests = [region.geometry for region in slide.truth.regions]
    assert nests
    assert all(nest.is_valid and nest.area > 0 for nest in nests)
    assert {region.label for region in slide.truth.regions} == {"Tumor"}
    assert len({region.id for region in slide.truth.regions}) == len(nests)
    joined = shapely.union_all(nests)
    assert joined.area == pytest.approx(sum(nest.area for nest in nests), rel=1e-6)
    assert slide.tissue.is_valid
    assert slide.tissue.buffer(1).contains(joined)
    assert 0.25 < joined.area / slide.tissue.area < 0.45
    assert shapely.box(8, 8, SIDE - 8, SIDE - 8).contains(slide.tissue)  # glass all around


def test_tissue_is_where_colour_is(slide: GeneratedSlide) -> None:
    with openslide.OpenSlide(str(slide.path)) as opened:
        pixels = np.asarray(opened.read_region((0, 0), 0, opened.dimensions).convert("RGB"), float)
    blocks = pixels.reshape(SIDE // 16, 16, SIDE // 16, 16, 3).mean((1, 3))
    tissue = slide.tissue
    edge = tissue.boundary.buffer(24)
    inside = rasterise([tissue.difference(edge)], SIDE // 16, 16)
    outside = ~rasterise([tissue.union(edge)], SIDE // 16, 16)
    green = blocks[..., 1]
    assert np.median(green[inside]) < 200
    assert np.median(green[outside]) > 230


def test_blocks_fit_without_a_seam() -> None:
    layout = plan_layout((1400, 1400), 0.5, 1, 0.35, True)
    painter = Painter(layout, place_nuclei(layout, 1), 1)
    whole = painter.paint(300, 500, 640, 160).astype(float)
    parts = [painter.paint(x, 500, 160, 160).astype(float) for x in range(300, 940, 160)]
    difference = whole - np.concatenate(parts, axis=1)
    # All that differs is the noise of the camera.
    assert np.abs(difference).max() < 16
    assert np.abs(difference.reshape(20, 8, 80, 8, 3).mean((1, 3))).max() < 2


def test_same_arguments_same_file_whatever_the_threads(tmp_path: Path) -> None:
    a = generate_slide(tmp_path / "a.tif", size=(700, 600), seed=5, threads=1)
    b = generate_slide(tmp_path / "b.tif", size=(700, 600), seed=5, threads=2)
    c = generate_slide(tmp_path / "c.tif", size=(700, 600), seed=6, threads=2)
    assert a.path.read_bytes() == b.path.read_bytes() != c.path.read_bytes()
    assert [r.id for r in a.truth.regions] == [r.id for r in b.truth.regions]
    assert [r.geometry for r in a.truth.regions] == [r.geometry for r in b.truth.regions]


@pytest.mark.parametrize("options", [{"size": (100, 4000)}, {"mpp": 0.0}, {"tumor_share": 1.0}])
def test_nonsense_is_refused(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="cannot generate"):
        generate_slide(tmp_path / "x.tif", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
