"""Reading a cohort's manifest: every table a lab may have, and every way it can be wrong."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Answer
from hypothesis import given
from hypothesis import strategies as st

from recontour.cohort.columns import ALIASES, SETTINGS
from recontour.cohort.manifest import Row, read_manifest
from recontour.cohort.names import why_unsafe
from recontour.cohort.rows import refusal
from recontour.errors import MissingFileError, UsageError
from recontour.recipe import Recipe


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "cohort.csv"
    path.write_bytes(text.encode(encoding))
    return path


def only_row(path: Path, **options: object) -> Row:
    manifest = read_manifest(path, **options)  # type: ignore[arg-type]
    assert not manifest.problems
    (row,) = manifest.rows
    return row


def test_own_columns_with_paths_beside_the_manifest(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "id,slide,coarse,mpp,classes,reviewed,also,origin,cell_um,patient\n"
        "a,slides/a.svs,a.geojson,0.25,Tumor; Stroma,r.geojson,b.xml|c.xml,level0,16,P7\n",
    )
    row = only_row(path)
    assert row == Row(
        id="a",
        slide=str(tmp_path / "slides" / "a.svs"),
        coarse=str(tmp_path / "a.geojson"),
        mpp=0.25,
        classes=("Tumor", "Stroma"),
        reviewed=str(tmp_path / "r.geojson"),
        also=(str(tmp_path / "b.xml"), str(tmp_path / "c.xml")),
        settings={"origin": "level0", "cell_um": 16.0},
        extra={"patient": "P7"},
        line=2,
    )
    assert Row.from_dict(json.loads(json.dumps(row.to_dict()))) == row


def test_a_row_changes_the_settings_of_its_slide_alone(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "slide,coarse,mpp,threshold,exclude_classes,reviewed_sample\n"
        "a.svs,a.json,0.5,0.4,Blood*;Fat,yes\nb.svs,b.json,,,,\n",
    )
    a, b = read_manifest(path).rows
    everyone = Recipe(classes=("Tumor",), threshold=0.6)
    of_a = a.recipe_of(everyone)
    assert (of_a.mpp, of_a.threshold, of_a.classes) == (0.5, 0.4, ("Tumor",))
    assert of_a.exclude_classes == ("Blood*", "Fat")
    assert of_a.reviewed_sample is True
    assert b.recipe_of(everyone) == everyone


def test_slide2vec_manifest_with_outlines_in_a_folder(tmp_path: Path) -> None:
    outlines = tmp_path / "outlines"
    outlines.mkdir()
    (outlines / "Slide-1.coarse.geojson").touch()
    (outlines / "slide-2.xml").touch()
    path = written(
        tmp_path,
        "sample_id,image_path,mask_path,spacing_at_level_0,patient_id\n"
        "s1,/data/slide-1.svs,/data/mask-1.png,0.25,P1\n"
        "s2,/data/slide-2.ome.tif,,,P1\n",
    )
    manifest = read_manifest(path, coarse_dir=outlines)
    one, two = manifest.rows
    assert (one.id, one.slide, one.mpp) == ("s1", "/data/slide-1.svs", 0.25)
    assert one.coarse == str(outlines / "Slide-1.coarse.geojson")
    assert one.settings == {"tissue": "/data/mask-1.png"}
    assert two.coarse == str(outlines / "slide-2.xml")
    assert two.mpp is None
    assert two.settings == {}
    assert one.extra == {"patient_id": "P1"}
    assert "column 'mask_path' is read as 'tissue'" in manifest.notes


def test_trident_list_of_slides(tmp_path: Path) -> None:
    slides = tmp_path / "wsis"
    slides.mkdir()
    (slides / "x.geojson").touch()
    row = only_row(written(tmp_path, "wsi,mpp\nx.png,0.25\n"), base=slides, coarse_dir=slides)
    assert (row.id, row.slide, row.mpp) == ("x", str(slides / "x.png"), 0.25)
    assert row.coarse == str(slides / "x.geojson")


def test_a_list_of_names_alone(tmp_path: Path) -> None:
    (tmp_path / "x.geojson").touch()
    assert only_row(written(tmp_path, "wsi\nx.svs\n"), coarse_dir=tmp_path).id == "x"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("slide;coarse;mpp\r\nü.svs;ü.json;0,25\r\n", "utf-8-sig"),
        ("slide\tcoarse\tmpp\nü.svs\tü.json\t0.25\n", "utf-16"),
        ('"slide","coarse","mpp"\n"ü.svs","ü.json","0,25"\n', "utf-8"),
        (" Slide , COARSE , MPP \n\n,,\n ü.svs , ü.json , .25 ,,\n\n", "utf-8"),
        ('# from the "lab\nslide,coarse,mpp\n#b.svs,b.json,1\nü.svs,ü.json,0.25', "utf-8"),
        ("  # a; b; c; d\nslide,coarse,mpp\nü.svs,ü.json,0.25\n", "utf-8"),
    ],
    ids=["european-excel", "excel-unicode", "quoted", "untidy", "comments", "indented comment"],
)
def test_tables_as_programs_write_them(tmp_path: Path, text: str, encoding: str) -> None:
    row = only_row(written(tmp_path, text, encoding))
    assert (row.id, row.mpp) == ("ü", 0.25)
    assert row.coarse == str(tmp_path / "ü.json")


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '# why\n\nslide,coarse,remark\na.svs,a.json,"two\n# lines"\n\nb.svs,b.json,\n',
    )
    a, b = read_manifest(path).rows
    assert (a.line, b.line) == (4, 7)
    assert a.extra == {"remark": "two\n# lines"}


def test_urls_stay_as_they_are(tmp_path: Path) -> None:
    row = only_row(written(tmp_path, "slide,coarse\ns3://lab/x/A.svs,https://h/o/A.json?v=2\n"))
    assert (row.id, row.slide) == ("A", "s3://lab/x/A.svs")
    assert row.coarse == "https://h/o/A.json?v=2"


def test_a_mistyped_column_is_pointed_out(tmp_path: Path) -> None:
    path = written(tmp_path, "slide,coarse,reviewd,method\na.svs,a.json,r.json,biopsy\n")
    manifest = read_manifest(path)
    assert "column 'reviewd' ignored: did you mean 'reviewed'?" in manifest.notes
    assert any("'method' is kept but not used: pass --method" in note for note in manifest.notes)
    assert manifest.rows[0].extra == {"reviewd": "r.json", "method": "biopsy"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slde,coarse\na,b\n", "did you mean 'slide' by 'slde'"),
        ("slide,coase\na,b\n", "did you mean 'coarse'"),
        ("slide,mpp\na,1\n", "--coarse-dir"),
        ("slide,Slide,coarse\na,a,b\n", "'slide' is there twice"),
        ("", "is empty"),
        ("# nothing\n\n", "is empty"),
        ("slide,coarse\n", "has no row"),
        ('slide,coarse\n"a.svs,b\n', "line 2"),
        ("slide,coarse\na\0,b\n", "line 2"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"cohort\.csv") as error:
        read_manifest(written(tmp_path, text))
    assert said in str(error.value)


def test_text_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, "slide,coarse\na,b\nü,ü\n", "latin-1")
    with pytest.raises(UsageError, match=r"line 3.*CSV UTF-8"):
        read_manifest(path)


def test_missing_files_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such manifest"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(MissingFileError, match="is a folder; `recontour manifest"):
        read_manifest(tmp_path)
    path = written(tmp_path, "slide\na.svs\n")
    with pytest.raises(MissingFileError, match="no such folder of outlines"):
        read_manifest(path, coarse_dir=tmp_path / "none")


def test_every_bad_line_is_listed_at_once(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "id,slide,coarse,mpp,cell_px,reviewed_sample\n"
        "ok,a.svs,a.json,,,\n"
        "b,b.svs,b.json,wide,1.5,maybe\n"
        "c,,c.json,-1,,\n"
        "d,d.svs,,inf,,\n"
        "e,e.svs\n"
        "OK,f.svs,f.json,,,\n"
        "a/b,g.svs,g.json,,,\n",
    )
    manifest = read_manifest(path)
    assert [row.id for row in manifest.rows] == ["ok", "OK", "a/b"]
    text = str(refusal("cohort.csv", list(manifest.problems)))
    assert text.startswith("cohort.csv has 10 problems")
    for said in (
        "line 3 (b): mpp 'wide' is no number",
        "line 3 (b): cell_px '1.5' is no whole number",
        "line 3 (b): reviewed_sample 'maybe' is neither true nor false",
        "line 4 (c): no slide",
        "line 4 (c): mpp '-1' is no pixel size",
        "line 5 (d): mpp 'inf' is no number",
        "line 5 (d): no coarse outline",
        "line 6: 2 values in 6 columns; empty cells need their separators too",
        "line 7 (OK): id 'OK' is 'ok' of line 2",
        "line 8 (a/b): id 'a/b' holds '/'",
    ):
        assert said in text


def test_a_row_may_take_the_reader_of_a_cohort_back(tmp_path: Path) -> None:
    path = written(tmp_path, "slide,coarse,reader\na.svs,a.json,auto\nb.svs,b.json,\n")
    first, second = (Row.from_dict(row.to_dict()) for row in read_manifest(path).rows)
    assert first.recipe_of(Recipe(reader="openslide")).reader is None
    assert second.recipe_of(Recipe(reader="openslide")).reader == "openslide"


def test_rows_of_one_slide_need_ids(tmp_path: Path) -> None:
    path = written(tmp_path, "slide,coarse\na.svs,one.json\na.svs,two.json\nx/a.svs,three.json\n")
    first, second = read_manifest(path).problems
    assert first.what == "is the slide of line 2 again; give each an id in a column 'id'"
    assert "id 'a' is that of line 2" in second.what
    path = written(tmp_path, "id,slide,coarse\n1,a.svs,one.json\n2,a.svs,two.json\n")
    assert not read_manifest(path).problems


def test_an_ambiguous_outline_is_not_guessed(tmp_path: Path) -> None:
    for name in ("a.geojson", "a.xml", "b.tif", "._c.geojson"):
        (tmp_path / name).touch()
    path = written(tmp_path, "slide\na.svs\nb.tif\nc.svs\n")
    whats = [problem.what for problem in read_manifest(path, coarse_dir=tmp_path).problems]
    assert "a.geojson, a.xml" in whats[0]
    assert "no outline named b" in whats[1]  # its only match is the slide itself
    assert "no outline named c" in whats[2]


@pytest.mark.parametrize(
    "id", [".x", "a\\b", "x.", "State", "CON", "nul.1", "é" * 61, "a\tb", "summary.html"]
)
def test_ids_that_no_folder_should_have(id: str) -> None:
    assert why_unsafe(id)


@given(st.text(min_size=1, max_size=60))
def test_an_id_is_refused_or_stays_in_its_folder(id: str) -> None:
    if not why_unsafe(id):
        assert Path("out", id).parent == Path("out")
        assert Path(id).name == id


@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs", "Cc"])), st.integers(1, 90)),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(",;\t"),
)
def test_whatever_csv_quotes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, int]], delimiter: str
) -> None:
    import csv

    path = tmp_path_factory.mktemp("m") / "m.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["id", "slide", "coarse", "remark", "mpp"])
        for i, (remark, mpp) in enumerate(cells):
            writer.writerow([f"s{i}", f"{i}.svs", f"{i}.json", remark, mpp])
    rows = read_manifest(path).rows
    assert [(row.extra["remark"], row.mpp) for row in rows] == [
        (remark.strip(), mpp) for remark, mpp in cells
    ]


def test_the_documentation_has_every_column() -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "reference" / "manifest.md"
    text = page.read_text("utf-8")
    names = {*SETTINGS, *ALIASES, *(name for others in ALIASES.values() for name in others)}
    assert sorted(name for name in names if f"`{name}`" not in text) == []


def test_a_manifest_is_made_of_two_folders(tmp_path: Path, cli: Callable[..., Answer]) -> None:
    slides, outlines = tmp_path / "slides", tmp_path / "outlines"
    for name in ("a.svs", "P1/b.tif", "P2/b.tif", "c.ome.tif", "d.ndpi", ".x.svs", "notes.txt"):
        (slides / name).parent.mkdir(parents=True, exist_ok=True)
        (slides / name).touch()
    for name in ("x/1.dcm", "x/2.dcm"):
        (slides / name).parent.mkdir(exist_ok=True)
        (slides / name).touch()
    outlines.mkdir()
    for name in ("A.geojson", "P1_b.tif.xml", "P2_b.tif.xml", "c.coarse.json", "1.json"):
        (outlines / name).touch()
    out = tmp_path / "lists" / "cohort.csv"
    options = ("--coarse-dir", outlines, "-o", out)
    answer = cli("manifest", slides, *options)
    assert answer.code == 0, answer
    assert "1 without an outline" in answer.err
    assert "d.ndpi" in answer.err
    assert "DICOM" in answer.err
    manifest = read_manifest(out)
    assert not manifest.problems
    assert {(row.id, row.slide, row.coarse) for row in manifest.rows} == {
        (id, str(slides / slide), str(outlines / coarse))
        for id, slide, coarse in [
            ("a", "a.svs", "A.geojson"),
            ("P1_b.tif", "P1/b.tif", "P1_b.tif.xml"),
            ("P2_b.tif", "P2/b.tif", "P2_b.tif.xml"),
            ("c", "c.ome.tif", "c.coarse.json"),
            ("1", "x/1.dcm", "1.json"),
        ]
    }
    assert "\n# d,../slides/d.ndpi,\n" in out.read_text()
    assert cli("manifest", slides, *options).code == 2
    assert cli("manifest", slides, *options, "--overwrite").code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are text")
def test_a_name_that_is_no_text_is_left_out_and_told(
    tmp_path: Path, cli: Callable[..., Answer]
) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in (b"good.svs", b"sl\xe9.svs"):
        (slides / os.fsdecode(name)).touch()
    (slides / "good.geojson").touch()
    answer = cli("manifest", slides, "-o", tmp_path / "m.csv")
    assert answer.code == 0, answer.err
    assert "left out" in answer.err
    assert "sl\\udce9.svs" in answer.err
    assert [row.id for row in read_manifest(tmp_path / "m.csv").rows] == ["good"]


def test_masks_beside_their_slides_are_no_slides(
    tmp_path: Path, cli: Callable[..., Answer]
) -> None:
    for name in ("a.jpg", "a.png", "b.tif", "b_coarse.tif", "#7.tif", "#7_coarse.tif"):
        (tmp_path / name).touch()
    out = tmp_path / "cohort.csv"
    assert cli("manifest", tmp_path, "-o", out).code == 0
    assert [(row.id, Path(row.coarse).name) for row in read_manifest(out).rows] == [
        ("#7", "#7_coarse.tif"),  # no comment
        ("a", "a.png"),
        ("b", "b_coarse.tif"),
    ]
    assert cli("manifest", tmp_path / "none", "-o", tmp_path / "x.csv").code == 2
