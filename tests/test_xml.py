"""ASAP and ImageScope files: what is read, what is cut out, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw
from shapely import Polygon, box

from recontour.annotations import read_annotation, select_regions, write_annotation
from recontour.annotations.imagescope import PAIP_VIABLE_TUMOUR, PAIP_WHOLE_TUMOUR, layer_names
from recontour.errors import AnnotationError, UsageError
from recontour.evaluation import evaluate
from recontour.geometry import union
from recontour.grid import full_lattice
from recontour.labelling import label_outlines
from recontour.types import Annotation, Frame

SQUARE = [(0, 0), (100, 0), (100, 100), (0, 100)]
HOLE = [(20, 20), (40, 20), (40, 40), (20, 40)]
FAR = [(300, 300), (400, 300), (400, 400), (300, 400)]
BOW_TIE = [(500, 500), (600, 600), (600, 500), (500, 600)]


def asap(path, *rings, tail=""):
    """rings: (points, group) or (points, group, type)."""
    text = ['<?xml version="1.0"?>\n<ASAP_Annotations><Annotations>']
    for n, (points, group, *kind) in enumerate(rings):
        text.append(
            f'<Annotation Name="Annotation {n}" Type="{(kind or ["Polygon"])[0]}" '
            f'PartOfGroup="{group}" Color="#F4FA58"><Coordinates>'
        )
        text += [f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(points)]
        text.append("</Coordinates></Annotation>")
    text.append(f"</Annotations><AnnotationGroups/></ASAP_Annotations>{tail}")
    path.write_text("\n".join(text))
    return path


def imagescope(path, *layers, mpp="0.5021"):
    """layers: (attributes of the layer, its Attribute's name, [(points, attributes)])."""
    text = [f'<Annotations MicronsPerPixel="{mpp}">']
    for attributes, name, regions in layers:
        text.append(f"<Annotation {attributes}><Attributes>")
        text.append(f'<Attribute Name="{name}" Id="0" Value=""/></Attributes><Regions>')
        text.append('<RegionAttributeHeaders><AttributeHeader Id="9999" Name="Region"/>')
        text.append("</RegionAttributeHeaders>")
        for points, more in regions:
            text.append(f"<Region {more}><Attributes/><Vertices>")
            text += [f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points]
            text.append("</Vertices></Region>")
        text.append("</Regions><Plots/></Annotation>")
    path.write_text("\n".join([*text, "</Annotations>"]))
    return path


def paip(path):
    """As PAIP2019 has it: layer 1 the whole tumour, layer 2 what is viable of it, with holes."""
    whole = [(SQUARE, 'Id="1" Type="0" NegativeROA="0"')]
    viable = [
        ([(10, 10), (90, 10), (90, 90), (10, 90), (10, 10)], 'Id="1" Type="0" NegativeROA="0"'),
        (HOLE, 'Id="2" Type="0" NegativeROA="1"'),
    ]
    return imagescope(
        path,
        ('Id="1" Name="" LineColor="65280"', "Description", whole),
        ('Id="2" Name="" LineColor="65535"', "Description", viable),
    )


def area(annotation, label="Tumor"):
    return union(r.geometry for r in annotation.regions if r.label == label).area


@pytest.mark.parametrize("group", ["_0", "_1", "Tumor", "tumor", "Metastases", "metastasis"])
@pytest.mark.parametrize("exclusion", ["_2", "Exclusion", "exclusion", "EXCLUSION"])
def test_an_exclusion_is_a_hole_of_the_lesion_however_both_are_spelled(tmp_path, group, exclusion):
    found = read_annotation(asap(tmp_path / "a.xml", (SQUARE, group), (HOLE, exclusion)))
    (region,) = found.regions
    assert region.label == "Tumor"
    assert region.geometry.equals(Polygon(SQUARE, [HOLE]))
    assert [(r.group, r.inside) for r in found.rings] == [(group, True), (exclusion, False)]
    assert found.rings[0].coordinates == tuple(map(tuple, map(np.float64, SQUARE)))
    assert (found.slide_id, found.source, found.originals) == ("a", "a.xml", ())


def test_other_groups_are_classes_and_no_group_is_no_class(tmp_path):
    path = asap(tmp_path / "a.xml", (SQUARE, "Necrosis"), (FAR, "None"), (BOW_TIE, ""))
    found = read_annotation(path)
    assert [r.label for r in found.regions] == ["Necrosis", None, None]
    assert any("no group" in note for note in found.notes)
    assert any("crossed itself" in note for note in found.notes)
    assert found.regions[2].geometry.is_valid
    # What takes no part by default takes none here either.
    assert select_regions(found, [], ["Necrosis"]).classes == ("background", "Unclassified")


def test_points_are_put_in_the_order_the_file_numbers_them(tmp_path):
    path = asap(tmp_path / "a.xml", (SQUARE, "Tumor"))
    lines = path.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if "<Coordinate " in line)
    lines[first], lines[first + 1] = lines[first + 1], lines[first]
    path.write_text("\n".join(lines))
    assert area(read_annotation(path)) == 100 * 100
    path.write_text(path.read_text().replace('Order="2"', ""))
    assert any("without a number" in note for note in read_annotation(path).notes)


