"""What a person opens after a run: the picture, the probability map and the page."""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from shapely import Point, Polygon, affinity, box

from recontour.errors import OutputError
from recontour.reports import overview, write_overview, write_probability, write_report
from recontour.reports.heatmap import halve, pyramid
from recontour.reports.outlook import sentences
from recontour.reports.plots import probability_histogram
from recontour.reports.summary import (
    class_colour,
    format_area,
    format_change,
    plain,
    summarise,
)
from recontour.reports.thumbnails import view_of
from recontour.reports.view import View, bar_length, details, whole_view
from recontour.types import (
    Annotation,
    Geometry,
    PatchGrid,
    PatchSet,
    Recipe,
    Refinement,
    Region,
    Slide,
)

CELL = 64  # px
MPP = 0.5
DOT = base64.b64decode(  # the smallest PNG
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@dataclass
class PaintedSlide:
    """A slide in memory: pink tissue with darker nests on white glass, 1 px for 8 level-0 px."""

    tissue: Geometry
    nests: Geometry
    size: tuple[int, int] = (6400, 4480)
    id: str = "case_07"
    mpp: float = MPP
    mpp_source: str = "openslide.mpp-x"
    level_mpps: tuple[float, ...] = (MPP, 4 * MPP)
    reader: str = "openslide"
    fingerprint: str = "3f9a1c0d2b7e4a55"

    def __post_init__(self) -> None:
        self.bounds = (0, 0, *self.size)
        shape = (self.size[1] // 8, self.size[0] // 8)
        y, x = (np.indices(shape) * 8 + 4).astype(float)
        rng = np.random.default_rng(0)
        image = np.full((*shape, 3), 242.0)
        for area, colour, grain in (
            (self.tissue, (228, 170, 200), 14),
            (self.nests, (150, 100, 165), 26),
        ):
            inside = shapely.contains_xy(area, x, y)
            image[inside] = colour + rng.normal(0, grain, (int(inside.sum()), 1))
        self.image = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))

    def read_region(
        self, x: float, y: float, size: tuple[int, int], mpp: float
    ) -> NDArray[np.uint8]:
        scale = mpp / self.mpp / 8
        data = (scale, 0, x / 8, 0, scale, y / 8)
        white = (255, 255, 255)
        return np.asarray(
            self.image.transform(
                size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=white
            )
        )

    def close(self) -> None:
        pass


def blob(x: float, y: float, radius: float, seed: int) -> Polygon:
    """A lobed outline, as tissue has."""
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, 160, endpoint=False)
    wave = sum(rng.normal(0, 0.12 / n) * np.cos(n * angle + rng.uniform(0, 6)) for n in range(2, 9))
    return Polygon(
        np.stack(
            [x + radius * (1 + wave) * np.cos(angle), y + radius * (1 + wave) * np.sin(angle)], 1
        )
    ).buffer(0)


TISSUE = blob(3200, 2240, 1900, 1)
TUMOUR = shapely.union_all(
    [blob(2700, 1900, 650, 2).difference(Point(2650, 1850).buffer(180)), blob(3900, 2700, 380, 3)]
)
STROMA = blob(4000, 1500, 450, 4).difference(TUMOUR)


