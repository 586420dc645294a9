"""Slide readers: pixels at any µm/px from a file.

A reader is a class called as `Reader(path, mpp)` that yields a `Slide`; its class method
`can_open(path) -> bool` says whether it knows the format.
"""

from __future__ import annotations

from recontour.slides.opening import frame_of, limit_threads, open_slide, thumbnail

__all__ = ["frame_of", "limit_threads", "open_slide", "thumbnail"]
