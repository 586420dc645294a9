"""Outlines in and out of GeoJSON as QuPath writes and reads it."""

from __future__ import annotations

import gzip
import json
import math
import uuid
import zipfile

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from shapely import MultiPolygon, Polygon, box
from shapely.affinity import translate

from recontour.annotations import read_annotation, select_regions, write_annotation
from recontour.annotations.geojson import write_complete
from recontour.annotations.shapes import importable, mend
from recontour.errors import AnnotationError, MissingFileError, UnknownNameError, UsageError
from recontour.types import Annotation, Frame, Region

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
HOLE = [[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]
BOW_TIE = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]
LEVEL0 = Frame()


def identity(number: int) -> str:
    return str(uuid.UUID(int=number))


def feature(rings=(SQUARE,), number=1, **properties) -> dict:
    return {
        "type": "Feature",
        "id": identity(number),
        "geometry": {"type": "Polygon", "coordinates": list(rings)},
        "properties": {"objectType": "annotation", **properties},
    }


def collection(*features) -> dict:
    return {"type": "FeatureCollection", "features": list(features)}


@pytest.fixture
def save(tmp_path):
    def write(document, name="coarse.geojson"):
        path = tmp_path / name
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return write


def written(path) -> list[dict]:
    """The features of a file of ours, after the checks QuPath would make."""
    document = json.loads(path.read_text())
    assert document["type"] == "FeatureCollection"
    for item in document["features"]:
        check_as_qupath(item)
    return document["features"]


def check_as_qupath(item) -> None:
    """An independent reading of what QuPath's importer insists on."""
    uuid.UUID(item["id"])
    assert item["type"] == "Feature"
    properties = item["properties"]
    assert isinstance(properties, dict)
    for key in ("name", "objectType"):
        assert isinstance(properties.get(key, ""), str)
    classification = properties.get("classification")
    if isinstance(classification, dict):
        assert {"color", "colorRGB"} & set(classification)
    assert properties.get("isLocked", True) is True or "isLocked" in properties
    geometry = item["geometry"]
    if geometry["type"] in ("Polygon", "MultiPolygon"):
        polygons = (
            [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        )
        for rings in polygons:
            for ring in rings:
                assert len(ring) >= 4
                assert ring[0] == ring[-1]
                assert np.isfinite(np.array(ring, float)).all()
        # Java rounds halves up. Looked at by shapely.
        rounded = [
            [np.floor(np.array(ring, float)[:, :2] * 100 + 0.5) / 100 for ring in rings]
            for rings in polygons
            if rings
        ]
        for rings in rounded:
            assert Polygon(rings[0], rings[1:]).is_valid
            assert Polygon(rings[0], rings[1:]).area > 0
        assert MultiPolygon([(rings[0], rings[1:]) for rings in rounded]).is_valid
    for child in properties.get("childObjects", []):
        check_as_qupath(child)


# Every container QuPath reads


def as_array(path):
    path.write_text(json.dumps([feature()]))


def as_single(path):
    path.write_text(json.dumps(feature()))


def as_bare_geometry(path):
    path.write_text(json.dumps(feature()["geometry"]))


def as_gzip(path):
    path.write_bytes(gzip.compress(json.dumps(collection(feature())).encode()))


def as_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/._x.geojson", "not json")
        archive.writestr("readme.txt", "hello")
        archive.writestr("x.geojson", json.dumps(collection(feature())))


def with_a_byte_order_mark(path):
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(collection(feature())).encode())


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.geojson", as_array),
        ("a.json", as_single),
        ("a.json", as_bare_geometry),
        ("a.geojson.gz", as_gzip),
        ("a.gz", as_gzip),
        ("a.geojson", as_gzip),
        ("a.zip", as_zip),
        ("a.geojson", with_a_byte_order_mark),
        ("outline_without_suffix", as_array),
    ],
)
def test_every_container_is_read(tmp_path, name, make):
    make(tmp_path / name)
    annotation = read_annotation(tmp_path / name)
    (region,) = annotation.regions
    assert region.geometry.equals(Polygon(SQUARE))
    assert annotation.source == name
    uuid.UUID(region.id)


