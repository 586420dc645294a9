"""`recontour dataset`: what a folder holds of a data set, before anything long is started."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recontour.cli import console
from recontour.cli import options as o
from recontour.errors import RecontourError

if TYPE_CHECKING:
    from recontour.datasets import Case, Listing
    from recontour.datasets.checking import CaseFound

SHOWN = 12
"""So many slides of a file of coarse outlines a message names."""


def dataset(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Data set: camelyon16, paip2019, paip2020, or folder (your own)."
        ),
    ],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The folder as it was downloaded.")],
    coarse_file: Annotated[
        Path | None,
        typer.Option(
            "--coarse-file",
            metavar="SAV",
            help="Coarse outlines released apart from the data set.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Open every slide and read every outline.")
    ] = False,
    format: o.OutputFormat = o.Format.table,
    quiet: o.Quiet = False,
) -> None:
    """List the cases of a data set, what is missing and what is left out; or check all files."""
    from recontour.datasets import open_dataset

    listing = open_dataset(name).list_cases(root, coarse=coarse_file)
    found: list[CaseFound] | None = None
    if check:
        from recontour.datasets.checking import check_cases

        with console.progress_of(quiet) as progress:
            cases = sorted((*listing.cases, *listing.without_slide), key=lambda case: case.id)
            found = check_cases(cases, progress=progress)
    if format is o.Format.json:
        console.print_json(_as_dict(name, listing, found))
    else:
        _print(name, root, listing, found)
    console.warn(listing.missing)
    console.warn(_unused(listing, coarse_file))
    console.note(listing.left_out, quiet=quiet)
    broken = [case for case in found or () if case.problems]
    if broken:
        for case in broken:
            for problem in case.problems:
                console.say(f"problem: {case.id}: {problem}")
        raise RecontourError(f"{len(broken)} case(s) of {name} cannot be used as they are")


def _unused(listing: Listing, coarse_file: Path | None) -> list[str]:
    """What to say where a file of coarse outlines has none of a slide that is here."""
    from recontour.annotations.sav import sav_entries

    cases = (*listing.cases, *listing.without_slide)
    given = {outlines.path for case in cases for outlines in case.coarse.values()}
    if coarse_file is None or coarse_file in given:
        return []
    slides = list(dict.fromkeys(entry.slide for entry in sav_entries(coarse_file)))
    more = f" and {len(slides) - SHOWN} more" if len(slides) > SHOWN else ""
    return [
        f"{coarse_file.name} has no outline of a slide here: its slides are "
        f"{', '.join(slides[:SHOWN])}{more}"
    ]


def _print(name: str, root: Path, listing: Listing, found: list[CaseFound] | None) -> None:
    complete = {case.id: case for case in listing.cases}
    rows = [(case.id, _described(case)) for case in listing.cases]
    rows += [(case.id, f"no slide; {_described(case)}") for case in listing.without_slide]
    if found is not None:
        rows = [(case.id, ("" if case.id in complete else "no slide; ") + _held(case))
                for case in found]  # fmt: skip
    console.print_table(f"{name} in {root}: {len(listing.cases)} cases", rows)
    print(
        f"{len(listing.without_slide)} without slide, {len(listing.missing)} files missing, "
        f"{len(listing.left_out)} left out"
    )


def _described(case: Case) -> str:
    parts = [case.split, case.fine.path.name, *case.coarse]
    return ", ".join(part for part in parts if part)


def _held(case: CaseFound) -> str:
    """The outlines of a case in words: regions and area of each class, and repairs."""
    said = []
    for outlines in case.outlines:
        classes = ", ".join(
            f"{count} {label} {_area(outlines.areas_px[label], case.mpp)}"
            for label, count in outlines.regions.items()
        )
        notes = f", {len(outlines.notes)} notes" if outlines.notes else ""
        said.append(f"{outlines.name}: {classes or 'nothing'}{notes}")
    if case.problems:
        said.append(f"{len(case.problems)} problem(s)")
    return "; ".join(said)


def _area(area_px: float, mpp: float | None) -> str:
    return f"{area_px / 1e6:.2f} Mpx" if mpp is None else f"{area_px * mpp**2 / 1e6:.2f} mm²"


def _as_dict(name: str, listing: Listing, found: list[CaseFound] | None) -> dict[str, Any]:
    return {
        "schema": "recontour.dataset/1",
        "name": name,
        "cases": [_case(case) for case in listing.cases],
        "without_slide": [_case(case) for case in listing.without_slide],
        "missing": list(listing.missing),
        "left_out": list(listing.left_out),
        "checked": None if found is None else [case.to_dict() for case in found],
    }


def _case(case: Case) -> dict[str, Any]:
    return {
        "id": case.id,
        "slide": str(case.slide),
        "fine": {"path": str(case.fine.path), "entry": case.fine.entry},
        "coarse": {
            name: {"path": str(outlines.path), "entry": outlines.entry}
            for name, outlines in case.coarse.items()
        },
        "classes": list(case.classes),
        "patient": case.patient,
        "split": case.split,
        "mpp": case.mpp,
    }
