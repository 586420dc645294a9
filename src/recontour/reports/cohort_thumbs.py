"""Before and after of each slide, small: files that a page of thousands loads as they are seen."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from recontour.files import atomic_path
from recontour.recipe import Progress, no_progress
from recontour.reports.overview import PANELS

FOLDER = "thumbs"
OVERVIEW = "overview.png"
WIDTH, HEIGHT = 150, 120
"""px at most, of each of the two; drawn twice as large for sharp screens."""
_SCALE, _QUALITY = 2, 82


def write_thumbnails(
    out: Path, ids: Sequence[str], threads: int = 2, progress: Progress = no_progress
) -> dict[str, tuple[int, int]]:
    """Write `thumbs/ID.jpg` of every slide with an overview, unless it is there already.

    Returns
    -------
    id -> (width, height) at which a page shows it; without slides whose overview is missing or
    cannot be read
    """
    found = {}
    progress("thumbnails", 0, len(ids))
    with ThreadPoolExecutor(max_workers=threads) as pool:
        sizes = pool.map(lambda id: write_thumbnail(out / id / OVERVIEW, thumb_path(out, id)), ids)
        for number, (id, size) in enumerate(zip(ids, sizes, strict=True), 1):
            if size:
                found[id] = size
            progress("thumbnails", number, len(ids))
    return found


def thumb_path(out: Path, id: str) -> Path:
    """Where the thumbnail of a slide lies."""
    return out / FOLDER / f"{id}.jpg"


def write_thumbnail(source: Path, target: Path) -> tuple[int, int] | None:
    """Write the thumbnail of a slide: given and refined outline, cut out of its overview `source`.

    It gets the overview's time of change, so that an unchanged one is not drawn again. None:
    there is no overview, or it cannot be read.

    Raises
    ------
    OutputError : it cannot be written
    """
    from PIL import Image

    try:
        changed = source.stat().st_mtime_ns
        if target.is_file() and target.stat().st_mtime_ns == changed:
            with Image.open(target) as old:
                return _shown(old.size)
        with Image.open(source) as overview:
            boxes = json.loads(overview.info.get(PANELS, "null")) or [(0, 0, *overview.size)]
            picture = overview.convert("RGB")
    except (OSError, SyntaxError, ValueError):  # Pillow calls a broken PNG a SyntaxError
        return None
    parts = [picture.crop(box) for box in boxes]
    for part in parts:
        part.thumbnail((WIDTH * _SCALE, HEIGHT * _SCALE), Image.Resampling.BOX)
    gap = 2 * _SCALE
    width = sum(part.width for part in parts) + gap * (len(parts) - 1)
    small = Image.new("RGB", (width, max(part.height for part in parts)), "white")
    left = 0
    for part in parts:
        small.paste(part, (left, 0))
        left += part.width + gap
    with atomic_path(target) as temporary:
        small.save(temporary, "JPEG", quality=_QUALITY)
        os.utime(temporary, ns=(changed, changed))
    return _shown(small.size)


def _shown(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] // _SCALE, size[1] // _SCALE
