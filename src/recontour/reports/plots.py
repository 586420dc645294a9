"""Small charts for the page, drawn as SVG text: nothing to load, sharp at any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_BINS = 20


@dataclass(frozen=True)
class Histogram:
    """Cells by probability, those inside the given outline apart from those outside.

    Attributes
    ----------
    inside, outside : N_BINS counts over [0, 1]
    """

    inside: tuple[int, ...]
    outside: tuple[int, ...]


def probability_histogram(prob: NDArray[np.float32], inside: NDArray[np.bool_]) -> Histogram:
    """Count cells by probability; `prob` (n,) in [0, 1], `inside` (n,) the given outline."""
    chosen = (prob[inside], prob[~inside])
    counts = [np.histogram(p, bins=N_BINS, range=(0, 1))[0] for p in chosen]
    return Histogram(tuple(map(int, counts[0])), tuple(map(int, counts[1])))


def histogram_svg(histogram: Histogram, threshold: float, colour: str) -> str:
    """Bars upwards for cells inside the given outline, downwards for those outside.

    Heights are square roots of counts, so that the few doubtful cells stay visible beside the many
    sure ones; the title of each bar gives the exact count.
    """
    width, half, left, gap = 560, 84, 8, 18
    middle = half + 20
    height = 2 * half + gap + 62
    top = max((*histogram.inside, *histogram.outside, 1)) ** 0.5
    step = (width - 2 * left) / N_BINS
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" class="chart"'
        ' aria-label="Cells by probability, inside and outside the given outline">'
    ]
    for i, (above, below) in enumerate(zip(histogram.inside, histogram.outside, strict=True)):
        x = left + i * step + 1.5
        span = f"{i / N_BINS:.2f}–{(i + 1) / N_BINS:.2f}"
        for n, upwards, fill in ((above, True, colour), (below, False, "currentColor")):
            tall = n**0.5 / top * half
            y = middle - tall if upwards else middle + gap
            side = "inside" if upwards else "outside"
            opacity = "" if upwards else ' fill-opacity="0.45"'
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{step - 3:.1f}" height="{tall:.1f}"'
                f' fill="{fill}"{opacity}><title>{n:,} cells {side}, probability {span}</title>'
                "</rect>"
            )
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_text(left + tick * (width - 2 * left), middle + 13, f"{tick:g}", tick))
    x = left + threshold * (width - 2 * left)
    parts.append(
        f'<path d="M{x:.1f} 16V{height - 22}" stroke="currentColor" stroke-dasharray="3 3"'
        ' fill="none"/>'
    )
    parts.append(_text(x, 11, f"threshold {threshold:g}", 0.5))
    inside, outside = sum(histogram.inside), sum(histogram.outside)
    parts.append(_text(left, 30, f"inside the given outline: {inside:,} cells", 0.0))
    parts.append(_text(left, height - 6, f"outside it: {outside:,} cells", 0.0))
    return "".join([*parts, "</svg>"])


def share_bar(shares: Sequence[tuple[str, float, str]]) -> str:
    """One horizontal bar cut into (name, value, colour); nothing when all are 0."""
    total = sum(value for _, value, _ in shares)
    if not total:
        return ""
    x, parts = 0.0, ['<svg viewBox="0 0 100 4" preserveAspectRatio="none" class="share">']
    for name, value, colour in shares:
        width = 100 * value / total
        parts.append(
            f'<rect x="{x:.3f}" width="{width:.3f}" height="4" fill="{colour}">'
            f"<title>{name}: {value / total:.1%}</title></rect>"
        )
        x += width
    return "".join([*parts, "</svg>"])


def _text(x: float, y: float, text: str, along: float) -> str:
    anchor = "start" if along == 0 else "end" if along == 1 else "middle"
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-size="12"'
        f' fill="currentColor">{text}</text>'
    )


def counts_svg(counts: Sequence[int], label: str) -> str:
    """Bars of counts in equal bins over [0, 1]; the title of each gives the exact count.

    Heights are the counts themselves: most cells are sure, and that should be seen.
    """
    width, tall, left = 560, 120, 8
    top = max((*counts, 1))
    step = (width - 2 * left) / max(len(counts), 1)
    parts = [
        f'<svg viewBox="0 0 {width} {tall + 42}" role="img" class="chart" aria-label="{label}">'
    ]
    total = max(sum(counts), 1)
    for i, n in enumerate(counts):
        height = max(n / top * tall, 1.0 if n else 0.0)
        span = f"{i / len(counts):.2f}–{(i + 1) / len(counts):.2f}"
        parts.append(
            f'<rect x="{left + i * step + 1.5:.1f}" y="{10 + tall - height:.1f}"'
            f' width="{step - 3:.1f}" height="{height:.1f}" fill="currentColor"'
            f' fill-opacity="0.55"><title>{n:,} cells ({n / total:.1%}), {span}</title></rect>'
        )
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_text(left + tick * (width - 2 * left), tall + 28, f"{tick:g}", tick))
    return "".join([*parts, "</svg>"])
