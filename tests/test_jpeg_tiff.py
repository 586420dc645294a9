"""JPEG-tiled slides, read fast: the pixels are OpenSlide's, and no tile is decoded twice."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from imagecodecs import jpeg8_encode
from jpeg_slides import Pixels, box_mean, split, tissue, write_slide

from recontour.errors import MissingMppError, SlideError, UsageError
from recontour.slides import limit_threads, open_slide, thumbnail
from recontour.slides.jpeg_tiff import JpegTiffReader
from recontour.slides.jpeg_tiles import JpegTiles
from recontour.slides.tile_plan import Tile, TilePlan
from recontour.types import PlanningSlide, Slide

WIDTH, HEIGHT = 1000, 700
APERIO = "Aperio Image Library v1\n1000x700 (240x240) JPEG/RGB Q=30|AppMag = 40|MPP = 0.25"
OME = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels BigEndian="false" DimensionOrder="XYCZT" ID="Pixels:0" PhysicalSizeX="0.25" '
    'PhysicalSizeXUnit="µm" PhysicalSizeY="0.25" PhysicalSizeYUnit="µm" SizeC="3" SizeT="1" '
    f'SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeZ="1" Type="uint8"><Channel ID="Channel:0:0" '
    'SamplesPerPixel="3"/><TiffData/></Pixels></Image></OME>'
)
KINDS: dict[str, dict[str, Any]] = {
    "4:2:0, tiles of 256": {},
    "4:2:0, tiles of 240": {"tile": 240},
    "4:2:2, shared tables": {"subsampling": "422", "tables": True, "tile": 240},
    "4:4:4, BigTIFF": {"subsampling": "444", "bigtiff": True},
    "4:1:1": {"subsampling": "411"},
    "RGB": {"rgb": True},
    "RGB, Aperio, shared tables": {
        "rgb": True,
        "tables": True,
        "tile": 240,
        "description": APERIO,
    },
    "missing tiles": {"missing": [(0, 0), (0, 5), (0, 11), (1, 3), (2, 0)]},
    "one tile for all": {"tile": 1024, "factors": (1, 4)},
}


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return tissue(WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def plain(pixels: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "case.tif", pixels)


def fast(path: Path, mpp: float | None = None) -> JpegTiffReader:
    slide = open_slide(path, mpp)
    assert isinstance(slide, JpegTiffReader)
    return slide


def psnr(found: Pixels, expected: Any) -> float:
    error = found.astype(float) - expected
    return float(10 * np.log10(255**2 / max(np.mean(error**2), 1e-9)))


def assert_as_openslide(path: Path, mpp: float | None = None) -> None:
    """All that a slide says of itself, all levels, and windows across their borders."""
    ours, theirs = fast(path, mpp), open_slide(path, mpp, "openslide")
    for name in ("id", "size", "mpp", "mpp_source", "bounds", "level_mpps", "fingerprint"):
        assert getattr(ours, name) == getattr(theirs, name), name
    rng = np.random.default_rng(1)
    with openslide.OpenSlide(path) as opened:
        for level, size in enumerate(opened.level_dimensions):
            own = ours.level_mpps[level]
            expected = theirs.read_region(0, 0, size, own)
            np.testing.assert_array_equal(ours.read_region(0, 0, size, own), expected)
            # OpenSlide places windows by level-0 px, so that those of odd levels are shifted.
            factor = own / ours.mpp
            if factor != opened.level_downsamples[level]:
                continue
            for _ in range(5):
                x, y = (int(rng.integers(-50, side)) * factor for side in size)
                window = tuple(int(v) for v in rng.integers(1, 400, 2))
                np.testing.assert_array_equal(
                    ours.read_region(x, y, window, own), theirs.read_region(x, y, window, own)
                )


# --- the same pixels as OpenSlide


@pytest.mark.parametrize("kind", KINDS)
def test_every_level_is_pixel_for_pixel_openslides(
    tmp_path: Path, pixels: Pixels, kind: str
) -> None:
    assert_as_openslide(write_slide(tmp_path / "case.tif", pixels, **KINDS[kind]))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "mpp"),
    [
        ("CMU-1-Small-Region.svs", None),
        ("CropBreastSlide.tiff", 0.5),
        ("openslide_small.svs", None),
    ],
)
def test_real_files_are_pixel_for_pixel_openslides(
    shared_data: Path, name: str, mpp: float | None
) -> None:
    assert_as_openslide(shared_data / "formats" / name, mpp)


def test_between_levels_it_is_openslides_too(plain: Path) -> None:
    """Interpolation starts from the same stored pixels."""
    ours, theirs = fast(plain), open_slide(plain, reader="openslide")
    for mpp in (0.2, 0.25 * 1.3, 0.75, 1.7):
        region = (-30.5, 101.25, (150, 130), mpp)
        np.testing.assert_array_equal(ours.read_region(*region), theirs.read_region(*region))


def philips(spacings: Sequence[float]) -> str:
    """The description by which OpenSlide knows a Philips TIFF; spacings in mm."""
    pixel = '<Attribute Name="DICOM_PIXEL_SPACING" PMSVR="IDoubleArray">"{0}" "{0}"</Attribute>'
    levels = "".join(
        f'<DataObject ObjectType="PixelDataRepresentation">{pixel.format(f"{s:.8f}")}</DataObject>'
        for s in spacings
    )
    return (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        '<Attribute Name="PIM_DP_SCANNED_IMAGES" PMSVR="IDataObjectArray"><Array>'
        '<DataObject ObjectType="DPScannedImage">'
        '<Attribute Name="PIM_DP_IMAGE_TYPE" PMSVR="IString">WSI</Attribute>'
        '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" PMSVR="IDataObjectArray">'
        f"<Array>{levels}</Array></Attribute></DataObject></Array></Attribute></DataObject>"
    )


def test_philips_tiff_is_read_too(tmp_path: Path) -> None:
    """CAMELYON16's files are such: levels padded to whole tiles, background left out."""
    path = write_slide(
        tmp_path / "tumor_001.tif",
        tissue(1024, 768),
        padded=True,
        missing=[(0, 5), (1, 3), (2, 0)],
        software="Philips DP v1.0",
        description=philips([0.00025, 0.0005, 0.001]),
    )
    with tifffile.TiffFile(path) as file, openslide.OpenSlide(path) as opened:
        assert opened.properties["openslide.vendor"] == "philips"
        assert opened.level_dimensions[1] == (512, 384)
        assert file.pages[1].shape == (512, 512, 3)
    assert_as_openslide(path)


