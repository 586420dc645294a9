from __future__ import annotations

import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from shapely import Polygon, box

from recontour.annotations import read_annotation, write_annotation
from recontour.annotations.raster import outline, paint
from recontour.errors import AnnotationError, OutputError
from recontour.types import Annotation, Frame, Region

pictures = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: arrays(bool, shape)
)
eighths = st.integers(-24, 120).map(lambda k: k / 8 + 0.01)


def squares(mask) -> shapely.Geometry:
    """The oracle: every pixel as a square, united."""
    return shapely.union_all(
        [box(c, r, c + 1, r + 1) for r, c in zip(*np.nonzero(mask), strict=True)]
    )


@given(pictures)
@settings(max_examples=200, deadline=None)
def test_the_outline_of_any_mask_is_exactly_its_pixels(mask):
    polygons = outline(mask)
    assert all(polygon.is_valid for polygon in polygons)
    whole = shapely.MultiPolygon(polygons)
    assert whole.is_valid
    assert whole.area == mask.sum()
    assert whole.symmetric_difference(squares(mask)).area == 0


@given(pictures)
@settings(max_examples=100, deadline=None)
def test_painting_an_outline_gives_the_mask_back(mask):
    pixels = np.zeros(mask.shape, np.uint8)
    for polygon in outline(mask):
        paint(pixels, polygon, 1)
    assert np.array_equal(pixels, mask)


@given(
    st.lists(st.tuples(eighths, eighths), min_size=3, max_size=9),
)
@settings(max_examples=150, deadline=None)
def test_painted_pixels_are_those_whose_centre_is_inside(points):
    polygon = Polygon(points)
    if not polygon.is_valid:
        return
    pixels = np.zeros((12, 10), np.uint8)
    paint(pixels, polygon, 1)
    X, Y = np.meshgrid(np.arange(10) + 0.5, np.arange(12) + 0.5)
    near_border = shapely.distance(shapely.points(X, Y), polygon.exterior) < 1e-9
    inside = shapely.contains_xy(polygon, X, Y)
    assert np.array_equal(pixels[~near_border] == 1, inside[~near_border])


def test_patches_that_touch_at_a_corner_are_two_and_a_ring_keeps_its_hole():
    assert len(outline(np.eye(2, dtype=bool))) == 2
    ring = np.ones((5, 5), bool)
    ring[1:4, 1:4] = False
    ring[2, 2] = True
    outer, inner = outline(ring)
    assert outer.area == 16
    assert outer.interiors[0].envelope.equals(box(1, 1, 4, 4))
    assert inner.equals(box(2, 2, 3, 3))


def test_a_mask_at_an_eighth_of_the_slide_lands_at_level_0(tmp_path):
    mask = np.zeros((30, 40), np.uint8)
    mask[10:20, 5:15] = 255
    Image.fromarray(mask).save(tmp_path / "case_1.png")
    annotation = read_annotation(tmp_path / "case_1.png", Frame(size=(320, 240)))
    (region,) = annotation.regions
    assert region.label == "Tumor"
    assert region.geometry.equals(box(40, 80, 120, 160))
    assert annotation.slide_id == "case_1"
    moved = read_annotation(tmp_path / "case_1.png", Frame(origin=(1000, 50), size=(320, 240)))
    assert moved.regions[0].geometry.equals(box(1040, 130, 1120, 210))
    alone = read_annotation(tmp_path / "case_1.png")
    assert alone.regions[0].geometry.equals(box(5, 10, 15, 20))
    assert alone.regions[0].id == read_annotation(tmp_path / "case_1.png").regions[0].id


def test_several_values_are_several_classes(tmp_path):
    mask = np.zeros((10, 10), np.uint8)
    mask[:5], mask[5:, 5:] = 1, 3
    tifffile.imwrite(tmp_path / "m.tif", mask)
    regions = read_annotation(tmp_path / "m.tif").regions
    assert {r.label: r.geometry.area for r in regions} == {"class 1": 50, "class 3": 25}


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_the_kind_of_image_does_not_matter(tmp_path, mode):
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 255 if mode in ("1", "RGB", "RGBA") else 1
    image = Image.fromarray(mask)
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 0, 0])
    elif mode == "I;16":
        image = Image.fromarray(mask.astype(np.uint16))
    elif mode != "L":
        image = image.convert(mode)
    image.save(tmp_path / "m.png")
    (region,) = read_annotation(tmp_path / "m.png").regions
    assert region.geometry.equals(box(2, 2, 6, 6))
    assert region.label == "Tumor"


