"""EfficientNet-Lite0, cut after its 192-channel stage and run fully convolutionally.

Four stages give one feature vector: 40 channels at stride 8, 80 and 112 at stride 16, 192 at
stride 32. `recontour.encoders.lite0` has the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from recontour.devices import (
    check_engine,
    fitting,
    pick_device_of,
    pick_precision,
    to_device,
)
from recontour.encoders.lite0 import (
    STAGE_CHANNELS,
    STAGE_ENDS,
    build,
    empty_map,
    load_weights,
    normalise,
)
from recontour.encoders.workers import Workers
from recontour.errors import EncoderError

Weights = tuple[NDArray[np.float32], NDArray[np.float32]]

WINDOW_BYTES = {"fp32": 2 * 2**30, "bf16": 2**30}
"""What a window of 2,560² px takes on a device: twice the widest map, with what goes in and out."""
MOST_WINDOWS = 8  # more gain nothing: one window has work enough for every core of a device


class EfficientNetLite0:
    """The default encoder: 424 numbers a patch, one pass for a whole window.

    Parameters
    ----------
    device : "auto", "cpu", "cuda", "cuda:1", "mps"
    threads : threads to compute with; None: as many as torch would use
    precision : "auto" (bf16 on CUDA and on a CPU that computes in it, else fp32), "fp32" or "bf16"
    engine : "eager"; "compile" (torch.compile) or "openvino" (of the extra `openvino`)

    Attributes
    ----------
    at_once : windows of the usual size that fit into the memory of a CUDA device; None elsewhere
    pools : on a device of its own, which gives back pooled maps only

    Raises
    ------
    EncoderError : the weights are missing or damaged
    MissingExtraError : the engine needs a package that is not installed
    UsageError : the device is not there, or the engine does not run on it
    """

    mpp = 0.5
    patch_px = 224
    dim = sum(STAGE_CHANNELS)
    dense_stride = 8
    align = 32
    halo = 192  # cosine >= 0.999 to an unlimited halo even at the border of a window (64: 0.92)

    def __init__(
        self,
        device: str = "auto",
        threads: int | None = None,
        precision: str = "auto",
        engine: str = "eager",
    ) -> None:
        self.engine = check_engine(engine)
        self.device = pick_device_of(engine, device)
        self._dtype = pick_precision(precision, self.device)
        self.precision = "bf16" if self._dtype == torch.bfloat16 else "fp32"
        weights, name = load_weights()
        # Devices and engines round differently: an entry of the cache holds the features of one.
        where = "" if self.device.type == "cpu" else f"-{self.device.type}"
        how = "" if engine == "eager" else f"-{engine}"
        self.identifier = f"efficientnet_lite0-stages4-{name}-{self.precision}{where}{how}"
        self._network = build(weights, self.device, self._dtype)
        self._workers = Workers(threads if self.device.type == "cpu" else 0)
        self._engine = self._start(threads)
        self.pools = self.device.type != "cpu"
        self.at_once = fitting(self.device, WINDOW_BYTES[self.precision], MOST_WINDOWS)

    def _start(self, threads: int | None) -> Callable[[torch.Tensor], list[torch.Tensor]]:
        """What gives the four stages' maps (B, c, h, w) of a turned window, uint8 (B, 3, H, W)."""
        if self.engine == "openvino":
            from recontour.encoders.openvino import OpenVino

            return OpenVino(self._network, self.precision, threads)
        if self.engine == "compile":
            from recontour.encoders.compiled import Compiled

            return Compiled(self._network, self._dtype, threads)
        return self._eager

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

    def pooled(
        self, windows: NDArray[np.uint8], weights: Sequence[Sequence[Weights]]
    ) -> list[list[NDArray[np.float32]]]:
        """Weighted means of the feature map, computed where the map is.

        Parameters
        ----------
        windows : as for `dense`
        weights : of each window, pairs of (R, H / 8) and (C, W / 8)

        Returns
        -------
        of each window and pair: float32 (R, C, 424)
        """
        stages = self._stages(windows)
        found = []
        for i, pairs in enumerate(weights):
            maps = [stage[i].flip(1, 2) for stage in stages]
            found.append([self._pool(maps, *pair) for pair in pairs])
        return found

    @torch.inference_mode()
    def _pool(
        self, maps: list[torch.Tensor], down: NDArray[np.float32], across: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        rows, columns = (to_device(weights, self.device) for weights in (down, across))
        parts = []
        for one in maps:
            _, h, w = one.shape
            # A pixel of a coarser stage has the weight of all the map pixels that repeat it.
            of_row = rows.view(len(rows), h, -1).sum(2)
            of_column = columns.view(len(columns), w, -1).sum(2)
            parts.append(torch.einsum("rh,chw,qw->rqc", of_row, one.float(), of_column))
        return torch.cat(parts, dim=2).cpu().numpy()

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
        # (B, 3, H, W) in the memory order of the pixels, which the convolutions keep.
        return self._engine(to_device(turned, self.device).permute(0, 3, 1, 2))

    def _eager(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        stem, blocks = self._network

        def normalised(part: torch.Tensor) -> torch.Tensor:
            return normalise(part).to(self._dtype)

        x = self._workers.fill_rows(
            empty_map(pixels, stem, stem.stride),
            lambda start, stop: stem.rows(pixels, start, stop, before=normalised),
            stem.strip_rows(pixels.shape),
        )
        stages = []
        for i, block in enumerate(blocks):
            x = block(x, self._workers)
            if i in STAGE_ENDS:
                stages.append(x)
        return stages