def test_a_missing_tile_is_white(tmp_path: Path, pixels: Pixels) -> None:
    slide = fast(write_slide(tmp_path / "case.tif", pixels, missing=[(0, 5)]))
    assert (slide.read_region(256, 256, (256, 256), 0.25) == 255).all()
    assert slide.read_region(0, 0, (256, 256), 0.25).mean() < 240


# --- coarser than stored


@pytest.mark.parametrize("kind", ["4:2:0, tiles of 256", "4:2:2, shared tables", "RGB", "4:1:1"])
@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_shrunk_pixels_are_the_means_of_the_stored_ones(
    tmp_path: Path, pixels: Pixels, kind: str, factor: int
) -> None:
    slide = fast(write_slide(tmp_path / "case.tif", pixels, **KINDS[kind] | {"factors": (1,)}))
    expected = box_mean(slide.read_region(0, 0, (WIDTH, HEIGHT), 0.25), factor)
    height, width = expected.shape[:2]
    found = slide.read_region(0, 0, (width, height), 0.25 * factor)
    assert psnr(found, expected) > 41
    assert abs((found - expected).mean()) < 0.6
    # A shift by an output px would be seen: the picture is rougher than that.
    assert psnr(np.roll(found, 1, axis=1), expected) < 36


def test_off_the_blocks_nothing_is_shrunk_early(plain: Path, pixels: Pixels) -> None:
    """A window that begins on an odd px has other blocks; they are averaged exactly."""
    ours, theirs = fast(plain), open_slide(plain, reader="openslide")
    region = (3, 5, (100, 90), 0.5)
    assert psnr(ours.read_region(*region), theirs.read_region(*region)) > 41
    path = plain.with_name("single.tif")
    write_slide(path, pixels, factors=(1,))
    ours, theirs = fast(path), open_slide(path, reader="openslide")
    np.testing.assert_array_equal(ours.read_region(*region), theirs.read_region(*region))


