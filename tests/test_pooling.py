"""A method that learns from a whole cohort: in stages, the same whoever does them and when."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recontour import (
    Recipe,
    Runtime,
    generate_slide,
    read_annotation,
    registry,
    runs,
    simulate_coarse,
    write_annotation,
)
from recontour.cohort import pool_jobs, tasks
from recontour.cohort.jobs import job_of, runtime_of
from recontour.cohort.lanes import JobFailedError
from recontour.cohort.manifest import read_manifest
from recontour.cohort.pool_jobs import FITS, SAMPLES, check_encoder, fitted
from recontour.cohort.pool_plan import LEAST, PoolSize, choose
from recontour.cohort.pooling import check_method, run_pooled
from recontour.cohort.running import run_cohort
from recontour.cohort.samples import read_levels, read_sample, write_sample
from recontour.cohort.states import read_state
from recontour.encoders.colour import ColourStatistics
from recontour.errors import OutputRefusedError, RecontourError, UsageError
from recontour.executors import make_executor
from recontour.refiners import make_refiner
from recontour.refiners.aligning import Aligned, Level, align, levels_of
from recontour.refiners.keeping import digest_of
from recontour.refiners.logistic import Logistic
from recontour.runs import OUTPUTS

RECIPE = Recipe(encoder="colour", method="logistic")
SMALL = PoolSize(cells=600, a_slide=150)
TIMED = {"timings_s", "finished", "embedding"}


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """Three small slides and coarse outlines of them."""
    folder = tmp_path_factory.mktemp("slides")
    for i, name in enumerate("abc"):
        made = generate_slide(folder / f"{name}.tif", size=(512, 512), seed=i + 3)
        coarse = simulate_coarse(made.truth, kind="generous", seed=1, mpp=0.5, size=made.size)
        write_annotation(coarse, folder / f"{name}.geojson")
    tight = simulate_coarse(made.truth, kind="tight", seed=2, mpp=0.5, size=made.size)
    write_annotation(tight, folder / "c_tight.geojson")
    return folder


class Here:
    """A lane in this process: quick, and what it is asked is counted."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.killed_at = ""

    @contextlib.contextmanager
    def borrow(self, *_):
        yield self

    def run(self, task, work, heard, timeout_s):
        name = f"{task['kind']} {task['id']}" if task["kind"] != "fit" else "fit"
        self.asked.append(name)
        if name == self.killed_at:
            raise KeyboardInterrupt
        try:
            return job_of(task["kind"])(task, work, runtime_of(task, heard))
        except RecontourError as error:
            raise JobFailedError(str(error), type(error).__name__) from error


@pytest.fixture
def here(monkeypatch) -> Here:
    """Samples and fits are made in this process; instead of an answer, which fit would give it."""

    def answer(task, work, runtime, *, refiner):
        (work / "run.json").write_text(json.dumps({"id": task["id"], "by": digest_of(refiner)}))
        return {"cells": 0}

    monkeypatch.setattr(pool_jobs, "refine", answer)
    return work_here(monkeypatch)


@pytest.fixture
def whole(monkeypatch) -> Here:
    """The same with the answers, but for pictures: those take most of the time."""
    for name in ("write_overview", "write_report"):
        monkeypatch.setattr(runs, name, lambda _slide, _found, path, *_: path.write_bytes(b"-"))
    return work_here(monkeypatch)


def work_here(monkeypatch) -> Here:
    lane = Here()
    monkeypatch.setattr(tasks, "LANES", lane)
    return lane


class Cohort:
    """A manifest of these slides, and the ways to run it."""

    def __init__(self, folder: Path, slides: Path) -> None:
        self.out, self.slides = folder / "out", slides
        self.table = folder / "m.csv"
        self.rows("abc")

    def rows(self, names: str, **coarse: str) -> None:
        lines = [
            f"{n},{self.slides / n}.tif,{coarse.get(n, self.slides / f'{n}.geojson')}"
            for n in names
        ]
        self.table.write_text("\n".join(["id,slide,coarse", *lines]) + "\n")

    def run(self, executor: str = "serial", jobs: int = 1, **options):
        return run_pooled(
            read_manifest(self.table),
            options.pop("out", self.out),
            options.pop("recipe", RECIPE),
            Runtime(),
            make_executor(executor, jobs=jobs),
            **{"size": SMALL, **options},
        )

    def pool(self) -> dict:
        return json.loads((self.out / "pool" / "pool.json").read_text())


@pytest.fixture
def cohort(tmp_path, slides) -> Cohort:
    return Cohort(tmp_path, slides)


