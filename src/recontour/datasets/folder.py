"""A folder of your own cases: by the names of its files, or by a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from recontour.datasets.base import Case, Listing, Outlines
from recontour.datasets.files import Drawn, drawn_of, files_below, nothing_found, read_drawn
from recontour.datasets.manifest import read_manifest
from recontour.datasets.naming import FINE, read_name
from recontour.errors import UsageError

MANIFEST = "manifest.csv"


class Folder:
    """Lists the cases of a folder."""

    name = "folder"

    def list_cases(self, root: Path, *, coarse: Path | None = None) -> Listing:
        """List the cases; see `recontour.datasets.DataSet.list_cases`.

        `root` is a manifest (`.csv`), a folder with a `manifest.csv`, or a folder whose files say
        by their names what they are: see `recontour.datasets.naming.read_name`.

        Raises
        ------
        UsageError : something is there twice, or the manifest is wrong; every problem is listed
        """
        drawn = read_drawn(coarse)
        manifest = root if root.suffix.lower() == ".csv" else root / MANIFEST
        missing: list[str] = []
        if manifest is root or manifest.is_file():
            cases = read_manifest(manifest)
        else:
            cases, missing = _by_name(root)
        more = [_with_drawn(case, drawn) for case in cases]
        return _existing(sorted(more, key=lambda case: case.id), missing)


def _by_name(root: Path) -> tuple[list[Case], list[str]]:
    """The cases whose true outline is there, and what the others lack."""
    parts: dict[str, dict[str, Path]] = {}
    spelling: dict[str, str] = {}
    twice = []
    for path in files_below(root):
        named = read_name(path, root)
        if named is None:
            continue
        key = named.id.casefold()
        mine = parts.setdefault(key, {})
        if named.what in mine:
            was = mine[named.what].relative_to(root)
            twice.append(f"{named.what} of {named.id}: {was} and {path.relative_to(root)}")
        mine[named.what] = path
        if named.what == "slide" or key not in spelling:
            spelling[key] = named.id
    if twice:
        listed = "".join(f"\n  {problem}" for problem in twice)
        raise UsageError(
            f"{root} has {len(twice)} file(s) of the same name; rename them, or write a "
            f"{MANIFEST}:{listed}"
        )
    if not parts:
        raise nothing_found(
            "a data set", root, f"slide, NAME.fine.geojson, NAME.coarse.geojson or {MANIFEST}"
        )
    cases, missing = [], []
    for key, mine in parts.items():
        id = spelling[key]
        if FINE not in mine:
            missing.append(f"{id}: no true outline {id}.fine.geojson")
            continue
        cases.append(
            Case(
                id=id,
                slide=mine.get("slide", root / f"{id}.*"),
                fine=Outlines(mine[FINE]),
                coarse={
                    what: Outlines(path) for what, path in mine.items() if what.startswith("coarse")
                },
            )
        )
    return cases, missing


def _with_drawn(case: Case, drawn: Drawn) -> Case:
    return replace(case, coarse={**case.coarse, **drawn_of(drawn, case.id, case.slide.name)})


def _existing(cases: Sequence[Case], missing: Sequence[str]) -> Listing:
    """The cases whose files are there; of the others, what is missing."""
    complete, without_slide, said = [], [], list(missing)
    for case in cases:
        here = case
        for name, outlines in case.coarse.items():
            if not outlines.path.is_file():
                said.append(f"{case.id}: no {name} outline {outlines.path.name}")
                rest = {key: value for key, value in here.coarse.items() if key != name}
                here = replace(here, coarse=rest)
        has_slide = case.slide.is_file()
        if not has_slide:
            said.append(f"{case.id}: no slide {case.slide.name}")
        if not case.fine.path.is_file():
            said.append(f"{case.id}: no true outline {case.fine.path.name}")
        elif has_slide:
            complete.append(here)
        else:
            without_slide.append(here)
    return Listing(tuple(complete), tuple(said), (), tuple(without_slide))