def test_beyond_a_ragged_edge_is_white(tmp_path: Path) -> None:
    """The JPEG goes on beyond the slide; what it holds there is nobody's tissue."""
    path = write_slide(tmp_path / "case.tif", tissue(515, 389), factors=(1,))
    ours, theirs = fast(path), open_slide(path, reader="openslide")
    for factor in (2, 4, 8):
        size = (515 // factor + 10, 389 // factor + 10)
        found, expected = (s.read_region(0, 0, size, 0.25 * factor) for s in (ours, theirs))
        assert np.abs(found.astype(int) - expected).max() <= 12
        assert (found[:, -9:] == 255).all()


@given(
    factor=st.sampled_from([1, 2, 4, 8]),
    column=st.integers(0, 60),
    row=st.integers(0, 40),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
)
@settings(max_examples=40)
def test_a_pixel_does_not_depend_on_its_window(
    plain_single: JpegTiffReader, factor: int, column: int, row: int, size: tuple[int, int]
) -> None:
    whole = thumbnail(plain_single, 0.25 * factor)
    column, row = column % whole.shape[1], row % whole.shape[0]
    width = min(size[0], whole.shape[1] - column)
    height = min(size[1], whole.shape[0] - row)
    found = plain_single.read_region(column * factor, row * factor, (width, height), 0.25 * factor)
    np.testing.assert_array_equal(found, whole[row : row + height, column : column + width])


@pytest.fixture(scope="module")
def plain_single(tmp_path_factory: pytest.TempPathFactory) -> JpegTiffReader:
    path = tmp_path_factory.mktemp("single") / "case.tif"
    return fast(write_slide(path, tissue(600, 456, seed=2), factors=(1,)))


# --- OME-TIFF


def test_ome_tiff_has_all_its_levels(tmp_path: Path, pixels: Pixels) -> None:
    """OpenSlide sees the first one alone."""
    path = tmp_path / "case.ome.tif"
    write_slide(path, pixels, sublevels=True, description=OME)
    with openslide.OpenSlide(path) as theirs:
        assert theirs.level_count == 1
        expected = np.asarray(theirs.read_region((0, 0), 0, (WIDTH, HEIGHT)).convert("RGB"))
        quick = theirs.properties["openslide.quickhash-1"]
    slide = fast(path)
    assert quick
    assert (slide.id, slide.size) == ("case", (WIDTH, HEIGHT))
    assert slide.level_mpps == pytest.approx((0.25, 0.5, 1.0))
    assert slide.fingerprint == open_slide(path, reader="openslide").fingerprint
    np.testing.assert_array_equal(slide.read_region(0, 0, (WIDTH, HEIGHT), 0.25), expected)
    for factor in (2, 4):
        mean = box_mean(pixels, factor)
        found = slide.read_region(0, 0, (WIDTH // factor, HEIGHT // factor), 0.25 * factor)
        assert psnr(found, mean) > 30


def test_ome_tiff_after_a_label_in_strips(tmp_path: Path, pixels: Pixels) -> None:
    """OpenSlide refuses a TIFF that does not begin with tiles."""
    path = tmp_path / "case.ome.tif"
    write_slide(path, pixels, factors=(1,), description=OME)
    data = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        stored = [
            data[o : o + c] for o, c in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
    with tifffile.TiffWriter(path) as writer:
        label = np.full((60, 80, 3), 90, np.uint8)
        writer.write(label, photometric="rgb", description=OME.encode(), metadata=None)
        writer.write(
            iter(stored),
            shape=pixels.shape,
            dtype=np.uint8,
            tile=(256, 256),
            compression="jpeg",
            photometric="ycbcr",
            subsampling=(2, 2),
            metadata=None,
        )
    assert openslide.OpenSlide.detect_format(path) is None
    slide = fast(path)
    assert slide.size == (WIDTH, HEIGHT)
    assert (slide.mpp, slide.mpp_source) == (0.25, "metadata OME PhysicalSizeX")
    assert psnr(thumbnail(slide, 0.25), pixels) > 30


def test_a_big_endian_pyramid_is_read(tmp_path: Path, pixels: Pixels) -> None:
    """OpenSlide does not know it; its little-endian twin says what it holds."""
    slide = fast(write_slide(tmp_path / "big.tif", pixels, byteorder=">"))
    twin = open_slide(write_slide(tmp_path / "little.tif", pixels), reader="openslide")
    assert openslide.OpenSlide.detect_format(tmp_path / "big.tif") is None
    assert (slide.mpp, slide.level_mpps, slide.size) == (twin.mpp, twin.level_mpps, twin.size)
    for mpp in slide.level_mpps:
        region = (-10, 40, (350, 200), mpp)
        np.testing.assert_array_equal(slide.read_region(*region), twin.read_region(*region))


# --- what is left to others


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"compression": "deflate"}, "its tiles are DEFLATE, not JPEG"),
        ({"compression": "jpeg2000"}, "OpenSlide cannot open it .*34712"),
        ({"compression": None}, "its tiles are NONE, not JPEG"),
    ],
)
def test_other_tiles_are_left_to_openslide(
    tmp_path: Path, pixels: Pixels, how: dict[str, Any], why: str
) -> None:
    path = tmp_path / "case.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, tile=(256, 256), photometric="rgb", metadata=None, **how)
    assert not JpegTiffReader.can_open(path)
    with pytest.raises(SlideError, match=rf"case\.tif cannot be read by jpeg_tiff: .*({why})"):
        open_slide(path, 0.25, "jpeg_tiff")