def content(out: Path) -> dict[str, str]:
    """Digests of all outputs, of the pool's too; without times, states and the report."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if not path.is_file() or "state" in path.parts or path.name == "report.html":
            continue
        data = path.read_bytes()
        if path.name == "run.json":
            kept = {k: v for k, v in json.loads(data).items() if k not in TIMED}
            data = json.dumps(kept).encode()
        if path.name != "cohort.json":
            found[name] = hashlib.sha256(data).hexdigest()
    return found


def test_every_slide_is_answered_by_one_fit_on_samples_of_all(cohort, whole):
    outcome = cohort.run()
    assert outcome.failures == ()
    assert outcome.done == ("a", "b", "c")
    assert whole.asked == [
        *("sample a", "sample b", "sample c"),
        "fit",
        *("predict a", "predict b", "predict c"),
    ]
    pool = cohort.pool()
    assert (pool["slides"], pool["cells"], pool["cells_a_slide"]) == (3, 450, 150)
    assert pool["left_out"] == []
    for id in "abc":
        assert sorted(p.name for p in (cohort.out / id).iterdir()) == sorted(OUTPUTS)
        assert "refiner_sha256" in json.loads((cohort.out / id / "run.json").read_text())["run"]
    about = json.loads((cohort.out / "cohort.json").read_text())
    assert about["recipe"]["pooled"] is True
    assert about["counts"]["done"] == 3


@pytest.mark.parametrize("aligned", [True, False])
def test_the_staged_fit_is_that_on_the_same_cells_in_memory(cohort, here, aligned):
    cohort.run(align=aligned)
    samples = [cohort.out / SAMPLES / id for id in "abc"]
    sets = [read_sample(folder, 150) for folder in samples]
    assert all(len(patches) == 150 for patches in sets)
    if aligned:
        sets = [align(p, read_levels(f)) for p, f in zip(sets, samples, strict=True)]
    staged, _ = fitted(str(cohort.out / cohort.pool()["refiner"]))
    own = make_refiner("logistic").fit(sets)
    assert digest_of(staged) == digest_of(own)
    np.testing.assert_array_equal(staged.predict_proba(sets[0]), own.predict_proba(sets[0]))


def test_a_second_run_has_nothing_to_do(cohort, here):
    cohort.run()
    before = content(cohort.out)
    here.asked.clear()
    assert cohort.run().already == 3
    assert here.asked == []
    assert content(cohort.out) == before


def test_neither_order_nor_executor_matters(cohort, here, tmp_path):
    cohort.run()
    cohort.rows("cab")
    cohort.run("threads", jobs=2, out=tmp_path / "other")
    assert content(tmp_path / "other") == content(cohort.out)


@pytest.mark.parametrize("moment", ["sample c", "fit", "predict b"])
def test_killed_between_and_inside_stages_it_goes_on_and_ends_alike(cohort, here, tmp_path, moment):
    cohort.run(out=tmp_path / "undisturbed")
    here.asked.clear()
    here.killed_at = moment
    with pytest.raises(KeyboardInterrupt):
        cohort.run()
    done_before = here.asked[:-1]
    here.killed_at = ""
    here.asked.clear()
    assert cohort.run().done == ("a", "b", "c")
    assert not set(done_before) & set(here.asked)
    assert content(cohort.out) == content(tmp_path / "undisturbed")


def test_a_slide_without_a_sample_fails_and_the_pool_does_without_it(cohort, here, tmp_path):
    empty = tmp_path / "off.geojson"
    text = (cohort.slides / "b.geojson").read_text()
    data = json.loads(text)
    for feature in data["features"]:
        feature["geometry"]["coordinates"] = [[[9e4, 9e4], [9e4, 9.1e4], [9.1e4, 9e4], [9e4, 9e4]]]
        feature["geometry"]["type"] = "Polygon"
    empty.write_text(json.dumps(data))
    cohort.rows("abc", b=str(empty))
    stopped = cohort.run()
    assert [f["id"] for f in stopped.failures] == ["b"]
    assert set(stopped.not_begun) == {"a", "c"}
    outcome = cohort.run(skip_errors=True)
    assert outcome.done == ("a", "c")
    assert [f["id"] for f in outcome.failures] == ["b"]
    assert "lies off the slide" in cohort.pool()["left_out"][0]["error"]
    assert read_state(cohort.out / "state", "b").outcome == "failed"
    about = json.loads((cohort.out / "cohort.json").read_text())
    assert about["counts"] == {"rows": 3, "done": 2, "failed": 1, "waiting": 0, "removed": 0}

    cohort.rows("abc")  # the outline is put right: the pool is another, samples of others stay
    here.asked.clear()
    assert cohort.run().done == ("a", "b", "c")
    assert here.asked == ["sample b", "fit", "predict a", "predict b", "predict c"]


def test_a_changed_row_changes_the_pool_and_all_answers_but_no_other_sample(cohort, here):
    cohort.run()
    first = cohort.pool()["digest"]
    cohort.rows("abc", c=str(cohort.slides / "c_tight.geojson"))
    here.asked.clear()
    cohort.run()
    assert here.asked == ["sample c", "fit", "predict a", "predict b", "predict c"]
    assert cohort.pool()["digest"] != first


def test_a_row_that_says_the_same_in_another_file_changes_no_other_answer(cohort, here, tmp_path):
    cohort.run()
    data = json.loads((cohort.slides / "a.geojson").read_text())
    other = tmp_path / "other.geojson"
    other.write_text(json.dumps(data, indent=3))
    cohort.rows("abc", a=str(other))
    here.asked.clear()
    cohort.run()
    assert here.asked == ["sample a", "predict a"]


def test_slides_with_other_classes_share_no_pool(cohort, here, slides, tmp_path):
    outline = read_annotation(slides / "b.geojson")
    other = tmp_path / "b.geojson"
    write_annotation(
        replace(outline, regions=tuple(replace(r, label="Stroma") for r in outline.regions)), other
    )
    cohort.rows("abc", b=other)
    with pytest.raises(RecontourError, match=r"share classes.*Stroma: b\).*--class"):
        cohort.run()
    recipe = replace(RECIPE, classes=("Tumor",))
    outcome = cohort.run(recipe=recipe, overwrite=True, skip_errors=True)
    assert outcome.done == ("a", "c")
    assert "no class 'Tumor'" in outcome.failures[0]["error"]


def test_features_of_two_engines_share_no_pool(cohort, here, monkeypatch):
    cohort.rows("ab")
    cohort.run()
    monkeypatch.setattr(ColourStatistics, "identifier", "colour-elsewhere")
    cohort.rows("abc")
    with pytest.raises(RecontourError, match=r"share an encoder.*elsewhere: c\).*--engine"):
        cohort.run()


class ByBothViews(Logistic):
    """A method of somebody else's, which needs the context without being told."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__(seed=seed, views="both")


