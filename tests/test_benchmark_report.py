"""The report of a benchmark, from records with known figures."""

from __future__ import annotations

import csv
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recontour.benchmark import summaries
from recontour.benchmark.loading import load, values
from recontour.benchmark.papers import other_tables, paper_tables
from recontour.benchmark.published import figures as published
from recontour.benchmark.records import Results
from recontour.benchmark.scoring import score
from recontour.benchmark.spec import MethodSpec, OutlineSpec, Plan
from recontour.benchmark.statistics import Spread
from recontour.benchmark.tables import Column, Row, Table, markdown, say, write_tables
from recontour.recipe import Recipe
from recontour.reports.benchmark_page import write_benchmark_report
from recontour.types import PatchGrid

SIDE = 20


def grid() -> PatchGrid:
    rows, cols = np.indices((SIDE, SIDE), dtype=np.int32).reshape(2, -1)
    return PatchGrid((0.0, 0.0), (SIDE, SIDE), rows, cols, 16, 16, 16, 0.5, 0.5)


def shifted(by: int, noise: float, rng: np.random.Generator) -> np.ndarray:
    """A square of ones, moved by some cells, with some cells flipped."""
    found = np.zeros((SIDE, SIDE), np.int8)
    found[5:15, 5 + by : 15 + by] = 1
    flip = rng.random(found.shape) < noise
    return np.where(flip, 1 - found, found).astype(np.int8)


def make_results(
    folder: Path,
    *,
    slides: int = 8,
    methods: tuple[str, ...] = ("logistic", "lc_mil"),
    outlines: tuple[str, ...] = ("published", "shifted"),
    seeds: int = 2,
    dataset: str = "folder",
    drawn: tuple[str, ...] = (),
    fail: str = "",
    ablation: tuple[str, ...] = (),
) -> Results:
    """Records of methods that get better from the first to the last."""
    specs = [MethodSpec(m, m.partition(":")[0]) for m in methods]
    specs += [MethodSpec(f"prototype {r}", "prototype", {"ablation": r}) for r in ablation]
    kinds = [
        *(OutlineSpec(o, o) for o in outlines),
        *((OutlineSpec("drawn", "drawn"),) * bool(drawn)),
    ]
    plan = Plan(dataset, Recipe(), tuple(specs), tuple(kinds), ("colour",), seeds)
    results = Results(folder)
    rng = np.random.default_rng(0)
    lattice = grid()
    truth = shifted(0, 0, rng)
    with results.claim(plan):
        results.write_about({"left_out": ["s99: the lesion covers 2.0% of the tissue cells"]})
        for i in range(slides):
            case = f"slide_{i:02d}"
            ground = results.case_file(case, ".colour.npz")
            ground.parent.mkdir(parents=True, exist_ok=True)
            place = np.array([0, 0, 16, 0.5])
            np.savez(ground, truth=truth, tissue=np.ones_like(truth, bool), place=place)
            shade = rng.integers(150, 250, (SIDE * 4, SIDE * 4, 3)).astype(np.uint8)
            Image.fromarray(shade).save(results.case_file(case, ".jpg"))
            slide = {"slide": {"size": [SIDE * 16, SIDE * 16]}}
            state = {"state": "done", "inputs": "i", "encoders": {"colour": slide}}
            results.write_state(case, state)
            for outline in (*outlines, *drawn):
                for seed in range(seeds):
                    # The first slide's outline is far off: not valid.
                    given = shifted(8 if i == 0 else 1 + (i + seed) % 4, 0.0, rng)
                    answers = {"coarse": given, "oracle": shifted(0, 0.01, rng)}
                    for m, spec in enumerate(specs):
                        answers[spec.label] = shifted(0, 0.25 / (m + 1) + 0.01 * (i % 5), rng)
                    for method, found in answers.items():
                        record = {
                            "case": case, "encoder": "colour", "outline": outline, "seed": seed,
                            "method": method, "inputs": "i", "made_of": "o",
                        }  # fmt: skip
                        if method == fail:
                            reason = "RuntimeError: no memory in /home/me/here"
                            results.append({**record, "status": "failed", "reason": reason})
                            continue
                        figures = score(truth, found, given, lattice, ("background", "Tumor"))
                        coarse = score(truth, given, given, lattice, ("background", "Tumor"))
                        facts = {
                            "status": "ok", "drawn": outline in drawn, "n_cells": SIDE**2,
                            "cell_px": 16, "cell_um": 8.0, **figures, "valid": coarse["valid"],
                        }  # fmt: skip
                        if method != "coarse":
                            facts["seconds"] = {"fit": 0.5, "predict": 0.1}
                        results.append({**record, **facts}, found)
    return results


