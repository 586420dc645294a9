"""A whole manifest is checked before the first slide is worked on; changed rows have other keys."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Scene
from shapely import box

from recontour.annotations import write_annotation
from recontour.cohort.manifest import Row, check_manifest, read_manifest, row_key
from recontour.cohort.rows import refusal
from recontour.recipe import Recipe, Runtime
from recontour.types import Annotation, Region

TUMOR = Recipe(encoder="colour", method="logistic", classes=("Tumor",))


def outline(path: Path, label: str = "Tumor", at: float = 100) -> Path:
    regions = (Region("r", box(at, at, at + 300, at + 300), label),)
    write_annotation(Annotation("a", regions), path)
    return path


@pytest.fixture
def lab(tmp_path: Path, scene: Scene) -> Path:
    """A folder with one good slide, its outline, and files that are none."""
    shutil.copy(scene.slide, tmp_path / "good.tif")
    outline(tmp_path / "good.geojson")
    return tmp_path


def manifest_of(lab: Path, text: str) -> Path:
    path = lab / "cohort.csv"
    path.write_text(text)
    return path


def whats(lab: Path, text: str, recipe: Recipe = TUMOR, **options: object) -> list[str]:
    manifest = read_manifest(manifest_of(lab, text))
    problems = check_manifest(manifest, recipe, jobs=2, **options)  # type: ignore[arg-type]
    return [str(problem) for problem in problems]


def test_a_sound_manifest_has_no_problem(lab: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    found = whats(
        lab,
        "id,slide,coarse,classes,reviewed,also,tissue\n"
        "a,good.tif,good.geojson,,good.geojson,good.geojson,good.geojson\n"
        "b,good.tif,good.geojson,tumor,,,rgb\n",
        runtime=Runtime(progress=lambda *told: seen.append(told)),
    )
    assert found == []
    assert seen[0] == ("check", 0, 2)
    assert seen[-1] == ("check", 2, 2)


def test_every_problem_of_every_row_is_told_at_once(lab: Path) -> None:
    from PIL import Image

    (lab / "cut.tif").write_bytes((lab / "good.tif").read_bytes()[:100])
    (lab / "text.svs").write_text("no slide")
    Image.new("RGB", (40, 40)).save(lab / "nompp.png")
    (lab / "broken.geojson").write_text('{"type": "FeatureCollection", "fea')
    (lab / "empty.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    outline(lab / "off.geojson", at=90_000)
    outline(lab / "stroma.geojson", label="Stroma")
    (lab / "folder").mkdir()
    found = whats(
        lab,
        "id,slide,coarse,mpp,reviewed,cell_um,origin,classes,tissue\n"
        "fine,good.tif,good.geojson,,,,,,\n"
        "gone,gone.tif,gone.geojson,,gone.json,,,,gone.png\n"
        "cut,cut.tif,good.geojson,,,,,,\n"
        "text,text.svs,stroma.geojson,,,,,,\n"
        "nompp,nompp.png,stroma.geojson,,,,,,\n"
        "lies,good.tif,good.geojson,400,,,,,\n"
        "broken,good.tif,broken.geojson,,,,,,\n"
        "empty,good.tif,empty.geojson,,,,,,\n"
        "off,good.tif,off.geojson,,,,,,\n"
        "class,good.tif,good.geojson,,,,,Stroma,\n"
        "folder,good.tif,folder,,,-3,middle,,shiny\n",
    )
    assert not any("(fine)" in what for what in found)
    expected = {
        "gone": [
            "no such slide",
            "no such coarse outline",
            "no such file of reviewed regions",
            "no such file of the tissue",
        ],
        "cut": ["cut.tif"],
        "text": ["text.svs is not a slide", "no class 'Tumor' in stroma.geojson"],
        "nompp": [
            "(µm/px); --mpp holds for all slides, a column 'mpp' for each",
            "no class 'Tumor' in stroma.geojson",
        ],
        "lies": ["mpp 400 is outside"],
        "broken": ["broken.geojson"],
        "empty": ["empty.geojson holds no outline"],
        "off": ["lies off the slide"],
        "class": ["no class 'Stroma' in good.geojson"],
        "folder": [
            "the coarse outline is a folder",
            "cell-um -3 is not a length",
            "unknown origin 'middle'",
            "unknown tissue rule 'shiny'",
        ],
    }
    for id, parts in expected.items():
        mine = [what for what in found if f"({id})" in what]
        for part in parts:
            assert any(part in what for what in mine), (part, mine)
        assert len(mine) == len(parts), mine
    assert len(found) == sum(map(len, expected.values()))
    assert f"has {len(found)} problems" in str(
        refusal("cohort.csv", list(check_manifest(read_manifest(lab / "cohort.csv"), TUMOR)))
    )


def test_lines_that_cannot_be_read_are_checked_as_far_as_they_go(lab: Path) -> None:
    found = whats(lab, "id,slide,coarse,mpp\na,gone.tif,good.geojson,wide\n")
    assert len(found) == 2
    assert any("mpp 'wide'" in what for what in found)
    assert any("no such slide" in what for what in found)


def test_a_problem_of_all_rows_is_told_once(lab: Path) -> None:
    text = "id,slide,coarse,threshold\na,good.tif,good.geojson,\nb,good.tif,good.geojson,0.5\n"
    assert whats(lab, text, replace(TUMOR, method="magic", band=3)) == [
        w for w in whats(lab, text, replace(TUMOR, method="magic", band=3)) if w.startswith("all")
    ]
    found = whats(lab, text, replace(TUMOR, method_options={"magic": 1}))
    assert len(found) == 1
    assert found[0].startswith("all slides: method 'logistic' has no option 'magic'")


def test_a_setting_of_a_row_that_makes_no_sense(lab: Path) -> None:
    text = "id,slide,coarse,threshold,only\na,good.tif,good.geojson,1.5,grow\n"
    found = whats(lab, text)
    assert len(found) == 2
    assert any("--threshold 1.5" in what for what in found)
    assert any("--only grow" in what for what in found)


def test_a_row_may_give_its_cell_in_the_other_unit(lab: Path) -> None:
    text = "id,slide,coarse,cell_px\na,good.tif,good.geojson,32\nb,good.tif,good.geojson,\n"
    recipe = replace(TUMOR, cell_um=16.0)
    assert whats(lab, text, recipe) == []
    a, b = read_manifest(lab / "cohort.csv").rows
    assert (a.recipe_of(recipe).cell_px, a.recipe_of(recipe).cell_um) == (32, None)
    assert (b.recipe_of(recipe).cell_px, b.recipe_of(recipe).cell_um) == (None, 16.0)


def test_finished_slides_need_no_files(lab: Path) -> None:
    text = "id,slide,coarse\na,archived.tif,good.geojson\n"
    assert whats(lab, text)
    assert whats(lab, text, finished={"a"}) == []


def test_files_at_urls_are_left_to_the_run(lab: Path) -> None:
    assert whats(lab, "slide,coarse\ns3://bucket/a.svs,s3://bucket/a.geojson\n") == []


def test_a_reader_that_breaks_is_that_rows_problem(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recontour.annotations import geojson

    def read(self: object, path: Path, frame: object) -> Annotation:
        raise ZeroDivisionError("of another package")

    monkeypatch.setattr(geojson.GeoJson, "read", read)
    (found,) = whats(lab, "slide,coarse\ngood.tif,good.geojson\n")
    assert "ZeroDivisionError: of another package" in found


def test_the_key_of_a_row_changes_with_what_it_depends_on(lab: Path) -> None:
    row = Row("a", str(lab / "good.tif"), str(lab / "good.geojson"))
    key = row_key(row, TUMOR)
    assert row_key(replace(row, id="b", line=7, extra={"patient": "P"}), TUMOR) == key
    moved = lab / "moved"
    moved.mkdir()
    shutil.copy(row.coarse, moved / "other.geojson")
    assert row_key(replace(row, coarse=str(moved / "other.geojson")), TUMOR) == key
    others = [
        row_key(row, replace(TUMOR, seed=1)),
        row_key(replace(row, mpp=0.25), TUMOR),
        row_key(replace(row, classes=("Stroma",)), TUMOR),
        row_key(replace(row, settings={"band": 2}), TUMOR),
        row_key(replace(row, reviewed=row.coarse), TUMOR),
        row_key(replace(row, also=(row.coarse,)), TUMOR),
        row_key(replace(row, settings={"tissue": row.coarse}), TUMOR),
        row_key(replace(row, coarse=str(lab / "gone.geojson")), TUMOR),
        row_key(replace(row, slide=str(lab / "gone.tif")), TUMOR),
    ]
    outline(lab / "good.geojson", at=101)
    others.append(row_key(row, TUMOR))
    os.utime(row.slide, ns=(1, 1))
    others.append(row_key(row, TUMOR))
    assert len({key, *others}) == len(others) + 1


def test_the_key_of_a_file_elsewhere_goes_by_what_its_server_says() -> None:
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    try:
        files.pipe("/lab/a.geojson", json.dumps({"features": []}).encode())
        row = Row("a", "memory://lab/a.svs", "memory://lab/a.geojson")
        key = row_key(row, TUMOR)
        assert row_key(row, TUMOR) == key
        files.pipe("/lab/a.geojson", b"{}")
        assert row_key(row, TUMOR) != key
    finally:
        files.store.clear()


@pytest.mark.real_data
def test_slides_of_many_scanners_are_checked(shared_data: Path, tmp_path: Path) -> None:
    slides = sorted(p for p in (shared_data / "formats").iterdir() if p.suffix == ".svs")
    coarse = outline(tmp_path / "o.geojson", at=1)
    lines = [f"{slide},{coarse}" for slide in slides]
    path = manifest_of(tmp_path, "slide,coarse\n" + "\n".join(lines))
    problems = check_manifest(read_manifest(path), TUMOR)
    assert len(slides) >= 3
    assert all("pixel size" in p.what or "µm/px" in p.what for p in problems), problems