@pytest.mark.parametrize("name", ["out.geojson", "out.json", "out.geojson.gz", "out.zip"])
def test_every_container_is_written_and_the_same_twice(tmp_path, name):
    annotation = Annotation("s", (Region(identity(1), box(0, 0, 5, 5), "Tumor"),))
    write_annotation(annotation, tmp_path / name)
    first = (tmp_path / name).read_bytes()
    assert read_annotation(tmp_path / name).regions[0].geometry.equals(box(0, 0, 5, 5))
    write_annotation(annotation, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


# Objects


def test_an_unclassified_outline_is_read_and_written_without_a_class(save, tmp_path):
    annotation = read_annotation(save(collection(feature())))
    assert annotation.regions[0].label is None
    write_annotation(annotation, tmp_path / "out.geojson")
    assert "classification" not in written(tmp_path / "out.geojson")[0]["properties"]


@pytest.mark.parametrize(
    ("classification", "label", "colour"),
    [
        ("Tumor", "Tumor", [200, 0, 0]),
        ({"name": "Tumor", "color": [1, 2, 3]}, "Tumor", [1, 2, 3]),
        ({"name": "Tumor", "color": [1, 2, 3, 128]}, "Tumor", [1, 2, 3]),
        ({"name": "Tumor", "colorRGB": -3670016}, "Tumor", [200, 0, 0]),
        ({"name": "tumor"}, "tumor", [200, 0, 0]),
        ({"names": ["Tumor", "Positive"], "color": [9, 9, 9]}, "Tumor: Positive", [9, 9, 9]),
        ({"name": "Ignore*", "colorRGB": None}, "Ignore*", [180, 180, 180]),
        (None, None, None),
        ("", None, None),
        ({}, None, None),
    ],
)
def test_classes_of_all_versions_get_a_name_and_a_colour(
    save, tmp_path, classification, label, colour
):
    annotation = read_annotation(save(collection(feature(classification=classification))))
    assert annotation.regions[0].label == label
    write_annotation(annotation, tmp_path / "out.geojson")
    given = written(tmp_path / "out.geojson")[0]["properties"].get("classification")
    assert given == (None if label is None else {"name": label, "color": colour})


def test_a_class_of_ones_own_always_has_the_same_colour(tmp_path):
    for name in ("one.geojson", "two.geojson"):
        regions = (
            Region(identity(1), box(0, 0, 5, 5), "DCIS"),
            Region(identity(2), box(9, 9, 12, 12), "Muscle"),
        )
        write_annotation(Annotation("s", regions), tmp_path / name)
    one, two = (written(tmp_path / name) for name in ("one.geojson", "two.geojson"))
    assert one == two
    colours = [tuple(f["properties"]["classification"]["color"]) for f in one]
    assert len(set(colours)) == 2
    assert all(0 <= c <= 255 for colour in colours for c in colour)


def test_a_file_of_version_0_2_is_read_and_carried(save, tmp_path):
    old = {
        "type": "Feature",
        "id": "PathAnnotationObject",
        "geometry": {"type": "Polygon", "coordinates": [SQUARE]},
        "properties": {
            "classification": {"name": "Tumor", "colorRGB": -3670016},
            "isLocked": False,
            "measurements": [{"name": "confidence", "value": 0.25}, {"name": "Area", "value": 3}],
        },
    }
    cell = {**old, "id": "PathCellObject", "nucleusGeometry": old["geometry"]}
    typed = {**old, "properties": {"object_type": "annotation"}, "id": "PathAnnotationObject"}
    annotation = read_annotation(save([old, cell, typed]))
    assert [region.label for region in annotation.regions] == ["Tumor", None]
    assert len({region.id for region in annotation.regions}) == 2
    assert annotation.regions[0].score == 0.25
    write_annotation(annotation, tmp_path / "out.geojson")
    properties = written(tmp_path / "out.geojson")[0]["properties"]
    assert properties["measurements"] == {"confidence": 0.25, "Area": 3}
    assert "isLocked" not in properties
    write_complete(annotation, [], tmp_path / "complete.geojson", LEVEL0)
    carried = written(tmp_path / "complete.geojson")
    assert [f["id"] for f in carried[::2]] == [region.id for region in annotation.regions]
    # The type was in the id, which a UUID replaces.
    assert carried[1]["properties"]["objectType"] == "cell"
    assert carried[0]["properties"]["measurements"] == old["properties"]["measurements"]
    again = read_annotation(tmp_path / "complete.geojson")
    assert [region.id for region in again.regions] == [region.id for region in annotation.regions]


def test_an_id_that_is_no_uuid_becomes_one_and_that_is_said(save, tmp_path):
    item = {**feature(), "id": "lesion-7"}
    path = save(collection(item, item, {k: v for k, v in item.items() if k != "id"}))
    annotation = read_annotation(path)
    assert len({uuid.UUID(region.id) for region in annotation.regions}) == 3
    assert [r.id for r in read_annotation(path).regions] == [r.id for r in annotation.regions]
    notes = write_complete(annotation, [], tmp_path / "c.geojson", LEVEL0)
    assert "'lesion-7' was not a UUID" in notes[0]
    assert len(notes) == 2  # giving an id to one without needs no words
    assert [f["id"] for f in written(tmp_path / "c.geojson")] == [r.id for r in annotation.regions]


def test_holes_and_multipolygons_keep_their_area(save, tmp_path):
    two = feature()
    two["geometry"] = {
        "type": "MultiPolygon",
        "coordinates": [[SQUARE, HOLE], [[[x + 20, y] for x, y in SQUARE]]],
    }
    annotation = read_annotation(save(collection(two, feature([SQUARE, HOLE], 2))))
    assert [region.geometry.area for region in annotation.regions] == [196, 96]
    write_annotation(annotation, tmp_path / "out.geojson")
    kinds = [f["geometry"]["type"] for f in written(tmp_path / "out.geojson")]
    assert kinds == ["MultiPolygon", "Polygon"]
    back = read_annotation(tmp_path / "out.geojson")
    assert back.regions[0].geometry.equals(annotation.regions[0].geometry)


def test_a_multipolygon_of_one_part_is_written_as_polygon(tmp_path):
    region = Region(identity(1), MultiPolygon([box(0, 0, 5, 5)]))
    write_annotation(Annotation("s", (region,)), tmp_path / "out.geojson")
    assert written(tmp_path / "out.geojson")[0]["geometry"]["type"] == "Polygon"


def test_children_are_regions_too_and_go_through_nested(save, tmp_path):
    grandchild = feature([HOLE], 3, classification="Necrosis")
    child = feature([HOLE], 2, classification="Tumor", childObjects=[grandchild])
    path = save(collection(feature(number=1, classification="Other", childObjects=[child])))
    annotation = read_annotation(path)
    assert [r.label for r in annotation.regions] == ["Other", "Tumor", "Necrosis"]
    write_complete(annotation, [], tmp_path / "c.geojson", LEVEL0)
    assert written(tmp_path / "c.geojson") == json.loads(path.read_text())["features"]
    write_annotation(annotation, tmp_path / "flat.geojson")
    flat = written(tmp_path / "flat.geojson")
    assert len(flat) == 3
    assert not any("childObjects" in f["properties"] for f in flat)


def test_detections_are_carried_but_only_annotations_are_refined(save):
    cell = feature(number=2)
    cell["properties"]["objectType"] = "cell"
    core = feature(number=3)
    core["properties"]["objectType"] = "tmaCore"
    annotation = read_annotation(save(collection(feature(), cell, core)))
    assert [r.id for r in annotation.regions] == [identity(1)]
    assert len(annotation.originals) == 3
    assert any("1 cell object(s)" in note for note in annotation.notes)
    only = read_annotation(save(collection(cell)))
    assert len(only.regions) == 1
    assert "no annotation objects" in only.notes[0]


def test_a_confidence_is_the_score_and_comes_back(save, tmp_path):
    annotation = read_annotation(save(collection(feature(measurements={"confidence": 0.93}))))
    assert annotation.regions[0].score == 0.93
    regions = (
        Region(identity(1), box(0, 0, 5, 5), "Tumor", 0.5),
        Region(identity(2), box(0, 0, 5, 5), "Tumor", 0.5, {"measurements": {"confidence": 0.7}}),
    )
    write_annotation(Annotation("s", regions), tmp_path / "out.geojson")
    assert [r.score for r in read_annotation(tmp_path / "out.geojson").regions] == [0.5, 0.7]


def test_locks_names_metadata_and_unknown_properties_are_written(tmp_path):
    given = {
        "name": "left lesion",
        "isLocked": True,
        "metadata": {"parent": identity(9), "by": "me"},
        "mine": [1, 2],
        "classification": {"name": "Tumor", "color": [5, 6, 7]},
    }
    regions = (
        Region(identity(1), box(0, 0, 5, 5), "Tumor", None, given),
        Region(identity(2), box(0, 0, 5, 5), "Stroma", None, given | {"isLocked": False}),
    )
    write_annotation(Annotation("s", regions), tmp_path / "out.geojson")
    first, second = (f["properties"] for f in written(tmp_path / "out.geojson"))
    assert first == {"objectType": "annotation", **given}
    assert "isLocked" not in second
    # The colour belongs to another class than the one the region has now.
    assert second["classification"] == {"name": "Stroma", "color": [150, 200, 150]}


def test_the_frame_moves_coordinates_both_ways(save, tmp_path):
    frame = Frame(origin=(1000.0, 250.0))
    annotation = read_annotation(save(collection(feature())), frame)
    assert annotation.regions[0].geometry.equals(translate(Polygon(SQUARE), 1000, 250))
    assert annotation.originals[0] == feature()
    write_annotation(annotation, tmp_path / "out.geojson", frame)
    coordinates = written(tmp_path / "out.geojson")[0]["geometry"]["coordinates"]
    assert Polygon(coordinates[0]).equals(Polygon(SQUARE))
    write_complete(annotation, annotation.regions, tmp_path / "c.geojson", frame)
    assert read_annotation(tmp_path / "c.geojson").regions[1].geometry.equals(Polygon(SQUARE))


def test_a_refined_object_stands_for_its_parent(save, tmp_path):
    parent = feature(number=1)
    refined = feature([HOLE], 2, metadata={"parent": identity(1).upper()})
    other = feature(number=3, metadata={"parent": identity(3)})  # its own parent: no sense
    annotation = read_annotation(save(collection(parent, refined, other)))
    assert [r.id for r in annotation.regions] == [identity(2), identity(3)]
    assert len(annotation.originals) == 3
    assert any("refined before" in note for note in annotation.notes)
    write_complete(annotation, [], tmp_path / "c.geojson", LEVEL0)
    assert written(tmp_path / "c.geojson") == [parent, refined, other]


def test_a_refined_object_stands_for_all_it_replaces(save):
    replaces = f"{identity(2)} {identity(3).upper()}"
    merged = feature(number=4, metadata={"parent": identity(1), "replaces": replaces})
    annotation = read_annotation(save(collection(*(feature(number=n) for n in (1, 2, 3)), merged)))
    assert [r.id for r in annotation.regions] == [identity(4)]


def test_objects_that_are_each_others_parents_are_all_used(save):
    pair = [
        feature(number=1, metadata={"parent": identity(2)}),
        feature(number=2, metadata={"parent": identity(1)}),
    ]
    assert len(read_annotation(save(collection(*pair))).regions) == 2


# Dirty rings


@pytest.mark.parametrize(
    ("ring", "area", "said"),
    [
        (BOW_TIE, 50, "crossed itself"),
        (SQUARE[:-1], 100, "not closed"),
        ([*SQUARE[:2], [math.nan, 5], *SQUARE[2:]], 100, "not numbers"),
        ([*SQUARE[:2], [None, 5], *SQUARE[2:]], 100, "not numbers"),
        ([*SQUARE[:2], ["x", "y"], *SQUARE[2:]], 100, "not numbers"),
        ([*SQUARE[:2], [math.inf, 5], *SQUARE[2:]], 100, "not numbers"),
        ([*SQUARE[:2], [5], *SQUARE[2:]], 100, "not numbers"),
        ([[math.nan, 0], *SQUARE], 100, "not numbers"),
        ([SQUARE[0], SQUARE[0], *SQUARE], 100, None),
        ([[*p, 7] for p in SQUARE], 100, None),
        ([[10**400, 0], *SQUARE], 100, "not numbers"),
    ],
)
def test_a_dirty_ring_is_read_repaired_and_reported(save, tmp_path, ring, area, said):
    annotation = read_annotation(save(collection(feature([ring], classification="Tumor"))))
    (region,) = annotation.regions
    assert region.geometry.is_valid
    assert region.geometry.area == pytest.approx(area)
    if said is None:
        assert annotation.notes == ()
    else:
        assert said in annotation.notes[0]
        assert "object 1 (Tumor)" in annotation.notes[0]
    notes = write_complete(annotation, [], tmp_path / "c.geojson", LEVEL0)
    (carried,) = written(tmp_path / "c.geojson")
    assert carried["id"] == identity(1)
    again = read_annotation(tmp_path / "c.geojson")
    assert again.regions[0].geometry.area == pytest.approx(area)
    assert again.notes == ()
    if said is None:
        assert notes == ()
        assert carried["geometry"]["coordinates"] == [ring]
    else:
        assert said in notes[0]


@pytest.mark.parametrize(
    ("ring", "kind"),
    [
        ([[0, 0], [5, 5], [0, 0]], "LineString"),
        ([[0, 0], [5, 5], [9, 9], [0, 0]], "LineString"),
        ([[1, 2]], "Point"),
        ([], "Polygon"),
        ([[math.nan, math.nan]], "Polygon"),
        ([[0, 0], [0.001, 0], [0, 0.001], [0, 0]], "Point"),
    ],
)
def test_an_outline_without_area_is_kept_where_it_is(save, tmp_path, ring, kind):
    path = save(collection(feature([ring], 1, name="tiny"), feature(number=2)))
    annotation = read_annotation(path)
    assert identity(2) in [region.id for region in annotation.regions]
    notes = write_complete(annotation, [], tmp_path / "c.geojson", LEVEL0)
    carried, other = written(tmp_path / "c.geojson")
    assert carried["geometry"]["type"] == kind
    assert (carried["id"], carried["properties"]["name"]) == (identity(1), "tiny")
    assert other == feature(number=2)
    assert "object 1 (tiny)" in notes[0]
    assert "kept as" in notes[0]


def test_a_bad_hole_goes_and_the_outline_stays(save):
    annotation = read_annotation(save(collection(feature([SQUARE, [[1, 1], [2, 2], [1, 1]]]))))
    assert annotation.regions[0].geometry.area == 100
    assert "too few points" in annotation.notes[0]


def test_overlapping_parts_are_merged(save):
    item = feature()
    item["geometry"] = {"type": "MultiPolygon", "coordinates": [[SQUARE], [HOLE]]}
    (region,) = read_annotation(save(collection(item))).regions
    assert region.geometry.area == 100


def test_points_and_lines_pass_through_beside_polygons(save, tmp_path):
    point = feature(number=2)
    point["geometry"] = {"type": "MultiPoint", "coordinates": [[1.234567, 2], [3, 4]]}
    line = feature(number=3, name="ruler")
    line["geometry"] = {"type": "LineString", "coordinates": [[0, 0], [5, 5]], "plane": {"z": 1}}
    mixed = feature(number=4)
    mixed["geometry"] = {
        "type": "GeometryCollection",
        "geometries": [point["geometry"], feature()["geometry"]],
    }
    path = save(collection(feature(), point, line, mixed))
    annotation = read_annotation(path)
    assert [r.id for r in annotation.regions] == [identity(1), identity(4)]
    assert any("2 object(s) are points or lines" in note for note in annotation.notes)
    assert write_complete(annotation, [], tmp_path / "c.geojson", LEVEL0) == ()
    assert written(tmp_path / "c.geojson") == json.loads(path.read_text())["features"]


def test_planes_and_ellipses_pass_through_repair(save, tmp_path):
    item = feature([BOW_TIE])
    item["geometry"] |= {"plane": {"c": -1, "z": 2, "t": 0}, "isEllipse": True}
    write_complete(read_annotation(save([item])), [], tmp_path / "c.geojson", LEVEL0)
    geometry = written(tmp_path / "c.geojson")[0]["geometry"]
    assert geometry["plane"] == {"c": -1, "z": 2, "t": 0}
    assert geometry["isEllipse"] is True


def test_a_ring_valid_as_given_but_not_at_a_hundredth_of_a_pixel_is_repaired(save, tmp_path):
    neck = [[0, 0], [5, 4.9996], [10, 0], [10, 10], [5, 5.0003], [0, 10], [0, 0]]
    assert Polygon(neck).is_valid
    annotation = read_annotation(save(collection(feature([neck]))))
    notes = write_complete(annotation, [], tmp_path / "c.geojson", LEVEL0)
    assert "rounded to 0.01 px" in notes[0]
    assert read_annotation(tmp_path / "c.geojson").regions[0].geometry.area == pytest.approx(
        50, abs=0.1
    )


def test_what_qupath_cannot_bear_is_mended(save, tmp_path):
    strange = {**feature(number=4, classification=["Tumor"]), "id": ["x"]}
    nulls = {**feature(number=1), "properties": None}
    named = feature(number=2, name=None, classification={"name": "DCIS"})
    placeless = {**feature(number=3), "geometry": None}
    path = save(collection(nulls, named, placeless, strange))
    annotation = read_annotation(path)
    assert any("no geometry" in note for note in annotation.notes)
    notes = write_complete(annotation, [], tmp_path / "c.geojson", LEVEL0)
    first, second, third, fourth = written(tmp_path / "c.geojson")
    assert first["properties"] == {}
    assert "name" not in second["properties"]
    assert second["properties"]["classification"]["name"] == "DCIS"
    assert third["geometry"] == {"type": "Polygon", "coordinates": []}
    assert "classification" not in fourth["properties"]
    assert len(notes) == 3


# Lossless


def test_everything_of_a_clean_file_goes_through_value_by_value(save, tmp_path):
    item = feature(
        [[[0.125, 0], [10.1, 0.333333], [9.87654321, 10], [0.125, 0]]],
        name="é µ 𝄞 \u2028",
        classification={"names": ["Tumor", "Positive"], "color": [1, 2, 3]},
        isLocked=True,
        measurements={"a": 1, "b": 0.1, "c": math.nan, "d": 1e300, "e": 12345678901234567890},
        metadata={"x": "y", "n": 3, "t": True},
        extra={"deep": [None, {"er": []}]},
    )
    item["geometry"] |= {"plane": {"c": -1, "z": 0, "t": 3}, "isEllipse": True}
    item["bbox"] = [0, 0, 1, 1]
    annotation = read_annotation(save([item]))
    new = Region(identity(7), box(0, 0, 3, 3), "Tumor", 0.9, {"metadata": {"parent": identity(1)}})
    assert write_complete(annotation, [new], tmp_path / "c.geojson", LEVEL0) == ()
    carried, added = written(tmp_path / "c.geojson")
    assert json.dumps(carried) == json.dumps(item)
    assert added["id"] == identity(7)
    assert added["properties"]["measurements"] == {"confidence": 0.9}


plain = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text()
json_value = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
OURS = {"name", "classification", "objectType", "object_type", "type", "childObjects", "children"}


@given(
    properties=st.dictionaries(st.text(), json_value, max_size=5),
    outer=st.dictionaries(st.text(), json_value, max_size=3),
    name=st.text(),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_properties_go_through_unchanged(tmp_path, properties, outer, name):
    item = {k: v for k, v in outer.items() if k not in {"geometry", "nucleusGeometry", "features"}}
    item |= feature([SQUARE, HOLE], name=name)
    item["properties"] |= {k: v for k, v in properties.items() if k not in OURS}
    path = tmp_path / "in.geojson"
    path.write_text(json.dumps(collection(item)))
    before = json.loads(path.read_text())["features"][0]
    annotation = read_annotation(path)
    assert len(annotation.regions) == 1
    notes = write_complete(annotation, annotation.regions, tmp_path / "c.geojson", LEVEL0)
    assert notes == ()
    carried = json.loads((tmp_path / "c.geojson").read_text())["features"][0]
    assert json.dumps(carried) == json.dumps(before)
    # And what we write of it as a region is read again.
    write_annotation(annotation, tmp_path / "out.geojson")
    assert read_annotation(tmp_path / "out.geojson").regions[0].label is None


number = st.integers(-30, 30) | st.floats(-30, 30) | st.integers(-3000, 3000).map(lambda k: k / 100)
anything = st.sampled_from([math.nan, math.inf, None, "7", True])
dirty_point = st.lists(st.one_of(number, number, number, number, anything), min_size=1, max_size=3)
point = st.lists(number, min_size=2, max_size=2)
dirty_ring = st.lists(st.one_of(point, point, point, dirty_point), max_size=9)


@given(st.lists(st.lists(dirty_ring, max_size=3), min_size=1, max_size=3))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_rings_at_all_come_out_importable_and_nothing_is_lost(tmp_path, polygons):
    item = feature(classification="Tumor")
    item["geometry"] = {"type": "MultiPolygon", "coordinates": polygons}
    path = tmp_path / "in.geojson"
    path.write_text(json.dumps(collection(item, feature(number=2))))
    annotation = read_annotation(path)
    for region in annotation.regions:
        assert region.geometry.is_valid
        assert region.geometry.area > 0
    write_complete(annotation, annotation.regions, tmp_path / "c.geojson", LEVEL0)
    carried = written(tmp_path / "c.geojson")
    assert [f["id"] for f in carried[:2]] == [identity(1), identity(2)]
    write_annotation(annotation, tmp_path / "out.geojson")
    areas = {f["id"]: 0.0 for f in written(tmp_path / "out.geojson")}
    for region in read_annotation(tmp_path / "out.geojson").regions:
        areas[region.id] = region.geometry.area
    for region in annotation.regions:
        tolerance = 0.03 * (region.geometry.length + 1)
        assert areas.get(region.id, 0) == pytest.approx(region.geometry.area, abs=tolerance)


@given(st.lists(st.lists(dirty_ring, max_size=3), min_size=1, max_size=3))
@example([[[[1, 0], [0, 0], [0, 0], [0, 0], [0, 1.2517461733061551e-169]]]])
@settings(max_examples=200, deadline=None)
def test_a_mended_geometry_needs_no_mending(polygons):
    raw = {"type": "MultiPolygon", "coordinates": polygons, "plane": {"z": 1}}
    better, what = mend(raw)
    assert what
    assert importable(better)
    assert better["plane"] == {"z": 1}
    check_as_qupath({"id": identity(1), "type": "Feature", "geometry": better, "properties": {}})
    if importable(raw):
        check_as_qupath({"id": identity(1), "type": "Feature", "geometry": raw, "properties": {}})


@given(dirty_ring, st.sampled_from(["LineString", "MultiPoint", "MultiLineString", "Point"]))
@settings(max_examples=100, deadline=None)
def test_lines_and_points_are_mended_too(points, kind):
    nested = {"Point": points[0] if points else [], "MultiLineString": [points]}
    raw = {"type": kind, "coordinates": nested.get(kind, points)}
    better = raw if importable(raw) else mend(raw)[0]
    assert importable(better)


# Errors


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"<xml/>", "not JSON"),
        (b'{"type":"FeatureCollection","features":[', "cut off"),
        (b"\xff\xfe\x00", "not JSON text"),
        (b'{"hello": 1}', "not GeoJSON"),
        (b"[1, 2]", "not GeoJSON"),
        (b'[{"a": 1}]', "not GeoJSON"),
        (b"3", "not GeoJSON"),
        (b'"FeatureCollection"', "not GeoJSON"),
        (b"null", "not GeoJSON"),
        (b'{"type":"FeatureCollection","features":[]}', "it is empty"),
        (b"[]", "it is empty"),
        (b"[" * 100_000, "nested too deeply"),
        (gzip.compress(json.dumps(collection(feature())).encode(), mtime=0)[:-20], "cut off"),
        (gzip.compress(b"{" * 3000, mtime=0)[:40], "cut off"),
        (b"PK\x03\x04 not really", "damaged"),
    ],
)
def test_a_broken_file_is_an_error_that_says_what_to_do(tmp_path, content, said):
    path = tmp_path / "coarse.geojson"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=said) as error:
        read_annotation(path)
    assert "coarse.geojson" in str(error.value)
    assert "again" in str(error.value) or said == "nested too deeply"


