"""`recontour doctor`: is this machine ready, and how fast will it be?"""

from __future__ import annotations

import os
import shutil
import time
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from recontour.cli import console
from recontour.cli import options as o


def doctor(
    device: o.Device = "auto",
    compile: Annotated[
        bool,
        typer.Option(
            "--compile", help="Also time torch.compile, which takes minutes the first time."
        ),
    ] = False,
    format: o.OutputFormat = o.Format.table,
) -> None:
    """Check the installation: libraries, the embedded encoder, devices, cache and speed."""
    from recontour.errors import RecontourError
    from recontour.runs import versions

    found: dict[str, Any] = {"schema": "recontour.doctor/1", "versions": versions(), "problems": []}
    found["cpus"] = os.cpu_count()
    try:
        found["openslide"] = _openslide()
    except (ImportError, OSError) as error:
        found["problems"].append(f"OpenSlide does not load: {error}; pip install openslide-bin")
    try:
        found["encoder"] = _encoder(device)
        found["engines"] = _engines(device, compile)
    except (ImportError, OSError, RecontourError) as error:
        found["problems"].append(f"the encoder does not run: {error}")
    found["vgg16_weights"] = _vgg16_weights()
    try:
        found["cache"] = _cache()
    except (OSError, RecontourError) as error:
        found["problems"].append(f"the cache cannot be used: {error}")
    if format is o.Format.json:
        console.print_json(found)
    else:
        _print(found)
    if found["problems"]:
        raise RecontourError("; ".join(found["problems"]))


def _openslide() -> str:
    import openslide

    return str(openslide.__library_version__)


def _engines(device: str, compiled: bool) -> list[dict[str, Any]]:
    """Speed on each engine there is; those that do not run say why."""
    from recontour.devices import ENGINES
    from recontour.errors import RecontourError

    found = []
    for engine in ENGINES[1:]:
        if engine == "compile" and not compiled:
            continue
        if engine == "openvino" and find_spec("openvino") is None:
            continue
        try:
            found.append({"engine": engine, **_encoder(device, engine)})
        except RecontourError as error:
            found.append({"engine": engine, "error": str(error)})
    return found


def _encoder(device: str, engine: str = "eager") -> dict[str, Any]:
    """Load the default encoder and time one window of 1,024² px."""
    import numpy as np

    from recontour.encoders import load_encoder
    from recontour.types import DenseEncoder

    encoder = load_encoder(o.DEFAULT.encoder, device=device, engine=engine)
    assert isinstance(encoder, DenseEncoder)
    window = np.full((1, 1024, 1024, 3), 200, np.uint8)
    encoder.dense(window)
    start = time.perf_counter()
    encoder.dense(window)
    seconds = time.perf_counter() - start
    return {"identifier": encoder.identifier, "megapixels_per_s": 1024**2 / 1e6 / seconds}


def _vgg16_weights() -> str | None:
    """Where the weights of the papers' encoder are; None: nowhere, which is no problem."""
    from recontour.vgg import WEIGHTS_VARIABLE, find_weights

    given = os.environ.get(WEIGHTS_VARIABLE, "")
    if given.startswith("random:"):
        return given
    path = find_weights(given or None)
    return None if path is None else str(path)


def _cache() -> dict[str, Any]:
    from recontour.cache import default_cache_dir

    folder = default_cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    return {"folder": str(folder), "free_bytes": shutil.disk_usage(folder).free}


def _print(found: dict[str, Any]) -> None:
    rows = [("CPUs", str(found["cpus"])), ("OpenSlide", found.get("openslide", "does not load"))]
    if encoder := found.get("encoder"):
        rows.append(("encoder", f"{encoder['identifier']}"))
        rows.append(("speed", f"{encoder['megapixels_per_s']:.1f} Mpx/s"))
        for other in found.get("engines", ()):
            said = other.get("error") or (
                f"{other['megapixels_per_s']:.1f} Mpx/s, "
                f"{other['megapixels_per_s'] / encoder['megapixels_per_s']:.2f} of eager"
            )
            rows.append((f"--engine {other['engine']}", said))
    if cache := found.get("cache"):
        rows.append(("cache", f"{cache['folder']} ({cache['free_bytes'] / 2**30:.0f} GiB free)"))
    missing = "not found; only the encoder vgg16 needs them"
    rows.append(("VGG16 weights", found["vgg16_weights"] or missing))
    rows += list(found["versions"].items())
    console.print_table("recontour doctor", rows)
    print("ready" if not found["problems"] else "not ready: " + "; ".join(found["problems"]))
