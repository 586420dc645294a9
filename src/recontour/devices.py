"""Which device to compute on, and in which precision."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray

from recontour.errors import UnknownNameError, UsageError

KNOWN = ("auto", "cpu", "cuda", "cuda:1", "mps")
PRECISIONS = ("auto", "fp32", "bf16")
ENGINES = ("eager", "compile", "openvino")
LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What OpenMP and the linear algebra libraries look at when they are loaded."""
SHARE = 0.6  # of the free memory of a device that one pass may take


def pick_device(name: str) -> torch.device:
    """The torch device called `name`; "auto" is CUDA, then MPS, then the CPU.

    Raises
    ------
    UnknownNameError : no kind of device is called that
    UsageError : there is no such device here
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UnknownNameError.of("device", name, KNOWN) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {name!r}: no CUDA device was found; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r}: only {torch.cuda.device_count()} CUDA devices here")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"device {name!r}: no MPS device was found; use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UnknownNameError.of("device", name, KNOWN)
    return device


def pick_learning_device(name: str) -> torch.device:
    """The torch device called `name` for a refiner; "auto" is CUDA, else the CPU.

    MPS has to be asked for: small steps gain nothing there.

    Raises
    ------
    UnknownNameError, UsageError : as `pick_device`
    """
    return pick_device("cpu" if name == "auto" and not torch.cuda.is_available() else name)


@contextlib.contextmanager
def limit_threads(count: int | None) -> Iterator[None]:
    """At most `count` threads in torch, OpenMP and linear algebra while the block runs.

    Libraries that are loaded within it are told so, too, and stay as they were told. None: no
    limit.
    """
    if count is None:
        yield
        return
    from threadpoolctl import threadpool_limits

    torch_before = torch.get_num_threads()
    before = {name: os.environ.get(name) for name in LIBRARIES}
    os.environ.update(dict.fromkeys(LIBRARIES, str(count)))
    try:
        torch.set_num_threads(count)
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(torch_before)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def has_native_bf16() -> bool:
    """Whether this CPU multiplies in bf16 itself; where it is emulated, fp32 is faster."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, check, bool)()) for check in checks)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """float32 or bfloat16; "auto" is bf16 on CUDA and on a CPU that computes in it.

    Raises
    ------
    UnknownNameError : none of `PRECISIONS`
    """
    if name not in PRECISIONS:
        raise UnknownNameError.of("precision", name, PRECISIONS)
    if name == "auto":
        native = device.type == "cuda" or (device.type == "cpu" and has_native_bf16())
        name = "bf16" if native else "fp32"
    return torch.bfloat16 if name == "bf16" else torch.float32


def check_engine(name: str) -> str:
    """The `name` of an engine, if it is one.

    Raises
    ------
    UnknownNameError : none of `ENGINES`
    """
    if name not in ENGINES:
        raise UnknownNameError.of("engine", name, ENGINES)
    return name


def pick_device_of(engine: str, name: str) -> torch.device:
    """The device called `name` for an encoder on `engine`; OpenVINO runs on the CPU only.

    Raises
    ------
    UnknownNameError, UsageError : as `pick_device`; the engine does not run on the device
    """
    device = pick_device("cpu" if engine == "openvino" and name == "auto" else name)
    if engine == "openvino" and device.type != "cpu":
        raise UsageError(f"--engine openvino runs on the CPU, not on {name!r}; use --device cpu")
    return device


def to_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """A tensor of `array` on `device`.

    On a CPU they share memory. For CUDA it goes through pinned memory, so that the copy runs while
    the device still computes what came before.
    """
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def fitting(device: torch.device, bytes_each: int, most: int) -> int | None:
    """How many items of `bytes_each` a CUDA device has room for, 1 to `most`; None on others."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(most, int(SHARE * free) // bytes_each))
