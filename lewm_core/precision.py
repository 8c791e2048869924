"""Which number format a model computes in."""

from __future__ import annotations

import torch

_AMPERE = (8, 0)  # the first compute capability that multiplies bf16


def resolve_precision(name: str, device: torch.device) -> str:
    """'bf16' or 'float32'; 'auto' is bf16 where the hardware multiplies it, else float32.

    CUDA from Ampere on, CPUs with AVX-512 bf16 (measured there: the tiny model 1.4 to 1.9 times as
    fast, with the same probes and open-loop errors). Emulated bf16 is slower than float32.
    """
    if name != 'auto':
        return name
    if device.type == 'cuda':
        return 'bf16' if torch.cuda.get_device_capability(device) >= _AMPERE else 'float32'
    return 'bf16' if device.type == 'cpu' and _cpu_multiplies_bf16() else 'float32'


def _cpu_multiplies_bf16() -> bool:
    try:
        return (torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported())
    except AttributeError:  # a PyTorch that cannot tell
        return False
