"""`recontour manifest`: a manifest for a folder of slides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recontour.cli import console
from recontour.cli import options as o
from recontour.errors import OutputRefusedError

MOST_NAMED = 10


def manifest(
    slides: Annotated[Path, typer.Argument(metavar="SLIDES", help="Folder of slides.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="CSV", help="The manifest to write.")],
    coarse_dir: Annotated[
        Path | None,
        typer.Option(
            "--coarse-dir",
            metavar="FOLDER",
            help="Folder of outlines named as the slides. Default: SLIDES.",
        ),
    ] = None,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a manifest for `recontour cohort`, to be looked at and completed."""
    from recontour.cohort.making import draft_manifest
    from recontour.files import write_text

    if out.exists() and not overwrite:
        raise OutputRefusedError(f"{out} exists; pass --overwrite to replace it")
    draft = draft_manifest(slides, coarse_dir or slides, out.parent)
    write_text(out, draft.text)
    if draft.without:
        named = ", ".join(path.name for path in draft.without[:MOST_NAMED])
        more = len(draft.without) - MOST_NAMED
        console.warn(
            [
                f"{len(draft.without)} without an outline of their own, left as comments: {named}"
                + (f" and {more} more" if more > 0 else "")
            ]
        )
    console.note(draft.notes, quiet=quiet)
    console.say(f"{out}: {draft.rows} slides", quiet=quiet)
