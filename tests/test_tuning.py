"""Tuning without the truth: the criteria by hand, the choices, and the command."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_refiners_contract import slide

from recontour.annotations import write_annotation
from recontour.cli.tune import parse_candidates, refine_command
from recontour.errors import RefinerError, UnknownNameError, UsageError
from recontour.postprocess import Rules
from recontour.recipe import Recipe
from recontour.reports.tuning import tuning_csv, write_tuning
from recontour.tuning import Plan, Scores, Subject, Tuning, tune
from recontour.tuning.criteria import macro_f1, mutual_information, rand_index, score
from recontour.tuning.search import Candidate, choose, default_candidates, with_present
from recontour.types import Annotation, Frame, Region

FEW = {"iterations": 20, "starts": 1}
QUICK: dict[str, Any] = {"bootstraps": 1, "kinds": ("generous",)}


@pytest.fixture(scope="module")
def subject() -> Subject:
    """A square of tissue of which the right half is tumour, a tenth of the cells mislabelled."""
    patches, _ = slide(side=24, noise=0.1)
    side = 24 * 64
    return Subject(patches, Rules(), (side, side), shapely.box(0, 0, side, side))


def logistic(**plan: Any) -> Plan:
    return Plan(
        **{
            "method": "logistic",
            "candidates": {"inverse_l2": (1e-4, 1e-2)},
            **QUICK,
            **plan,
        }
    )


def test_information_by_hand() -> None:
    sides = np.repeat([0, 1], 50)
    corrected = 1 / (2 * 100 * math.log(2))
    assert mutual_information(sides, sides + 7) == pytest.approx(1 - corrected)
    assert mutual_information(sides, sides * 0) == pytest.approx(0)
    thirds = np.repeat([0, 1, 0, 1], [40, 10, 10, 40])
    expected = 1 + 0.8 * math.log2(0.8) + 0.2 * math.log2(0.2)
    assert mutual_information(sides, thirds) == pytest.approx(expected - corrected)


@given(groups=st.integers(2, 60), seed=st.integers(0, 2**32 - 1))
def test_groups_by_chance_tell_nothing_however_many(groups: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sides, group = rng.integers(0, 2, 5000), rng.integers(0, groups, 5000)
    assert abs(mutual_information(sides, group)) < 0.012


def test_agreement_by_hand() -> None:
    first = np.array([0, 0, 1, 1, 2, 2], np.int8)
    assert rand_index(first, (first + 1) % 3) == 1
    truth, found = np.array([0, 1, 1, 2], np.int8), np.array([1, 1, 1, 0], np.int8)
    assert macro_f1(truth, found) == pytest.approx((0.8 + 0) / 2)


def test_a_bootstrap_keeps_about_two_thirds_and_their_labels(subject: Subject) -> None:
    labels = subject.resample(0, 0)
    drawn = labels >= 0
    assert drawn.mean() == pytest.approx(1 - math.exp(-1), abs=0.05)
    np.testing.assert_array_equal(labels[drawn], subject.patches.labels[drawn])
    assert (subject.resample(0, 1) != labels).any()
    np.testing.assert_array_equal(subject.resample(0, 0), labels)


def test_a_good_method_is_stable_and_finds_its_own_result_again(subject: Subject) -> None:
    steps: list[int] = []
    found = score(
        subject,
        "logistic",
        {},
        bootstraps=2,
        kinds=("generous", "tight"),
        seed=0,
        step=lambda: steps.append(1),
    )
    assert len(steps) == 1 + 2 + 2
    assert found.stability > 0.9
    for before, after in found.by_kind.values():
        assert before < 0.95
        assert after > before
    assert found.consistency == pytest.approx(
        np.mean([after for _, after in found.by_kind.values()])
    )
    assert found.foreground == pytest.approx(0.5, abs=0.05)
    assert math.isnan(found.information)
    assert not found.problems


def test_prototypes_say_more_the_better_they_fit(subject: Subject) -> None:
    """Two looks on two sides: two prototypes tell nearly all there is to tell."""
    two = score(subject, "prototype", {**FEW, "k_local": 2}, bootstraps=2, kinds=(), seed=0)
    many = score(subject, "prototype", {**FEW, "k_local": 24}, bootstraps=2, kinds=(), seed=0)
    assert two.prototype_stability > 0.9 > many.prototype_stability
    assert two.information > 0.4
    assert many.information < two.information + 0.05
    assert math.isnan(two.consistency)


def test_a_setting_that_answers_with_one_class_gets_no_score(subject: Subject) -> None:
    strict = dataclasses.replace(subject, rules=Rules(threshold=0.999999))
    found = score(strict, "logistic", {}, bootstraps=1, kinds=("tight",), seed=0)
    assert math.isnan(found.stability)
    assert math.isnan(found.consistency)
    assert found.foreground == 0
    assert found.problems == ("every cell gets the same class",)


def test_a_setting_that_fails_does_not_end_the_others(subject: Subject) -> None:
    plan = Plan(options=FEW, candidates={"k_local": (2, 5000)}, bootstraps=0, kinds=())
    found = tune(subject, plan)
    last = found.candidates[-1]
    assert last.value == 5000
    assert "k_local=5000 prototypes of a slide with 576" in last.scores.problems[0]
    assert found.choices[0].value == 2


def test_a_bootstrap_without_enough_cells_is_left_out(subject: Subject) -> None:
    """500 prototypes of 576 cells: there are as many cells, but not in a bootstrap."""
    found = score(subject, "prototype", {**FEW, "k_local": 500}, bootstraps=1, kinds=(), seed=0)
    assert any("bootstrap 0: k_local=500" in problem for problem in found.problems)
    assert math.isnan(found.prototype_stability)


def candidates(name: str, values: dict[Any, float], option: str = "lift") -> list[Candidate]:
    return [Candidate(option, v, {option: v}, Scores(**{name: s})) for v, s in values.items()]


def test_the_plateau_is_the_smallest_with_nearly_all_information() -> None:
    group = candidates("information", {4: 0.1, 8: 0.3, 16: 0.39, 32: 0.4}, "k_local")
    choice = choose(group, 8, "auto")
    assert (choice.value, choice.rule) == (16, "plateau")
    assert "0.390 of 0.400 bits" in choice.because
    assert choose(candidates("consistency", {4: 0.5, 8: 0.9}, "k_local"), 4, "auto").value == 8


def test_the_best_score_wins_and_of_equals_the_value_in_use() -> None:
    group = candidates("consistency", {1.5: 0.9, 2.0: 0.898, 3.0: 0.7})
    assert choose(group, 2.0, "auto").value == 2.0
    assert choose(group, 3.0, "consistency").value == 1.5
    assert (
        "instead of 0.700"
        in choose(candidates("stability", {1.5: 0.9, 3.0: 0.7}), 3.0, "stability").because
    )


def test_without_scores_nothing_changes() -> None:
    group = candidates("consistency", {1.5: float("nan"), 2.0: float("nan"), 3.0: 0.9})
    choice = choose(group, 2.0, "consistency")
    assert choice.value == 2.0
    assert "could not be computed" in choice.because


def test_the_value_in_use_is_always_tried() -> None:
    assert with_present((4, 8, 32), 16) == (4, 8, 16, 32)
    assert with_present(("lift", "coverage"), "lift") == ("lift", "coverage")
    assert with_present((True,), False) == (True, False)
    assert with_present((5, 3, 5), 5) == (3, 5)


def test_thresholds_tried_are_those_in_use() -> None:
    assert set(default_candidates(Plan())) == {"k_local", "lift", "min_share"}
    assert set(default_candidates(Plan(options={"major": "coverage"}))) == {"k_local", "coverage"}
    threshold = {"match": "threshold", "major": "coverage"}
    assert set(default_candidates(Plan(options=threshold))) == {
        "k_local",
        "match_threshold",
        "coverage",
    }
    with pytest.raises(UsageError, match="lc_mil has no default candidates: pass --candidates"):
        default_candidates(Plan(method="lc_mil"))


def test_one_option_after_the_other_each_with_what_was_chosen(subject: Subject) -> None:
    plan = Plan(
        options={**FEW, "refinetune": False},
        candidates={"k_local": (2, 16), "lift": (1.5, 2.0)},
        **QUICK,
    )
    seen: list[tuple[str, int, int]] = []
    found = tune(subject, plan, progress=lambda *at: seen.append(at))
    assert [c.option for c in found.candidates] == ["k_local"] * 3 + ["lift"] * 2
    assert [c.value for c in found.candidates] == [2, 11, 16, 1.5, 2.0]  # 11 = 576 / 50
    chosen = {c.option: c.value for c in found.choices}
    of_lift = {c.value: c.scores for c in found.candidates if c.option == "lift"}
    again = next(c.scores for c in found.candidates if c.value == chosen["k_local"])
    assert of_lift[2.0] is again or of_lift[2.0] == again
    changed = {k: v for k, v in chosen.items() if v != {"k_local": 11, "lift": 2.0}[k]}
    assert found.method_options == {**FEW, "refinetune": False, **changed}
    assert seen[0] == ("tune", 0, 15)
    assert seen[-1] == ("tune", 15, 15)
    done = [at[1] for at in seen]
    assert done == sorted(done)


def test_same_seed_same_choice(subject: Subject) -> None:
    first, again = (tune(subject, logistic()) for _ in range(2))
    assert tuning_csv(first) == tuning_csv(again)


def test_a_killed_run_goes_on_where_it_stopped(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept.json"
    plan = logistic()

    def die(stage: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(subject, plan, kept=kept, progress=die)
    fits: list[int] = []
    refine = Subject.refine

    def counted(self: Subject, *args: Any, **options: Any) -> Any:
        fits.append(1)
        return refine(self, *args, **options)

    monkeypatch.setattr(Subject, "refine", counted)
    resumed = tune(subject, plan, kept=kept)
    assert len(fits) == 2 * 3  # of three candidates one was finished
    fits.clear()
    assert tuning_csv(tune(subject, plan, kept=kept)) == tuning_csv(resumed)
    assert not fits
    other = dataclasses.replace(
        subject, patches=dataclasses.replace(subject.patches, labels=1 - subject.patches.labels)
    )
    tune(other, plan, kept=kept)
    assert len(fits) == 9
    kept.write_text("{half")
    tune(subject, plan, kept=kept)


def test_what_does_not_exist_is_refused(subject: Subject) -> None:
    with pytest.raises(UnknownNameError, match="unknown rule 'best'"):
        tune(subject, logistic(rule="best"))
    with pytest.raises(UnknownNameError, match="unknown kind of outline 'sloppy'"):
        tune(subject, logistic(kinds=("sloppy",)))
    with pytest.raises(UsageError, match="no option 'k_local'"):
        tune(subject, logistic(candidates={"k_local": (3,)}))
    with pytest.raises(UsageError, match="inverse_l2=-1"):
        tune(subject, logistic(candidates={"inverse_l2": (0.1, -1)}))
    with pytest.raises(UsageError, match="bootstraps"):
        tune(subject, logistic(bootstraps=-1))


def test_candidates_as_they_are_typed() -> None:
    found = parse_candidates(["k_local=4,8", "major=lift,coverage", "refinetune=true, false"])
    assert found == {
        "k_local": (4, 8),
        "major": ("lift", "coverage"),
        "refinetune": (True, False),
    }
    for wrong in ("k_local", "=3", "k_local="):
        with pytest.raises(UsageError, match=f"--candidates {wrong}: write NAME=V1,V2"):
            parse_candidates([wrong])


def test_the_command_repeats_what_was_asked_and_what_was_chosen() -> None:
    plan = Plan(options={"refinetune": False})
    choices = (
        choose(candidates("consistency", {1.5: 0.9, 2.0: 0.1}), 2.0, "auto"),
        choose(candidates("stability", {4: 0.1, 8: 0.9}, "k_local"), 8, "stability"),
    )
    recipe = Recipe(mpp=0.5, cell_px=64, classes=("Gland cancer",), seed=3)
    words = refine_command(Path("a b.svs"), Path("c.geojson"), recipe, Tuning(plan, (), choices))
    assert shlex.split(words) == [
        *("recontour", "refine", "a b.svs", "c.geojson", "-o", "OUT", "--method", "prototype"),
        *("--method-option", "refinetune=false", "--method-option", "lift=1.5"),
        *("--mpp", "0.5", "--cell-px", "64", "--seed", "3", "--class", "Gland cancer"),
    ]


def test_files_say_the_same(subject: Subject, tmp_path: Path) -> None:
    found = tune(subject, logistic())
    write_tuning(tmp_path, found, "recontour refine …")
    data = json.loads((tmp_path / "tune.json").read_text("utf-8"))
    rows = list(csv.DictReader((tmp_path / "tune.csv").read_text("utf-8").splitlines()))
    assert data["schema"] == "recontour.tune/1"
    assert data["command"] == "recontour refine …"
    assert [float(r["value"]) for r in rows] == [c["value"] for c in data["candidates"]]
    assert sum(int(r["chosen"]) for r in rows) == 1
    for row, candidate in zip(rows, data["candidates"], strict=True):
        scores = candidate["scores"]
        assert float(row["stability"]) == scores["stability"]
        assert float(row["generous_after"]) == scores["by_kind"]["generous"][1]
        assert row["information"] == ""
        assert scores["information"] is None
    with Image.open(tmp_path / "tune.png") as picture:
        assert picture.width > 500


def write_slide(folder: Path) -> tuple[Path, Path]:
    """Red tumour beside blue stroma, outlined too far to the left."""
    import tifffile

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 50, (640, 640, 3)).astype(np.uint8)
    pixels += np.array([60, 60, 160], np.uint8)
    pixels[:, 320:] = pixels[:, 320:, ::-1]
    slide_path, coarse = folder / "s.tif", folder / "c.geojson"
    tifffile.imwrite(
        slide_path,
        pixels,
        photometric="rgb",
        tile=(128, 128),
        resolution=(2e4, 2e4),
        resolutionunit="CENTIMETER",
    )
    outline = Region("1", shapely.box(220, 0, 640, 640), label="Tumor")
    write_annotation(Annotation("s", (outline,)), coarse, Frame(size=(640, 640), mpp=0.5))
    return slide_path, coarse


def test_the_command_prints_everything_and_does_what_it_says(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    slide_path, coarse = write_slide(tmp_path)
    arguments = [
        *("tune", slide_path, coarse, "--encoder", "colour", "--cell-um", "16"),
        *("--method", "logistic", "--candidates", "inverse_l2=0.0001,0.01", "--bootstraps", "1"),
        *("--kinds", "generous"),
    ]
    answer = cli(*arguments, "-o", tmp_path / "out")
    assert answer.code == 0, answer.err
    for value in ("0.0001", "0.001", "0.01"):
        assert f"inverse_l2={value}" in answer.out
    assert "Trying options: 9/9" in answer.err
    assert "never saw the truth" in answer.out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "tune.csv",
        "tune.json",
        "tune.png",
    ]
    words = shlex.split(answer.out.splitlines()[-1])
    assert words[:2] == ["recontour", "refine"]
    words[words.index("OUT")] = str(tmp_path / "refined")
    assert cli(*words[1:], "--dry-run").code == 0

    again = cli(*arguments, "-o", tmp_path / "out")
    assert again.code == 2
    assert "--overwrite" in again.err
    as_json = cli(*arguments, "--format", "json", "--quiet")
    assert json.loads(as_json.out)["choices"][0]["option"] == "inverse_l2"
    assert not as_json.err
    wrong = cli("tune", slide_path, coarse, "--candidates", "k_global=x")
    assert wrong.code == 2
    assert "k_global='x'" in wrong.err


def test_a_method_that_cannot_learn_at_all_changes_nothing(subject: Subject) -> None:
    hidden = dataclasses.replace(
        subject,
        patches=dataclasses.replace(subject.patches, labels=np.zeros_like(subject.patches.labels)),
    )
    with pytest.raises(RefinerError, match="'Tumor' has no tissue cell"):
        hidden.refine("logistic", {}, 0)
    found = tune(hidden, logistic())
    assert all("'Tumor' has no tissue cell" in c.scores.problems[0] for c in found.candidates)
    assert not found.method_options
