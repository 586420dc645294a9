"""The summary of a cohort: everything a person or a script wants to know of all slides at once."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recontour import generate_slide, simulate_coarse, write_annotation
from recontour.cohort.manifest import Row
from recontour.expected import confidence_counts
from recontour.reports import cohort_page
from recontour.reports.cohort_page import duration, write_cohort_summary
from recontour.reports.cohort_table import COLUMNS, cohort_table


@pytest.fixture(scope="module")
def command(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """`recontour cohort` on a small slide and one that is not there: its OUT, and how it ended."""
    folder = tmp_path_factory.mktemp("lab")
    made = generate_slide(folder / "good.tif", size=(768, 640), seed=3)
    coarse = simulate_coarse(made.truth, kind="generous", seed=1, mpp=0.5, size=made.size)
    write_annotation(coarse, folder / "good.geojson")
    (folder / "cohort.csv").write_text(
        "slide,coarse\ngood.tif,good.geojson\ngone.tif,good.geojson\n"
    )
    settings = ["--encoder", "colour", "--method", "logistic", "--class", "Tumor"]
    ended = subprocess.run(
        [sys.executable, "-m", "recontour", "cohort", str(folder / "cohort.csv")]
        + ["-o", str(folder / "out"), "--skip-errors", *settings],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "RECONTOUR_CACHE_DIR": str(folder / "cache")},
    )
    return folder / "out", ended


@pytest.fixture(scope="module")
def finished(command: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    """The folder of one finished run, of a small slide."""
    return command[0] / "good"


def row(id: str, **extra: str) -> Row:
    return Row(id, f"/lab/slides/{id}.svs", f"/lab/outlines/{id}.geojson", extra=extra)


def state(out: Path, id: str, outcome: str, **more: Any) -> None:
    (out / "state").mkdir(parents=True, exist_ok=True)
    said = {"id": id, "outcome": outcome, "attempts": 1, "seconds": 61.5, **more}
    (out / "state" / f"{id}.json").write_text(json.dumps(said))


def done(out: Path, id: str, run: Mapping[str, Any], **changed: Any) -> None:
    state(out, id, "done")
    (out / id).mkdir(parents=True)
    (out / id / "run.json").write_text(json.dumps({**run, **changed}))


@pytest.fixture
def cohort(tmp_path: Path, finished: Path) -> tuple[Path, list[Row]]:
    """Slides in every state."""
    out = tmp_path / "out"
    run = json.loads((finished / "run.json").read_text())
    fine = {**run, "warnings": [], "validity": {**run["validity"], "verdict": "valid"}}
    estimate = fine["estimate"]
    fine["estimate"] = {
        "given": {**estimate["given"], "wrong_share": 0.2},
        "refined": {**estimate["refined"], "wrong_share": 0.1},
    }
    done(out, "fine & dandy", fine)
    shutil.copy(finished / "overview.png", out / "fine & dandy")
    done(out, "warned", fine, warnings=["/lab/x/a.svs: is <it> the right slide?", "second"])
    done(out, "doubtful", fine, validity={"verdict": "doubtful", "score": 0.4})
    two = {
        "Tumor": fine["areas_um2"]["Tumor"],
        "Stroma": dict.fromkeys(("coarse", "coarse_on_tissue", "refined", "added", "removed"), 1e6),
    }
    done(out, "two", fine, areas_um2=two)
    state(
        out, "broken", "failed", error="/lab/slides/broken.svs ends early", error_kind="SlideError"
    )
    state(out, "other", "failed", error="/lab/slides/other.svs ends early", error_kind="SlideError")
    state(out, "now", "running")
    ids = ["fine & dandy", "warned", "doubtful", "two", "broken", "other", "now", "later"]
    return out, [row(id, patient=f"P{i}", cells="mine") for i, id in enumerate(ids)]


def rows_of(page: str) -> list[tuple[str, str]]:
    """(kind, id) of each line of the page's table, in order."""
    found = re.findall(r'<tr data-kind="(\w+)">.*?<td class="id">(?:<a [^>]*>)?([^<]*)', page)
    return [(kind, id.replace("&amp;", "&")) for kind, id in found]


