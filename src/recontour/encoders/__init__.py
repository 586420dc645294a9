"""Encoders: patches in, features out."""

from __future__ import annotations

import inspect

from recontour.errors import EncoderError, UsageError
from recontour.registry import lookup
from recontour.types import Encoder


def load_encoder(
    name: str,
    device: str = "auto",
    threads: int | None = None,
    *,
    engine: str = "eager",
    precision: str = "auto",
) -> Encoder:
    """The encoder registered under `name`, ready to use.

    Parameters
    ----------
    name : a registered encoder, such as "efficientnet_lite0" or "colour"
    device : "auto" (CUDA, then MPS, then CPU), "cpu", "cuda", "cuda:1", "mps"; encoders that
        need no device ignore it
    threads : threads for the arithmetic, >= 1; None leaves the library's choice. For torch
        encoders the setting holds for the whole process
    engine : what computes: "eager", "compile", "openvino"
    precision : "auto", "fp32", "bf16"

    Raises
    ------
    UnknownNameError : no such encoder
    MissingExtraError : it needs a package that is not installed
    EncoderError : it cannot be loaded
    UsageError : the device is not there; the encoder has no choice of engine or precision
    """
    make = lookup("encoder", name)
    encoder = make(device=device, threads=threads, **chosen_options(name, engine, precision))
    if not isinstance(encoder, Encoder):
        raise EncoderError(
            f"encoder {name!r} lacks one of identifier, mpp, patch_px, dim, __call__; "
            "see recontour.types.Encoder"
        )
    return encoder


def chosen_options(name: str, engine: str, precision: str) -> dict[str, str]:
    """What of `engine` and `precision` the encoder `name` has to be told: all but the defaults.

    Raises
    ------
    UnknownNameError, MissingExtraError : as `load_encoder`
    UsageError : the encoder has no choice of engine or precision
    """
    chosen = {} if engine == "eager" else {"engine": engine}
    if precision != "auto":
        chosen["precision"] = precision
    known = inspect.signature(lookup("encoder", name)).parameters
    for option, value in chosen.items():
        if option not in known:
            raise UsageError(f"encoder {name!r} has no --{option} {value}; leave it out")
    return chosen
