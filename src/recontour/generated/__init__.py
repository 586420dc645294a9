"""Synthetic H&E slides with known truth, for the demo, the tests and the benchmarks."""

from __future__ import annotations

from recontour.generated.slide import GeneratedSlide, generate_slide

__all__ = ["GeneratedSlide", "generate_slide"]
