"""Products in int8, for those iterations of a search that only sort good candidates from bad.

Inputs are bytes, weights int8 with a scale for each output (Jacob et al. 2018, arXiv 1712.05877);
sums are exact. Processors with VNNI do four such products where they do one in float32. How far
inputs reach is seen once, in a rollout: what later lies beyond is taken as the farthest.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lewm_core.products import Product


class Levels(NamedTuple):
    """What a byte says: `zero` is 0, and each level more is `scale` more."""

    scale: float
    zero: int


class Watched:
    """`product`, which notes how far its inputs reach."""

    def __init__(self, product: Product) -> None:
        self.product, self.low, self.high = product, 0.0, 0.0

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        if x.numel():
            low, high = (float(end) for end in x.aminmax())
            if math.isfinite(high - low):  # a broken model is for the search to refuse
                self.low, self.high = min(self.low, low), max(self.high, high)
        return self.product(x, gelu)

    def levels(self) -> Levels:
        """Levels from the lowest to the highest."""
        scale = max(self.high - self.low, 1e-6) / 255
        return Levels(scale, round(-self.low / scale))


class Int8Product:
    """Nearly the product, of inputs at the levels that were seen: numbers, or these as bytes.

    The answer is numbers, or with `gives` bytes at these levels.
    """

    def __init__(self, watched: Watched, gives: Levels | None = None) -> None:
        product, self._takes = watched.product, watched.levels()
        weight, bias = product.weight.float(), product.bias
        self._bias = None if bias is None else bias.float()
        self._scales = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        levels = (weight / self._scales[:, None]).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(levels, None)
        self._gives = (*(gives or (1.0, 0)), torch.uint8 if gives else product.weight.dtype)

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        if x.dtype != torch.uint8:
            x = _in_bytes(x, self._takes)
        return torch.ops.onednn.qlinear_pointwise(
            x, *self._takes, self._packed, self._scales, self._zeros, self._bias, *self._gives,
            'gelu' if gelu else 'none', [], 'none')


def supported() -> bool:
    """Whether products in int8 are to be had here, are quick, and are right.

    The operators are PyTorch's own for its compiler and promised to nobody: so they are tried.
    """
    try:
        features = torch.cpu.get_capabilities()
        if not (features.get('avx512_vnni') or features.get('avx_vnni')):
            return False
        x, weights = torch.linspace(-2, 2, 64).view(4, 16), torch.linspace(-3, 3, 512)
        first = Watched(Product(weights.sin().view(32, 16), torch.ones(32)))
        second = Watched(Product(weights.cos().view(16, 32), None))
        expected = second(first(x, gelu=True))
        found = Int8Product(second)(Int8Product(first, second.levels())(x, gelu=True))
    except (AttributeError, RuntimeError, TypeError):
        return False
    return float((found - expected).norm()) < 0.05 * float(expected.norm())


def _in_bytes(x: Tensor, levels: Levels) -> Tensor:
    # By way of int8: from there a byte is another bit away, and to uint8 at once costs seven times
    # as much as all of this.
    below = x.new_tensor(levels.zero - 128)
    signed = torch.add(below, x, alpha=1 / levels.scale).round_().clamp_(-128, 127)
    return signed.to(torch.int8).view(torch.uint8).bitwise_xor_(128)
