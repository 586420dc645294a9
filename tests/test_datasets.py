"""Data sets as their makers distribute them: what is there, what is missing, what is left out."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from shapely import Polygon
from shapely.geometry import mapping

from recontour import registry
from recontour.annotations import read_annotation
from recontour.datasets import Case, DataSet, Outlines, open_dataset
from recontour.datasets.camelyon16 import NOT_EXHAUSTIVE
from recontour.datasets.checking import check_cases
from recontour.datasets.inclusion import is_included, lesion_share
from recontour.datasets.naming import read_name
from recontour.errors import MissingFileError, UnknownNameError, UsageError

MPP = 0.5
LESION = [(100, 100), (300, 100), (300, 300), (100, 300)]
HOLE = [(150, 150), (200, 150), (200, 200), (150, 200)]
Points = Sequence[tuple[float, float]]


# --- files as the challenges have them, small


def write_slide(path: Path, side: int = 400) -> Path:
    """A tiled TIFF with its pixel size, under any name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side, 3), 240, np.uint8)
    pixels[50:350, 50:350] = (200, 120, 170)
    per_cm = 10_000 / MPP
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb",
        resolution=(per_cm, per_cm), resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


def write_asap(path: Path, rings: Sequence[tuple[str, Points]]) -> Path:
    """`ASAP_Annotations`, one Annotation a ring, as CAMELYON16 has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    annotations = "".join(
        f'<Annotation Name="Annotation {i}" Type="Polygon" PartOfGroup="{group}" Color="#F4FA58">'
        "<Coordinates>"
        + "".join(f'<Coordinate Order="{k}" X="{x}" Y="{y}" />' for k, (x, y) in enumerate(ring))
        + "</Coordinates></Annotation>"
        for i, (group, ring) in enumerate(rings)
    )
    path.write_text(
        '<?xml version="1.0"?><ASAP_Annotations><Annotations>'
        f"{annotations}</Annotations><AnnotationGroups /></ASAP_Annotations>"
    )
    return path


def write_imagescope(path: Path, layers: dict[str, Sequence[tuple[Points, bool]]]) -> Path:
    """`Annotations` with a layer for each id: rings, and whether each is NegativeROA."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f'<Annotations MicronsPerPixel="{MPP}">'
    for layer, rings in layers.items():
        text += f'<Annotation Id="{layer}" Name="" ReadOnly="0" Type="4"><Regions>'
        for place, (ring, negative) in enumerate(rings, 1):
            text += f'<Region Id="{place}" Type="0" NegativeROA="{int(negative)}"><Vertices>'
            text += "".join(f'<Vertex X="{x}" Y="{y}" Z="0" />' for x, y in ring)
            text += "</Vertices></Region>"
        text += "</Regions></Annotation>"
    path.write_text(text + "</Annotations>")
    return path


def write_geojson(path: Path, label: str = "Tumor") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = mapping(Polygon(LESION))
    properties = {"objectType": "annotation", "classification": {"name": label}}
    path.write_text(json.dumps([{"type": "Feature", "geometry": shape, "properties": properties}]))
    return path


def write_sav(path: Path, slides: dict[str, object]) -> Path:
    path.write_bytes(pickle.dumps(slides))
    return path


def rings(outer: Points = LESION) -> dict[str, object]:
    """One set of outlines, as in the authors' files."""
    return {"annotations_outer": [list(outer)], "annotations_inner": []}


def ids(cases: Sequence[Case]) -> list[str]:
    return [case.id for case in cases]


