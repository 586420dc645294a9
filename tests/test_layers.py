"""Imports point downwards: the picture in docs/architecture.md, enforced."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"

# From the bottom up. An entry is a module or a package of `recontour`.
LAYERS: list[set[str]] = [
    {"types", "recipe", "errors", "memo"},
    {
        "registry",
        "geometry",
        "files",
        "locks",
        "storage",
        "clock",
        "devices",
        "presets",
        "published_labels",
        "vgg",
    },
    {
        "slides",
        "annotations",
        "encoders",
        "refiners",
        "metrics",
        "executors",
        "tissue",
        "grid",
        "cache",
    },
    {
        "embedding",
        "tracing",
        "postprocess",
        "evidence",
        "small_parts",
        "objects",
        "changes",
        "calibration",
        "expected",
        "reasons",
        "spots",
        "attention",
        "review",
        "annotators",
        "constraints",
        "evaluation",
        "simulation",
        "trust",
        "appearance",
        "validity",
        "misplaced",
        "generated",
        "heatmaps",
        "labelling",
        "datasets",
    },
    {
        "benchmark",
        "tuning",
        "pipeline",
        "session",
        "ground",
        "band",
        "preparation",
        "planning",
        "doubts",
        "summary",
        "guidance",
        "experiments",
    },
    {"reports"},
    {"claim", "runs", "cohort", "demo"},
    {"cli"},
]
# The plug points, and what they share a layer with, never know one another.
SEPARATE = {2}
LAYER_OF = {entry: number for number, entries in enumerate(LAYERS) for entry in entries}


def modules() -> dict[str, Path]:
    """Every module of the package by dotted name, packages by their own name."""
    found = {}
    for path in sorted((SOURCE / "recontour").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: set[str]) -> Iterator[str]:
    """The modules of recontour that a module imports, wherever in the file it does so."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "recontour")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            if base.split(".")[0] != "recontour":
                continue
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in known else base


def entry(name: str) -> str:
    """`recontour.slides.mpp` -> `slides`; the package itself -> ``."""
    return (name.split(".") + [""])[1]


def violations(name: str, targets: Iterator[str]) -> Iterator[str]:
    """What a module imports and must not, in words."""
    here = entry(name)
    for target in targets:
        there = entry(target)
        if here in ("", "__main__") or there in ("", here):
            continue  # the package itself exports from everywhere, and holds the version
        if LAYER_OF[there] > LAYER_OF[here]:
            yield f"{name} (layer {LAYER_OF[here]}) imports {target} (layer {LAYER_OF[there]})"
        elif LAYER_OF[there] == LAYER_OF[here] and LAYER_OF[here] in SEPARATE:
            yield f"{name} imports {target}: entries of layer {LAYER_OF[here]} stay apart"


MODULES = modules()


@pytest.mark.parametrize("name", MODULES)
def test_module_has_a_layer(name: str) -> None:
    known = LAYER_OF.keys() | {"", "__main__"}
    assert entry(name) in known, f"give {entry(name)} a layer in tests/test_layers.py and the docs"


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_downwards(name: str) -> None:
    targets = imports(name, MODULES[name], set(MODULES))
    assert not list(violations(name, targets))


def test_no_module_needs_itself() -> None:
    # Imports for type checkers and inside functions count too: a cycle is a cycle to the reader.
    graph = {
        name: {t for t in imports(name, path, set(MODULES)) if entry(t) and t != name}
        for name, path in MODULES.items()
        if entry(name)
    }
    for name in graph:  # a package that exports its own modules is no cycle
        graph[name] -= {t for t in graph[name] if t.startswith(f"{name}.")}
    TopologicalSorter(graph).prepare()


def test_an_upward_import_is_caught(tmp_path: Path) -> None:
    module = tmp_path / "grid.py"
    module.write_text(
        "from recontour import cli\n"
        "from recontour.types import Slide\n"
        "def late():\n    from .tissue import find_tissue\n"
    )
    found = imports("recontour.grid", module, {"recontour.cli"})
    assert [
        v.partition(" imports ")[2].split()[0] for v in violations("recontour.grid", found)
    ] == [
        "recontour.cli",
        "recontour.tissue:",
    ]
