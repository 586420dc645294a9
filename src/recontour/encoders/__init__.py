"""Encoders: patches in, features out."""

from __future__ import annotations

from recontour.errors import EncoderError
from recontour.registry import lookup
from recontour.types import Encoder


def load_encoder(name: str, device: str = "auto", threads: int | None = None) -> Encoder:
    """The encoder registered under `name`, ready to use.

    Parameters
    ----------
    name : a registered encoder, such as "efficientnet_lite0" or "colour"
    device : "auto" (CUDA, then MPS, then CPU), "cpu", "cuda", "cuda:1", "mps"; encoders that
        need no device ignore it
    threads : threads for the arithmetic, >= 1; None leaves the library's choice. For torch
        encoders the setting holds for the whole process

    Raises
    ------
    UnknownNameError : no such encoder
    MissingExtraError : it needs a package that is not installed
    EncoderError : it cannot be loaded
    UsageError : the device is not there
    """
    encoder = lookup("encoder", name)(device=device, threads=threads)
    if not isinstance(encoder, Encoder):
        raise EncoderError(
            f"encoder {name!r} lacks one of identifier, mpp, patch_px, dim, __call__; "
            "see recontour.types.Encoder"
        )
    return encoder