def test_nothing_is_dropped_without_a_word(tmp_path):
    path = asap(
        tmp_path / "a.xml",
        (SQUARE, "Tumor"),
        (SQUARE[:2], "Tumor"),
        ([(5, 5)], "_2"),
        (FAR, "Exclusion"),
        ([(1, 1)], "Tumor", "Dot"),
        (SQUARE, "Tumor", "PointSet"),
        ([(0, 0), (9, 9)], "None", "Measurement"),
        ([(0, 0), (50, "nan"), (50, 50), (0, 50), ("1e99", 3)], "Tumor", "Spline"),
        ([(200, 0), (260, 40)], "Tumor", "Rectangle"),
    )
    found = read_annotation(path)
    said = "\n".join(found.notes)
    for words in ("annotation 2 (Annotation 1): a ring had too few points", "annotation 3",
                  "type Dot", "type PointSet", "type Measurement", "touches no outline",
                  "annotation 8 (Annotation 7): points that were not numbers"):  # fmt: skip
        assert words in said, said
    assert [r.geometry.area for r in found.regions] == [10_000, 1_250, 2_400]
    assert len(found.rings) == 6
    assert all(np.isfinite(ring.coordinates).all() for ring in found.rings)


def test_the_bounds_of_a_slide_do_not_move_outlines_and_ids_do_not_change(tmp_path):
    path = asap(tmp_path / "a.xml", (SQUARE, "Tumor"), (HOLE, "_2"))
    framed = read_annotation(path, Frame(origin=(1000.0, 50.0)))
    assert framed.regions[0].geometry.equals(Polygon(SQUARE, [HOLE]))
    assert framed.rings[0].coordinates[0] == (0, 0)
    assert [r.id for r in read_annotation(path).regions] == [
        r.id for r in read_annotation(path).regions
    ]


def test_paip_layers_are_classes_and_negative_regions_holes(tmp_path):
    path = paip(tmp_path / "case.xml")
    found = read_annotation(path)
    assert layer_names(path) == {"1": "Layer 1", "2": "Layer 2"}
    assert area(found, layer_names(path)[PAIP_WHOLE_TUMOUR]) == 100 * 100
    assert area(found, layer_names(path)[PAIP_VIABLE_TUMOUR]) == 80 * 80 - 20 * 20
    assert [(r.group, r.inside) for r in found.rings] == [
        ("Layer 1", True), ("Layer 2", True), ("Layer 2", False)
    ]  # fmt: skip
    assert len(found.rings[1].coordinates) == 4  # the point that closes it is not repeated
    with pytest.raises(UsageError, match="several classes: Layer 1"):
        select_regions(found, [], [])


def test_layers_go_by_their_names(tmp_path):
    region = [(SQUARE, 'NegativeROA="0"')]
    path = imagescope(
        tmp_path / "a.xml",
        ('Id="7" Name="Viable"', "Description", region),
        ('Id="8"', "Stroma", region),
        ("", "Description", region),
    )
    assert layer_names(path) == {"7": "Viable", "8": "Stroma", "3": "Layer 3"}