def test_strips_grey_and_plain_images_are_left_to_others(tmp_path: Path, pixels: Pixels) -> None:
    strips = tmp_path / "strips.tif"
    tifffile.imwrite(strips, pixels, photometric="rgb", compression="jpeg", metadata=None)
    assert open_slide(strips, 0.25).reader == "image"
    grey = tmp_path / "grey.tif"
    tifffile.imwrite(grey, pixels[..., 0], tile=(256, 256), compression="jpeg", metadata=None)
    assert open_slide(grey, 0.25).reader == "openslide"
    (tmp_path / "text.tif").write_text("II*, said the text")
    assert not JpegTiffReader.can_open(tmp_path / "text.tif")
    with pytest.raises(SlideError, match="it is not a TIFF; leave --reader out"):
        JpegTiffReader(tmp_path / "text.tif")


def test_missing_tiles_of_aperio_are_left_to_openslide(tmp_path: Path, pixels: Pixels) -> None:
    """It fills them from the level above, and doubts what lies below them."""
    path = write_slide(tmp_path / "a.svs", pixels, missing=[(0, 5)], description=APERIO)
    assert open_slide(path).reader == "openslide"


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("tcga-cr-7395-01a-01-ts1.svs", "openslide"),
        ("openslide_boxes.tiff", "openslide"),
        ("openslide_boxes_0.dcm", "openslide"),
        ("kidney-48-5.tif", "image"),
        ("histoprep_slide.jpeg", "image"),
    ],
)
def test_real_files_of_other_kinds_are_left_to_others(
    shared_data: Path, name: str, reader: str
) -> None:
    path = shared_data / "formats" / name
    assert open_slide(path, 0.5).reader == reader
    with pytest.raises(SlideError, match="cannot be read by jpeg_tiff: .*; leave --reader out"):
        open_slide(path, 0.5, "jpeg_tiff")