def test_a_zip_without_geojson_says_so(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(AnnotationError, match=r"no \.geojson"):
        read_annotation(tmp_path / "a.zip")


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},
        {"type": "Polygon", "coordinates": [[[1, 2], [3, 4], [1, 2]]]},
        {"type": "Polygon", "coordinates": []},
        {"type": "Polygon"},
        {"type": "GeometryCollection", "geometries": []},
        None,
    ],
)
def test_a_file_without_any_area_is_an_error(save, geometry):
    path = save(collection({**feature(), "geometry": geometry}))
    with pytest.raises(AnnotationError, match="no outline with an area"):
        read_annotation(path)
    assert read_annotation(path, allow_empty=True).regions == ()
    assert len(read_annotation(path, allow_empty=True).originals) == 1


def test_entries_that_are_no_features_are_said_to_be_left_out(save):
    annotation = read_annotation(save([feature(), {"note": "hi"}, 3]))
    assert len(annotation.regions) == 1
    assert "2 entries are not GeoJSON features" in annotation.notes[0]


def test_missing_files_folders_and_other_formats(tmp_path):
    with pytest.raises(MissingFileError, match="no such annotation file"):
        read_annotation(tmp_path / "nowhere.geojson")
    with pytest.raises(MissingFileError, match="is a folder"):
        read_annotation(tmp_path)
    (tmp_path / "a.ndpa").write_text("<annotations/>"[1:])
    with pytest.raises(AnnotationError, match="Hamamatsu NDPA, which is not read yet"):
        read_annotation(tmp_path / "a.ndpa")
    with pytest.raises(UnknownNameError, match="known: asap, geojson, imagescope, mask, sav"):
        read_annotation(tmp_path / "a.ndpa", format="ndpa")
    with pytest.raises(UsageError, match=r"\.geojson"):
        write_annotation(Annotation("s", ()), tmp_path / "a.svg")


