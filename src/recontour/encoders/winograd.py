"""3 x 3 convolutions with a quarter of the multiplications.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), F(4 x 4, 3 x 3): each tile
of 4 x 4 outputs is a product of two 6 x 6 tiles in another basis, point by point, so that 144
multiplications become 36. Sums are in another order: after all of VGG16 float32 differs from
torch's by less than float16 can tell.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

TILE = 4
WINDOW = TILE + 2
VALUES = 2**22  # of all tiles in the other basis at a time: 17 MB, more runs out of the cache
LEAST_CHANNELS = 256  # out; with fewer, changing the basis costs what is saved

# Of the input, of the kernel and of the output, for the points 0, ±1, ±2 and infinity.
_INPUT = torch.tensor(
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNEL = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_OUTPUT = torch.tensor(
    [[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)


class Winograd:
    """A convolution with padding 1 and stride 1, on a CPU in float32.

    Parameters
    ----------
    weight : (K, C, 3, 3); kept in the other basis, which takes four times the memory
    bias : (K,)
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        kernel = torch.einsum("ia,kcab,jb->ijkc", _KERNEL, weight, _KERNEL)
        self._kernel = kernel.reshape(WINDOW**2, *weight.shape[:2]).contiguous()
        self._bias = bias.view(-1, 1, 1)
        # Both axes at once: the products of tiles with these are large, hence fast.
        self._input, self._output = torch.kron(_INPUT, _INPUT), torch.kron(_OUTPUT, _OUTPUT)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H, W)."""
        _, channels, height, width = x.shape
        tiles = -(-height // TILE) * -(-width // TILE)
        widest = max(channels, self._kernel.shape[1])
        at_once = max(1, VALUES // (WINDOW**2 * widest * tiles))
        return torch.cat([self._some(part) for part in torch.split(x, at_once)])

    def _some(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        down, across = -(-height // TILE), -(-width // TILE)
        x = pad(x, (1, TILE * across + 1 - width, 1, TILE * down + 1 - height))
        tiles = x.unfold(2, WINDOW, TILE).unfold(3, WINDOW, TILE)  # (B, C, down, across, 6, 6)
        tiles = tiles.permute(4, 5, 1, 0, 2, 3).reshape(WINDOW**2, -1)
        product = torch.bmm(self._kernel, torch.mm(self._input, tiles).view(WINDOW**2, c, -1))
        k = product.shape[1]
        out = torch.mm(self._output, product.view(WINDOW**2, -1))
        out = out.view(TILE, TILE, k, b, down, across).permute(3, 2, 4, 0, 5, 1)
        out = out.reshape(b, k, TILE * down, TILE * across)[:, :, :height, :width]
        return out + self._bias


def suits(weight: Tensor) -> bool:
    """Whether a convolution with this weight (K, C, 3, 3) is faster this way."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.shape[0] >= LEAST_CHANNELS
    )