def test_the_table_says_what_became_of_each_slide(
    cohort: tuple[Path, list[Row]], finished: Path
) -> None:
    out, rows = cohort
    table = cohort_table(out, rows)
    assert [line["id"] for line in table] == [row.id for row in rows]
    assert [line["status"] for line in table] == [
        *["done"] * 4,
        "failed",
        "failed",
        "running",
        "waiting",
    ]
    assert len({tuple(line) for line in table}) == 1
    run = json.loads((finished / "run.json").read_text())
    fine = table[0]
    areas = run["areas_um2"]["Tumor"]
    assert fine["cells"] == run["grid"]["n_cells"]
    assert fine["refined_um2"] == fine["Tumor_refined_um2"] == areas["refined"]
    assert fine["change"] == pytest.approx(areas["refined"] / areas["coarse"] - 1)
    assert (fine["wrong_share_given"], fine["wrong_share_refined"]) == (0.2, 0.1)
    assert fine["Stroma_coarse_um2"] is None
    assert (fine["patient"], fine["manifest_cells"]) == ("P0", "mine")
    assert table[3]["refined_um2"] == pytest.approx(areas["refined"] + 1e6)
    assert table[1]["warnings"] == 2
    assert table[4]["error"] == "broken.svs ends early"  # no folder of ours
    assert table[4]["refined_um2"] is None
    assert table[7]["attempts"] is None
    signed = Row("s", "https://lab.org/x/s.svs?signature=secret/half", "s3://lab/s.json")
    assert [cohort_table(out, [signed])[0][n] for n in ("slide", "coarse")] == ["s.svs", "s.json"]


def test_the_page_puts_first_what_needs_a_person(cohort: tuple[Path, list[Row]]) -> None:
    out, rows = cohort
    assert write_cohort_summary(out, rows) == ()
    page = (out / "summary.html").read_text("utf-8")
    assert rows_of(page) == [
        ("failed", "broken"),
        ("failed", "other"),
        ("look", "warned"),
        ("look", "doubtful"),
        ("waiting", "later"),
        ("running", "now"),
        ("done", "fine & dandy"),
        ("done", "two"),
    ]
    assert "2 slides</strong>: ID.svs ends early (broken, other)" in page
    assert "1 slide: the coarse outline looks doubtful" in page
    assert "is &lt;it&gt; the right slide?" in page
    assert "/lab/" not in page
    assert 'href="fine%20%26%20dandy/report.html"' in page
    assert 'src="thumbs/fine%20%26%20dandy.jpg"' in page
    assert page.count("<img ") == page.count('loading="lazy"') == 1
    assert 'aria-label="Cells by the chance' in page
    # Self-contained: nothing is fetched, from nowhere.
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert "<script src" not in page
    assert "<link" not in page


def test_a_verdict_on_an_outline_is_counted_once(tmp_path: Path, finished: Path) -> None:
    run = json.loads((finished / "run.json").read_text())
    verdict = "the coarse outline looks invalid: flipped?"
    doubted = {**run, "validity": {**run["validity"], "verdict": "invalid"}}
    done(tmp_path, "one", doubted, warnings=[verdict])
    done(tmp_path, "two", doubted, warnings=[verdict, "pixels are not square"])
    write_cohort_summary(tmp_path, [row("one"), row("two")])
    page = (tmp_path / "summary.html").read_text("utf-8")
    assert "2 slides: the coarse outline looks invalid" in page
    assert "1 slide with other warnings" in page


