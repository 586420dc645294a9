"""The settings of a run: what changes its result (`Recipe`) and what does not (`Runtime`).

Imports nothing heavy, so that the command line can show every default at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, done, total)."""


def no_progress(stage: str, done: int, total: int) -> None:
    """A progress that says nothing."""


@dataclass(frozen=True)
class Recipe:
    """Every setting that can change the result of a run. `digest()` names it.

    Lengths are µm and areas µm². None means "chosen from the slide"; the choice is reported.
    """

    method: str = "em"
    method_options: Mapping[str, Any] = field(default_factory=dict)
    encoder: str = "efficientnet_lite0"
    classes: tuple[str, ...] = ()
    """Classes to refine; empty: the only one present."""
    exclude_classes: tuple[str, ...] = ("Necrosis", "Ignore*", "Region*")
    """Classes (shell patterns, any case) whose regions take no part."""
    mpp: float | None = None
    """µm/px of level 0, where the file does not say (or lies)."""
    reader: str | None = None
    """Name of the slide reader; None: the fastest that reads the file."""
    mpp_embed: float | None = None
    cell_um: float | None = None
    patch_um: float | None = None
    """Side of what the encoder sees of a cell, where that is more than the cell."""
    cell_px: int | None = None
    """Side of a cell in level-0 px; instead of `cell_um`."""
    patch_px: int | None = None
    """Side of what the encoder sees in level-0 px; instead of `patch_um`."""
    label_rule: str = "centre"
    tissue: str = "robust"
    """A tissue rule, or the path of a mask or GeoJSON."""
    tissue_downsample: int | None = None
    """The rule is applied to the slide shrunk this many times, pixel by pixel (papers: 256)."""
    origin: str = "auto"
    """Frame of the coarse file: `bounds`, `level0`, or `auto` (bounds where the slide has them)."""
    entry: str | None = None
    """Of a coarse file that holds several (`.sav`): `SLIDE`, `VARIANT` or `SLIDE/VARIANT`."""
    threshold: float = 0.5
    smooth_cells: float | None = None
    """σ of the tissue-masked Gaussian, in cells; 0: none; None: what the method's answers need."""
    min_area_um2: float | None = None
    """Smallest object and hole kept; None: what the evidence is for stays, however small."""
    simplify_um: float | None = None
    """Tolerance of the simplification; None: a twentieth of a cell."""
    only: str | None = None
    """`add`: the outline only grows; `remove`: it only shrinks."""
    within_um: float | None = None
    """The new outline stays this close to the given one."""
    postprocess: str = "default"
    """`default`, `published` (as in the LC-MIL paper) or `none` (`threshold` alone)."""
    band: int = 1
    """2 or 4: cells around the border are asked again, that many times finer; 1: none are."""
    error_target: float | None = None
    """Cells are called sure as long as this share of them is expected to be wrong; None: no such
    bar, and what is wrong with a chance above 35 % is uncertain."""
    reviewed_sample: bool = False
    """The reviewed regions are a fair sample of the slide: they also calibrate."""
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data

    def digest(self) -> str:
        """Hex SHA-256 (16 digits) of every setting."""
        return digest(self.to_dict())


def digest(data: Any) -> str:
    """Hex SHA-256 (16 digits) of anything JSON can hold."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Runtime:
    """How a run is carried out; never changes what it finds (beyond rounding)."""

    device: str = "auto"
    threads: int | None = None
    cache_dir: Path | None = None
    use_cache: bool = True
    progress: Progress = no_progress
    engine: str = "eager"
    """What the encoder computes with: `eager`, `compile` or `openvino`."""
    precision: str = "auto"
    """`fp32`, `bf16`, or `auto`: bf16 where the device or the CPU computes in it."""
