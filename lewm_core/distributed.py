"""Several processes as one trainer: who is in it, and means over all of them with gradients.

A process started by `torchrun` finds the others through its environment; alone, every function
here is the identity. Losses that are no mean over windows (SIGReg, variances, BatchNorm) need
their moments over the whole batch: averaging each process's own statistic is another loss.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from lewm_core.types import UserError

_Result = TypeVar('_Result')
# The first process evaluates alone while the others wait.
_TIMEOUT = timedelta(hours=2)
_alone = False
# What the processes tell each other on the CPU, where tensors go by NCCL; None: the same way.
_words: dist.ProcessGroup | None = None


def size() -> int:
    """The number of processes that train together; 1 inside `alone()`."""
    joined = dist.is_available() and dist.is_initialized() and not _alone
    return dist.get_world_size() if joined else 1


def rank() -> int:
    """This process's number among them, from 0; what torchrun says before they have joined."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return int(os.environ.get('RANK', 0)) if started() else 0


def leader() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def started() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get('WORLD_SIZE', 1)) > 1 and 'MASTER_ADDR' in os.environ


@contextlib.contextmanager
def joined(device: str) -> Iterator[str]:
    """The device of this process, joined with the others of its torchrun until the block ends.

    A GPU each (NCCL) where `device` is 'cuda', or 'auto' and there are as many as processes on
    this machine; else the CPU (gloo). Raises UserError when `device` names one GPU for all, and
    when there are too few for 'cuda'.
    """
    global _words
    if not started() or dist.is_initialized():
        yield device
        return
    local, here = int(os.environ.get('LOCAL_RANK', 0)), int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    if device.startswith('cuda:'):
        raise UserError(f'device={device!r} is one GPU, but {here} processes share this machine; '
                        "give train.device='cuda' for one each, or 'cpu'")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device not in ('auto', 'cpu', 'cuda') or (device == 'cuda' and gpus < here):
        raise UserError(f'device={device!r} cannot be used: {here} processes share this machine '
                        f"and it has {gpus} GPUs; give train.device='auto' or 'cpu', or start as "
                        'many processes as there are GPUs')
    cuda = device != 'cpu' and gpus >= here
    if cuda:
        torch.cuda.set_device(local)
    dist.init_process_group('nccl' if cuda else 'gloo', timeout=_TIMEOUT)
    _words = dist.new_group(backend='gloo', timeout=_TIMEOUT) if cuda else None
    ended = False
    try:
        yield f'cuda:{local}' if cuda else 'cpu'
        ended = True
    finally:
        _words = None
        # NCCL ends together: after an error this process would wait for the others, which wait
        # for it in their step. Its exit code tells torchrun, which ends them.
        if ended or not cuda:
            dist.destroy_process_group()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Nothing; within it this process computes by itself, whatever the others do."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def led(work: Callable[[], _Result]) -> _Result | None:
    """What `work` returned in the first process, in every process; its UserError likewise."""
    if size() == 1:
        return work()
    told: list[Any] = [None, None]
    if leader():
        try:
            told[0] = work()
        except UserError as error:
            told[1] = str(error)
    dist.broadcast_object_list(told, group=_words)
    if told[1] is not None:
        raise UserError(told[1])
    return told[0]


def mean(value: Tensor) -> Tensor:
    """The mean of `value` over the processes, which each get; differentiable.

    Its gradient is that of the sum of all processes' losses: with `average_gradients`, which
    divides by their number, the parameters get the gradient of the mean loss.
    """
    count = size()
    return value if count == 1 else _Sum.apply(value) / count


def gathered(value: Tensor) -> Tensor:
    """The rows of `value` (N, ...) of all processes, one after the other; no gradient."""
    if size() == 1:
        return value
    parts = [torch.empty_like(value) for _ in range(size())]
    dist.all_gather(parts, value.contiguous())
    return torch.cat(parts)


def anyone(flag: bool) -> bool:
    """Whether `flag` is true in at least one process; no GPU is waited for."""
    if size() == 1:
        return flag
    told = torch.tensor(float(flag))
    dist.all_reduce(told, dist.ReduceOp.MAX, group=_words)
    return bool(told)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Nothing; each gradient becomes its mean over the processes, all in one message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if size() == 1 or not gradients:
        return
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients])):
        gradient.copy_(part.view_as(gradient))


class _Sum(torch.autograd.Function):
    """The sum over processes; a value that all losses use gets the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm whose training moments are those of all processes' rows together.

    On any device and backend, unlike `torch.nn.SyncBatchNorm`; (N, C) and (N, C, H, W). Each
    process brings as many rows. Alone or in eval mode it is the ordinary one, and so are its
    parameters' names.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        """`x` normalised over all dimensions but the second, of all processes."""
        if not self.training or size() == 1:
            return super().forward(x)
        over = [d for d in range(x.dim()) if d != 1]
        shape = [-1 if d == 1 else 1 for d in range(x.dim())]
        values = x if x.dtype == torch.float64 else x.float()
        middle = mean(values.mean(over))
        centred = values - middle.view(shape)
        variance = mean(centred.square().mean(over))
        self._remember(middle.detach(), variance.detach(), x.numel() // x.shape[1] * size())
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _remember(self, middle: Tensor, variance: Tensor, rows: int) -> None:
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(middle.to(self.running_mean), self.momentum)
        self.running_var.lerp_((variance * rows / (rows - 1)).to(self.running_var), self.momentum)


def share_batch_norm(module: nn.Module) -> None:
    """Nothing; every BatchNorm in `module` becomes a GlobalBatchNorm with the same tensors."""
    for name, child in module.named_children():
        if not isinstance(child, nn.modules.batchnorm._BatchNorm):
            share_batch_norm(child)
            continue
        shared = GlobalBatchNorm(child.num_features, child.eps, child.momentum)
        shared.weight, shared.bias = child.weight, child.bias
        for buffer in ('running_mean', 'running_var', 'num_batches_tracked'):
            setattr(shared, buffer, getattr(child, buffer))
        setattr(module, name, shared.train(child.training))
