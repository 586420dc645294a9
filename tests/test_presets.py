"""The papers' settings by name: complete, known to the program, never stronger than the user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recontour import registry
from recontour.datasets import open_dataset
from recontour.errors import UnknownNameError, UsageError
from recontour.grid import LABEL_RULES
from recontour.postprocess import PRESETS
from recontour.presets import Preset, load, names
from recontour.presets.loading import parse
from recontour.recipe import Recipe
from recontour.refiners import make_refiner
from recontour.simulation import Severity
from recontour.tissue import TISSUE_RULES

DATASETS = ("camelyon16", "paip2019", "paip2020")
MINIMAL = """
title = "Ours"
paper = "none"
dataset = "folder"
[recipe]
method = "logistic"
encoder = "colour"
cell_px = 64
label_rule = "published"
[recipe.method_options]
c = 0.5
"""


@pytest.mark.parametrize("name", names())
def test_every_preset_names_what_exists(name: str) -> None:
    preset = load(name)
    recipe = preset.recipe
    assert preset.name == name
    assert preset.title
    assert "arXiv" in preset.paper
    assert open_dataset(preset.dataset).name == preset.dataset
    assert recipe.encoder in registry.names("encoder")
    make_refiner(recipe.method, seed=0, **recipe.method_options)
    assert recipe.label_rule in LABEL_RULES
    assert recipe.tissue in TISSUE_RULES
    assert recipe.postprocess in PRESETS
    Severity(**{key: value for key, value in preset.simulation.items() if key != "kind"})


def test_there_is_one_for_each_paper_method_and_data_set() -> None:
    assert set(names()) >= {
        f"paper-{method}-{dataset}"
        for method in ("lcmil", "dknn", "prototype")
        for dataset in DATASETS
    }


def test_they_say_what_the_papers_say() -> None:
    # The table of the data protocol, in level-0 px.
    sides = {name: (load(name).recipe.cell_px, load(name).recipe.patch_px) for name in names()}
    assert sides["paper-lcmil-camelyon16"] == (256, 256)
    assert sides["paper-lcmil-paip2019"] == sides["paper-dknn-paip2019"] == (128, 256)
    assert sides["paper-prototype-paip2019"] == (128, 128)
    assert sides["paper-lcmil-paip2020"] == (256, 256)
    tissue = {dataset: load(f"paper-lcmil-{dataset}").recipe.tissue for dataset in DATASETS}
    assert tissue == {"camelyon16": "hsv_otsu", "paip2019": "rgb", "paip2020": "rgb"}
    assert all(load(name).recipe.tissue_downsample == 256 for name in names())
    assert load("paper-lcmil-paip2020").simulation == {"kind": "published", "cut": 0.5}
    assert load("paper-prototype-camelyon16").recipe.postprocess == "none"
    assert load("paper-dknn-camelyon16").recipe.postprocess == "published"


def test_a_file_becomes_a_recipe() -> None:
    preset = parse("ours", MINIMAL)
    assert preset == Preset(
        "ours",
        "Ours",
        "none",
        "folder",
        Recipe(
            method="logistic",
            encoder="colour",
            cell_px=64,
            label_rule="published",
            method_options={"c": 0.5},
        ),
    )
    assert preset.settings() == {
        "method": "logistic",
        "encoder": "colour",
        "cell_px": 64,
        "label_rule": "published",
        "method_options": {"c": 0.5},
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("title", "titel"), "unknown key 'titel'"),
        (("cell_px = 64", "cell = 64"), r"\[recipe\]: unknown key 'cell'"),
        (("dataset", "# dataset"), "'dataset' is missing"),
        (("cell_px = 64", "cell_px = [64]"), "cell_px = .* wrong type"),
        (('"logistic"', "3"), "method = 3 is of the wrong type"),
        (('"none"', '"none'), "preset ours: "),
    ],
)
def test_a_slip_in_a_file_is_an_error(change: tuple[str, str], words: str) -> None:
    assert MINIMAL.replace(*change) != MINIMAL
    with pytest.raises(UsageError, match=words):
        parse("ours", MINIMAL.replace(*change))


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="paper-lcmil-camelyon16"):
        load("paper-lcmil")


def test_presets_are_listed_and_shown(cli) -> None:
    listed = cli("presets")
    assert listed.code == 0
    assert all(name in listed.out for name in names())
    shown = cli("presets", "paper-lcmil-paip2019").out
    for words in ("cell_px", "128", "arXiv 2109.10778", "tissue_downsample", "- Lattice"):
        assert words in shown
    data = json.loads(cli("presets", "paper-lcmil-paip2020", "--format", "json").out)
    assert data["schema"] == "recontour.preset/1"
    assert data["recipe"] == load("paper-lcmil-paip2020").recipe.to_dict()
    assert data["simulation"]["cut"] == 0.5
    unknown = cli("presets", "nature")
    assert unknown.code == 2
    assert "unknown preset 'nature'" in unknown.err


class TestOnTheCommandLine:
    """`refine --preset`: what the user says wins, and nothing that is said is without effect."""

    @pytest.fixture
    def recipe(self, cli, scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """The recipe that a command line means."""
        seen: list[Recipe] = []
        monkeypatch.setattr("recontour.cli.refine._plan", lambda *args: seen.append(args[2]))

        def meant(*options: object) -> Recipe:
            answer = cli(
                "refine", scene.slide, scene.coarse, "-o", tmp_path / "out", "--dry-run", *options
            )
            if answer.code:
                raise UsageError(answer.err)
            return seen[-1]

        return meant

    def test_a_preset_sets_everything(self, recipe) -> None:
        name = "paper-prototype-paip2019"
        assert recipe("--preset", name) == load(name).recipe

    def test_what_is_given_wins_even_where_it_is_the_default(self, recipe) -> None:
        found = recipe(
            *("--preset", "paper-lcmil-camelyon16", "--label-rule", "centre", "--seed", 7),
            *("--tissue", "robust", "--postprocess", "default", "--threshold", 0.4),
        )
        preset = load("paper-lcmil-camelyon16").recipe
        assert found.label_rule == "centre"
        assert (found.seed, found.tissue, found.postprocess) == (7, "robust", "default")
        assert found.threshold == 0.4
        assert (found.method, found.cell_px) == (preset.method, 256)
        assert found.tissue_downsample == 256

    def test_another_unit_takes_the_place_of_the_presets(self, recipe) -> None:
        found = recipe("--preset", "paper-lcmil-paip2019", "--cell-um", 64, "--patch-um", 96)
        assert (found.cell_um, found.cell_px) == (64, None)
        assert (found.patch_um, found.patch_px) == (96, None)

    def test_another_method_does_not_get_the_options_of_the_presets(self, recipe) -> None:
        name = "paper-prototype-camelyon16"
        assert recipe("--preset", name, "--method", "logistic").method_options == {}
        added = recipe("--preset", name, "--method-option", "major=lift").method_options
        assert added == {**load(name).recipe.method_options, "major": "lift"}

    def test_a_file_of_the_tissue_is_not_shrunk(self, recipe) -> None:
        found = recipe("--preset", "paper-lcmil-camelyon16", "--tissue", "tissue.geojson")
        assert (found.tissue, found.tissue_downsample) == ("tissue.geojson", None)

    @pytest.mark.parametrize(
        "options",
        [
            ("--preset", "paper-lcmil-camelyon16", "--threshold", "0.4"),
            ("--postprocess", "published", "--min-area-um2", "100"),
            ("--postprocess", "none", "--smooth-cells", "1"),
        ],
    )
    def test_an_option_without_effect_is_refused(self, recipe, options: tuple[str, ...]) -> None:
        with pytest.raises(UsageError, match="has no effect with --postprocess"):
            recipe(*options)

    def test_without_a_preset_nothing_changes(self, recipe) -> None:
        assert recipe() == Recipe()
        assert recipe("--cell-px", 40, "--tissue-downsample", 8) == Recipe(
            cell_px=40, tissue_downsample=8
        )


def test_cells_in_px_and_a_shrunk_tissue_picture_reach_the_run(cli, scene, tmp_path: Path) -> None:
    options = ("--encoder", "colour", "--method", "logistic", "--tissue", "rgb", "-q")
    sides = ("--cell-px", 48, "--patch-px", 96, "--tissue-downsample", 48)
    answer = cli("refine", scene.slide, scene.coarse, "-o", tmp_path / "out", *options, *sides)
    assert answer.code == 0, answer.err
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["grid"]["cell_px"] == 48
    assert run["recipe"]["tissue_downsample"] == 48
    twice = cli("refine", scene.slide, scene.coarse, "-o", tmp_path / "no", *options, *sides,
                "--cell-um", 24)  # fmt: skip
    assert twice.code == 2
    assert "--cell-um 24 and --cell-px 48: pass one of them" in twice.err
    both = cli("refine", scene.slide, scene.coarse, "-o", tmp_path / "no", *options[:4],
               "--tissue", scene.truth, "--tissue-downsample", 48)  # fmt: skip
    assert both.code == 2
    assert "outlines the tissue itself" in both.err
    embedded = cli("embed", scene.slide, "-o", tmp_path / "f.npz", *options[:2], *options[4:],
                   *sides)  # fmt: skip
    assert embedded.code == 0, embedded.err


def test_a_prediction_is_judged_on_the_tissue_of_the_papers(cli, scene) -> None:
    def judged(*options: object) -> dict:
        answer = cli("evaluate", "--truth", scene.truth, "--prediction", scene.coarse, "--slide",
                     scene.slide, "--cell-px", 48, "--format", "json", *options)  # fmt: skip
        assert answer.code == 0, answer.err
        return json.loads(answer.out)

    plain = judged("--tissue", "rgb")
    shrunk = judged("--tissue", "rgb", "--tissue-downsample", 48)
    assert shrunk != plain
    twice = cli("evaluate", "--truth", scene.truth, "--prediction", scene.coarse, "--mpp", 0.5,
                "--cell-px", 48, "--cell-um", 24)  # fmt: skip
    assert twice.code == 2
    assert "pass one of them" in twice.err
