"""recontour: a coarse outline on a whole-slide image in, a fine outline out.

Everything here is imported on first use, so that `import recontour` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from recontour.annotations import read_annotation as read_annotation
    from recontour.annotations import write_annotation as write_annotation
    from recontour.encoders import load_encoder as load_encoder
    from recontour.errors import RecontourError as RecontourError
    from recontour.evaluation import evaluate as evaluate
    from recontour.generated import generate_slide as generate_slide
    from recontour.pipeline import refine_slide as refine_slide
    from recontour.recipe import Recipe as Recipe
    from recontour.recipe import Runtime as Runtime
    from recontour.refiners import make_refiner as make_refiner
    from recontour.runs import refine_to_folder as refine_to_folder
    from recontour.session import Session as Session
    from recontour.simulation import simulate_coarse as simulate_coarse
    from recontour.slides import open_slide as open_slide
    from recontour.tissue import find_tissue as find_tissue
    from recontour.types import Annotation as Annotation
    from recontour.types import Refinement as Refinement
    from recontour.types import Region as Region

_HOMES = {
    "Annotation": "types",
    "RecontourError": "errors",
    "Recipe": "recipe",
    "Refinement": "types",
    "Region": "types",
    "Runtime": "recipe",
    "Session": "session",
    "evaluate": "evaluation",
    "find_tissue": "tissue",
    "generate_slide": "generated",
    "load_encoder": "encoders",
    "make_refiner": "refiners",
    "open_slide": "slides",
    "read_annotation": "annotations",
    "refine_slide": "pipeline",
    "refine_to_folder": "runs",
    "simulate_coarse": "simulation",
    "write_annotation": "annotations",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'recontour' has no attribute {name!r}")
    value = getattr(import_module(f"recontour.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
