"""`recontour info`: what recontour sees in a slide."""

from __future__ import annotations

from recontour.cli import console
from recontour.cli import options as o


def info(
    slide: o.SlidePath,
    mpp: o.Mpp = None,
    reader: o.Reader = None,
    format: o.OutputFormat = o.Format.table,
) -> None:
    """Show a slide's size, pixel size and where it came from, levels and bounds."""
    import contextlib

    from recontour.preparation import describe_slide
    from recontour.slides import open_slide

    with contextlib.closing(open_slide(slide, mpp=mpp, reader=reader)) as opened:
        found = describe_slide(opened)
    if format is o.Format.json:
        console.print_json({"schema": "recontour.info/1", **found})
        return
    width, height = found["size"]
    x, y, w, h = found["bounds"]
    size_mm = f"{width * found['mpp'] / 1000:.1f} x {height * found['mpp'] / 1000:.1f} mm"
    console.print_table(
        found["id"],
        [
            ("file", slide.name),
            ("size", f"{width} x {height} px ({size_mm})"),
            ("µm/px", f"{found['mpp']:.4f} ({found['mpp_source']})"),
            ("levels", ", ".join(f"{m:.3f}" for m in found["level_mpps"]) + " µm/px"),
            ("bounds", f"x {x}, y {y}, {w} x {h} px"),
            ("reader", found["reader"]),
            ("fingerprint", found["fingerprint"]),
        ],
    )