def grid_over(tissue: Geometry, size: tuple[int, int], origin: tuple[float, float]) -> PatchGrid:
    shape = (int((size[1] - origin[1]) // CELL), int((size[0] - origin[0]) // CELL))
    row, col = np.indices(shape).reshape(2, -1)
    x, y = origin[0] + (col + 0.5) * CELL, origin[1] + (row + 0.5) * CELL
    on = shapely.contains_xy(tissue, x, y)
    return PatchGrid(
        origin, shape, row[on].astype(np.int32), col[on].astype(np.int32), CELL, CELL, 128, MPP, MPP
    )


def region(label: str | None, geometry: Geometry, number: int, parent: str = "") -> Region:
    properties = {"objectType": "annotation", "metadata": {"parent": parent}} if parent else {}
    identity = str(uuid.UUID(int=number + 1))
    return Region(identity, geometry, label, 0.87 if parent else None, properties)


def refinement_of(
    slide: PaintedSlide,
    fine: dict[str | None, Geometry],
    drawn: dict[str | None, Geometry],
    origin: tuple[float, float] = (0.0, 0.0),
    facts: dict[str, object] | None = None,
    warnings: tuple[str, ...] = (),
    recipe: Recipe | None = None,
) -> Refinement:
    """A run that found `fine` where `drawn` was given."""
    grid = grid_over(slide.tissue, slide.size, origin)
    names = [name or "Unclassified" for name in fine]
    x, y = grid.centres.T
    labels = np.zeros(len(grid), np.int8)
    probs = np.full((len(grid), len(names) + 1), 0.02, np.float32)
    rng = np.random.default_rng(0)
    for k, name in enumerate(fine, start=1):
        labels[shapely.contains_xy(drawn[name], x, y)] = k
        near = shapely.distance(fine[name].boundary, shapely.points(x, y)) / CELL
        inside = shapely.contains_xy(fine[name], x, y)
        signed = np.where(inside, near, -near) + rng.normal(0, 0.4, len(grid))
        probs[:, k] = 1 / (1 + np.exp(-2.0 * signed))
    probs[:, 0] = np.clip(1 - probs[:, 1:].sum(axis=1), 0.001, 1)
    probs /= probs.sum(axis=1, keepdims=True)
    given = [region(name, shape, i) for i, (name, shape) in enumerate(drawn.items())]
    found = [
        region(name, part, 100 + 10 * i + j, given[i].id)
        for i, (name, shape) in enumerate(fine.items())
        for j, part in enumerate(getattr(shape, "geoms", [shape]))
    ]
    return Refinement(
        patches=PatchSet(
            slide.id, grid, np.zeros((len(grid), 1), np.float16), labels, ("background", *names)
        ),
        probs=probs.astype(np.float32),
        annotation=Annotation(slide.id, tuple(found), "recontour"),
        changes=Annotation(slide.id, ()),
        coarse=Annotation(
            slide.id,
            tuple(given),
            "coarse.geojson",
            notes=("object 2 crossed itself; repaired, area kept",),
        ),
        tissue=slide.tissue,
        recipe=recipe or Recipe(),
        facts=facts or {},
        warnings=warnings,
        timings={"prepare": 0.41, "embed": 12.6, "learn": 1.2, "trace": 0.33},
    )


@pytest.fixture(scope="module")
def slide() -> PaintedSlide:
    return PaintedSlide(TISSUE, shapely.union_all([TUMOUR, STROMA]))


FACTS = {
    "slide": {"id": "case_07", "file": "case_07.svs", "mpp": 0.5},
    "grid": {"cell_um": 32.0, "reasons": ["32 µm cells: the default at the encoder's 0.5 µm/px"]},
    "labels": {"background": 1700, "Tumor": 900},
    "noise": {"cells": 2768, "changed": 241, "classes": {"Tumor": {"left": 210, "joined": 31}}},
    "trust": {"agreement": 0.874},
    "versions": {"recontour": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
    "validity": {"verdict": "valid", "score": 0.8},
    "estimate": {
        "source": "cross-fitted",
        "given": {"wrong_share": 0.142, "wrong_um2": 4e5, "ppv": 0.81, "npv": 0.88},
        "refined": {"wrong_share": 0.083, "wrong_um2": 2.4e5, "ppv": 0.9, "npv": 0.93},
        "changed": {
            "added": {"cells": 31, "reviewed": 0, "alike": 31, "method_alone": 0},
            "removed": {"cells": 210, "reviewed": 21, "alike": 147, "method_alone": 42},
            "swapped": {"cells": 0, "reviewed": 0, "alike": 0, "method_alone": 0},
        },
        "held_back": {"cells": 12, "um2": 12288.0},
    },
    "look_first": {
        "places": [
            {
                "number": number,
                "id": str(uuid.UUID(int=200 + number)),
                "what": what,
                "change": "uncertain",
                "whole": number == 1,
                "area_um2": 42_000.0,
                "expected_wrong": 0.48,
                "share_of_errors": 0.21,
                "x_px": x,
                "y_px": y,
                "qupath_x_um": x * MPP,
                "qupath_y_um": y * MPP,
                "reason": "looks like what lies outside; estimated 12 % of it wrong",
            }
            for number, what, x, y in (
                (1, "Tumor: removed", 2650, 1900),
                (2, "uncertain", 3900, 2700),
            )
        ],
        "review": {"places": 2, "settle": 0.34, "cells_share": 0.03, "in_changes": 0.7},
    },
}
PLACES = tuple(
    region("uncertain", Point(x, y).buffer(150), 199 + number)
    for number, x, y in ((1, 2650, 1900), (2, 3900, 2700))
)


@pytest.fixture(scope="module")
def run(slide: PaintedSlide) -> Refinement:
    found = refinement_of(
        slide,
        {"Tumor": TUMOUR},
        {"Tumor": affinity.translate(TUMOUR.convex_hull, 120, -60)},
        facts=FACTS,
        warnings=("only 1.6 % of the tissue is Tumor: too little to learn from safely",),
        recipe=Recipe(threshold=0.55, tissue="/home/someone/masks/tissue.png", only="remove"),
    )
    return replace(found, changes=Annotation(slide.id, PLACES))


@pytest.fixture(scope="module")
def two_classes(slide: PaintedSlide) -> Refinement:
    fine = {"Tumor": TUMOUR, "Stroma": STROMA}
    return refinement_of(slide, fine, {k: v.convex_hull.buffer(90) for k, v in fine.items()})


# --- the picture ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def picture_path(
    slide: PaintedSlide, run: Refinement, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("picture") / "overview.png"
    write_overview(slide, run, path)
    return path


def test_the_picture_shows_the_slide_twice(picture_path: Path) -> None:
    with Image.open(picture_path) as picture:
        assert picture.format == "PNG"
        assert 2000 < picture.width < 2500
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    # Tumor red is drawn in the left half (given) and in the right half (refined).
    red = (pixels[..., 0] > 180) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60)
    upper = red[: len(red) // 2]
    half = upper.shape[1] // 2
    assert upper[:, :half].sum() > 500
    assert upper[:, half:].sum() > 500
    assert [p.name for p in picture_path.parent.iterdir()] == ["overview.png"]


def test_the_same_run_gives_the_same_picture(
    tmp_path: Path, slide: PaintedSlide, run: Refinement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "DPI", 40)
    for name in ("a.png", "b.png"):
        write_overview(slide, run, tmp_path / name)
    digests = {hashlib.sha256((tmp_path / n).read_bytes()).digest() for n in ("a.png", "b.png")}
    assert len(digests) == 1


def test_the_picture_copes_with_what_runs_end_in(
    tmp_path: Path,
    slide: PaintedSlide,
    two_classes: Refinement,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overview, "DPI", 40)
    nothing = replace(two_classes, annotation=Annotation(slide.id, ()), warnings=("w" * 400, "b"))
    away = affinity.translate(TUMOUR, 20_000, 0)
    for number, refinement in enumerate(
        (
            two_classes,
            nothing,
            refinement_of(slide, {None: TUMOUR}, {None: TUMOUR}),  # unclassified, nothing changed
            refinement_of(slide, {"Tumor": TUMOUR}, {"Tumor": away}),  # a wrong origin
        )
    ):
        path = tmp_path / f"{number}.png"
        write_overview(slide, refinement, path)
        with Image.open(path) as picture:
            picture.verify()


def test_an_outline_off_the_slide_stays_in_sight(slide: PaintedSlide, run: Refinement) -> None:
    off = box(7000, 1000, 7500, 1500)
    view = whole_view(slide, run, [off])
    assert view.x + view.width >= 7500
    far = whole_view(slide, run, [affinity.translate(off, 1e6, 0)])
    assert far.x + far.width <= 1.5 * slide.size[0]
    assert far.width > 0


def test_the_view_holds_all_tissue_and_nothing_off_the_slide(
    slide: PaintedSlide, run: Refinement
) -> None:
    view = whole_view(slide, run, [TUMOUR])
    shown = box(view.x, view.y, view.x + view.width, view.y + view.height)
    assert shown.contains(TISSUE)
    assert box(0, 0, *slide.size).contains(shown)


def test_details_look_where_the_border_moved(slide: PaintedSlide, run: Refinement) -> None:
    grid = run.patches.grid
    moved = affinity.translate(TUMOUR, 400, 0)
    x, y = grid.centres.T
    labels = shapely.contains_xy(moved, x, y).astype(np.int8)
    view = whole_view(slide, run, [TUMOUR])
    windows = details(grid, labels, [TUMOUR], view, 2, 0.8)
    assert len(windows) == 2
    for w in windows:
        shown = box(w.x, w.y, w.x + w.width, w.y + w.height)
        assert shown.intersects(TUMOUR.symmetric_difference(moved))
        assert w.aspect == pytest.approx(0.8)


@given(st.floats(1, 1e6))
def test_the_scale_bar_is_round_and_fits(width_um: float) -> None:
    length = bar_length(width_um)
    assert width_um / 12.6 < length <= width_um / 5 * 1.001
    assert f"{length:.0e}"[0] in "125"


def test_a_view_is_grown_never_cut() -> None:
    wide = View(100, 100, 1000, 100).shaped(0.5, 1.2)
    assert (wide.width, wide.height) == (1000, 500)
    assert wide.y == pytest.approx(-100)
    tall = View(0, 0, 100, 1000).shaped(0.5, 1.25)
    assert (tall.width, tall.height) == (800, 1000)


# --- the probability map -------------------------------------------------------------------------


def test_the_map_lies_on_the_slide(tmp_path: Path, slide: PaintedSlide) -> None:
    tifffile = pytest.importorskip("tifffile")
    fine = {"Tumor": TUMOUR, "Stroma": STROMA}
    found = refinement_of(slide, fine, fine, origin=(320.0, 128.0))
    path = tmp_path / "probability.tif"
    write_probability(slide, found, path)
    grid = found.patches.grid
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ome
        series = tif.series[0]
        assert series.axes == "CYX"
        image = series.asarray()
        xml = tif.ome_metadata
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[1], grid.scatter(found.probs[:, 2]))

    space = {"o": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}
    pixels = ET.fromstring(xml).find(".//o:Pixels", space)
    assert pixels is not None
    assert float(pixels.attrib["PhysicalSizeX"]) == pytest.approx(32.0)
    assert pixels.attrib["PhysicalSizeYUnit"] == "µm"
    assert [c.attrib["Name"] for c in pixels.findall("o:Channel", space)] == ["Tumor", "Stroma"]
    plane = pixels.find("o:Plane", space)
    assert plane is not None
    assert float(plane.attrib["PositionX"]) == pytest.approx(160.0)
    assert float(plane.attrib["PositionY"]) == pytest.approx(64.0)

    # A cell's centre, carried through the metadata, is where the slide has that cell.
    row, col = grid.rows[7], grid.cols[7]
    x_um = float(plane.attrib["PositionX"]) + (col + 0.5) * float(pixels.attrib["PhysicalSizeX"])
    assert x_um / MPP == pytest.approx(grid.centres[7, 0])
    assert np.isfinite(image[0, row, col])
    assert np.isnan(image[0, 0, 0])  # glass was not looked at


def test_a_large_map_is_a_pyramid_of_means(tmp_path: Path, slide: PaintedSlide) -> None:
    tifffile = pytest.importorskip("tifffile")
    rng = np.random.default_rng(3)
    shape = (301, 517)
    row, col = np.nonzero(rng.random(shape) < 0.7)
    grid = PatchGrid(
        (0.0, 0.0), shape, row.astype(np.int32), col.astype(np.int32), 8, 8, 8, MPP, MPP
    )
    prob = rng.random(len(grid)).astype(np.float32)
    patches = PatchSet(
        "s", grid, np.zeros((len(grid), 1)), np.zeros(len(grid), np.int8), ("background", "Tumor")
    )
    base = refinement_of(slide, {"Tumor": TUMOUR}, {"Tumor": TUMOUR})
    found = replace(base, patches=patches, probs=np.stack([1 - prob, prob], axis=1))
    path = tmp_path / "probability.tif"
    write_probability(slide, found, path)
    with tifffile.TiffFile(path) as tif:
        levels = [np.squeeze(level.asarray()) for level in tif.series[0].levels]
    assert [level.shape for level in levels] == [(301, 517), (151, 259), (76, 130), (38, 65)]
    with np.errstate(all="ignore"):
        expected = np.nanmean(levels[0][10:12, 20:22])
    assert levels[1][5, 10] == pytest.approx(expected, nan_ok=True)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_halving_averages_what_is_known(rows: int, cols: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.random((2, rows, cols)).astype(np.float32)
    image[:, rng.random((rows, cols)) < 0.4] = np.nan
    half = halve(image)
    for r in range(-(-rows // 2)):
        for c in range(-(-cols // 2)):
            block = image[0, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2]
            known = block[np.isfinite(block)]
            assert half[0, r, c] == pytest.approx(
                known.mean() if known.size else np.nan, nan_ok=True
            )
    assert pyramid(image)[-1].shape == image.shape  # small enough for one level


# --- the page ------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Text, tags and whatever a page would load."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.loads: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: Iterable[tuple[str, str | None]]) -> None:
        self.loads += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


@pytest.fixture(scope="module")
def page(
    slide: PaintedSlide,
    run: Refinement,
    picture_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Page]:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(slide, run, path, picture_path)
    source = path.read_text("utf-8")
    return source, Page(source)


def test_the_page_stands_alone(page: tuple[str, Page]) -> None:
    source, parsed = page
    assert parsed.open == []  # every tag is closed
    assert all(value.startswith("data:image/jpeg;base64,") for value in parsed.loads)
    assert len(parsed.loads) == 1 + 2  # the picture, and two places to look at
    assert not re.findall(r"@import|url\(|<script|<link", source)


def test_the_page_warns_before_anything_else(page: tuple[str, Page], run: Refinement) -> None:
    text = " ".join(page[1].text)
    assert text.index(run.warnings[0]) < text.index("What changed") < text.index("Before and after")


def test_the_page_tells_what_was_found_and_how(page: tuple[str, Page], run: Refinement) -> None:
    text = " ".join(" ".join(page[1].text).split())
    for expected in (
        "case_07",
        "coarse.geojson",
        format_area(TUMOUR.area * MPP**2),
        "1 outline → 2 objects",
        run.annotation.regions[0].id,
        run.coarse.regions[0].id,
        "object 2 crossed itself; repaired, area kept",
        "32 µm cells: the default",
        "openslide.mpp-x",
        "3f9a1c0d2b7e4a55",
        run.recipe.digest(),
        "0.55",
        "241 (8.7%)",
        "210 left, 31 joined",
        "87%",
        "2.13.0",
    ):
        assert expected in text, expected


def test_the_page_says_how_much_may_be_wrong_and_where_to_look(page: tuple[str, Page]) -> None:
    text = " ".join(" ".join(page[1].text).split())
    for expected in (
        "about 14 % of the cells are wrong as given, 8 % as refined (0.24 mm²)",
        "Of what the given outline holds, about 81 % is right; of what it leaves out, 88 %.",
        "Added: 31 tissue cells; 100 % look like what is outlined.",
        "Removed: 210 tissue cells; 70 % look like what lies outside, "
        "10 % were reviewed by a person, for 20 % only the method speaks.",
        "Because of --only remove, 0.012 mm² stays",
        "first 2 places (3 % of the tissue) would settle about 34 % of the errors to expect; "
        "30 % of them lie outside",
        "1 Tumor: removed, 0.042 mm² looks like what lies outside; estimated 12 % of it wrong",
        "x 1,325, y 950 µm in QuPath",
        "uncertain, 0.042 mm² (part of a larger one)",
    ):
        assert expected in text, expected
    assert "Another class" not in text
    assert text.index("What changed") < text.index("where to look first") < text.index("Before and")


def test_a_doubted_outline_or_a_guess_is_said_beside_the_estimate() -> None:
    assert not any("looks valid" in said for said in sentences(FACTS, {}))
    doubted = {**FACTS, "validity": {"verdict": "invalid", "score": 0.01}}
    assert "looks invalid: if it is wrong as a whole, so are these" in sentences(doubted, {})[-1]
    assumed = {**FACTS, "estimate": {**FACTS["estimate"], "source": "assumed"}}
    assert any("too few cells to measure on" in said for said in sentences(assumed, {}))
    assert not any("Because of" in said for said in sentences(FACTS, {}))
    review = {"places": 0, "settle": 0.0, "cells_share": 0.0, "in_changes": 0.0}
    calm = {**FACTS, "look_first": {"places": [], "review": review}}
    assert any("no place to look at first" in said for said in sentences(calm, {}))
    worse = {**FACTS["estimate"]["refined"], "wrong_share": 0.31}
    warned = sentences({**FACTS, "estimate": {**FACTS["estimate"], "refined": worse}}, {})[0]
    assert "the refined outline is the worse one" in warned
    assert "the worse one" not in sentences(FACTS, {})[0]
    areas = {"Tumor": {"coarse": 4e6, "coarse_on_tissue": 3e6}}
    on_glass = sentences({**FACTS, "areas_um2": areas}, {})
    assert "1.00 mm² of the given outline lies on glass and is in no cell." in on_glass
    assert not any("glass" in said for said in sentences(FACTS, {}))
    assert sentences({}, {}) == []  # a run of an older version


def test_a_place_is_numbered_on_the_picture(
    tmp_path: Path, slide: PaintedSlide, run: Refinement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "DPI", 60)
    pictures = []
    for name, refinement in (("a", run), ("b", replace(run, facts={}))):
        write_overview(slide, refinement, tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            pictures.append(np.asarray(picture.convert("RGB")).astype(int))
    yellow = [(abs(p - [247, 201, 72]).sum(axis=2) < 12).sum() for p in pictures]
    assert yellow[0] > 100
    assert yellow[1] == 0


def test_a_close_up_stays_on_the_slide_and_holds_its_place() -> None:
    at = {"x_px": 40.0, "y_px": 30.0, "whole": True}
    corner = view_of(at, box(0, 0, 80, 60), CELL, (6400, 4480))
    assert (corner.x, corner.y) == (0, 0)
    assert corner.width == 14 * CELL
    wide = view_of({**at, "x_px": 3000.0}, box(0, 0, 6000, 200), CELL, (6400, 4480))
    assert wide.x + wide.width / 2 == 3000  # too wide to be shown whole: its spot
    tiny = view_of(at, None, CELL, (100, 90))
    assert tiny.x + tiny.width / 2 == 40  # the slide is smaller than the view


def test_the_page_tells_no_folders(page: tuple[str, Page]) -> None:
    assert "/home" not in page[0]
    assert "tissue.png" in page[0]


def test_names_from_files_cannot_become_markup(tmp_path: Path, slide: PaintedSlide) -> None:
    nasty = "<script>alert('x')</script>"
    found = refinement_of(slide, {nasty: TUMOUR}, {nasty: TUMOUR}, warnings=(nasty,))
    (tmp_path / "overview.png").write_bytes(DOT)
    write_report(slide, found, tmp_path / "report.html", tmp_path / "overview.png")
    source = (tmp_path / "report.html").read_text("utf-8")
    assert "<script" not in source
    assert "&lt;script&gt;" in source


def test_a_run_that_found_nothing_has_a_page(
    tmp_path: Path, slide: PaintedSlide, run: Refinement
) -> None:
    empty = replace(run, annotation=Annotation(slide.id, ()), facts={}, warnings=(), timings={})
    (tmp_path / "overview.png").write_bytes(DOT)
    write_report(slide, empty, tmp_path / "report.html", tmp_path / "overview.png")
    text = " ".join(Page((tmp_path / "report.html").read_text("utf-8")).text)
    assert "nothing on this slide reached the threshold" in text
    assert "No warnings" in text


def test_a_thousand_objects_do_not_make_a_thousand_rows(
    tmp_path: Path, slide: PaintedSlide
) -> None:
    spots = shapely.MultiPolygon(
        [box(x, y, x + 9, y + 9) for x in range(1500, 2500, 20) for y in range(1500, 1900, 20)]
    )
    found = refinement_of(slide, {"Tumor": spots}, {"Tumor": TUMOUR})
    (tmp_path / "overview.png").write_bytes(DOT)
    write_report(slide, found, tmp_path / "report.html", tmp_path / "overview.png")
    source = (tmp_path / "report.html").read_text("utf-8")
    assert "The 200 largest of 1,000" in source
    assert source.count('<td class="id">') == 400


def test_a_full_disk_is_one_clear_error(
    tmp_path: Path, slide: PaintedSlide, run: Refinement, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    monkeypatch.setattr(overview, "DPI", 40)
    png = tmp_path / "overview.png"
    for write in (
        lambda: write_overview(slide, run, png),
        lambda: write_probability(slide, run, tmp_path / "probability.tif"),
    ):
        with pytest.raises(OutputError, match="No space left"):
            write()
    assert not list(tmp_path.iterdir())


# --- the figures both show -----------------------------------------------------------------------


def test_areas_agree_with_the_polygons(run: Refinement) -> None:
    (tumor,) = summarise(run)
    drawn = run.coarse.regions[0].geometry
    assert tumor.coarse_um2 == pytest.approx(drawn.area * MPP**2)
    assert tumor.added_um2 - tumor.removed_um2 == pytest.approx(
        tumor.refined_um2 - tumor.coarse_um2
    )
    assert (tumor.n_coarse, tumor.n_refined) == (1, 2)
    assert tumor.colour == (200, 0, 0)


def test_stated_areas_win(run: Refinement) -> None:
    areas = {"Tumor": {"coarse": 1.0, "refined": 3.0, "added": 2.0, "removed": 0.0}}
    (tumor,) = summarise(replace(run, facts={"areas_um2": areas}))
    assert (tumor.coarse_um2, tumor.added_um2, tumor.change) == (1.0, 2.0, 2.0)


def test_a_class_keeps_its_colour() -> None:
    assert class_colour("tumor") == (200, 0, 0)
    assert class_colour("Lepidic") == class_colour("Lepidic")
    assert class_colour("Lepidic") != class_colour("Acinar")
    own = {"classification": {"name": "Tumor", "color": [1, 2, 3]}}
    assert class_colour("Tumor", [Region("a", TUMOUR, "Tumor", None, own)]) == (1, 2, 3)


@pytest.mark.parametrize(
    ("um2", "text"),
    [
        (0, "0 µm²"),
        (4560.4, "4,560 µm²"),
        (45_600, "0.046 mm²"),
        (1_234_000, "1.23 mm²"),
        (250e6, "250 mm²"),
    ],
)
def test_areas_read_well(um2: float, text: str) -> None:
    assert format_area(um2) == text


def test_changes_read_well() -> None:
    assert [format_change(c) for c in (None, 0.0, 0.052, -0.2)] == [
        "new",
        "unchanged",
        "+5.2 %",
        "−20 %",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/secret/slide.svs has no tissue", "slide.svs has no tissue"),
        (r"C:\Users\me\slide.svs", "slide.svs"),
        ("~/x/y.png", "y.png"),
        ("0.5 µm/px at https://example.org/a/b", "0.5 µm/px at https://example.org/a/b"),
        ("in/out ratio 3/4", "in/out ratio 3/4"),
    ],
)
def test_folders_are_left_out(text: str, expected: str) -> None:
    assert plain({"a": [text]}) == {"a": [expected]}


def test_the_histogram_counts_every_cell() -> None:
    rng = np.random.default_rng(0)
    prob = np.r_[0, 1, rng.random(998)].astype(np.float32)
    inside = rng.random(1000) < 0.3
    counted = probability_histogram(prob, inside)
    assert sum(counted.inside) == inside.sum()
    assert sum(counted.outside) == (~inside).sum()


def test_the_painted_slide_is_a_slide(slide: PaintedSlide) -> None:
    assert isinstance(slide, Slide)
