"""`recontour info`: what recontour sees in a slide."""

from __future__ import annotations

from recontour.cli import console
from recontour.cli import options as o


def info(
    slide: o.SlidePath,
    mpp: o.Mpp = None,
    reader: o.Reader = "auto",
    format: o.OutputFormat = o.Format.table,
) -> None:
    """Show a slide's size, pixel size and where it came from, levels and bounds."""
    import contextlib

    from recontour.errors import MissingMppError
    from recontour.preparation import describe_slide
    from recontour.slides import open_slide

    unknown = ""
    try:
        opened = open_slide(slide, mpp=mpp, reader=o.reader_named(reader))
    except MissingMppError as error:
        # The command to find out about a slide must open the one that cannot be refined yet.
        unknown = str(error)
        opened = open_slide(slide, mpp=1.0, reader=o.reader_named(reader))
    with contextlib.closing(opened):
        found = describe_slide(opened)
    if unknown:
        found |= {"mpp": None, "mpp_source": unknown, "level_mpps": None}
    if format is o.Format.json:
        console.print_json({"schema": "recontour.info/1", **found})
        return
    width, height = found["size"]
    x, y, w, h = found["bounds"]
    if unknown:
        size_mm, pixel, levels = "mm unknown", f"unknown: {unknown}", "unknown"
    else:
        size_mm = f"{width * found['mpp'] / 1000:.1f} x {height * found['mpp'] / 1000:.1f} mm"
        pixel = f"{found['mpp']:.4f} ({found['mpp_source']})"
        levels = ", ".join(f"{m:.3f}" for m in found["level_mpps"]) + " µm/px"
    console.print_table(
        found["id"],
        [
            ("file", slide.name),
            ("size", f"{width} x {height} px ({size_mm})"),
            ("µm/px", pixel),
            ("levels", levels),
            ("bounds", f"x {x}, y {y}, {w} x {h} px"),
            ("reader", found["reader"]),
            ("fingerprint", found["fingerprint"]),
        ],
    )
