"""Every command, option, target and name in the documentation's examples exists."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from recontour import registry

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```([\w-]*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
CHOICES = {"--method": "refiner", "--encoder": "encoder"}


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of every fenced block."""
    for _, language, body in FENCE.findall(page.read_text("utf-8")):
        yield language, body


def shell_lines(page: Path) -> Iterator[str]:
    """Commands in fenced blocks and in running text, continuation lines joined."""
    for language, body in blocks(page):
        if language in ("", "bash", "sh", "console", "shell"):
            for line in re.sub(r"\\\n\s*", " ", body).splitlines():
                yield line.strip().removeprefix("$ ").split("  #")[0]
    yield from INLINE.findall(FENCE.sub("", page.read_text("utf-8")))


def commands() -> list[tuple[str, str]]:
    """(page, command) of every `recontour …`, one for each part of a pipe or list."""
    found = []
    for page in PAGES:
        for line in shell_lines(page):
            for part in re.split(r"\s*(?:\||&&|;)\s*", line):
                start = re.match(r"(?:\S*/)?recontour(?: |$)", part)
                if start:
                    found.append((page.relative_to(ROOT).as_posix(), part[start.end() :]))
    return found


def program() -> Any:
    """The command line as a tree of commands; typer is imported only here."""
    cli = importlib.import_module("recontour.cli.main")
    return importlib.import_module("typer.main").get_command(cli.app)


def options(command: Any) -> set[str]:
    """Every spelling of every option of a command."""
    return {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}


def problems(root: Any, words: list[str]) -> Iterator[str]:
    """What in a command line does not exist."""
    command = root
    for position, word in enumerate(words):
        children = getattr(command, "commands", {})
        name, _, value = word.partition("=")
        if name.startswith("-") and not re.fullmatch(r"-[\d.]+", name):
            if name not in options(command):
                yield f"no option {name} of {command.name}"
            elif name in CHOICES:
                value = value or (words[position + 1] if position + 1 < len(words) else "")
                if value.islower() and value not in registry.names(CHOICES[name]):
                    yield f"no {CHOICES[name]} {value}"
        elif children and word.islower():
            if word not in children:
                yield f"no command {word}"
                return
            command = children[word]


def test_there_is_something_to_check() -> None:
    assert len(commands()) > 10


@pytest.mark.parametrize(("page", "command"), sorted(set(commands())))
def test_command_in_the_docs_exists(page: str, command: str) -> None:
    words = [
        w for w in shlex.split(command.replace("…", "").replace("[", "").replace("]", "")) if w
    ]
    assert not list(problems(program(), words))


def test_a_wrong_command_is_caught() -> None:
    root = program()
    assert list(problems(root, ["refnie", "slide.svs"])) == ["no command refnie"]
    assert list(problems(root, ["refine", "--colour", "red"])) == ["no option --colour of refine"]
    assert list(problems(root, ["refine", "--method", "lcmil"])) == ["no refiner lcmil"]


def test_every_option_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")
    sections = dict(re.findall(r"^## `recontour ([\w-]+).*?`\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    root = program()
    shared = page.partition("## `recontour ")[0]
    missing = [
        f"{name} {option}"
        for name, command in root.commands.items()
        if not command.hidden
        for param in command.params
        for option in [max(param.opts, key=len)]
        if option.startswith("--") and option != "--help"
        if f"`{option}" not in sections.get(name, "") + shared
    ]
    assert not missing
    assert set(sections) <= set(root.commands)


def test_make_targets_in_the_docs_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    used = {
        t for page in PAGES for line in shell_lines(page) for t in re.findall(r"^make (\w+)", line)
    }
    assert used
    assert used <= targets


def test_python_examples_import_what_exists() -> None:
    found = 0
    for page in PAGES:
        for language, body in blocks(page):
            if language not in ("python", "py"):
                continue
            for node in ast.walk(ast.parse(body)):
                module = node.module if isinstance(node, ast.ImportFrom) else None
                if module and module.split(".")[0] == "recontour":
                    for alias in node.names:
                        found += 1
                        assert hasattr(importlib.import_module(module), alias.name), (
                            f"{page.name}: {module} has no {alias.name}"
                        )
    assert found


def test_the_worked_extensions_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    from shapely import box

    from recontour import load_encoder, make_refiner, open_slide, read_annotation, types
    from recontour.annotations import write_annotation
    from recontour.datasets import open_dataset
    from recontour.errors import MissingMppError

    examples = ModuleType("examples")
    for language, body in blocks(ROOT / "CONTRIBUTING.md"):
        if language == "python":
            exec(compile(body, "CONTRIBUTING.md", "exec"), examples.__dict__)
    monkeypatch.setitem(sys.modules, "examples", examples)
    for kind, name, target in (
        ("reader", "numpy", "NumpySlide"),
        ("encoder", "mean_colour", "MeanColour"),
        ("refiner", "nearest_mean", "NearestMean"),
        ("format", "boxes", "Boxes"),
        ("dataset", "pairs", "Pairs"),
    ):
        monkeypatch.setitem(registry.BUILTIN[kind], name, registry.Entry(f"examples:{target}"))

    pixels = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3)
    np.save(tmp_path / "a.npy", pixels)
    with pytest.raises(MissingMppError, match="--mpp"):
        open_slide(tmp_path / "a.npy")
    slide = open_slide(tmp_path / "a.npy", mpp=0.5)
    assert isinstance(slide, types.Slide)
    np.testing.assert_array_equal(slide.read_region(1, 2, (3, 4), 0.5), pixels[2:6, 1:4])
    assert (slide.read_region(-3, 0, (2, 2), 0.5) == 255).all()
    slide.close()

    encoder = load_encoder("mean_colour")
    assert encoder(np.zeros((2, 64, 64, 3), np.uint8)).shape == (2, encoder.dim)

    rng = np.random.default_rng(0)
    truth = np.arange(200) % 2
    labels = np.where(rng.random(200) < 0.1, 1 - truth, truth).astype(np.int8)
    index = np.arange(200, dtype=np.int32)
    grid = types.PatchGrid((0, 0), (1, 200), index * 0, index, 8, 8, 8, 0.5, 0.5)
    features = rng.normal(truth[:, None] * 4.0, 1.0, (200, 3)).astype(np.float16)
    patches = types.PatchSet("s", grid, features, labels, ("background", "Tumor"))
    probs = make_refiner("nearest_mean", seed=1).fit([patches]).predict_proba(patches)
    assert (probs.argmax(axis=1) == truth).mean() > 0.97

    shape, frame = box(10, 20, 30, 50), types.Frame(origin=(5.0, 6.0))
    path = tmp_path / "a.boxes"
    write_annotation(types.Annotation("s", (types.Region("0", shape, "Tumor"),)), path, frame)
    assert read_annotation(path, frame).regions[0].geometry.equals(shape)

    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for name in ("a.png", "a_truth.png", "a_by_me.geojson", "b.png"):
        (pairs / name).touch()
    listing = open_dataset("pairs").list_cases(pairs)
    assert [(case.id, list(case.coarse)) for case in listing.cases] == [("a", ["coarse_me"])]
    assert listing.missing == ("b: no true outline b_truth.png",)
