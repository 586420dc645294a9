"""EfficientNet-Lite0 through torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import conv2d, hardtanh

from recontour.encoders.lite0 import STAGE_ENDS, Block, Convolution, Network, normalise
from recontour.errors import EncoderError


class Compiled:
    """The four stages' maps of turned windows.

    Each block is compiled when it is first used, for windows of all sizes: block by block, since
    sizes that have gone through all of them are more than the compiler can reason about. Minutes on
    a small machine, though torch keeps what it compiled. Needs a C++ compiler (on CUDA: Triton).

    Parameters
    ----------
    threads : of torch, in the whole process; None leaves them
    backend : of torch.compile
    """

    def __init__(
        self,
        network: Network,
        dtype: torch.dtype,
        threads: int | None,
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)

        def begin(pixels: torch.Tensor) -> torch.Tensor:
            return _convolve(normalise(pixels).to(dtype), network.stem)

        self._steps = [
            torch.compile(step, dynamic=True, fullgraph=True, backend=backend)
            for step in (begin, *map(_step, network.blocks))
        ]

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """uint8 (B, 3, H, W) -> (B, c, h, w) of each stage.

        Raises
        ------
        EncoderError : there is nothing to compile with
        """
        from torch._dynamo import config
        from torch._dynamo.exc import BackendCompilerFailed

        x, stages = pixels, []
        try:
            # All blocks are the same code: each may be compiled for one window and for several.
            with config.patch(cache_size_limit=4 * len(self._steps)):
                for i, step in enumerate(self._steps):
                    x = step(x)
                    if i - 1 in STAGE_ENDS:
                        stages.append(x)
        except BackendCompilerFailed as error:
            raise EncoderError(
                "torch.compile failed, which needs a C++ compiler (on CUDA: Triton); install one "
                f"or leave out --engine compile: {str(error).strip().splitlines()[0]}"
            ) from error
        return stages


def _step(block: Block) -> Callable[[torch.Tensor], torch.Tensor]:
    def step(x: torch.Tensor) -> torch.Tensor:
        h = x if block.expand is None else _convolve(x, block.expand)
        h = _convolve(_convolve(h, block.depthwise), block.project)
        return h + x if block.residual else h

    return step


def _convolve(x: torch.Tensor, layer: Convolution) -> torch.Tensor:
    padding = layer.weight.shape[-1] // 2
    out = conv2d(x, layer.weight, layer.bias, layer.stride, padding, 1, layer.groups)
    return hardtanh(out, 0.0, 6.0) if layer.relu6 else out
