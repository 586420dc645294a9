"""VGG16's convolutional part: what both source papers feed their fully connected layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d, conv2d, max_pool2d

from recontour.devices import pick_device, pick_precision
from recontour.encoders.winograd import Winograd, suits
from recontour.encoders.workers import Workers
from recontour.errors import EncoderError
from recontour.vgg import POOLED, STAGES, Vgg16Weights, load_vgg16

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CPU_PATCHES = 4  # at a time on a core: their maps stay in its cache; with eight it is half as fast
DEVICE_PATCHES = 32
MOST = float(np.finfo(np.float16).max)


class Vgg16:
    """25,088 numbers a patch: the last map of VGG16, 512 channels of 7 x 7.

    For the methods `lc_mil_vgg16` and `deep_knn_vgg16`, whose fully connected layers start where it
    ends. Patches of 224 px, ImageNet normalisation, no batch norms. The features of a cell take
    50 kB, so only the cell is kept, not the window around it. In float32 on a CPU most convolutions
    are Winograd's, which take half of the time, and 0.2 GB.

    Parameters
    ----------
    device : "auto", "cpu", "cuda", "cuda:1", "mps"
    threads : threads to compute with; None: as many as torch would use
    precision : "auto" (bf16 on CUDA and on a CPU that computes in it, else fp32), "fp32" or "bf16"
    weights : see `recontour.vgg.load_vgg16`

    Raises
    ------
    MissingFileError : the weights are not there; says where to get them
    EncoderError : the weights are damaged or of another network
    UsageError : the device is not there
    """

    mpp = 0.28  # the papers' 256 px at 40x (0.243 µm/px on CAMELYON16), resized to 224
    patch_px = 224
    patch_um = mpp * patch_px
    context = False

    @staticmethod
    def weights_name() -> str:
        """Names the weights an encoder made now would use: the user may change them."""
        return load_vgg16().name

    def __init__(
        self,
        device: str = "auto",
        threads: int | None = None,
        precision: str = "auto",
        weights: str | None = None,
    ) -> None:
        self.device = pick_device(device)
        self._dtype = pick_precision(precision, self.device)
        self.precision = "bf16" if self._dtype == torch.bfloat16 else "fp32"
        found = load_vgg16(weights)
        self.dim = found.conv_dim
        where = "" if self.device.type == "cpu" else f"-{self.device.type}"
        self.identifier = f"vgg16-conv-{found.name}-{self.precision}{where}"
        self._workers = Workers(threads if self.device.type == "cpu" else 0)
        self._at_once = CPU_PATCHES if self.device.type == "cpu" else DEVICE_PATCHES
        self._layers = _layers(found, self.device, self._dtype)

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (B, H, W, 3) -> float32 (B, 25088), 0 to 65,504: channel by channel, row by row."""
        if patches.ndim != 4 or patches.shape[-1] != 3 or patches.dtype != np.uint8:
            raise EncoderError(
                f"vgg16 wants uint8 (B, H, W, 3), not {patches.dtype} {patches.shape}"
            )
        if min(patches.shape[1:3]) < 32:
            raise EncoderError(
                f"vgg16 wants patches of at least 32 px, not {patches.shape[1]} x "
                f"{patches.shape[2]}"
            )
        out = np.empty((len(patches), self.dim), np.float32)

        def fill(start: int) -> None:
            rows = slice(start, start + self._at_once)
            out[rows] = self._forward(patches[rows])

        self._workers.run(fill, range(0, len(patches), self._at_once))
        return out

    def _forward(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        # A copy, since torch refuses arrays that must not be written; then (B, 3, H, W) in the
        # memory order of the pixels, which the convolutions keep.
        pixels = torch.from_numpy(patches.copy()).to(self.device).permute(0, 3, 1, 2)
        mean, std = (
            torch.tensor(v, device=self.device).view(3, 1, 1) * 255
            for v in (IMAGENET_MEAN, IMAGENET_STD)
        )
        x = ((pixels.float() - mean) / std).to(self._dtype)
        layers = iter(self._layers)
        for _, count in STAGES:
            for _ in range(count):
                x = next(layers)(x).relu_()
            x = max_pool2d(x, 2)
        x = adaptive_avg_pool2d(x.float(), POOLED)
        # Features are kept as float16: one value beyond it must not stop a slide.
        return x.clamp_(max=MOST).flatten(1).cpu().numpy()


def _layers(
    weights: Vgg16Weights, device: torch.device, dtype: torch.dtype
) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    layers: list[Callable[[torch.Tensor], torch.Tensor]] = []
    for weight, bias in weights.convolutions():
        weight = weight.to(device, dtype, memory_format=torch.channels_last)
        bias = bias.to(device, dtype)
        if suits(weight):
            layers.append(Winograd(weight, bias))
        else:
            layers.append(partial(conv2d, weight=weight, bias=bias, padding=1))
    return layers