def test_the_files_hold_the_whole_table(cohort: tuple[Path, list[Row]]) -> None:
    out, rows = cohort
    write_cohort_summary(out, rows)
    table = cohort_table(out, rows)
    with (out / "summary.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["id"] for line in lines] == [line["id"] for line in table]
    for line, true in zip(lines, table, strict=True):
        for name, value in true.items():
            assert line[name] == ("" if value is None else str(value))
    pq = pytest.importorskip("pyarrow.parquet")
    assert pq.read_table(out / "summary.parquet").to_pylist() == table


def test_the_documentation_has_every_column() -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "reference" / "outputs.md"
    section = page.read_text("utf-8").partition("{ #cohort }")[2].partition("\n## ")[0]
    assert [name for name in COLUMNS if f"`{name}`" not in section] == []


def test_without_pyarrow_the_page_says_so(
    cohort: tuple[Path, list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rows = cohort
    (out / "summary.parquet").write_text("of an earlier run")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (note,) = write_cohort_summary(out, rows)
    assert "recontour[parquet]" in note
    assert not (out / "summary.parquet").exists()
    page = (out / "summary.html").read_text("utf-8")
    assert "summary.parquet:" in page
    assert 'href="summary.parquet"' not in page


def test_a_cohort_that_has_not_begun(tmp_path: Path) -> None:
    write_cohort_summary(tmp_path, [row("a"), row("b")])
    page = (tmp_path / "summary.html").read_text("utf-8")
    assert rows_of(page) == [("waiting", "a"), ("waiting", "b")]
    assert "Confidence" not in page


def test_damaged_files_fail_their_slide_alone(
    tmp_path: Path, cohort: tuple[Path, list[Row]]
) -> None:
    out, rows = cohort
    (out / "two" / "run.json").write_text("{}")
    (out / "doubtful" / "run.json").write_text('{"cut')
    (out / "state" / "now.json").write_text("")
    (out / "fine & dandy" / "overview.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    write_cohort_summary(out, rows)
    status = {line["id"]: line["status"] for line in cohort_table(out, rows)}
    assert (status["two"], status["doubtful"], status["now"]) == ("failed", "failed", "waiting")
    assert status["fine & dandy"] == "done"
    assert "thumbs/" not in (out / "summary.html").read_text("utf-8")


@pytest.mark.parametrize(
    "odd",
    [
        {"grid": None},
        {"areas_um2": {"Tumor": dict.fromkeys(("coarse", "refined", "added", "removed"))}},
        {"tissue_um2": float("nan")},
        {"slide": {"reader": "openslide", "mpp": "0.25"}},
        {"confidence": {"cells_by_confidence": [1, 2, 3]}},
        {"warnings": None},
    ],
)
def test_a_run_of_another_version_fails_its_slide_alone(
    cohort: tuple[Path, list[Row]], odd: dict[str, Any]
) -> None:
    """Whatever its `run.json` holds, the page and the files of the others are written."""
    out, rows = cohort
    path = out / "two" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **odd}))
    state(out, "now", "failed", error=["no", "text"], host=7, seconds=float("nan"), attempts="2")
    write_cohort_summary(out, rows)
    table = {line["id"]: line for line in cohort_table(out, rows)}
    assert table["two"]["status"] == "failed"
    assert "remove the slide's folder" in table["two"]["error"]
    assert table["fine & dandy"]["status"] == "done"
    now = table["now"]
    assert [now[name] for name in ("error", "host", "seconds", "attempts")] == [None] * 4


def test_of_two_that_end_at_once_the_last_knows_all(
    cohort: tuple[Path, list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last slide of another process ends while this one draws its summary."""
    out, rows = cohort
    read, other = cohort_page.read_records, []

    def slowly(*args: Any) -> Any:
        records = read(*args)
        if not other:
            state(out, "now", "failed", error="it is blank")
            other.append(Thread(target=write_cohort_summary, args=(out, rows)))
            other[0].start()
            other[0].join(1)
        return records

    monkeypatch.setattr(cohort_page, "read_records", slowly)
    write_cohort_summary(out, rows)
    other[0].join()
    page = (out / "summary.html").read_text("utf-8")
    assert ("failed", "now") in rows_of(page)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_thumbnails_are_the_outlines_before_and_after(cohort: tuple[Path, list[Row]]) -> None:
    out, rows = cohort
    write_cohort_summary(out, rows)
    thumb = out / "thumbs" / "fine & dandy.jpg"
    first = thumb.read_bytes()
    with Image.open(thumb) as picture:
        width, height = picture.size
        pixels = np.asarray(picture.convert("RGB"), float)
    assert width <= 2 * 2 * 150 + 4
    assert height <= 2 * 120
    left, right = pixels[:, : width // 2 - 2], pixels[:, width - width // 2 + 2 :]
    # The same tissue twice; the outlines differ.
    difference = np.abs(left - right).mean(axis=2)
    assert np.median(difference) < 8
    assert difference.max() > 40
    assert left.std() > 10
    thumb.write_bytes(b"unchanged")  # one that is newer than its overview is drawn again
    write_cohort_summary(out, rows)
    assert thumb.read_bytes() == first
    stamp = (out / "fine & dandy" / "overview.png").stat().st_mtime_ns
    Image.new("RGB", (40, 30)).save(thumb)
    os.utime(thumb, ns=(stamp, stamp))
    marked = thumb.read_bytes()
    write_cohort_summary(out, rows)
    assert thumb.read_bytes() == marked  # of the same overview: not again
    assert 'width="20" height="15"' in (out / "summary.html").read_text("utf-8")


def test_a_slide_done_again_without_success_shows_no_old_figures(
    cohort: tuple[Path, list[Row]],
) -> None:
    out, rows = cohort
    state(out, "warned", "failed", error="it hung", error_kind="TimeoutError")
    (line,) = (line for line in cohort_table(out, rows) if line["id"] == "warned")
    assert line["status"] == "failed"
    assert line["cells"] is None


def test_confidence_counts_every_cell_once(finished: Path) -> None:
    run = json.loads((finished / "run.json").read_text())
    counts = run["confidence"]["cells_by_confidence"]
    assert len(counts) == 20
    assert sum(counts) == run["grid"]["n_cells"]
    probs = np.array([[0.9, 0.1], [0.26, 0.74], [1.0, 0.0]])
    found = confidence_counts(probs, np.array([0, 0, 1]), bins=4)
    assert found == [1, 1, 0, 1]


def test_the_command_leaves_a_summary_also_when_a_slide_fails(
    command: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, ended = command
    assert ended.returncode == 1, ended.stderr
    assert "summary.html" in ended.stdout
    page = (out / "summary.html").read_text("utf-8")
    assert rows_of(page)[0] == ("failed", "gone")
    assert 'src="thumbs/good.jpg"' in page
    assert "no such slide: gone.tif" in page


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(8.24, "8.2 s"), (200, "3 min 20 s"), (3599.6, "1 h 0 min"), (25_500, "7 h 5 min")],
)
def test_durations_in_words(seconds: float, said: str) -> None:
    assert duration(seconds) == said
