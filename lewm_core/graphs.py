"""A search recorded once and run again as one piece: a graph on CUDA, a traced program on a CPU.

What a small search costs is mostly the calling of some thousand operations one by one. Recorded,
they follow each other without Python: on CUDA one launch (a CUDA graph; Nguyen et al. 2021,
"Accelerating PyTorch with CUDA Graphs"), on a CPU one call, in which nothing takes the
interpreter's lock. A recording knows one shape of its inputs. It reads and writes memory of its
own: inputs are copied into it, and outputs out of it.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lewm_core.solvers.common import Draw

log = logging.getLogger(__name__)

# From draws and inputs to outputs, with nothing that waits for the device or asks for a value.
Function = Callable[..., tuple[Tensor, ...]]
# The same of tensors alone; and from it and these to what runs it on them, wherever they are.
Program = Callable[..., tuple[Tensor, ...]]
Run = Callable[[], tuple[Tensor, ...]]
Recorder = Callable[[Program, Sequence[Tensor]], Run]

_WARM_UPS = 3     # before a capture, on a side stream: libraries set themselves up
_TOLERANCE = 1e-3


class Recorded:
    """`function` for inputs of the shapes of `inputs`; called with others of those shapes.

    What the function draws, it is given from outside, as an input: drawn from `generator` in the
    same order, so that a seed gives the same plan, recorded or not.
    """

    def __init__(self, function: Function, inputs: Sequence[Tensor],
                 generator: torch.Generator, record: Recorder) -> None:
        self._inputs = [value.clone(memory_format=torch.contiguous_format) for value in inputs]
        self._generator = generator
        shapes: list[tuple[int, ...]] = []

        def noting(shape: tuple[int, ...]) -> Tensor:
            shapes.append(shape)
            return torch.randn(shape, generator=generator, device=generator.device)

        function(noting, *self._inputs)
        self._draws = [torch.zeros(shape, device=generator.device) for shape in shapes]
        count = len(self._inputs)

        def program(*tensors: Tensor) -> tuple[Tensor, ...]:
            drawn = iter(tensors[count:])
            return function(lambda shape: next(drawn), *tensors[:count])

        self._run = record(program, (*self._inputs, *self._draws))

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the function gives for `inputs`; nobody else holds it."""
        for own, given in zip(self._inputs, inputs):
            own.copy_(given)
        for draw in self._draws:
            draw.normal_(generator=self._generator)
        return tuple(value.clone() for value in self._run())


class Recordings:
    """`function` with its recordings: run by one where there is one of the inputs' shapes.

    `generator` is where all its draws come from. `recorder` replaces the device's own, for tests.
    """

    def __init__(self, function: Function, generator: torch.Generator,
                 recorder: Recorder | None = None) -> None:
        self._function, self._generator = function, generator
        self._recorder = recorder or (capture if generator.device.type == 'cuda' else trace)
        self._made: dict[Any, Recorded] = {}

    def __call__(self, draw: Draw, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The function's outputs; from a recording, `draw` is not asked, but the generator."""
        recorded = self._made.get(_shapes(inputs))
        return self._function(draw, *inputs) if recorded is None else recorded(*inputs)

    def __len__(self) -> int:
        """How many shapes there are recordings for."""
        return len(self._made)

    def record(self, *inputs: Tensor) -> bool:
        """Whether inputs of these shapes are run by a recording from now on.

        In the thread that will use it. Tried on other values than it was made with: where it
        can't be made, or differs from the function itself, that is said, and the function serves.
        """
        key = _shapes(inputs)
        if key in self._made:
            return True
        try:
            made = Recorded(self._function, inputs, self._generator, self._recorder)
            apart = self._apart(made, inputs)
        except Exception as error:  # whatever a device, a driver or a version cannot do
            log.warning('plans are made step by step, for the search could not be recorded: %s: '
                        '%s', type(error).__name__, str(error).strip().split('\n')[0])
            return False
        if not apart <= _TOLERANCE:
            log.warning('plans are made step by step, for the recorded search differs by %.2g',
                        apart)
            return False
        self._made[key] = made
        return True

    def _apart(self, made: Recorded, inputs: Sequence[Tensor]) -> float:
        """The largest relative difference between recording and function, on other values."""
        draw = torch.Generator().manual_seed(0)
        others = [value + 0.1 * torch.randn(value.shape, generator=draw).to(value)
                  if value.is_floating_point()
                  else torch.randint(0, 256, value.shape, generator=draw).to(value)
                  for value in inputs]
        results = []
        for run in (lambda: self._function(self._draw, *others), lambda: made(*others)):
            self._generator.manual_seed(1)
            results.append(run())
        return max(float(((a - b).abs() / (1 + b.abs())).max()) for a, b in zip(*results))

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self._generator, device=self._generator.device)


def _shapes(inputs: Sequence[Tensor]) -> Any:
    return tuple((tuple(value.shape), value.dtype) for value in inputs)


def trace(program: Program, tensors: Sequence[Tensor]) -> Run:
    """The program as TorchScript, which needs no compiler and runs the same operations."""
    with warnings.catch_warnings(), torch.inference_mode():
        # That it is deprecated; and that numbers become constants, as they should.
        warnings.simplefilter('ignore')
        traced = _traced(program, tuple(tensors))
        with contextlib.suppress(AttributeError):  # PyTorch's own names: 3 % where it has them
            torch._C._jit_pass_constant_propagation(traced.graph)
            torch._C._jit_pass_constant_pooling(traced.graph)

    def run() -> tuple[Tensor, ...]:
        # As it was recorded: to be optimised first would take seconds and gain nothing.
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            return traced(*tensors)

    return run


def _traced(program: Program, tensors: tuple[Tensor, ...]) -> Program:
    """The program as TorchScript that ends with the last who holds it.

    What `torch.jit.trace` makes stays in the process, and with it the model's weights that it has
    as constants: a planner node grew by 21 MB each time that it was configured.
    """
    try:
        graph, _ = torch._C._create_graph_by_tracing(program, tensors, lambda value: '', True,
                                                     False)
        return torch._C.CompilationUnit().create_function('program', graph)
    except (AttributeError, TypeError):  # PyTorch's own names and arguments, promised to nobody
        return torch.jit.trace(program, tensors, check_trace=False)


def capture(program: Program, tensors: Sequence[Tensor]) -> Run:
    """The program as a CUDA graph, whose outputs every run overwrites."""
    device = tensors[0].device
    # The present stream is entered once more, so that it is that again after a capture that fails.
    with torch.inference_mode(), torch.cuda.stream(torch.cuda.current_stream(device)):
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                program(*tensors)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the device meanwhile.
        with torch.cuda.graph(graph, capture_error_mode='thread_local'):
            outputs = program(*tensors)

    def run() -> tuple[Tensor, ...]:
        graph.replay()
        return outputs

    return run


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """The model's parameters take no gradient meanwhile: a program can't hold such as take one."""
    taking = [p for p in model.parameters() if p.requires_grad]
    for parameter in taking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in taking:
            parameter.requires_grad_(True)
