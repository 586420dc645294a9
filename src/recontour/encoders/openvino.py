"""EfficientNet-Lite0 through OpenVINO, for CPUs.

The model is put together from OpenVINO's own operations, in memory, and no file is written. To be
imported is something that OpenVINO reports to its makers, over the network, unless it finds no
package to do so with; `import_silently` sees to that.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import torch

from recontour.encoders.lite0 import Convolution, Network
from recontour.errors import MissingExtraError, UsageError

TELEMETRY = "openvino_telemetry"
NAMES = {"fp32": "f32", "bf16": "bf16"}


class OpenVino:
    """The four stages' maps of turned windows.

    Parameters
    ----------
    precision : "fp32" or "bf16"
    threads : threads to compute with; None: one for each core

    Raises
    ------
    MissingExtraError : OpenVINO is not installed
    UsageError : this CPU does not compute in that precision
    """

    def __init__(self, network: Network, precision: str, threads: int | None) -> None:
        openvino = import_silently()
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": NAMES[precision],
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        model = _build(network)
        self._model = openvino.Core().compile_model(model, "CPU", settings)
        used = self._model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if used != NAMES[precision]:
            raise UsageError(
                f"--precision {precision}: OpenVINO computes in {used} on this CPU; pass "
                "--precision auto"
            )

    def __call__(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """uint8 (B, 3, H, W) -> float32 (B, c, h, w) of each stage, in OpenVINO's memory order."""
        found = self._model(pixels.permute(0, 2, 3, 1).numpy())
        return [torch.from_numpy(found[i]).permute(0, 3, 1, 2) for i in range(len(found))]


def import_silently() -> ModuleType:
    """OpenVINO, imported without its telemetry; also its own tools then send nothing.

    Raises
    ------
    MissingExtraError : it is not installed
    """
    before = {name: sys.modules[name] for name in (TELEMETRY,) if name in sys.modules}
    if "openvino" not in sys.modules:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # so that importing it fails
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "--engine openvino needs OpenVINO: pip install 'recontour[openvino]'"
        ) from error
    finally:
        sys.modules.pop(TELEMETRY, None)
        sys.modules.update(before)
    return openvino  # type: ignore[no-any-return]


def _build(network: Network) -> Any:
    """uint8 (B, H, W, 3), of any size -> float32 (B, h, w, c) of each stage."""
    import openvino
    from openvino import opset13 as operations

    def convolve(x: Any, layer: Convolution) -> Any:
        kernel = layer.weight.float().contiguous().numpy()
        stride, padding = [layer.stride] * 2, [kernel.shape[-1] // 2] * 2
        shape = (x, operations.constant(kernel if layer.groups == 1 else kernel[:, None]))
        apply = operations.convolution if layer.groups == 1 else operations.group_convolution
        out = apply(*shape, stride, padding, padding, [1, 1])
        bias = layer.bias.float().numpy().reshape(1, -1, 1, 1)
        out = operations.add(out, operations.constant(bias))
        return operations.clamp(out, 0.0, 6.0) if layer.relu6 else out

    pixels = operations.parameter([-1, -1, -1, 3], np.uint8)
    x = operations.transpose(operations.convert(pixels, "f32"), _order(0, 3, 1, 2))
    x = operations.subtract(x, operations.constant(np.float32(127)))
    x = operations.multiply(x, operations.constant(np.float32(1 / 128)))
    stages = network.stages(x, convolve, operations.add)
    out = [operations.transpose(stage, _order(0, 2, 3, 1)) for stage in stages]
    return openvino.Model(out, [pixels], "efficientnet_lite0")


def _order(*axes: int) -> Any:
    from openvino import opset13 as operations

    return operations.constant(np.array(axes, np.int64))