def test_an_empty_result_is_written_and_can_be_read_when_asked(tmp_path):
    write_annotation(Annotation("s", ()), tmp_path / "none.geojson")
    assert written(tmp_path / "none.geojson") == []
    assert read_annotation(tmp_path / "none.geojson", allow_empty=True).regions == ()


# Choosing


def three_classes() -> Annotation:
    def region(n, label):
        return Region(identity(n), translate(box(0, 0, 10, 10), 20 * n), label)

    labels = ["Tumor", "tumor", "Stroma", "Necrosis", "Ignore*", "region*"]
    return Annotation("s", tuple(map(region, range(6), labels)), source="c.geojson")


EXCLUDE = ("Necrosis", "Ignore*", "Region*")


def test_the_only_class_left_is_chosen():
    annotation = three_classes()
    tumour = Annotation("s", tuple(r for r in annotation.regions if r.label != "Stroma"))
    selection = select_regions(tumour, [], EXCLUDE)
    assert selection.classes == ("background", "Tumor")
    assert [r.label for r in selection.regions[0]] == ["Tumor", "tumor"]
    assert selection.excluded.area == 300
    assert "Necrosis (1)" in selection.notes[0]


def test_several_classes_have_to_be_chosen_from():
    with pytest.raises(UsageError, match=r"Tumor \(2\), Stroma \(1\); choose with --class Tumor"):
        select_regions(three_classes(), [], EXCLUDE)
    selection = select_regions(three_classes(), ["STROMA", "tumor"], EXCLUDE)
    assert selection.classes == ("background", "Stroma", "Tumor")
    assert [len(regions) for regions in selection.regions] == [1, 2]
    only = select_regions(three_classes(), ["Stroma"], EXCLUDE)
    assert "not refined: Tumor (2)" in only.notes


