"""Products with weights that no longer change, packed once for the processor where it can."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


class Product:
    """`x @ weight.T + bias`, and GELU behind it where asked.

    In bf16 on a CPU the weight is laid out once as oneDNN's kernels want it, which else happens
    in every call, and bias and GELU are part of the kernel. Measured on two threads (the paper's
    predictor, 300 candidates): a sixth of a search.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self._packed = _packed(weight, bias)

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        if self._packed is not None:
            return _fused(x, self._packed, self.bias, gelu)
        found = functional.linear(x, self.weight, self.bias)
        return functional.gelu(found) if gelu else found


def _fused(x: Tensor, packed: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    kind, variant = ('gelu', 'none') if gelu else ('none', '')
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, kind, [], variant)


def _packed(weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """The weight as oneDNN wants it; None where that is not to be had, or is not right.

    These operators are PyTorch's own for its compiler and promised to nobody: so they are tried.
    """
    if weight.device.type != 'cpu' or weight.dtype != torch.bfloat16:
        return None
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        probe = torch.linspace(-1, 1, 2 * weight.shape[1]).view(2, -1).to(weight)
        found = _fused(probe, packed, bias, True)
    except (AttributeError, RuntimeError):
        return None
    expected = functional.gelu(functional.linear(probe, weight, bias))
    return packed if torch.allclose(found, expected, rtol=0.05, atol=0.05) else None
