"""Names of the things that plug in, and where each one lives.

A name maps to "module:object", imported when it is first used, so that `import recontour` stays
fast and a missing optional dependency becomes one clear sentence. Third parties add theirs through
the entry points `recontour.readers`, `recontour.encoders`, `recontour.refiners`,
`recontour.formats`, `recontour.datasets` and `recontour.executors`.
"""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

from recontour.errors import MissingExtraError, UnknownNameError


class Entry(NamedTuple):
    """Where an object lives, and the extra it needs ("" for none)."""

    target: str
    extra: str = ""


BUILTIN: dict[str, dict[str, Entry]] = {
    "reader": {
        "jpeg_tiff": Entry("recontour.slides.jpeg_tiff:JpegTiffReader"),
        "openslide": Entry("recontour.slides.openslide:OpenSlideReader"),
        "image": Entry("recontour.slides.image:ImageReader"),
    },
    "encoder": {
        "efficientnet_lite0": Entry("recontour.encoders.efficientnet_lite:EfficientNetLite0"),
        "colour": Entry("recontour.encoders.colour:ColourStatistics"),
        "vgg16": Entry("recontour.encoders.vgg16:Vgg16"),
    },
    "refiner": {
        "identity": Entry("recontour.refiners.identity:Identity"),
        "logistic": Entry("recontour.refiners.logistic:Logistic"),
        "lc_mil": Entry("recontour.refiners.lc_mil:LcMil"),
        "deep_knn": Entry("recontour.refiners.deep_knn:DeepKnn"),
        "pencil": Entry("recontour.refiners.pencil:Pencil"),
        "prototype": Entry("recontour.refiners.prototype:Prototype"),
        "em": Entry("recontour.refiners.em:Em"),
        "lc_mil_vgg16": Entry("recontour.refiners.lc_mil_vgg16:LcMilVgg16"),
        "deep_knn_vgg16": Entry("recontour.refiners.deep_knn_vgg16:DeepKnnVgg16"),
    },
    "format": {
        "geojson": Entry("recontour.annotations.geojson:GeoJson"),
        "mask": Entry("recontour.annotations.mask:Mask"),
        "asap": Entry("recontour.annotations.asap:Asap"),
        "imagescope": Entry("recontour.annotations.imagescope:ImageScope"),
        "sav": Entry("recontour.annotations.sav:Sav"),
    },
    "dataset": {
        "camelyon16": Entry("recontour.datasets.camelyon16:Camelyon16"),
        "paip2019": Entry("recontour.datasets.paip:Paip2019"),
        "paip2020": Entry("recontour.datasets.paip:Paip2020"),
        "folder": Entry("recontour.datasets.folder:Folder"),
    },
    "executor": {
        "serial": Entry("recontour.executors.serial:Serial"),
        "threads": Entry("recontour.executors.threads:Threads"),
        "dask": Entry("recontour.executors.dask:Dask", "dask"),
    },
}


def names(kind: str) -> list[str]:
    """Every registered name of a `kind` (reader, encoder, refiner, …), sorted."""
    return sorted({*BUILTIN[kind], *(point.name for point in _points(kind))})


def lookup(kind: str, name: str) -> Any:
    """Import and return the object registered under `name`.

    Raises
    ------
    UnknownNameError : no such name; lists the known ones
    MissingExtraError : it needs a package that is not installed
    """
    entry = BUILTIN[kind].get(name)
    if entry is None:
        for point in _points(kind):
            if point.name == name:
                return point.load()
        raise UnknownNameError.of(_PLAIN.get(kind, kind), name, names(kind))
    module, _, attribute = entry.target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if not entry.extra or (error.name or "").startswith("recontour"):
            raise
        raise MissingExtraError(
            f"{kind} {name!r} needs {error.name}: pip install 'recontour[{entry.extra}]'"
        ) from error


@cache
def _points(kind: str) -> tuple[EntryPoint, ...]:
    """What other packages register; looked up once, as that reads the metadata of them all."""
    return tuple(entry_points(group=f"recontour.{kind}s"))


_PLAIN = {"refiner": "method", "dataset": "data set"}