class Page(HTMLParser):
    """What a page would load from elsewhere, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.images = 0
        self.words: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href") and not str(value).startswith(("data:", "#")):
                self.loads.append(str(value))
        self.images += tag == "img"

    def handle_data(self, data):
        self.words.append(data)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "out"
    make_results(folder, ablation=("CA", "RF"))
    write_benchmark_report(Results(folder))
    return folder


def test_the_page_stands_alone_and_shows_every_figure(reported):
    page = Page(reported / "report.html")
    assert page.loads == []
    assert page.images == len(list((reported / "figures").glob("*.png"))) == 5
    text = " ".join(page.words)
    for word in ("Paired tests", "Best, median, worst", "Ablation", "Seconds a run", "label rule",
                 "s99: the lesion covers 2.0%", "Published, other data"):  # fmt: skip
        assert word.casefold() in text.casefold()


def test_figures_open_and_are_of_a_readable_size(reported):
    for path in (reported / "figures").glob("*.png"):
        with Image.open(path) as picture:
            assert 900 < picture.width < 2200
            assert picture.convert("L").getextrema()[0] < 60


def test_tables_say_what_the_records_say(reported):
    data = load(Results(reported))
    runs = [r for r in data.runs if r.method == "lc_mil" and r.valid]
    by_slide: dict[str, list[float]] = {}
    for one in runs:
        by_slide.setdefault(one.case, []).append(one.metrics["f1"])
    means = [np.mean(v) for v in by_slide.values()]
    rows = read(reported / "tables" / "means_slides_colour_all_valid.csv")
    row = next(r for r in rows if r["method"] == "lc_mil")
    assert float(row["F1 mean"]) == pytest.approx(np.mean(means))
    assert float(row["F1 sd"]) == pytest.approx(np.std(means, ddof=1))
    assert int(row["F1 n"]) == len(means) == 7
    assert int(row["outlines"]) == len(runs) == 28
    counts = np.sum([r.counts for r in runs], axis=0)
    assert float(row["F1, micro"]) == pytest.approx(
        2 * counts[0] / (2 * counts[0] + counts[1] + counts[2])
    )
    repeats = read(reported / "tables" / "means_repeats_colour_all_valid.csv")
    row = next(r for r in repeats if r["method"] == "lc_mil")
    per_repeat = values(runs, "f1")["lc_mil"]
    expected = [np.mean([v for (_, r), v in per_repeat.items() if r == seed]) for seed in (0, 1)]
    assert float(row["F1 sd"]) == pytest.approx(np.std(expected, ddof=1))


def test_outlines_that_are_not_valid_stand_apart(reported):
    valid = read(reported / "tables" / "means_slides_colour_all_valid.csv")
    wrong = read(reported / "tables" / "means_slides_colour_all_not_valid.csv")
    assert {r["slides"] for r in valid} == {"7"}
    assert {r["slides"] for r in wrong} == {"1"}
    coarse = next(r for r in wrong if r["method"] == "coarse")
    assert float(coarse["F1 mean"]) < 0.5
    assert coarse["F1 sd"] == ""


def test_every_pair_of_methods_is_tested(reported):
    rows = read(reported / "tables" / "wilcoxon_f1_colour_all_valid.csv")
    methods = ["coarse", "logistic", "lc_mil", "prototype CA", "prototype RF", "oracle"]
    assert len(rows) == math.comb(len(methods), 2)
    best = next(r for r in rows if (r["method"], r["against"]) == ("oracle", "logistic"))
    assert float(best["p"]) == pytest.approx(2 / 2**7)
    assert best["stars"] == "*"
    assert float(best["rank-biserial"]) == 1
    assert float(best["p, Holm"]) >= float(best["p"])


def test_changes_count_how_often_a_result_is_better(reported):
    rows = read(reported / "tables" / "changes_colour_all.csv")
    data = load(Results(reported))
    runs = {(r.case, r.outline, r.seed, r.method): r.metrics["f1"] for r in data.runs if r.valid}
    gains = [f - runs[(*key[:3], "coarse")] for key, f in runs.items() if key[3] == "lc_mil"]
    row = next(r for r in rows if (r["method"], r["outlines"]) == ("lc_mil", "valid"))
    assert float(row["better"]) == pytest.approx(np.mean(np.asarray(gains) > 0))
    assert float(row["median"]) == pytest.approx(np.median(gains))
    assert float(row["5th percentile"]) == pytest.approx(np.percentile(gains, 5))


def test_the_ablation_has_its_ticks(reported):
    rows = read(reported / "tables" / "ablation_colour.csv")
    parts = ("CA", "LP", "GP", "DDS", "RF")
    ticks = [[bool(r[part]) for part in parts] for r in rows]
    assert ticks == [[True] + [False] * 4, [True] * 5]


def test_published_rows_stand_beside_ours_on_the_same_data_only(tmp_path):
    data = load(make_results(tmp_path / "a", dataset="camelyon16", drawn=("coarse_pathologist_1",)))
    tables = {t.name: t for t in paper_tables(data, "colour")}
    first = tables["paper_lcmil-table1_simulated_colour"]
    assert [r.values[:2] for r in first.rows] == [
        ("this benchmark", "coarse"),
        ("this benchmark", "logistic"),
        ("this benchmark", "lc_mil"),
        ("this benchmark", "oracle"),
        ("LC-MIL paper, table I", "coarse"),
        ("LC-MIL paper, table I", "dknn"),
        ("LC-MIL paper, table I", "lc_mil"),
    ]
    theirs = dict(zip([c.name for c in first.columns], first.rows[-1].values, strict=True))
    assert theirs["F1"] == Spread(0.853, 0.092, 0)
    assert theirs["cleaned"].mean == pytest.approx(0.758)
    assert [r.kind for r in first.rows] == ["reference"] * 2 + ["own", "reference"] + [
        "published"
    ] * 3
    # Only outlines of the papers' kind count: not the shifted ones.
    ours = values([r for r in data.runs if r.outline == "published"], "f1")["lc_mil"]
    assert first.rows[2].values[2].mean == pytest.approx(np.mean(list(ours.values())))
    assert "paper_lcmil-table2_hand-drawn-valid_colour" in tables
    assert all("CAMELYON16" not in t.title for t in other_tables(data))


def test_other_data_never_stand_beside_the_papers(reported):
    data = load(Results(reported))
    assert paper_tables(data, "colour") == []
    assert all(row.kind == "published" for t in other_tables(data) for row in t.rows)
    assert sum(len(t.rows) for t in other_tables(data)) > 30


def test_every_published_value_is_read():
    found = published()
    assert len(found) == 240
    assert {f.dataset for f in found} == {"CAMELYON16", "PAIP2019", "PAIP2020"}
    assert all(0 <= f.mean <= 1 for f in found)


def test_failures_are_listed_without_folders(tmp_path):
    results = make_results(tmp_path / "out", slides=2, fail="lc_mil", seeds=1)
    page = Page(write_benchmark_report(results))
    text = " ".join(page.words)
    assert "lc_mil, colour: RuntimeError: no memory in here (4 runs" in text
    assert "4 runs failed" in text
    assert "/home" not in text


def test_one_slide_one_outline_one_method(tmp_path):
    results = make_results(
        tmp_path / "out", slides=2, methods=("logistic",), outlines=("shifted",), seeds=1
    )
    (tmp_path / "out" / "cases" / "slide_00.json").unlink()
    page = Page(write_benchmark_report(results, tmp_path / "elsewhere"))
    assert "with fewer than six, no test can reach p = 0.05" in " ".join(page.words)
    assert not (tmp_path / "out" / "report.html").exists()
    assert (tmp_path / "elsewhere" / "tables").is_dir()


def test_reporting_what_is_no_benchmark_says_so(cli, tmp_path):
    answer = cli("report", tmp_path)
    assert answer.code == 2
    assert "holds no benchmark" in answer.err
    make_results(tmp_path / "out", slides=0)
    answer = cli("report", tmp_path / "out")
    assert answer.code == 1
    assert "no finished run" in answer.err


def test_reports_are_the_same_each_time(tmp_path):
    results = make_results(tmp_path / "out", slides=3, seeds=1, outlines=("shifted",))
    write_benchmark_report(results)
    files = [*(tmp_path / "out").rglob("*.csv"), *(tmp_path / "out").rglob("*.png")]
    before = {path: path.read_bytes() for path in files}
    write_benchmark_report(results)
    assert {path: path.read_bytes() for path in files} == before


def test_markdown_and_csv_of_a_table(tmp_path):
    table = Table(
        "t",
        "A | table",
        (Column("method"), Column("F1", "spread"), Column("p", "p"), Column("change", "signed")),
        (
            Row(("a|b", Spread(0.8123, 0.0456, 5), 0.00004, -0.1)),
            Row(("theirs", Spread(0.9, 0.1, 0), math.nan, None), "published"),
        ),
        ("a note",),
    )
    lines = markdown(table).splitlines()
    assert "| a\\|b | 0.812 ± 0.046 | 4.0e-05 | −0.100 |" in lines
    assert "| *theirs* | *0.900 ± 0.100* | *–* | *–* |" in lines
    write_tables([table], tmp_path)
    rows = read(tmp_path / "t.csv")
    assert rows[0]["F1 mean"] == "0.8123"
    assert (rows[1]["row"], rows[1]["p"], rows[1]["F1 n"]) == ("published", "", "")
    assert say(12.345, "seconds") == "12"
    assert re.fullmatch(r"\d%", say(0.05, "percent"))


def test_the_best_method_is_no_reference(reported):
    assert summaries.best_method(load(Results(reported)), "colour") == "prototype RF"