def test_shapes_given_by_corners_and_shapes_that_are_none(tmp_path):
    regions = [
        ([(0, 0), (10, 20)], 'Type="1"'),
        ([(100, 0), (140, 20)], 'Type="2"'),
        (SQUARE, 'Type="2"'),
        ([(0, 0), (10, 20)], 'Type="3"'),
        ([(0, 0), (10, 20)], 'Type="4"'),
        (SQUARE, 'Type="0" GeoShape="Points"'),
        ([(0, 0), (10, 20)], 'Type="0"'),
    ]
    path = imagescope(tmp_path / "a.xml", ('Id="1"', "Description", regions))
    found = read_annotation(path, Frame(mpp=0.25))
    areas = [r.geometry.area for r in found.regions]
    assert areas == pytest.approx([200, np.pi * 20 * 10, 10_000], rel=1e-4)
    said = "\n".join(found.notes)
    for words in ("arrow", "ruler", "points", "region 7: a ring had too few points", "0.5021 µm"):
        assert words in said, said
    assert "µm/px" not in "\n".join(read_annotation(path, Frame(mpp=0.5)).notes)


BOMB = """<?xml version="1.0"?>
<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;"><!ENTITY c "&b;&b;&b;">]>
<ASAP_Annotations><Annotations>&c;</Annotations></ASAP_Annotations>"""
ABROAD = """<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<Annotations><Annotation Name="&a;"/></Annotations>"""
DTD = '<!DOCTYPE x SYSTEM "http://localhost/x.dtd"><Annotations/>'


@pytest.mark.parametrize("text", [BOMB, ABROAD, DTD])
@pytest.mark.parametrize("format", [None, "asap", "imagescope"])
def test_entities_and_document_types_are_refused(tmp_path, text, format):
    (tmp_path / "evil.xml").write_text(text)
    with pytest.raises(AnnotationError, match=r"evil\.xml was refused: it declares") as refused:
        read_annotation(tmp_path / "evil.xml", format=format)
    assert "root:" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<ASAP_Annotations><Annotations>", "cut off or damaged"),
        (b"<Annotations><Annotation></Annotations>", "cut off or damaged"),
        (b"\xff\xfe\x00\x01garbage", "cut off or damaged"),
        (b'<?xml version="1.0" encoding="klingon"?><Annotations/>', "cut off or damaged"),
        (b"<html><body/></html>", "none of the formats asap, imagescope"),
        (b"<Annotations/>", "holds no outline: it is empty"),
        (b"not xml", "cut off or damaged"),
    ],
)
def test_files_that_are_none_are_refused_in_a_sentence(tmp_path, content, words):
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(AnnotationError, match=words) as refused:
        read_annotation(tmp_path / "a.xml")
    assert "a.xml" in str(refused.value)


def test_the_wrong_kind_of_xml_and_writing_are_refused(tmp_path):
    with pytest.raises(AnnotationError, match="not ImageScope XML"):
        read_annotation(asap(tmp_path / "a.xml", (SQUARE, "_0")), format="imagescope")
    with pytest.raises(AnnotationError, match="not ASAP XML"):
        read_annotation(paip(tmp_path / "b.xml"), format="asap")
    for format in ("asap", "imagescope", None):
        with pytest.raises(UsageError, match="GeoJSON"):
            write_annotation(Annotation("s", ()), tmp_path / "c.xml", format=format)
    assert not (tmp_path / "c.xml").exists()


def test_a_file_without_suffix_is_known_by_its_content(tmp_path):
    asap(tmp_path / "a.xml", (SQUARE, "_0")).rename(tmp_path / "outlines")
    assert area(read_annotation(tmp_path / "outlines")) == 10_000


def test_an_xml_outline_is_refined_and_comes_back_as_geojson(cli, scene, tmp_path):
    given = read_annotation(scene.coarse)
    rings = [(list(r.geometry.exterior.coords)[:-1], "tumor") for r in given.regions]
    coarse = asap(tmp_path / "coarse.xml", *rings)
    answer = cli("refine", scene.slide, coarse, "-o", tmp_path / "out", "--encoder", "colour",
                 "--method", "logistic")  # fmt: skip
    assert answer.code == 0, answer.err
    everything = json.loads((tmp_path / "out" / "complete.geojson").read_text())
    names = [f["properties"].get("name") for f in everything["features"]]
    assert names[: len(rings)] == [f"Annotation {n}" for n in range(len(rings))]
    assert read_annotation(tmp_path / "out" / "refined.geojson").regions[0].label == "Tumor"
    # The published rule does not know "tumor" in lower case.
    refused = cli("refine", scene.slide, coarse, "-o", tmp_path / "no", "--label-rule", "published",
                  "--encoder", "colour", "--dry-run")  # fmt: skip
    assert refused.code == 1
    assert "--label-rule centre" in refused.err


