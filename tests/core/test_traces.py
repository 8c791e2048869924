"""A recording on a CPU: what it needs of PyTorch, and what becomes of it."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from lewm_core.graphs import trace


def recorded():
    """A recording of a small model, and the model's weight for as long as somebody holds it."""
    model = torch.nn.Linear(4, 3).requires_grad_(False)
    return trace(lambda x: (model(x), 2 * x), [torch.ones(2, 4)]), weakref.ref(model.weight)


def test_a_recording_that_nobody_holds_any_more_lets_go_of_the_weights():
    """A planner node grew by 21 MB each time that it was cleaned up and configured: TorchScript
    keeps what `torch.jit.trace` made for as long as the process lives, with the model's weights.
    """
    run, weight = recorded()
    gc.collect()
    assert weight() is not None
    del run
    gc.collect()
    assert weight() is None


@pytest.mark.parametrize('name', ['_create_graph_by_tracing', 'CompilationUnit'])
def test_a_pytorch_without_the_names_that_this_needs_records_all_the_same(name, monkeypatch):
    monkeypatch.delattr(torch._C, name)
    run, weight = recorded()
    torch.testing.assert_close(run()[1], 2 * torch.ones(2, 4))
    assert run()[0].shape == (2, 3) and weight() is not None
