"""Pixels at any µm/px, from any file that is a slide, and a clear sentence for any that is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from openslide import OpenSlide
from PIL import Image

from recontour.errors import (
    MissingFileError,
    MissingMppError,
    SlideError,
    UnknownNameError,
    UsageError,
)
from recontour.slides import frame_of, image, open_slide, thumbnail
from recontour.slides.fingerprint import fingerprint
from recontour.slides.mpp import resolve_mpp
from recontour.slides.resample import best_level, nominal_downsample
from recontour.types import Slide

Pixels = NDArray[np.uint8]


def smooth_picture(width: int, height: int, seed: int = 0) -> Pixels:
    """Structure at every scale down to about four px, as tissue has."""
    rng = np.random.default_rng(seed)
    small = rng.integers(30, 250, (height // 4 + 2, width // 4 + 2, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture).copy()


def box_mean(pixels: Pixels, factor: int) -> NDArray[np.float64]:
    height, width = (side // factor * factor for side in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64))


def write_pyramid(
    path: Path,
    pixels: Pixels,
    factors: tuple[int, ...] = (1, 2, 4),
    mpp: float | None = 0.25,
    tile: int = 128,
    **options: Any,
) -> Path:
    """A tiled, pyramidal TIFF, lossless unless `compression` says otherwise."""
    options = {"compression": "deflate", "photometric": "rgb", **options}
    if mpp is not None:
        options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        for factor in factors:
            level = np.rint(box_mean(pixels, factor)).astype(np.uint8)
            file.write(
                level, tile=(tile, tile), subfiletype=int(factor > 1), metadata=None, **options
            )
    return path


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return smooth_picture(1024, 768)


@pytest.fixture(scope="module")
def pyramid(pixels: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Slide:
    return open_slide(write_pyramid(tmp_path_factory.mktemp("slides") / "case_07.tif", pixels))


@pytest.fixture(scope="module")
def plain(pixels: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Slide:
    path = tmp_path_factory.mktemp("plain") / "case_07.png"
    Image.fromarray(pixels).save(path)
    return open_slide(path, mpp=0.25)


@pytest.fixture(params=["pyramid", "plain"])
def slide(request: pytest.FixtureRequest) -> Slide:
    found: Slide = request.getfixturevalue(request.param)
    return found


# --- what a slide says of itself


def test_a_pyramid_describes_itself(pyramid: Slide) -> None:
    assert isinstance(pyramid, Slide)
    assert (pyramid.id, pyramid.reader) == ("case_07", "openslide")
    assert pyramid.size == (1024, 768)
    assert pyramid.bounds == (0, 0, 1024, 768)
    assert pyramid.mpp == pytest.approx(0.25)
    assert pyramid.level_mpps == pytest.approx((0.25, 0.5, 1.0))


def test_a_plain_image_is_a_slide_too(plain: Slide) -> None:
    assert isinstance(plain, Slide)
    assert (plain.id, plain.reader, plain.size) == ("case_07", "image", (1024, 768))
    assert plain.mpp_source == "given"


def test_the_fingerprint_follows_content_not_name(tmp_path: Path, pixels: Pixels) -> None:
    first = write_pyramid(tmp_path / "a.tif", pixels)
    renamed = tmp_path / "b.tif"
    shutil.copy(first, renamed)
    other = pixels.copy()
    other[400, 500] ^= 1
    changed = write_pyramid(tmp_path / "c.tif", other)
    prints = [open_slide(path).fingerprint for path in (first, renamed, changed)]
    assert prints[0] == prints[1] != prints[2]


def test_the_fingerprint_of_a_large_file_samples_it(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(80 << 20)
    before = fingerprint(path)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    assert fingerprint(path) != before


def test_ome_tiff_loses_both_suffixes(tmp_path: Path, pixels: Pixels) -> None:
    assert open_slide(write_pyramid(tmp_path / "case.ome.tif", pixels)).id == "case"


# --- reading pixels


def test_level_0_comes_back_as_stored(slide: Slide, pixels: Pixels) -> None:
    region = slide.read_region(100, 50, (300, 200), slide.mpp)
    assert region.dtype == np.uint8
    np.testing.assert_array_equal(region, pixels[50:250, 100:400])


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_whole_factors_are_the_exact_mean(slide: Slide, pixels: Pixels, factor: int) -> None:
    if factor == 3 and len(slide.level_mpps) > 1:
        pytest.skip("one and a half px of the second level: not a whole factor there")
    size = (1024 // factor // 2, 768 // factor // 2)
    region = slide.read_region(0, 0, size, 0.25 * factor)
    expected = box_mean(pixels, factor)[: size[1], : size[0]]
    # A stored level has been rounded once before.
    assert np.abs(region - expected).max() <= 1.01


@pytest.mark.parametrize("factor", [1.3, 1.9, 2.7, 5.5])
def test_odd_factors_stay_close_to_the_area_mean(
    plain: Slide, pixels: Pixels, factor: float
) -> None:
    # Oracle: enlarge tenfold by repetition, then average the exact area of each output px.
    fine = round(10 * factor)
    crop = pixels[: fine * 8, : fine * 8]
    expected = box_mean(crop.repeat(10, axis=0).repeat(10, axis=1), fine)[:60, :60]
    region = plain.read_region(0, 0, (60, 60), 0.25 * factor)
    error = (region - expected)[2:-2, 2:-2]
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 30
    assert abs(error.mean()) < 0.5


def test_shrinking_does_not_alias(tmp_path: Path) -> None:
    stripes = np.zeros((600, 600, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    slide = open_slide(tmp_path / "stripes.png", mpp=0.25)
    for factor in (2.5, 3.3, 7.1):
        region = slide.read_region(100, 100, (40, 40), 0.25 * factor)
        assert np.abs(region.astype(int) - 127).max() < 40


def test_enlarging_keeps_edges_in_place(tmp_path: Path) -> None:
    half = np.full((200, 200, 3), 240, np.uint8)
    half[:, 100:] = 40
    Image.fromarray(half).save(tmp_path / "edge.png")
    region = open_slide(tmp_path / "edge.png", mpp=4.0).read_region(80, 80, (100, 100), 1.6)
    crossing = np.argmax(region[50, :, 0] < 140)
    assert crossing == 50  # (100 - 80) px of 4 µm at 1.6 µm/px


@given(
    x=st.floats(-50, 600),
    y=st.floats(-50, 400),
    factor=st.one_of(st.sampled_from([0.4, 0.5, 1.0, 2.0, 4.0]), st.floats(0.4, 6)),
    cut=st.integers(1, 63),
)
@settings(max_examples=60, deadline=None)
def test_neighbouring_reads_fit_together(
    pyramid: Slide, plain: Slide, x: float, y: float, factor: float, cut: int
) -> None:
    for slide in (pyramid, plain):
        mpp = 0.25 * factor
        whole = slide.read_region(x, y, (64, 48), mpp)
        left = slide.read_region(x, y, (cut, 48), mpp)
        right = slide.read_region(x + cut * factor, y, (64 - cut, 48), mpp)
        parts = np.concatenate([left, right], axis=1).astype(int)
        # One grey level of rounding, and a little where a factor is called whole in one only.
        assert np.abs(parts - whole).max() <= 3


def test_half_a_pixel_is_half_a_pixel(slide: Slide, pixels: Pixels) -> None:
    region = slide.read_region(100.5, 50, (300, 200), slide.mpp)
    between = (pixels[50:250, 100:400].astype(float) + pixels[50:250, 101:401]) / 2
    here = np.abs(region - between).mean()
    assert here < 4
    assert here < np.abs(region - pixels[50:250, 100:400].astype(float)).mean()


def test_half_a_pixel_at_a_coarser_scale(slide: Slide, pixels: Pixels) -> None:
    # Moving by one level-0 px at half the resolution moves the picture by half a px.
    region = slide.read_region(101, 50, (200, 200), 0.5)
    expected = box_mean(pixels[50:450, 101:501], 2)
    assert np.abs(region - expected).mean() < 4


def test_outside_the_slide_is_white(slide: Slide, pixels: Pixels) -> None:
    region = slide.read_region(-10, -20, (40, 50), slide.mpp)
    assert (region[:20] == 255).all()
    assert (region[:, :10] == 255).all()
    np.testing.assert_array_equal(region[20:, 10:], pixels[:30, :30])
    assert (slide.read_region(5000, 5000, (10, 10), 1.0) == 255).all()
    corner = slide.read_region(1020, 764, (8, 8), slide.mpp)
    np.testing.assert_array_equal(corner[:4, :4], pixels[764:, 1020:])
    assert (corner[4:] == 255).all()


def test_what_a_slide_does_not_cover_is_white(tmp_path: Path) -> None:
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:, 32:] = (200, 0, 0, 255)
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    region = open_slide(tmp_path / "clear.png", mpp=1.0).read_region(0, 0, (64, 64), 1.0)
    assert (region[:, :32] == 255).all()
    assert (region[:, 32:] == (200, 0, 0)).all()


def test_a_level_between_two_is_read_from_the_finer_one(pyramid: Slide) -> None:
    assert best_level(pyramid.level_mpps, 0.1) == 0
    assert best_level(pyramid.level_mpps, 0.4) == 0
    assert best_level(pyramid.level_mpps, 0.5) == 1
    assert best_level(pyramid.level_mpps, 0.4999) == 1
    assert best_level(pyramid.level_mpps, 0.9) == 1
    assert best_level(pyramid.level_mpps, 50) == 2


def test_odd_sizes_do_not_blur_the_stored_levels(tmp_path: Path) -> None:
    """A level of 333 px for 667 is a halving, whatever the ratio of the sizes says."""
    assert nominal_downsample((667, 501), (333, 250), 2.0035) == 2
    assert nominal_downsample((4443, 3567), (2221, 1783), 2.0005) == 2
    assert nominal_downsample((1000, 1000), (370, 370), 2.703) == 2.703
    pixels = smooth_picture(667, 501)
    slide = open_slide(write_pyramid(tmp_path / "odd.tif", pixels, factors=(1, 2)))
    assert slide.level_mpps == pytest.approx((0.25, 0.5))
    region = slide.read_region(0, 0, (333, 250), 0.5)
    assert np.abs(region - box_mean(pixels, 2)).mean() < 3


def test_a_huge_area_is_read_in_pieces(
    plain: Slide, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = plain.read_region(3, 5, (100, 70), 2.1)
    monkeypatch.setattr("recontour.slides.resample.PIECE_PX", 64)
    pieces = plain.read_region(3, 5, (100, 70), 2.1)
    assert np.abs(pieces.astype(int) - whole).max() <= 1


def test_jpeg_tiles_are_read_too(tmp_path: Path, pixels: Pixels) -> None:
    grey = pixels[..., :1].repeat(3, axis=2)
    path = write_pyramid(tmp_path / "jpeg.tif", grey, compression="jpeg")
    region = open_slide(path).read_region(0, 0, (512, 384), 0.5)
    assert np.abs(region - box_mean(grey, 2)).mean() < 6


def test_the_thumbnail_shows_everything(pyramid: Slide, pixels: Pixels) -> None:
    picture = thumbnail(pyramid, 2.0)
    assert picture.shape == (96, 128, 3)
    np.testing.assert_allclose(picture, box_mean(pixels, 8), atol=1.5)
    assert thumbnail(pyramid, 0.7).shape == (275, 366, 3)
    assert thumbnail(pyramid, 1000.0).shape == (1, 1, 3)


def test_many_threads_read_the_same_pixels(slide: Slide) -> None:
    rng = np.random.default_rng(1)
    jobs = [
        (float(x), float(y), (96, 64), float(mpp))
        for x, y, mpp in zip(
            rng.uniform(0, 900, 120),
            rng.uniform(0, 700, 120),
            rng.choice([0.25, 0.33, 0.5, 1.7], 120),
            strict=True,
        )
    ]
    alone = [slide.read_region(*job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: slide.read_region(*job), jobs))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_closed_slide_says_so(tmp_path: Path, pixels: Pixels) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", write_pyramid(tmp_path / "a.tif", pixels, factors=(1,))):
        slide = open_slide(path, mpp=0.25)
        slide.close()
        with pytest.raises(SlideError, match="closed"):
            slide.read_region(0, 0, (8, 8), 0.25)


@pytest.mark.parametrize(("size", "mpp"), [((0, 5), 1.0), ((5, -1), 1.0), ((5, 5), 0.0)])
def test_an_impossible_region_is_refused(slide: Slide, size: tuple[int, int], mpp: float) -> None:
    with pytest.raises(UsageError, match=r"read_region"):
        slide.read_region(0, 0, size, mpp)


# --- plain images of every kind


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    if mode == "CMYK" and suffix == ".png":
        pytest.skip("PNG has no CMYK")
    grey = np.full((20, 30), 128, np.uint8)
    picture = (
        Image.fromarray(grey.astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(grey).convert("RGB").convert(mode)
    )
    picture.save(tmp_path / f"picture{suffix}")
    slide = open_slide(tmp_path / f"picture{suffix}", mpp=1.0)
    region = slide.read_region(0, 0, (30, 20), 1.0)
    assert region.shape == (20, 30, 3)
    assert abs(region.mean() - 128) < 3


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "depth.tif")
    with pytest.raises(SlideError, match=r"depth\.tif.*8-bit RGB"):
        open_slide(tmp_path / "depth.tif", mpp=1.0)


def test_too_large_an_image_is_sent_to_a_pyramid(
    tmp_path: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(pixels).save(tmp_path / "large.png")
    monkeypatch.setattr(image, "MAX_MEGAPIXELS", 0.5)
    with pytest.raises(SlideError, match=r"large\.png.*pyramid"):
        open_slide(tmp_path / "large.png", mpp=0.25)


def test_pillows_own_limit_stays_as_it_was(tmp_path: Path, pixels: Pixels) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    before = Image.MAX_IMAGE_PIXELS
    open_slide(tmp_path / "a.png", mpp=0.25)
    assert before == Image.MAX_IMAGE_PIXELS


# --- the pixel size


@pytest.mark.parametrize(
    ("properties", "mpp", "source"),
    [
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.25"}, 0.25, "openslide.mpp"),
        ({"aperio.MPP": "0,4990", "aperio.AppMag": "20"}, 0.499, "aperio.MPP"),
        ({"tiff.XResolution": "40000", "tiff.ResolutionUnit": "centimeter"}, 0.25, "XResolution"),
        ({"tiff.XResolution": "50800", "tiff.ResolutionUnit": "inch"}, 0.5, "XResolution"),
        ({"openslide.objective-power": "40"}, 0.25, "guess"),
        ({"tiff.ImageDescription": '<Pixels PhysicalSizeX="0.5">'}, 0.5, "OME"),
        (
            {"tiff.ImageDescription": '<P PhysicalSizeX="500" PhysicalSizeXUnit="nm">'},
            0.5,
            "OME",
        ),
        # 96 dpi of a screen is nonsense, what the scanner wrote is not.
        (
            {"openslide.mpp-x": "264.58", "openslide.mpp-y": "264.58", "aperio.MPP": "0.25"},
            0.25,
            "aperio.MPP",
        ),
    ],
)
def test_the_pixel_size_is_found(properties: Mapping[str, str], mpp: float, source: str) -> None:
    found = resolve_mpp("case.svs", properties, None)
    assert found.mpp == pytest.approx(mpp)
    assert source in found.source


def test_what_is_given_wins_and_a_contradiction_is_told() -> None:
    properties = {"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.5"}
    assert resolve_mpp("a", properties, 0.25) == (0.25, "given; metadata openslide.mpp says 0.5")
    assert resolve_mpp("a", properties, 0.5) == (0.5, "given")
    assert resolve_mpp("a", {}, 0.5) == (0.5, "given")


def test_pixels_that_are_not_square_are_told() -> None:
    found = resolve_mpp("a", {"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.52"}, None)
    assert found.mpp == pytest.approx(np.sqrt(0.5 * 0.52))
    assert "not square (0.5 x 0.52)" in found.source


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"tiff.XResolution": "1", "tiff.ResolutionUnit": "none"},
        {"openslide.mpp-x": "about a quarter"},
        {"openslide.objective-power": "0"},
    ],
)
def test_without_a_pixel_size_the_way_out_is_named(properties: Mapping[str, str]) -> None:
    with pytest.raises(MissingMppError, match=r"case_07\.tif has no pixel size.*--mpp"):
        resolve_mpp("case_07.tif", properties, None)


@pytest.mark.parametrize("claimed", ["264.583", "0", "-0.25", "0.0001"])
def test_a_nonsense_pixel_size_is_refused(claimed: str) -> None:
    # Not even an objective makes a guess worth taking where the file is known to be wrong.
    properties = {"openslide.mpp-x": claimed, "openslide.objective-power": "40"}
    with pytest.raises(MissingMppError, match=r"claims .* µm/px .*--mpp"):
        resolve_mpp("case_07.tif", properties, None)


@pytest.mark.parametrize("given_mpp", [0.0, -1.0, 264.58, float("nan"), float("inf")])
def test_a_nonsense_given_pixel_size_is_refused(given_mpp: float) -> None:
    with pytest.raises(UsageError, match="outside"):
        resolve_mpp("a", {"openslide.mpp-x": "0.5"}, given_mpp)


def test_the_pixel_size_of_real_files_is_read(tmp_path: Path, pixels: Pixels) -> None:
    pixels = pixels[:256, :256]
    no_mpp = write_pyramid(tmp_path / "no_mpp.tif", pixels, factors=(1,), mpp=None)
    with pytest.raises(MissingMppError, match=r"no_mpp\.tif"):
        open_slide(no_mpp)
    assert open_slide(no_mpp, mpp=0.3).mpp == 0.3
    with pytest.raises(MissingMppError, match=r"264\.5"):
        open_slide(write_pyramid(tmp_path / "dpi.tif", pixels, factors=(1,), mpp=25400 / 96))
    Image.fromarray(pixels[:64, :64]).save(tmp_path / "png.png", dpi=(50800, 50800))
    assert open_slide(tmp_path / "png.png").mpp == pytest.approx(0.5, rel=1e-4)
    Image.fromarray(pixels[:64, :64]).save(tmp_path / "tif.tif", dpi=(25400, 25400))
    slide = open_slide(tmp_path / "tif.tif")
    assert slide.reader == "image"
    assert slide.mpp == pytest.approx(1.0)


# --- bounds and frames


def properties_with(monkeypatch: pytest.MonkeyPatch, extra: Mapping[str, str]) -> None:
    """As a scanner that states the non-empty area would write them."""
    original: Any = OpenSlide.properties

    def properties(self: Any) -> dict[str, str]:
        return {**original.fget(self), **extra}

    monkeypatch.setattr(OpenSlide, "properties", property(properties))


def bounds(x: object, y: object, width: object, height: object) -> dict[str, str]:
    values = {"x": x, "y": y, "width": width, "height": height}
    return {f"openslide.bounds-{key}": str(value) for key, value in values.items()}


def test_files_are_placed_at_the_stated_bounds(
    tmp_path: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_pyramid(tmp_path / "mirax.tif", pixels)
    properties_with(monkeypatch, bounds(100, 200, 500, 400))
    slide = open_slide(path)
    assert slide.bounds == (100, 200, 500, 400)
    assert slide.size == (1024, 768)
    for origin in ("auto", "bounds"):
        frame = frame_of(slide, origin)
        assert (frame.origin, frame.size) == ((100.0, 200.0), (500, 400))
    frame = frame_of(slide, "level0")
    assert (frame.origin, frame.size, frame.mpp) == ((0.0, 0.0), (1024, 768), slide.mpp)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (bounds(900, 700, 500, 500), (900, 700, 124, 68)),
        (bounds(-5, -5, 105, 105), (0, 0, 100, 100)),
        (bounds(0, 0, 0, 0), (0, 0, 1024, 768)),
        (bounds(5000, 0, 10, 10), (0, 0, 1024, 768)),
        (bounds("nan", 0, 10, 10), (0, 0, 1024, 768)),
        (bounds("", 0, 10, 10), (0, 0, 1024, 768)),
        ({"openslide.bounds-x": "5"}, (0, 0, 1024, 768)),
    ],
)
def test_odd_bounds_are_made_sense_of(
    tmp_path: Path,
    pixels: Pixels,
    monkeypatch: pytest.MonkeyPatch,
    stated: Mapping[str, str],
    expected: tuple[int, int, int, int],
) -> None:
    path = write_pyramid(tmp_path / "mirax.tif", pixels, factors=(1,))
    properties_with(monkeypatch, stated)
    assert open_slide(path).bounds == expected


def test_without_bounds_all_frames_agree(slide: Slide) -> None:
    assert frame_of(slide) == frame_of(slide, "bounds") == frame_of(slide, "level0")
    with pytest.raises(UnknownNameError, match="unknown origin 'qupath'; known: auto, bounds"):
        frame_of(slide, "qupath")


# --- what cannot be read


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere\.svs"):
        open_slide(tmp_path / "nowhere.svs")


def test_a_folder_is_not_a_slide(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="folder"):
        open_slide(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"not a slide", b"II*\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]
)
@pytest.mark.parametrize("name", ["case.svs", "case.tif", "case.png", "case.jpg"])
def test_what_is_no_slide_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SlideError, match=name.replace(".", r"\.")):
        open_slide(tmp_path / name, mpp=0.5)


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.tif", "lzw.tif", "palette.png"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_image_is_refused(
    tmp_path: Path, pixels: Pixels, name: str, share: float
) -> None:
    options = {"compression": "tiff_lzw"} if name == "lzw.tif" else {}
    picture = Image.fromarray(pixels[:300, :400])
    (picture.quantize() if name == "palette.png" else picture).save(tmp_path / name, **options)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SlideError, match=name.replace(".", r"\.")):
        open_slide(tmp_path / name, mpp=0.5)


@pytest.mark.parametrize("compression", ["deflate", "jpeg"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_truncated_pyramid_is_refused(
    tmp_path: Path, pixels: Pixels, compression: str, share: float
) -> None:
    """At the latest when the missing part is read."""
    path = write_pyramid(tmp_path / "cut.tif", pixels, compression=compression)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SlideError, match=r"cut\.tif"):
        thumbnail(open_slide(path, mpp=0.25), 0.25)


def test_damaged_tiles_are_told_when_read(tmp_path: Path, pixels: Pixels) -> None:
    path = write_pyramid(tmp_path / "damaged.tif", pixels, factors=(1,), compression="jpeg")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(data)
    slide = open_slide(path)
    with pytest.raises(SlideError, match=r"damaged\.tif is damaged or truncated: reading"):
        thumbnail(slide, 0.25)


def test_a_reader_is_chosen_by_name(tmp_path: Path, pixels: Pixels) -> None:
    path = write_pyramid(tmp_path / "a.tif", pixels)
    assert open_slide(path, reader="image").reader == "image"
    with pytest.raises(
        UnknownNameError, match="unknown reader 'cucim'; known: image, jpeg_tiff, openslide"
    ):
        open_slide(path, reader="cucim")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(SlideError, match=r"a\.png cannot be opened by OpenSlide"):
        open_slide(tmp_path / "a.png", mpp=0.25, reader="openslide")


# --- real files


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "given_mpp", "size", "mpp", "reader"),
    [
        ("CMU-1-Small-Region.svs", None, (2220, 2967), 0.499, "jpeg_tiff"),
        ("tcga-cr-7395-01a-01-ts1.svs", 0.25, (4443, 3567), 0.25, "openslide"),
        ("CropBreastSlide.tiff", 0.5, (2033, 1525), 0.5, "jpeg_tiff"),
        ("openslide_boxes.tiff", 1.0, (300, 250), 1.0, "openslide"),
        ("openslide_boxes_0.dcm", None, (16, 16), 0.499, "openslide"),
        ("openslide_small.svs", None, (16, 16), 0.499, "jpeg_tiff"),
        ("kidney-48-5.tif", 2.0, (1493, 901), 2.0, "image"),
        ("histoprep_slide.jpeg", 0.5, (2500, 2500), 0.5, "image"),
    ],
)
def test_real_files_open(
    shared_data: Path,
    name: str,
    given_mpp: float | None,
    size: tuple[int, int],
    mpp: float,
    reader: str,
) -> None:
    slide = open_slide(shared_data / "formats" / name, mpp=given_mpp)
    assert (slide.size, slide.reader) == (size, reader)
    assert slide.mpp == pytest.approx(mpp)
    assert thumbnail(slide, max(slide.mpp, 8.0)).std() > 0


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("CropBreastSlide.tiff", MissingMppError, r"claims 264\.583 µm/px"),
        ("openslide_boxes.tiff", MissingMppError, r"claims 352\.778 µm/px"),
        ("tcga-cr-7395-01a-01-ts1.svs", MissingMppError, "has no pixel size"),
        ("kidney-48-5.tif", MissingMppError, "has no pixel size"),
        ("histoprep_slide.jpeg", MissingMppError, "has no pixel size"),
        ("pathml_small_dicom.dcm", SlideError, "cannot be opened by OpenSlide"),
    ],
)
def test_real_files_that_need_help_say_which(
    shared_data: Path, name: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        open_slide(shared_data / "formats" / name)