def test_a_slide_embedded_another_way_than_the_pool_is_not_answered() -> None:
    recipe, runtime = Recipe(encoder="colour"), Runtime()
    check_encoder(recipe, runtime, "colour-1")
    with pytest.raises(RecontourError, match=r"learned from other-7, and .* colour-1; .*--engine"):
        check_encoder(recipe, runtime, "other-7")


def test_a_method_that_looks_at_the_context_learns_from_it(cohort, here, monkeypatch):
    entry = registry.Entry(f"{__name__}:ByBothViews")
    monkeypatch.setitem(registry.BUILTIN["refiner"], "by_both", entry)
    outcome = cohort.run(recipe=replace(RECIPE, method="by_both"))
    assert outcome.done == ("a", "b", "c")


def test_another_method_uses_the_samples_again(cohort, here):
    cohort.run()
    here.asked.clear()
    other = replace(RECIPE, method_options={"inverse_l2": 1.0}, threshold=0.4)
    with pytest.raises(OutputRefusedError, match="other settings"):
        cohort.run(recipe=other)
    cohort.run(recipe=other, overwrite=True)
    assert here.asked == ["fit", "predict a", "predict b", "predict c"]


def test_a_cohort_is_pooled_or_not(cohort, here):
    cohort.run()
    with pytest.raises(OutputRefusedError, match="pooled"):
        run_cohort(
            read_manifest(cohort.table), cohort.out, RECIPE, Runtime(), make_executor("serial")
        )


def test_the_parts_of_an_array_job_wait_for_one_another(cohort, here):
    with pytest.raises(RecontourError, match=r"1 are missing yet \(b\)"):
        cohort.run(shard={"a", "c"})
    assert cohort.run(shard={"b"}).done == ("b",)
    assert cohort.run(shard={"a", "c"}).done == ("a", "c")
    assert here.asked.count("fit") == 1
    assert sorted(a for a in here.asked if a != "fit") == sorted(
        f"{kind} {id}" for kind in ("sample", "predict") for id in "abc"
    )


def test_a_method_of_single_slides_is_refused_at_once(cohort, here):
    with pytest.raises(UsageError, match=r"em learns from one slide at a time.*prototype"):
        cohort.run(recipe=Recipe(encoder="colour"))
    assert here.asked == []


def test_a_row_with_a_method_of_its_own_is_refused(cohort, here):
    manifest = read_manifest(cohort.table)
    first, *others = manifest.rows
    rows = (replace(first, settings={"seed": 3}), *others)
    with pytest.raises(UsageError, match=r"line 2 \(a\)"):
        check_method(replace(manifest, rows=rows), RECIPE)


