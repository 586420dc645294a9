"""Tissue is found on slides as they come: pale, inked, bordered, or tissue from edge to edge."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from shapely import Point, Polygon, box
from shapely.affinity import scale as scaled

from recontour.errors import TissueError, UnknownNameError, UsageError
from recontour.slides import open_slide, thumbnail
from recontour.tissue import TISSUE_RULES, find_tissue, otsu, tissue_mask
from recontour.types import Geometry, Slide, iter_polygons

Pixels = NDArray[np.uint8]

GLASS = 243
STROMA = (225, 160, 195)
NUCLEI = (130, 90, 165)
MPP = 4.0

BLOB = scaled(Point(400, 300).buffer(1.0, 64), 240, 160)
"""The tissue of most slides below, level-0 px."""


def paint(
    shape: Geometry, size: tuple[int, int] = (900, 600), strength: float = 1.0, seed: int = 0
) -> Image.Image:
    """H&E-like tissue on glass; `strength` 1 is a usual stain, 0.2 a very pale one."""
    rng = np.random.default_rng(seed)
    outline = Image.new("L", size)
    draw = ImageDraw.Draw(outline)
    for part in iter_polygons(shape):
        draw.polygon(list(part.exterior.coords), fill=255)
        for hole in part.interiors:
            draw.polygon(list(hole.coords), fill=0)
    nuclei = rng.random(size[::-1])[..., None] < 0.2
    colour = np.where(nuclei, NUCLEI, STROMA) + rng.normal(0, 8, (*size[::-1], 3))
    tissue = GLASS - strength * (GLASS - colour)
    glass = GLASS + rng.normal(0, 1.5, (*size[::-1], 3))
    pixels = np.where(np.asarray(outline)[..., None] > 0, tissue, glass)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def as_slide(picture: Image.Image, tmp_path: Path, mpp: float = MPP, quality: int = 60) -> Slide:
    """As a scanner would leave it: through JPEG."""
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality)
    (tmp_path / "slide.png").write_bytes(b"")
    Image.open(data).save(tmp_path / "slide.png")
    return open_slide(tmp_path / "slide.png", mpp=mpp)


def iou(one: Geometry, other: Geometry) -> float:
    return float(one.intersection(other).area / one.union(other).area)


# --- the robust rule


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.25])
def test_tissue_is_found_however_pale(tmp_path: Path, strength: float) -> None:
    found = find_tissue(as_slide(paint(BLOB, strength=strength), tmp_path))
    assert found.is_valid
    assert iou(found, BLOB) > 0.95


@pytest.mark.parametrize(
    "ink",
    [(30, 50, 160), (20, 120, 70), (25, 25, 30), (200, 30, 40), (150, 165, 225)],
    ids=["blue", "green", "black", "red", "pale blue"],
)
def test_pen_marks_are_no_tissue(tmp_path: Path, ink: tuple[int, int, int]) -> None:
    picture = paint(BLOB)
    draw = ImageDraw.Draw(picture)
    draw.arc((120, 90, 680, 510), 0, 300, fill=ink, width=12)
    draw.line((750, 60, 850, 500), fill=ink, width=14)
    found = find_tissue(as_slide(picture, tmp_path))
    assert found.area < 1.05 * BLOB.area
    assert iou(found, BLOB) > 0.93


def test_black_scanner_borders_are_no_tissue(tmp_path: Path) -> None:
    picture = paint(BLOB, strength=0.4)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 899, 40), fill=(6, 6, 8))
    draw.rectangle((840, 0, 899, 599), fill=(6, 6, 8))
    assert iou(find_tissue(as_slide(picture, tmp_path)), BLOB) > 0.95


def test_shadows_and_dirt_are_no_tissue(tmp_path: Path) -> None:
    pixels = np.asarray(paint(BLOB)).astype(float)
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    pixels -= 60 * np.exp(-((x - 760) ** 2 + (y - 450) ** 2) / 2 / 60**2)[..., None]
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    assert iou(find_tissue(as_slide(picture, tmp_path)), BLOB) > 0.95


def test_an_image_without_glass_is_all_tissue(tmp_path: Path) -> None:
    slide = as_slide(paint(box(-10, -10, 1000, 1000)), tmp_path, mpp=0.5)
    assert find_tissue(slide).equals(box(0, 0, 900, 600))


def test_a_blue_stain_is_not_taken_for_ink(tmp_path: Path) -> None:
    """Where nearly all that is stained looks like pen, it is the stain."""
    pixels = np.asarray(paint(BLOB)).astype(float)
    stained = pixels[..., 1] < 225
    pixels[stained, 0] = pixels[stained, 1] - 40  # haematoxylin alone, on a bluish scanner
    slide = as_slide(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), tmp_path)
    assert find_tissue(slide).area > 0.8 * BLOB.area


# --- every rule


@pytest.mark.parametrize("rule", sorted(TISSUE_RULES))
def test_every_rule_finds_well_stained_tissue(tmp_path: Path, rule: str) -> None:
    slide = as_slide(paint(BLOB), tmp_path, quality=95)
    found = find_tissue(slide, rule)
    assert found.is_valid
    assert iou(found, BLOB) > 0.85
    assert find_tissue(slide, rule).equals_exact(found)


@pytest.mark.parametrize("rule", sorted(TISSUE_RULES))
@pytest.mark.parametrize("colour", ["white", (243, 242, 244)])
def test_no_tissue_at_all_is_an_error(tmp_path: Path, rule: str, colour: Any) -> None:
    Image.new("RGB", (300, 200), colour).save(tmp_path / "empty.png")
    slide = open_slide(tmp_path / "empty.png", mpp=1.0)
    with pytest.raises(TissueError, match=f"no tissue found on empty by the rule '{rule}'"):
        find_tissue(slide, rule)


def test_noisy_empty_glass_is_no_tissue(tmp_path: Path) -> None:
    slide = as_slide(paint(Polygon()), tmp_path, quality=40)
    with pytest.raises(TissueError, match="pass a tissue mask"):
        find_tissue(slide)


def test_an_unknown_rule_names_the_known_ones(tmp_path: Path) -> None:
    slide = as_slide(paint(BLOB), tmp_path)
    with pytest.raises(UnknownNameError, match="unknown tissue rule 'otzu'; known: grey_otsu, hsv"):
        find_tissue(slide, "otzu")
    with pytest.raises(UnknownNameError):
        tissue_mask(np.zeros((4, 4, 3), np.uint8), "otzu")


def test_the_paips_rule_is_as_published() -> None:
    rgb = np.array([[[234, 209, 234], [235, 209, 234], [234, 210, 234], [234, 209, 235]]], np.uint8)
    assert tissue_mask(rgb, "rgb").tolist() == [[True, False, False, False]]


def test_hue_and_saturation_agree_with_scikit_image() -> None:
    from skimage.color import rgb2hsv
    from skimage.filters import threshold_otsu as reference

    rgb = np.asarray(paint(BLOB))
    hue, saturation, _ = np.moveaxis(rgb2hsv(rgb), 2, 0)
    expected = (hue > reference(hue)) & (saturation > reference(saturation))
    assert (tissue_mask(rgb, "hsv_otsu") == expected).mean() > 0.999


@given(arrays.arrays(np.float64, 200, elements=st.integers(0, 255).map(float)))
@settings(max_examples=12, deadline=None)
def test_otsu_splits_best(values: NDArray[np.float64]) -> None:
    """No other split of whole numbers has a larger variance between the classes."""

    def between(threshold: float) -> float:
        above = values > threshold
        if above.all() or not above.any():
            return 0.0
        weight = float(above.mean())
        gap = float(values[above].mean() - values[~above].mean())
        return weight * (1 - weight) * gap**2

    best = max(between(t + 0.5) for t in range(256))
    assert between(otsu(values)) >= 0.97 * best


# --- the outline


def test_specks_go_and_pinholes_close_but_real_holes_stay(tmp_path: Path) -> None:
    lumen, hole, speck = (
        Point(400, 250).buffer(8),
        box(330, 290, 420, 360),
        box(700, 100, 715, 115),
    )
    slide = as_slide(paint(BLOB.difference(lumen).difference(hole).union(speck)), tmp_path)
    found = find_tissue(slide)
    assert isinstance(found, Polygon)
    assert len(found.interiors) == 1
    assert iou(Polygon(found.interiors[0]), hole) > 0.85
    assert not found.intersects(speck)


def test_separate_pieces_stay_separate(tmp_path: Path) -> None:
    pieces = shapely.union_all([box(100, 100, 300, 300), box(400, 250, 600, 500)])
    found = find_tissue(as_slide(paint(pieces), tmp_path))
    assert len(list(iter_polygons(found))) == 2
    assert iou(found, pieces) > 0.93


def test_tissue_that_runs_off_the_slide_ends_at_its_edge(tmp_path: Path) -> None:
    found = find_tissue(as_slide(paint(box(-50, -50, 450, 700)), tmp_path))
    assert box(0, 0, 900, 600).covers(found)
    assert found.bounds[:2] == (0, 0)
    assert found.bounds[3] == 600
    assert iou(found, box(0, 0, 450, 600)) > 0.98


@pytest.mark.parametrize("mpp", [0.1, 0.5, 4.0, 15.0])
def test_the_outline_is_in_level_0_px_at_any_pixel_size(tmp_path: Path, mpp: float) -> None:
    slide = as_slide(paint(BLOB), tmp_path, mpp=mpp)
    assert iou(find_tissue(slide), BLOB) > 0.95


def test_only_the_bounds_are_looked_at() -> None:
    """Outside the bounds of a MIRAX slide there is nothing but filling."""

    class Bounded:
        id, size, mpp, mpp_source = "mirax", (4000, 3000), 1.0, "given"
        bounds = (1000, 500, 900, 600)
        reader, fingerprint = "fake", "0"
        level_mpps: tuple[float, ...] = (1.0,)

        def read_region(self, x: float, y: float, size: tuple[int, int], mpp: float) -> Pixels:
            assert x >= 1000
            assert y >= 500
            whole = Image.new("RGB", self.size, "white")
            whole.paste(paint(BLOB), (1000, 500))
            width, height = (side * mpp / self.mpp for side in size)
            return np.asarray(whole.resize(size, box=(x, y, x + width, y + height)))

        def close(self) -> None: ...

    found = find_tissue(Bounded())
    assert iou(found, shapely.affinity.translate(BLOB, 1000, 500)) > 0.95


def test_mask_and_outline_cover_the_same_pixels(tmp_path: Path) -> None:
    slide = as_slide(paint(BLOB), tmp_path, mpp=8.0)
    mask = tissue_mask(slide.read_region(0, 0, slide.size, 8.0))
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    inside = shapely.contains_xy(find_tissue(slide), x + 0.5, y + 0.5)
    assert (inside == mask).mean() > 0.99


# --- real tissue


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["1008", "1015", "1019"])
def test_real_regions_without_glass_are_all_tissue(shared_data: Path, name: str) -> None:
    slide = open_slide(shared_data / "bcss" / f"{name}.jpg", mpp=0.25)
    assert find_tissue(slide).area > 0.99 * slide.size[0] * slide.size[1]


@pytest.mark.real_data
def test_a_real_section_agrees_with_the_given_mask(shared_data: Path) -> None:
    """The given mask is of whole 50-px cells, so cells are what is compared."""
    slide = open_slide(shared_data / "idc" / "14082.png", mpp=4.0)
    given_mask = np.asarray(Image.open(shared_data / "idc" / "14082_tissue.png").convert("L")) > 0
    rows, cols = (side // 50 for side in given_mask.shape)
    cells = given_mask.reshape(rows, 50, cols, 50).mean(axis=(1, 3)) > 0.5
    col, row = np.meshgrid(np.arange(cols), np.arange(rows))
    squares = shapely.box(col * 50, row * 50, col * 50 + 50, row * 50 + 50)
    share = shapely.area(shapely.intersection(squares, find_tissue(slide))) / 2500
    assert ((share > 0.05) == cells).mean() > 0.98
    assert share[~cells].max() < 0.5


@pytest.mark.real_data
def test_pen_and_paleness_on_real_tissue(shared_data: Path, tmp_path: Path) -> None:
    real = open_slide(shared_data / "formats" / "CMU-1-Small-Region.svs")
    clean = thumbnail(real, MPP)
    wanted = find_tissue(open_pixels(clean, tmp_path))
    pale = (GLASS - 0.3 * (GLASS - np.minimum(clean, GLASS).astype(float))).astype(np.uint8)
    picture = Image.fromarray(pale)
    draw = ImageDraw.Draw(picture)
    draw.line((20, 20, 20, 340), fill=(30, 50, 160), width=10)
    draw.line((250, 20, 255, 340), fill=(25, 25, 30), width=10)
    assert iou(find_tissue(open_pixels(np.asarray(picture), tmp_path)), wanted) > 0.8


def open_pixels(pixels: Pixels, tmp_path: Path) -> Slide:
    Image.fromarray(pixels).save(tmp_path / "pixels.png")
    return open_slide(tmp_path / "pixels.png", mpp=MPP)


# --- the papers' way: whole pixels of the slide shrunk so many times


def blocks(picture: Image.Image, side: int) -> Pixels:
    """The mean of every block of `side` px; what lies past the edge is white."""
    pixels = np.asarray(picture, np.float64)
    pad = [(0, -length % side) for length in pixels.shape[:2]]
    pixels = np.pad(pixels, [*pad, (0, 0)], constant_values=255)
    rows, cols = pixels.shape[0] // side, pixels.shape[1] // side
    means = pixels.reshape(rows, side, cols, side, 3).mean(axis=(1, 3))
    return means.round().astype(np.uint8)


@pytest.mark.parametrize("rule", ["hsv_otsu", "rgb"])
def test_a_shrunk_slide_is_judged_pixel_by_pixel(tmp_path: Path, rule: str) -> None:
    dust = BLOB.difference(Point(400, 300).buffer(30)).union(box(32, 32, 64, 64))
    picture = paint(dust, size=(910, 605))
    picture.save(tmp_path / "slide.png")
    slide = open_slide(tmp_path / "slide.png", mpp=MPP)
    found = find_tissue(slide, rule, downsample=32)

    wanted = tissue_mask(blocks(picture, 32), rule)
    rows, cols = np.indices(wanted.shape)
    inside = shapely.contains_xy(found, cols * 32 + 16, rows * 32 + 16)
    on_slide = (cols * 32 + 16 < 910) & (rows * 32 + 16 < 605)
    assert np.array_equal(inside, wanted & on_slide)
    assert wanted[1, 1]  # a speck that the other way drops
    assert not wanted[9, 12]  # a hole that the other way fills
    assert found.is_valid
    corners = shapely.get_coordinates(found)
    edges = np.isin(corners, [910, 605])
    assert (corners[~edges] % 32 == 0).all()
    assert found.within(box(0, 0, 910, 605))
    assert find_tissue(slide, rule).area != found.area


def test_a_cell_as_large_as_the_pixel_is_tissue_or_not(tmp_path: Path) -> None:
    from recontour.grid import choose_cells, make_grid

    picture = paint(BLOB)
    picture.save(tmp_path / "slide.png")
    slide = open_slide(tmp_path / "slide.png", mpp=MPP)
    tissue = find_tissue(slide, "rgb", downsample=20)
    choice = choose_cells(MPP, slide.size, tissue, encoder_mpp=4.0, cell_px=20)
    grid = make_grid(slide.size, MPP, tissue, choice, patch_px=20)
    mask = tissue_mask(blocks(picture, 20), "rgb")
    assert np.array_equal(np.flatnonzero(mask), grid.rows * grid.shape[1] + grid.cols)


@pytest.mark.parametrize("downsample", [0, 601])
def test_a_downsample_that_does_not_suit_is_refused(tmp_path: Path, downsample: int) -> None:
    slide = as_slide(paint(BLOB), tmp_path)
    with pytest.raises(UsageError, match="pass 1 to 600"):
        find_tissue(slide, "rgb", downsample=downsample)


def test_no_tissue_on_the_shrunk_slide_is_said(tmp_path: Path) -> None:
    with pytest.raises(TissueError, match="no tissue found"):
        find_tissue(as_slide(paint(Polygon()), tmp_path), "rgb", downsample=64)