def test_each_colour_of_a_colour_mask_is_a_class(tmp_path):
    mask = np.zeros((6, 6, 3), np.uint8)
    mask[:3] = (200, 0, 0)
    mask[3:, 3:] = (0, 200, 0)
    Image.fromarray(mask).save(tmp_path / "m.png")
    labels = {r.label for r in read_annotation(tmp_path / "m.png").regions}
    assert labels == {"class #c80000", "class #00c800"}


def test_a_mask_of_another_shape_than_the_slide_is_said_to_be_stretched(tmp_path):
    Image.fromarray(np.ones((10, 10), np.uint8)).save(tmp_path / "m.png")
    annotation = read_annotation(tmp_path / "m.png", Frame(size=(100, 200)))
    assert annotation.regions[0].geometry.area == 20000
    assert "stretched" in annotation.notes[0]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_written_masks_come_back_with_their_classes(tmp_path, suffix):
    regions = (
        Region("a", box(10, 10, 60, 60), "Tumor"),
        Region("b", box(20, 20, 30, 30), "Necrosis"),
        Region("c", box(80, 80, 90, 90), None),
    )
    path = tmp_path / f"mask{suffix}"
    write_annotation(Annotation("s", regions), path, Frame(size=(100, 100)))
    back = {r.label: r.geometry for r in read_annotation(path, Frame(size=(100, 100))).regions}
    assert back["Necrosis"].equals(box(20, 20, 30, 30))
    assert back["Tumor"].equals(box(10, 10, 60, 60) - box(20, 20, 30, 30))
    assert back["class 3"].equals(box(80, 80, 90, 90))


def test_the_mask_of_a_large_slide_is_downsampled_and_lands_in_the_frame(tmp_path):
    frame = Frame(origin=(500, 700), size=(40_960, 20_480))
    region = Region("a", box(1500, 1700, 11_500, 6700), "Tumor")
    write_annotation(Annotation("s", (region,)), tmp_path / "m.png", frame)
    with Image.open(tmp_path / "m.png") as image:
        assert image.size == (4096, 2048)
    (back,) = read_annotation(tmp_path / "m.png", frame).regions
    assert back.geometry.equals(region.geometry)


def test_pyramids_and_single_planes_are_read(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[16:32, 16:32] = 7
    with tifffile.TiffWriter(tmp_path / "m.ome.tif") as tif:
        tif.write(mask, subifds=1, metadata={"axes": "YX"})
        tif.write(mask[::2, ::2], subfiletype=1)
    (region,) = read_annotation(tmp_path / "m.ome.tif", Frame(size=(640, 640))).regions
    assert region.geometry.equals(box(160, 160, 320, 320))


def test_what_is_no_mask_is_refused_in_words(tmp_path):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    with pytest.raises(AnnotationError, match="a picture, not a mask"):
        read_annotation(tmp_path / "photo.png")
    tifffile.imwrite(tmp_path / "probability.tif", rng.random((8, 8), np.float32))
    with pytest.raises(AnnotationError, match="fractions"):
        read_annotation(tmp_path / "probability.tif")
    tifffile.imwrite(tmp_path / "stack.tif", np.ones((3, 8, 9), np.uint8), photometric="minisblack")
    with pytest.raises(AnnotationError, match="3 planes"):
        read_annotation(tmp_path / "stack.tif")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "nothing.png")
    with pytest.raises(AnnotationError, match="no outline"):
        read_annotation(tmp_path / "nothing.png")
    assert read_annotation(tmp_path / "nothing.png", allow_empty=True).regions == ()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_damaged_mask_is_an_error_not_a_crash(tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    image = np.zeros((200, 200), np.uint8)
    image[np.random.default_rng(1).random((200, 200)) < 0.5] = 1
    write = Image.fromarray(image).save if suffix == ".png" else None
    if write:
        write(whole)
    else:
        tifffile.imwrite(whole, image, compression="deflate", rowsperstrip=10)
    data = whole.read_bytes()
    for length in (0, 4, 60, len(data) // 2):
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(data[:length])
        with pytest.raises(AnnotationError, match="cut"):
            read_annotation(cut)


def test_a_mask_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        write_annotation(
            Annotation("s", (Region("a", box(0, 0, 5, 5)),)), tmp_path / "file" / "m.png"
        )


@pytest.mark.real_data
def test_a_real_tumour_mask_keeps_its_area(shared_data):
    path = shared_data / "bcss" / "1008_tumor.png"
    with Image.open(path) as image:
        marked = int((np.asarray(image) != 0).sum())
    annotation = read_annotation(path)
    assert sum(region.geometry.area for region in annotation.regions) == marked
    assert all(region.geometry.is_valid for region in annotation.regions)