def test_a_fit_that_was_deleted_is_made_again(cohort, here):
    cohort.run()
    before = content(cohort.out)
    shutil.rmtree(cohort.out / FITS)
    here.asked.clear()
    cohort.run()
    assert here.asked == ["fit"]
    assert content(cohort.out) == before


def test_the_cells_of_a_pool_are_bounded_however_many_slides():
    size = PoolSize(cells=1_000, a_slide=100)
    for count in (1, 5, 10, 11, 40, 51, 500):
        ids = [f"s{i}" for i in range(count)]
        chosen, cells = choose(ids, size, seed=0)
        assert cells * len(chosen) <= 1_000
        assert cells >= LEAST
        assert chosen == sorted(chosen)
        assert set(chosen) <= set(ids)
    assert choose(ids, size, 0)[0] != choose(ids, size, 1)[0]
    assert choose(ids[::-1], size, 0) == choose(ids, size, 0)


def patches(seed: int = 0, shift: float = 0.0, share: float = 0.3):
    from recontour.types import PatchGrid, PatchSet

    rng = np.random.default_rng(seed)
    rows, cols = np.divmod(np.arange(400, dtype=np.int32), np.int32(20))
    labels = (cols < share * 20).astype(np.int8)
    x = (3 * labels[:, None] + rng.normal(size=(400, 6)) + shift).astype(np.float16)
    grid = PatchGrid((0.0, 0.0), (20, 20), rows, cols, 64, 64, 64, 0.5, 0.5)
    trust = rng.random(400).astype(np.float32)
    return PatchSet(f"s{seed}", grid, x, labels, ("background", "Tumor"), x + 1, trust)


def test_a_sample_is_read_as_it_was_drawn(tmp_path):
    whole = patches()
    write_sample(tmp_path, whole, 100, seed=0, about={})
    part = read_sample(tmp_path, 60)
    place = part.grid.rows * 20 + part.grid.cols
    assert len(part) == 60
    assert (np.diff(place) > 0).all()
    for name in ("features", "context", "labels", "trust"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[place])
    assert part.grid.cell_um == whole.grid.cell_um
    with pytest.raises(RecontourError, match="changed since"):
        read_sample(tmp_path, 60, sha="0" * 64)
    with pytest.raises(RecontourError, match="no sample"):
        read_sample(tmp_path / "nothing", 60)


def test_alignment_takes_the_stain_out_and_leaves_the_tissue():
    # One slide is stained darker, and has three times as much tumour.
    light, dark = patches(0, share=0.2), patches(0, shift=50.0, share=0.6)
    for p in (light, dark):
        aligned = align(p, levels_of(p))
        tumour = aligned.features[p.labels == 1].mean()
        background = aligned.features[p.labels == 0].mean()
        assert abs(tumour + background) < 0.05
        assert tumour - background > 1


def test_a_flat_feature_is_left_out_by_alignment():
    level = Level.of(np.full((10, 2), 7.0, np.float16), np.repeat([0, 1], 5))
    np.testing.assert_array_equal(level(np.array([[7.0, 8.0]])), [[0, 0]])
    with pytest.raises(RecontourError, match="no labelled cell"):
        Level.of(np.zeros((3, 2)), np.full(3, -1))


def test_an_aligned_refiner_answers_a_part_as_the_whole():
    whole = patches()
    levels = levels_of(whole)
    inner = make_refiner("logistic").fit([align(whole, levels)])
    refiner = Aligned(inner, levels)
    from recontour.refiners.sampling import take_cells

    part = take_cells(whole, np.arange(50, 90))
    np.testing.assert_allclose(
        refiner.predict_proba(part), refiner.predict_proba(whole)[50:90], atol=1e-6
    )
    assert digest_of(refiner) != digest_of(inner)
    with pytest.raises(RecontourError, match="answers for one slide"):
        refiner.fit([whole])


def test_the_command_pools_and_says_what_it_cannot(cohort, here, cli):
    asked = ("cohort", cohort.table, "-o", cohort.out, "--encoder", "colour", "--pooled")
    refused = cli(*asked)
    assert refused.code == 2
    assert "em learns from one slide at a time" in refused.err
    assert not cohort.out.exists()
    asked += ("--method", "logistic", "--executor", "serial")
    plan = cli(*asked, "--dry-run", "--format", "json")
    assert json.loads(plan.out)["todo"] == ["a", "b", "c"]
    assert not cohort.out.exists()
    assert cli(*asked, "--shard", "1/1").code == 0
    assert cohort.pool()["slides"] == 3
    plan = json.loads(cli(*asked, "--dry-run", "--format", "json").out)
    assert (plan["done"], plan["todo"]) == (3, [])
    assert "3 (3 of them before)" in cli(*asked).out
    refused = cli(*(a for a in asked if a != "--pooled"))
    assert refused.code == 2
    assert "pooled True -> None" in refused.err