def test_an_absent_class_lists_those_there():
    with pytest.raises(UnknownNameError, match=r"no class 'Tumour' in c.geojson; it has: Tumor"):
        select_regions(three_classes(), ["Tumour"], EXCLUDE)


def test_a_class_asked_for_is_not_excluded():
    selection = select_regions(three_classes(), ["necrosis"], EXCLUDE)
    assert selection.classes == ("background", "Necrosis")
    assert selection.excluded.area == 200


def test_unclassified_outlines_are_a_class_of_their_own():
    annotation = Annotation("s", (Region("a", box(0, 0, 1, 1)),))
    selection = select_regions(annotation, [], EXCLUDE)
    assert selection.classes == ("background", "Unclassified")
    assert selection.regions[0][0].label is None
    assert selection.excluded.is_empty
    assert select_regions(annotation, ["unclassified"], ()).regions == selection.regions


def test_background_is_no_class_to_refine():
    annotation = Annotation("s", (Region("a", box(0, 0, 1, 1), "Background"),), source="c.geojson")
    for classes in ([], ["background"]):
        with pytest.raises(UsageError, match="'Background' is what no outline holds"):
            select_regions(annotation, classes, EXCLUDE)


def test_the_absent_class_is_named_though_another_was_given_twice():
    with pytest.raises(UnknownNameError, match="no class 'Stomata'"):
        select_regions(three_classes(), ["Tumor", "tumor", "Stomata"], EXCLUDE)