@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_structure_is_no_crash(damaged: tuple[Path, bytes], data: st.DataObject) -> None:
    """Whatever bytes of the directories are wrong: another reader's turn, or a sentence."""
    path, good = damaged
    content = bytearray(good)
    start = good.rindex(b"\xff\xd9")  # directories lie behind the tiles, and at the beginning
    places = st.one_of(st.integers(0, 400), st.integers(start, len(good) - 1))
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    if not JpegTiffReader.can_open(path):
        return
    try:
        slide = open_slide(path, 0.25, "jpeg_tiff")
        slide.read_region(0, 0, (64, 64), 0.25)
        slide.close()
    except (SlideError, UsageError):
        pass


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("damaged") / "case.tif"
    good = write_slide(path, tissue(300, 280), factors=(1, 2), tile=128).read_bytes()
    return path, good


# --- damage


def overwrite(path: Path, tile: int, share: float, filling: bytes) -> None:
    """Fill the rest of a tile, from a share of it on."""
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[tile]
        count = file.pages[0].databytecounts[tile]
    start = offset + int(count * share)
    data = bytearray(path.read_bytes())
    data[start : offset + count] = (filling * count)[: offset + count - start]
    path.write_bytes(data)


@pytest.mark.parametrize("mpp", [0.25, 0.5])
@pytest.mark.parametrize(("share", "filling"), [(0.0, b"\0"), (0.5, b"\0"), (0.9, b"abc")])
def test_a_damaged_tile_is_told_with_its_place(
    tmp_path: Path, pixels: Pixels, mpp: float, share: float, filling: bytes
) -> None:
    path = write_slide(tmp_path / "case.tif", pixels, factors=(1,))
    overwrite(path, 5, share, filling)
    slide = fast(path)
    for x, y in ((0, 0), (512, 512)):
        slide.read_region(x, y, (100, 80), mpp)
    words = r"case\.tif is damaged or truncated: reading the tile at \(256, 256\) of level 0 failed"
    for _ in range(2):
        with pytest.raises(SlideError, match=words):
            slide.read_region(300, 300, (50, 50), mpp)
    slide.read_region(0, 0, (100, 100), mpp)  # the rest stays readable


def test_a_hole_of_zeros_inside_a_tile_is_told(tmp_path: Path, pixels: Pixels) -> None:
    """As an interrupted download leaves it: the tile still begins and ends as it should."""
    path = write_slide(tmp_path / "case.tif", pixels, factors=(1,))
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[5]
        count = file.pages[0].databytecounts[5]
    data = bytearray(path.read_bytes())
    data[offset + count // 2 : offset + count // 2 + 1000] = bytes(1000)
    path.write_bytes(data)
    with pytest.raises(SlideError, match=r"case\.tif is damaged .* \(256, 256\)"):
        fast(path).read_region(300, 300, (50, 50), 0.25)


def test_what_tifffile_logs_of_damage_stays_off_the_terminal(
    tmp_path: Path, pixels: Pixels
) -> None:
    path = write_slide(tmp_path / "case.tif", pixels)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    code = "import sys; from recontour.slides import open_slide; open_slide(sys.argv[1], 0.25)"
    found = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert "<tifffile" not in found.stderr


def test_a_file_cut_short_is_told(tmp_path: Path, pixels: Pixels) -> None:
    """Where the directories and the smallest level come first, only reading shows it."""
    path = write_slide(tmp_path / "case.tif", pixels)
    with tifffile.TiffFile(path, mode="r+b") as file:
        tag = file.pages[0].tags[324]
        offsets = list(tag.value)
        offsets[9] = path.stat().st_size - 500  # the last tile that is still there, in part
        tag.overwrite(offsets)
    slide = fast(path)
    slide.read_region(0, 0, (600, 400), 0.25)
    with pytest.raises(SlideError, match="the file ends .* bytes too early"):
        thumbnail(slide, 0.25)


def test_blank_tiles_of_zeros_are_no_damage(tmp_path: Path) -> None:
    """Optimised tables code an even tile as nothing but zeros, as a hole would be."""
    white = np.full((600, 600, 3), 255, np.uint8)
    path = write_slide(tmp_path / "case.tif", white, factors=(1,), tile=512)
    assert (thumbnail(fast(path), 0.25) == 255).all()


def test_no_pixel_size_is_a_matter_of_the_slide(tmp_path: Path, pixels: Pixels) -> None:
    path = write_slide(tmp_path / "case.tif", pixels, mpp=264.58)
    with pytest.raises(MissingMppError, match=r"case\.tif claims 264\.58"):
        open_slide(path)
    assert fast(path, 0.5).mpp == 0.5


# --- threads and closing


def test_many_threads_read_the_same_pixels(plain: Path) -> None:
    slide = fast(plain)
    regions = [
        (x, y, (300, 200), mpp)
        for mpp in (0.25, 0.5, 0.6, 2.0)
        for x in range(0, 900, 230)
        for y in range(0, 600, 170)
    ]
    alone = [slide.read_region(*region) for region in regions]
    with slide.plan_reads(regions), ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda region: slide.read_region(*region), regions))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_large_region_is_read_in_threads(tmp_path: Path, threads: int) -> None:
    path = write_slide(tmp_path / "case.tif", tissue(1600, 1200), factors=(1,), tile=128)
    ours, theirs = fast(path), open_slide(path, reader="openslide")
    ours.threads = threads
    before = threading.active_count()
    region = (37, 5, (1500, 1190), 0.25)
    np.testing.assert_array_equal(ours.read_region(*region), theirs.read_region(*region))
    assert threading.active_count() - before == (0 if threads == 1 else 3)
    ours.close()
    assert threading.active_count() == before