# The published label rule on rings as they came


def drawn(shape, stride, lesions, exclusions):
    """The published rule, written down once more."""
    image = Image.new("1", shape[::-1], 0)
    draw = ImageDraw.Draw(image)
    for points in lesions:
        draw.polygon([(x / stride, y / stride) for x, y in points], fill=1, outline=0)
    for points in exclusions:
        draw.polygon([(x / stride, y / stride) for x, y in points], fill=0, outline=0)
    return np.array(image, np.int8)


def test_the_published_rule_reads_raw_rings_of_the_groups_it_knows(tmp_path):
    rng = np.random.default_rng(5)
    known, unknown = ["_0", "Tumor", "Metastases", "_1"], ["tumor", "None"]
    groups = [*known, *unknown, "_2", "exclusion", "Exclusion"]
    rings = [(rng.uniform(0, 640, (12, 2)).round(2).tolist(), group) for group in groups]
    found = read_annotation(asap(tmp_path / "a.xml", *rings))
    tumor = [r for r in found.regions if r.label == "Tumor"]
    grid = full_lattice((0, 0), (40, 40), 16, 1.0)
    labels = label_outlines(grid, found, [tumor], "published").reshape(40, 40)
    expected = drawn((40, 40), 16, [p for p, _ in rings[:4]], [p for p, _ in rings[6:8]])
    assert 0.1 < expected.mean() < 0.9
    assert np.array_equal(labels, expected)
    result = evaluate(found, found, cell_px=16, label_rule="published")
    said = "\n".join(result.notes)
    assert result.classes == ("background", "Tumor")  # unclassified rings are ignored too
    for group in ("tumor", "None", "Exclusion"):
        assert f"ignores 1 ring(s) of group '{group}'" in said
    centre = evaluate(found, found, cell_px=16)
    assert centre.classes == ("background", "Tumor", "Unclassified")


def test_a_file_of_which_the_published_rule_knows_nothing_is_refused_with_the_way_out(tmp_path):
    lesion = read_annotation(asap(tmp_path / "a.xml", (SQUARE, "metastasis")))
    with pytest.raises(AnnotationError, match=r"'metastasis' \(1\).*--label-rule centre"):
        evaluate(lesion, lesion, cell_px=10, label_rule="published")
    assert evaluate(lesion, lesion, cell_px=10).prediction.overall["f1"] == 1


def test_the_published_rule_keeps_layers_apart(tmp_path):
    found = read_annotation(paip(tmp_path / "case.xml"))
    viable = [r for r in found.regions if r.label == "Layer 2"]
    grid = full_lattice((0, 0), (25, 25), 4, 1.0)
    labels = label_outlines(grid, found, [viable], "published").reshape(25, 25)
    shell = [(10, 10), (90, 10), (90, 90), (10, 90)]
    assert np.array_equal(labels, drawn((25, 25), 4, [shell], [HOLE]))


@pytest.mark.real_data
@pytest.mark.parametrize("slide", ["tumor_009", "tumor_011", "tumor_058", "tumor_076"])
def test_real_files_agree_with_the_geojson_of_the_same_slides(shared_data, slide):
    path = shared_data / "camelyon16-asap" / f"{slide}.xml"
    if not path.exists():
        pytest.skip(f"no real data: {path.name} is not there")
    found = read_annotation(path)
    other = read_annotation(shared_data / "camelyon16" / f"{slide}.fine.geojson.gz")
    mine, theirs = (union(r.geometry for r in a.regions) for a in (found, other))
    assert mine.area == pytest.approx(theirs.area, rel=1e-4)
    # The GeoJSON is rounded to whole px.
    assert mine.symmetric_difference(theirs).area < 1e-3 * theirs.area
    assert {r.label for r in found.regions} == {"Tumor"}
    assert "metastasis" in found.notes[0] or any("metastasis" in n for n in found.notes)
    with pytest.raises(AnnotationError, match="metastasis"):
        evaluate(found, found, cell_px=256, label_rule="published")


def test_boxes_stay_boxes(tmp_path):
    path = asap(tmp_path / "a.xml", ([(0, 0), (10, 0), (10, 30), (0, 30)], "_0", "Rectangle"))
    assert read_annotation(path).regions[0].geometry.equals(box(0, 0, 10, 30))