def test_when_all_is_excluded_the_way_out_is_said():
    annotation = Annotation("s", (Region("a", box(0, 0, 1, 1), "Ignore*"),), source="c.geojson")
    with pytest.raises(UsageError, match=r'pass --class "Ignore\*"'):
        select_regions(annotation, [], EXCLUDE)
    with pytest.raises(UsageError, match="no outline"):
        select_regions(Annotation("s", ()), [], EXCLUDE)


# Real outlines


@pytest.mark.real_data
def test_every_real_outline_keeps_its_area_through_repair_writing_and_reading(
    shared_data, tmp_path
):
    files = sorted((shared_data / "camelyon16").glob("*.geojson.gz"))
    assert len(files) == 68
    repaired = without_area = 0
    for path in files:
        annotation = read_annotation(path)
        repaired += len(annotation.notes)
        # One drawn ring has fewer than four points; it stays in the file as a line.
        no_area = sum("no area" in note for note in annotation.notes)
        without_area += no_area
        assert len(annotation.regions) == len(annotation.originals) - no_area
        write_annotation(annotation, tmp_path / "out.geojson")
        notes = write_complete(annotation, [], tmp_path / "complete.geojson", LEVEL0)
        assert len(notes) == len(annotation.notes)
        # What needed no repair is compared value by value below; reading it again adds nothing.
        for name in ("out.geojson", "complete.geojson") if notes else ("out.geojson",):
            back = read_annotation(tmp_path / name)
            lines = [note for note in back.notes if "points or lines" in note]
            assert len(back.notes) == len(lines) == (no_area if "complete" in name else 0)
            assert [r.id for r in back.regions] == [r.id for r in annotation.regions]
            assert [r.label for r in back.regions] == [r.label for r in annotation.regions]
            before = np.array([r.geometry.area for r in annotation.regions])
            after = np.array([r.geometry.area for r in back.regions])
            np.testing.assert_allclose(after, before, rtol=1e-3)
        by_id = {region.id: region for region in annotation.regions}
        for item, came in zip(
            written(tmp_path / "complete.geojson"), annotation.originals, strict=True
        ):
            raw = shapely.geometry.shape(came["geometry"])
            if raw.is_valid:
                assert item == came
                assert by_id[item["id"]].geometry.area == raw.area
    assert repaired > 150
    assert without_area == 1