def test_threads_are_limited_by_the_user(plain: Path) -> None:
    slide = fast(plain)
    own = slide.threads
    limit_threads(slide, None)
    assert slide.threads == own
    limit_threads(slide, 1)
    assert slide.threads == 1


def test_a_closed_slide_says_so(plain: Path) -> None:
    slide = fast(plain)
    slide.close()
    slide.close()
    with pytest.raises(SlideError, match=r"case\.tif was closed"):
        slide.read_region(0, 0, (10, 10), 0.25)


def test_closing_waits_for_reads(plain: Path) -> None:
    """Never a read from a file that is not ours any more."""
    slide = fast(plain)
    outcomes: list[str] = []

    def read() -> None:
        try:
            while True:
                slide.read_region(0, 0, (600, 500), 0.25)
        except SlideError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    slide.close()
    for thread in threads:
        thread.join(60)
    assert outcomes == ["case.tif was closed"] * 4


@pytest.mark.parametrize("size", [(0, 5), (5, -1)])
def test_an_empty_region_is_refused(plain: Path, size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="sizes must be positive"):
        fast(plain).read_region(0, 0, size, 0.25)


# --- planned reads


class Counting:
    """Counts how often each tile of each level is decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times: Counter[tuple[int, int, int]] = Counter()
        original, into = JpegTiles.decode, JpegTiles.into
        lock = threading.Lock()

        def decode(tiles: JpegTiles, indices: Sequence[int], shrink: int) -> list[Pixels]:
            with lock:
                self.times.update((tiles.grid.size[0], shrink, index) for index in indices)
            return original(tiles, indices, shrink)

        def decode_into(tiles: JpegTiles, out: Pixels, index: int) -> Pixels:
            with lock:
                self.times[tiles.grid.size[0], 1, index] += 1
            return into(tiles, out, index)

        monkeypatch.setattr(JpegTiles, "decode", decode)
        monkeypatch.setattr(JpegTiles, "into", decode_into)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(monkeypatch)


def patches(mpp: float, side: int = 150, step: int = 110) -> list[tuple[float, float, Any, float]]:
    """Overlapping patches that fit no tile."""
    factor = mpp / 0.25
    return [
        (x * factor, y * factor, (side, side), mpp)
        for y in range(0, int(HEIGHT / factor), step)
        for x in range(0, int(WIDTH / factor), step)
    ]


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.65])
@pytest.mark.parametrize("threads", [1, 4])
def test_planned_tiles_are_decoded_once(
    tmp_path: Path, pixels: Pixels, counting: Counting, mpp: float, threads: int
) -> None:
    slide = fast(write_slide(tmp_path / "case.tif", pixels, factors=(1,)))
    assert isinstance(slide, PlanningSlide)
    assert isinstance(slide, Slide)
    regions = patches(mpp)
    unplanned = [slide.read_region(*region) for region in regions]
    assert max(counting.times.values()) > 3
    counting.times.clear()
    with slide.plan_reads(regions), ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda region: slide.read_region(*region), regions))
    assert set(counting.times.values()) == {1}
    assert len(counting.times) == 12  # 4 x 3 tiles cover the slide
    assert slide.plan.kept_bytes == 0
    for one, other in zip(found, unplanned, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_memory_of_a_plan_is_bounded(
    tmp_path: Path, pixels: Pixels, counting: Counting
) -> None:
    slide = fast(write_slide(tmp_path / "case.tif", pixels, factors=(1,)))
    slide.plan.limit = 3 * 256 * 256 * 3
    regions = patches(0.25)
    expected = [slide.read_region(*region) for region in regions]
    counting.times.clear()
    with slide.plan_reads(regions):
        for region, pixels_ in zip(regions, expected, strict=True):
            np.testing.assert_array_equal(slide.read_region(*region), pixels_)
            assert slide.plan.kept_bytes <= slide.plan.limit
    assert len(counting.times) == 12
    assert max(counting.times.values()) > 1
    assert slide.plan.kept_bytes == 0


def test_tiles_are_kept_no_longer_than_needed(plain: Path) -> None:
    slide = fast(plain)
    row = [(x, 0.0, (256, 256), 0.25) for x in (0.0, 128.0, 256.0)]
    with slide.plan_reads(row):
        assert slide.plan.kept_bytes == 0
        slide.read_region(*row[0])
        assert slide.plan.kept_bytes == 256 * 256 * 3
        slide.read_region(*row[1])
        slide.read_region(*row[2])
        assert slide.plan.kept_bytes == 0


def test_plans_left_unfinished_keep_nothing(plain: Path) -> None:
    slide = fast(plain)
    regions = patches(0.25)

    def interrupted() -> None:
        with slide.plan_reads(regions):
            for region in regions[:3]:
                slide.read_region(*region)
            assert slide.plan.kept_bytes > 0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert slide.plan.kept_bytes == 0
    with slide.plan_reads(regions[:2]), slide.plan_reads(regions[1:3]):
        slide.read_region(*regions[1])
        slide.read_region(500, 500, (20, 20), 0.25)  # not planned: read all the same
    assert slide.plan.kept_bytes == 0


def test_a_damaged_tile_of_a_plan_fails_every_read_of_it(tmp_path: Path, pixels: Pixels) -> None:
    path = write_slide(tmp_path / "case.tif", pixels, factors=(1,))
    overwrite(path, 5, 0.5, b"\0")
    slide = fast(path)
    regions = patches(0.25)

    def read(region: Any) -> bool:
        try:
            slide.read_region(*region)
        except SlideError:
            return False
        return True

    with slide.plan_reads(regions), ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read, regions))
    hit = [x < 512 and x + 150 > 256 and y < 512 and y + 150 > 256 for x, y, *_ in regions]
    assert found == [not h for h in hit]
    assert slide.plan.kept_bytes == 0


# --- an odd tile among others


def write_tiles(path: Path, tiles: Sequence[bytes], shape: tuple[int, ...]) -> None:
    """One level of tiles that are JPEGs already."""
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            iter(tiles),
            shape=shape,
            dtype=np.uint8,
            tile=(256, 256),
            compression="jpeg",
            photometric="ycbcr",
            subsampling=(2, 2),
            metadata=None,
        )


def test_tiles_of_other_tables_and_sampling_are_read(tmp_path: Path, pixels: Pixels) -> None:
    """Merged files hold tiles of several encoders; the header of one is not that of all."""
    first = write_slide(tmp_path / "a.tif", pixels, factors=(1,))
    other = write_slide(tmp_path / "b.tif", pixels, factors=(1,), subsampling="411")
    stored = []
    for path in (first, other):
        data = path.read_bytes()
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            stored.append(
                [
                    data[o : o + c]
                    for o, c in zip(page.dataoffsets, page.databytecounts, strict=True)
                ]
            )
    mixed = [stored[number % 2][number] for number in range(len(stored[0]))]
    write_tiles(tmp_path / "mixed.tif", mixed, pixels.shape)
    slide = fast(tmp_path / "mixed.tif", 0.25)
    expected = box_mean(slide.read_region(0, 0, (WIDTH, HEIGHT), 0.25), 2)
    assert psnr(slide.read_region(0, 0, (WIDTH // 2, HEIGHT // 2), 0.5), expected) > 41
    assert split(mixed[0])[0] != mixed[0]


def test_what_follows_the_end_of_a_tile_is_passed_over(tmp_path: Path, pixels: Pixels) -> None:
    """Some encoders end a tile twice, or pad it with what was in memory."""

    def padded(data: bytes, number: int) -> bytes:
        return data + (b"\xff\xd9", b"abc\xff\xd9", b"\xff\xd3\xff\xd9", b"\0\0")[number % 4]

    path = write_slide(tmp_path / "a.tif", pixels, factors=(1,))
    data = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        places = zip(page.dataoffsets, page.databytecounts, strict=True)
        tiles = [padded(data[o : o + c], number) for number, (o, c) in enumerate(places)]
    write_tiles(tmp_path / "padded.tif", tiles, pixels.shape)
    slide = fast(tmp_path / "padded.tif", 0.25)
    for mpp in (0.25, 0.5, 1.0):
        size = int(WIDTH * 0.25 / mpp), int(HEIGHT * 0.25 / mpp)
        found = slide.read_region(0, 0, size, mpp)
        np.testing.assert_array_equal(found, fast(path).read_region(0, 0, size, mpp))


def test_a_tile_of_another_size_is_told_with_both_sizes(tmp_path: Path, pixels: Pixels) -> None:
    small = bytes(jpeg8_encode(np.ascontiguousarray(pixels[:128, :256]), subsampling="420"))
    write_tiles(tmp_path / "small.tif", [small], (256, 256, 3))
    for mpp in (0.25, 0.5):
        with pytest.raises(SlideError, match="256 x 128 px, not 256 x 256"):
            fast(tmp_path / "small.tif", 0.25).read_region(0, 0, (100, 100), mpp)


def test_a_picture_as_large_as_a_level_is_no_level(tmp_path: Path, pixels: Pixels) -> None:
    """Only directories that say they are reduced belong to a pyramid, as OpenSlide has it."""
    path = tmp_path / "two.tif"
    half = np.rint(box_mean(pixels, 2)).astype(np.uint8)
    with tifffile.TiffWriter(path) as file:
        for image, reduced in ((pixels, 0), (255 - half, 0), (half, 1)):
            file.write(
                image,
                tile=(256, 256),
                compression="jpeg",
                photometric="rgb",
                subfiletype=reduced,
                resolution=(4e4, 4e4),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    assert len(fast(path).level_mpps) == 2
    assert_as_openslide(path)


def test_a_plan_that_ended_early_is_not_counted_into_the_next() -> None:
    """A thread may still decode for a plan that an error ended, while the next one begins."""
    tile, region = Tile(0, 1, 0), (0.0, 0.0, (8, 8), 1.0)
    plan = TilePlan(lambda _: [tile])
    pixels = np.zeros((8, 8, 3), np.uint8)
    first, second = plan.expecting([region] * 2), plan.expecting([region] * 2)

    def slow(_: Sequence[Tile]) -> list[Pixels]:
        first.__exit__(None, None, None)
        second.__enter__()
        plan.get([tile], lambda _: [pixels.copy()])
        return [pixels.copy()]

    first.__enter__()
    plan.get([tile], slow)
    assert plan.kept_bytes == pixels.nbytes
    second.__exit__(None, None, None)
    assert plan.kept_bytes == 0
