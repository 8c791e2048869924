"""PyTorch's compiler for the networks of a training step, where it is asked for."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from lewm_core.model import WorldModel
from lewm_core.types import UserError


def compile_networks(model: WorldModel, device: torch.device) -> None:
    """Nothing; encoder and predictor are compiled in place, when they are first called.

    Their parameters keep their names. Raises UserError where nothing can be compiled here: it
    takes a C++ compiler with Python's headers, and for CUDA Triton.
    """
    try:
        # Something small first, so that what is missing is said before the first step.
        torch.compile(lambda x: x.sin() + x)(torch.zeros(8, device=device))
    except Exception as error:
        words = str(error).strip().split('\n')[0]
        raise UserError(f'train.compile=true, but nothing can be compiled for {device} here '
                        f'({type(error).__name__}: {words}); install a C++ compiler and the '
                        'headers of Python (for CUDA also Triton), or leave it out') from None
    model.encoder.compile()
    model.predictor.compile()


def uncompiled(model: WorldModel) -> AbstractContextManager:
    """A context in which the model's networks run as they were written, compiled or not.

    For batches of all sizes, each of which would else be compiled first.
    """
    compiled = getattr(model.encoder, '_compiled_call_impl', None) is not None
    return torch.compiler.set_stance('force_eager') if compiled else nullcontext()