def truth_of(case: Case) -> Polygon:
    """The union of the true regions, read as a benchmark would."""
    annotation = read_annotation(case.fine.path)
    regions = [r for r in annotation.regions if not case.classes or r.label in case.classes]
    whole = regions[0].geometry
    for region in regions[1:]:
        whole = whole.union(region.geometry)
    return whole


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where a data set goes; its name says nothing about splits."""
    return tmp_path / "data"


# --- CAMELYON16


@pytest.fixture
def camelyon(root: Path) -> Path:
    """As the challenge distributes it, unpacked."""
    train, test = root / "CAMELYON16" / "training", root / "CAMELYON16" / "testing"
    for name in ("tumor_001", "tumor_002", "tumor_015", "tumor_110"):
        write_slide(train / "tumor" / f"{name}.tif")
    for name in ("tumor_001", "tumor_003", "tumor_015", "tumor_110"):
        write_asap(train / "lesion_annotations" / f"{name}.xml", [("_0", LESION), ("_2", HOLE)])
    write_slide(train / "normal" / "normal_001.tif")
    for name in ("test_001", "test_002", "test_049", "test_114"):
        write_slide(test / "images" / f"{name}.tif")
    for name in ("test_001", "test_114"):
        write_asap(test / "lesion_annotations" / f"{name}.xml", [("Tumor", LESION)])
    (train / "lesion_annotations" / "._tumor_001.xml").write_bytes(b"\0\5\26\7")
    (root / "CAMELYON16" / "README.md").write_text("# CAMELYON16")
    return root


class TestCamelyon16:
    def test_the_challenges_layout(self, camelyon: Path) -> None:
        found = open_dataset("camelyon16").list_cases(camelyon)
        assert ids(found.cases) == ["test_001", "tumor_001"]
        assert [case.split for case in found.cases] == ["test", "train"]
        assert found.cases[1].slide.name == "tumor_001.tif"
        assert truth_of(found.cases[1]).area == 200 * 200 - 50 * 50
        assert set(found.missing) == {
            "tumor_002: no annotation tumor_002.xml",
            "tumor_003: no slide tumor_003.tif",
        }
        assert ids(found.without_slide) == ["tumor_003"]

    def test_what_is_left_out_is_said(self, camelyon: Path) -> None:
        said = open_dataset("camelyon16").list_cases(camelyon).left_out
        for id in ("tumor_015", "tumor_110", "test_114"):
            assert f"{id}: not exhaustively annotated" in said
        assert any("test_049: a duplicate" in sentence for sentence in said)
        assert any("1 normal slides" in sentence for sentence in said)
        assert any("1 test slides without annotation" in sentence for sentence in said)

    @pytest.mark.parametrize("below", ["CAMELYON16", "CAMELYON16/training"])
    def test_any_folder_above_the_slides_will_do(self, camelyon: Path, below: str) -> None:
        found = open_dataset("camelyon16").list_cases(camelyon / below)
        assert "tumor_001" in ids(found.cases)

    def test_the_buckets_layout_with_masks_and_other_case(self, root: Path) -> None:
        for name in ("Tumor_001.TIF", "tumor_002.tif"):
            write_slide(root / "images" / name)
        write_asap(root / "annotations" / "tumor_001.xml", [("metastases", LESION)])
        mask = np.zeros((40, 40), np.uint8)
        mask[10:30, 10:30] = 1
        (root / "masks").mkdir()
        for name in ("tumor_001", "tumor_002"):
            tifffile.imwrite(root / "masks" / f"{name}_mask.tif", mask)
        found = open_dataset("camelyon16").list_cases(root)
        assert [case.fine.path.name for case in found.cases] == [
            "tumor_001.xml",
            "tumor_002_mask.tif",
        ]
        assert not found.missing

    def test_annotations_still_packed_are_noticed(self, root: Path) -> None:
        write_slide(root / "tumor" / "tumor_001.tif")
        (root / "lesion_annotations.zip").write_bytes(b"PK")
        missing = open_dataset("camelyon16").list_cases(root).missing
        assert any("lesion_annotations.zip is not unpacked" in sentence for sentence in missing)

    def test_the_not_exhaustive_ones_are_twenty_and_one(self) -> None:
        assert len(NOT_EXHAUSTIVE) == 21

    @pytest.mark.parametrize("nested", [False, True])
    def test_released_outlines_come_with_the_cases(
        self, camelyon: Path, tmp_path: Path, nested: bool
    ) -> None:
        variants = {name: rings() for name in ("coarse_top1", "coarse_pathologist_1")}
        sav = write_sav(
            tmp_path / "coarse.sav",
            {"tumor_001": variants if nested else rings(), "tumor_099": rings()},
        )
        found = open_dataset("camelyon16").list_cases(camelyon, coarse=sav)
        by_id = {case.id: case for case in found.cases}
        assert set(by_id["tumor_001"].coarse) == (set(variants) if nested else {"coarse"})
        assert by_id["test_001"].coarse == {}
        checked = check_cases([by_id["tumor_001"]])[0]
        assert not checked.problems
        assert all(o.areas_px == {"Tumor": 40_000.0} for o in checked.outlines[1:])


# --- PAIP


class TestPaip2019:
    def test_the_challenges_layout(self, root: Path) -> None:
        viable = [(LESION, False), (HOLE, True)]
        whole = [([(60, 60), (340, 60), (340, 340), (60, 340)], False)]
        first = root / "Training_phase_1_001" / "01_01_0083"
        write_slide(first.with_suffix(".svs"))
        write_imagescope(first.with_suffix(".xml"), {"1": whole, "2": viable})
        for kind in ("viable", "whole"):
            tifffile.imwrite(f"{first}_{kind}.tif", np.ones((4, 4), np.uint8))
        second = root / "Training_phase_2_021" / "01_01_0111_rescan"
        write_slide(second.with_suffix(".SVS"))
        write_imagescope(second.with_suffix(".xml"), {"1": whole, "2": viable})
        write_slide(root / "Training_phase_2_022" / "01_01_0112.svs")
        write_slide(root / "Test_001" / "01_01_0200.svs")
        found = open_dataset("paip2019").list_cases(root)
        assert ids(found.cases) == ["01_01_0083", "01_01_0111"]
        assert {case.split for case in found.cases} == {"train"}
        assert found.cases[0].patient == "01_01_0083"
        assert truth_of(found.cases[0]).area == 200 * 200 - 50 * 50  # not the whole tumour
        assert found.missing == ("01_01_0112: no annotation 01_01_0112.xml",)
        assert [sentence.partition(":")[0] for sentence in found.left_out] == ["01_01_0200"]

    def test_masks_stand_in_where_there_is_no_xml(self, root: Path) -> None:
        for id in ("01_01_0083", "01_01_0107"):
            write_slide(root / "slides" / f"{id}.svs")
            for kind in ("viable", "whole"):
                mask = np.zeros((40, 40), np.uint8)
                mask[10:30, 10:30] = 1
                tifffile.imwrite(root / "slides" / f"{id}_{kind}.tif", mask)
        found = open_dataset("paip2019").list_cases(root)
        assert [case.fine.path.name for case in found.cases] == ["01_01_0083_viable.tif"]
        assert "swapped" in found.left_out[0]

    def test_an_xml_without_viable_tumour_is_no_truth(self, root: Path) -> None:
        write_slide(root / "01_01_0083.svs")
        write_imagescope(root / "01_01_0083.xml", {"1": [(LESION, False)]})
        write_slide(root / "01_01_0084.svs")
        (root / "01_01_0084.xml").write_text("<Annotations")
        found = open_dataset("paip2019").list_cases(root)
        assert not found.cases
        assert "no layer 2, viable tumour" in found.missing[0]
        assert found.missing[1].startswith("01_01_0084: 01_01_0084.xml")

    def test_outlines_may_go_by_the_folders_name(self, root: Path, tmp_path: Path) -> None:
        folder = root / "Training_phase_1_001"
        write_slide(folder / "01_01_0083.svs")
        write_imagescope(folder / "01_01_0083.xml", {"1": [], "2": [(LESION, False)]})
        sav = write_sav(tmp_path / "coarse.sav", {"Training_phase_1_001": rings()})
        found = open_dataset("paip2019").list_cases(root, coarse=sav)
        assert list(found.cases[0].coarse) == ["coarse"]


class TestPaip2020:
    def test_slides_and_annotations_in_folders_of_their_own(self, root: Path) -> None:
        for name in ("training_data_01", "training_data_02", "validation_data_01"):
            write_slide(root / "wsi_folder" / f"{name}.svs")
        write_imagescope(
            root / "xml_folder" / "training_data_01.xml", {"1": [(LESION, False), (HOLE, True)]}
        )
        write_imagescope(root / "xml_folder" / "training_data_03.XML", {"1": [(LESION, False)]})
        found = open_dataset("paip2020").list_cases(root)
        assert ids(found.cases) == ["training_data_01"]
        assert found.cases[0].split == "train"
        assert truth_of(found.cases[0]).area == 200 * 200 - 50 * 50
        assert ids(found.without_slide) == ["training_data_03"]
        assert set(found.missing) == {
            "training_data_02: no annotation training_data_02.xml",
            "training_data_03: no slide training_data_03.svs",
        }
        assert found.left_out[0].startswith("validation_data_01: no annotation")

    def test_the_masks_of_the_challenges_script(self, root: Path) -> None:
        write_slide(root / "training_data_01.svs")
        mask = np.zeros((25, 25), np.uint8)
        mask[5:20, 5:20] = 255
        tifffile.imwrite(root / "training_data_01_l2_annotation_tumor.tif", mask)
        found = open_dataset("paip2020").list_cases(root)
        checked = check_cases(found.cases)[0]
        assert checked.outlines[0].areas_px == {"Tumor": pytest.approx(240 * 240)}


# --- a folder of one's own


class TestFolder:
    def test_by_name_in_one_folder(self, root: Path) -> None:
        write_slide(root / "Case A.svs")
        write_geojson(root / "Case A.fine.geojson")
        write_geojson(root / "case a.coarse.geojson")
        write_geojson(root / "Case A.coarse_quick.json")
        write_asap(root / "b.fine.xml", [("Tumor", LESION)])
        write_slide(root / "c.ome.tif")
        (root / "notes.txt").write_text("…")
        found = open_dataset("folder").list_cases(root)
        assert ids(found.cases) == ["Case A"]
        assert set(found.cases[0].coarse) == {"coarse", "coarse_quick"}
        assert ids(found.without_slide) == ["b"]
        assert set(found.missing) == {
            "b: no slide b.*",
            "c: no true outline c.fine.geojson",
        }

    def test_in_subfolders_by_equal_names(self, root: Path) -> None:
        write_slide(root / "slides" / "A.tif")
        write_geojson(root / "fine" / "A.geojson")
        write_geojson(root / "coarse" / "A.geojson")
        write_geojson(root / "coarse" / "quick" / "A.geojson")
        write_geojson(root / "coarse_slow" / "A.geojson")
        found = open_dataset("folder").list_cases(root)
        assert ids(found.cases) == ["A"]
        assert set(found.cases[0].coarse) == {"coarse", "coarse_quick", "coarse_slow"}
        assert not found.missing

    @pytest.mark.parametrize(
        ("path", "named"),
        [
            ("a.fine.geojson.gz", ("a", "fine")),
            ("a.coarse_drawn_1.geojson.gz", ("a", "coarse_drawn_1")),
            ("a.fine.tif", ("a", "fine")),
            ("a.b.tif", ("a.b", "slide")),
            ("a.ome.tiff", ("a", "slide")),
            ("fine/a.tif", ("a", "fine")),
            ("SLIDES/sub/a.ndpi", ("a", "slide")),
            ("a.geojson", None),
            ("results/overview.png", None),
            ("results/a.fine.geojson", None),
            ("a", None),
            ("readme.txt", None),
        ],
    )
    def test_what_names_say(self, path: str, named: tuple[str, str] | None) -> None:
        assert read_name(Path("root") / path, Path("root")) == named

    def test_everything_that_is_there_twice_is_listed(self, root: Path) -> None:
        for name in ("a.svs", "a.tif", "b.tif"):
            write_slide(root / name)
        for name in ("a.fine.geojson", "b.fine.geojson", "b.fine.json"):
            write_geojson(root / name)
        with pytest.raises(UsageError) as caught:
            open_dataset("folder").list_cases(root)
        assert "2 file(s) of the same name" in str(caught.value)
        assert "slide of a: a.svs and a.tif" in str(caught.value)
        assert "fine of b: b.fine.geojson and b.fine.json" in str(caught.value)

    def test_a_manifest(self, root: Path) -> None:
        write_slide(root / "slides" / "one.tif")
        write_geojson(root / "one.geojson", label="Carcinoma")
        write_geojson(root / "quick.geojson")
        (root / "manifest.csv").write_text(
            "\ufeffid,slide,fine,coarse,coarse_quick,patient,split,mpp,classes\r\n"
            "first,slides/one.tif,one.geojson,,quick.geojson,P1,test,0.25,Carcinoma; Tumor\r\n"
            ",slides/two.tif,two.geojson,gone.geojson,,P2,,,\r\n"
            "\r\n",
            encoding="utf-8",
        )
        for given in (root, root / "manifest.csv"):
            found = open_dataset("folder").list_cases(given)
            assert found.cases == (
                Case(
                    id="first",
                    slide=root / "slides" / "one.tif",
                    fine=Outlines(root / "one.geojson"),
                    coarse={"coarse_quick": Outlines(root / "quick.geojson")},
                    classes=("Carcinoma", "Tumor"),
                    patient="P1",
                    split="test",
                    mpp=0.25,
                ),
            )
            assert set(found.missing) == {
                "two: no coarse outline gone.geojson",
                "two: no slide two.tif",
                "two: no true outline two.geojson",
            }

    def test_every_problem_of_a_manifest_is_listed_at_once(self, root: Path) -> None:
        root.mkdir()
        (root / "manifest.csv").write_text(
            "id,slide,fine,mpp\na,a.tif,,\nb,b.tif,b.xml,big\nc,c.tif,c.xml,0.5\nC,d.tif,d.xml,\n"
            "e,e.tif\nf,f.tif,f.xml,0\n"
        )
        with pytest.raises(UsageError) as caught:
            open_dataset("folder").list_cases(root)
        said = str(caught.value)
        assert "manifest.csv has 5 problem(s)" in said
        for words in (
            "line 2: no fine",
            "line 3: mpp 'big'",
            "line 5: id 'C' is that of line 4",
            "line 6: 2 values in 4 columns",
            "line 7: mpp '0'",
        ):
            assert words in said

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "it is empty"),
            ("slide,truth\na,b\n", "unknown column 'truth'"),
            ("id,slide\na,b\n", "column 'fine' is missing"),
            ("slide,fine,fine\na,b,c\n", "column 'fine' is there twice"),
            ("slide,fine\n", "it has no cases"),
        ],
    )
    def test_a_manifest_that_is_none(self, root: Path, text: str, words: str) -> None:
        root.mkdir()
        (root / "manifest.csv").write_text(text)
        with pytest.raises(UsageError, match=words):
            open_dataset("folder").list_cases(root)

    def test_a_manifest_that_is_no_text(self, root: Path) -> None:
        root.mkdir()
        (root / "manifest.csv").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(UsageError, match="cannot be read as CSV in UTF-8"):
            open_dataset("folder").list_cases(root)
        with pytest.raises(MissingFileError, match="no such manifest"):
            open_dataset("folder").list_cases(root / "other.csv")


# --- all of them


@pytest.mark.parametrize("name", registry.names("dataset"))
class TestEvery:
    def test_it_is_a_data_set(self, name: str) -> None:
        found = open_dataset(name)
        assert isinstance(found, DataSet)
        assert found.name == name

    def test_no_such_folder(self, name: str, root: Path) -> None:
        with pytest.raises(MissingFileError, match="does not exist"):
            open_dataset(name).list_cases(root)

    def test_nothing_of_it(self, name: str, root: Path) -> None:
        root.mkdir()
        (root / "readme.txt").write_text("empty")
        with pytest.raises(UsageError, match="holds nothing of"):
            open_dataset(name).list_cases(root)

    def test_the_wrong_coarse_file(self, name: str, root: Path, tmp_path: Path) -> None:
        root.mkdir()
        with pytest.raises(MissingFileError, match="no such file of coarse"):
            open_dataset(name).list_cases(root, coarse=tmp_path / "no.sav")
        with pytest.raises(UsageError, match=r"is no \.sav file"):
            open_dataset(name).list_cases(root, coarse=write_geojson(tmp_path / "a.geojson"))


def test_an_unknown_data_set_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="unknown data set 'tcga'; known: camelyon16"):
        open_dataset("tcga")


@pytest.mark.parametrize(
    ("labels", "share", "included"),
    [
        ([0] * 9 + [1], 0.1, True),
        ([0] * 91 + [2] * 9, 0.09, False),
        ([1] * 9 + [0], 0.9, True),
        ([1] * 10, 1.0, False),
        ([-1, -1, 0, 1], 0.5, True),
        ([-1], 0.0, False),
        ([], 0.0, False),
    ],
)
def test_lesions_of_a_tenth_to_nine_tenths_of_the_tissue_take_part(
    labels: list[int], share: float, included: bool
) -> None:
    assert lesion_share(np.array(labels, np.int8)) == pytest.approx(share)
    assert is_included(lesion_share(np.array(labels, np.int8))) is included


# --- at the terminal


class TestCommand:
    def test_it_lists_what_is_there_and_what_is_not(self, cli, camelyon: Path) -> None:
        answer = cli("dataset", "camelyon16", camelyon)
        assert answer.code == 0
        assert "2 cases" in answer.out
        assert "warning: tumor_003: no slide tumor_003.tif" in answer.err
        assert "note: tumor_015: not exhaustively annotated" in answer.err

    def test_as_json(self, cli, camelyon: Path) -> None:
        data = json.loads(cli("dataset", "camelyon16", camelyon, "--format", "json").out)
        assert data["schema"] == "recontour.dataset/1"
        assert [case["id"] for case in data["cases"]] == ["test_001", "tumor_001"]
        assert data["checked"] is None

    def test_a_check_opens_everything(self, cli, camelyon: Path) -> None:
        answer = cli("dataset", "camelyon16", camelyon, "--check", "--format", "json", "-q")
        assert answer.code == 0, answer.err
        checked = {case["id"]: case for case in json.loads(answer.out)["checked"]}
        assert set(checked) == {"test_001", "tumor_001", "tumor_003"}
        assert checked["tumor_001"]["size"] == [400, 400]
        assert checked["tumor_001"]["mpp"] == pytest.approx(MPP)
        fine = checked["tumor_001"]["outlines"][0]
        assert fine["regions"] == {"Tumor": 1}
        assert fine["areas_um2"] == {"Tumor": pytest.approx((200 * 200 - 50 * 50) * MPP**2)}
        assert any("cut out" in note for note in fine["notes"])
        assert checked["tumor_003"]["size"] is None
        assert checked["tumor_003"]["outlines"][0]["areas_um2"] is None
        assert "0.01 mm²" in cli("dataset", "camelyon16", camelyon, "--check", "-q").out

    def test_a_check_names_every_broken_file(self, cli, camelyon: Path) -> None:
        train = camelyon / "CAMELYON16" / "training"
        (train / "tumor" / "tumor_001.tif").write_bytes(b"")
        (train / "lesion_annotations" / "tumor_003.xml").write_text("<ASAP_Annotations>")
        answer = cli("dataset", "camelyon16", camelyon, "--check", "-q")
        assert answer.code == 1
        assert "problem: tumor_001: tumor_001.tif" in answer.err
        assert "problem: tumor_003: tumor_003.xml" in answer.err
        assert "error: 2 case(s) of camelyon16" in answer.err

    def test_a_check_misses_the_class_that_is_to_be_the_truth(self, cli, root: Path) -> None:
        write_slide(root / "A.tif")
        write_asap(root / "A.xml", [("_0", LESION)])
        (root / "manifest.csv").write_text("slide,fine,classes\nA.tif,A.xml,Carcinoma\n")
        answer = cli("dataset", "folder", root, "--check", "-q")
        assert answer.code == 1
        assert "problem: A: A.xml has no outline of class Carcinoma" in answer.err

    def test_coarse_outlines_of_other_slides_are_noticed(self, cli, camelyon: Path) -> None:
        outlines = {"annotations_outer": [[[1, 1], [9, 1], [9, 9]]], "annotations_inner": []}
        path = camelyon / "coarse.sav"
        path.write_bytes(pickle.dumps({"elsewhere": outlines}))
        answer = cli("dataset", "camelyon16", camelyon, "--coarse-file", path, "-q")
        assert answer.code == 0
        assert "no outline of a slide here: its slides are elsewhere" in answer.err


# --- real annotations


@pytest.mark.real_data
def test_real_asap_files_without_their_slides(shared_data: Path) -> None:
    found = open_dataset("camelyon16").list_cases(shared_data / "camelyon16-asap")
    assert found.cases == ()
    assert ids(found.without_slide) == ["tumor_009", "tumor_011", "tumor_058", "tumor_076"]
    assert found.missing == tuple(f"{id}: no slide {id}.tif" for id in ids(found.without_slide))
    checked = check_cases(found.without_slide)
    assert not any(case.problems for case in checked)
    regions = [case.outlines[0].regions for case in checked]
    assert regions == [{"Tumor": 6}, {"Tumor": 63}, {"Tumor": 15}, {"Tumor": 39}]


@pytest.mark.real_data
def test_real_outlines_of_seventeen_slides(shared_data: Path) -> None:
    found = open_dataset("folder").list_cases(shared_data / "camelyon16")
    assert len(found.without_slide) == len(found.missing) == 17
    wanted = {"coarse_drawn_1", "coarse_drawn_2", "coarse_simulated"}
    assert all(set(case.coarse) == wanted for case in found.without_slide)
    checked = {case.id: case for case in check_cases(found.without_slide)}
    assert not any(case.problems for case in checked.values())
    # The same lesions as in the original XML.
    asap = open_dataset("camelyon16").list_cases(shared_data / "camelyon16-asap")
    for case in check_cases(asap.without_slide):
        area = case.outlines[0].areas_px["Tumor"]
        assert checked[case.id].outlines[0].areas_px["Tumor"] == pytest.approx(area, rel=1e-3)
