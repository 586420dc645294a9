"""`recontour cache`: look at and clear the cached features."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from recontour.cli import console
from recontour.cli import options as o

app = typer.Typer(help="Look at and clear the cached features.", no_args_is_help=True)


@app.command("show")
def show(cache_dir: o.CacheDir = None, format: o.OutputFormat = o.Format.table) -> None:
    """List what is cached, and how large it is."""
    from recontour.cache import FeatureCache

    cache = FeatureCache(cache_dir)
    entries = cache.entries()
    total = sum(entry.n_bytes for entry in entries)
    if format is o.Format.json:
        console.print_json(
            {
                "schema": "recontour.cache/1",
                "folder": str(cache.root),
                "bytes": total,
                "limit_bytes": cache.limit_bytes,
                "entries": [
                    {
                        "name": entry.name,
                        "key": dict(entry.key),
                        "bytes": entry.n_bytes,
                        "shards": entry.n_shards,
                        "last_used": entry.last_used,
                    }
                    for entry in entries
                ],
            }
        )
        return
    rows = [("size", f"{total / 2**20:,.1f} MiB of {cache.limit_bytes / 2**30:,.0f} GiB allowed")]
    for entry in entries:
        used = datetime.fromtimestamp(entry.last_used).strftime("%Y-%m-%d %H:%M")
        cells = entry.key.get("n_cells", "?")
        rows.append(
            (
                entry.name,
                f"{entry.n_bytes / 2**20:8.1f} MiB  {cells} cells  "
                f"{entry.key.get('encoder', '?')}  last used {used}",
            )
        )
    console.print_table(str(cache.root), rows)


@app.command("clear")
def clear(
    cache_dir: o.CacheDir = None,
    older_than_days: Annotated[
        float | None,
        typer.Option("--older-than-days", min=0, help="Only what was not used for so many days."),
    ] = None,
    quiet: o.Quiet = False,
) -> None:
    """Delete cached features (never those a running process uses)."""
    from recontour.cache import FeatureCache

    seconds = None if older_than_days is None else older_than_days * 86400
    freed = FeatureCache(cache_dir).clear(seconds)
    console.say(f"freed {freed / 2**20:,.1f} MiB", quiet=quiet)
