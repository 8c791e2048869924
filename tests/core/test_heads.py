"""Optional networks in the checkpoint: they come back whole, or the file is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lewm_core.checkpoint import (Checkpoint, load_checkpoint, read_metadata, save_checkpoint,
                                  update_metadata)
from lewm_core.heads import HEADS
from lewm_core.inspect import inspect_checkpoint
from lewm_core.types import UserError


@dataclass(frozen=True)
class ToyConfig:
    """One width."""

    width: int = 4


class ToyHead(nn.Module):
    """A layer on the latent, and a running mean: a buffer."""

    Config = ToyConfig

    def __init__(self, config, model):
        super().__init__()
        self.config = config
        self.layer = nn.Linear(model.config.latent_dim, config.width)
        self.register_buffer('mean', torch.zeros(config.width))


@pytest.fixture
def saved(small_model, robot, tmp_path, monkeypatch):
    """A model with a head of seven, and its file."""
    monkeypatch.setitem(HEADS, 'toy', f'{__name__}:ToyHead')
    head = ToyHead(ToyConfig(7), small_model)
    head.mean.fill_(3.0)
    checkpoint = Checkpoint(small_model, robot).with_head('toy', head)
    save_checkpoint(tmp_path / 'model.safetensors', checkpoint)
    return checkpoint, tmp_path / 'model.safetensors'


def rewrite(path, change):
    tensors, header = load_file(path), read_metadata(path)
    change(tensors, header)
    save_file(tensors, path, metadata={'lewm': json.dumps(header)})


def test_a_head_comes_back_with_its_config_weights_and_buffers(saved):
    checkpoint, path = saved
    loaded = load_checkpoint(path).heads
    before = checkpoint.heads['toy']
    assert list(loaded) == ['toy'] and loaded['toy'].config == ToyConfig(7)
    assert not loaded['toy'].training
    for name, tensor in before.state_dict().items():
        assert torch.equal(loaded['toy'].state_dict()[name], tensor), name
    assert {name for name in load_file(path) if name.startswith('heads.')} == {
        'heads.toy.layer.weight', 'heads.toy.layer.bias', 'heads.toy.mean'}


def test_the_model_is_the_same_with_and_without_a_head(saved):
    checkpoint, path = saved
    state = load_checkpoint(path).model.state_dict()
    assert state.keys() == checkpoint.model.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in checkpoint.model.state_dict().items())


def test_a_second_head_of_the_same_name_takes_the_place_of_the_first(saved):
    checkpoint, path = saved
    save_checkpoint(path, checkpoint.with_head('toy', ToyHead(ToyConfig(2), checkpoint.model)))
    assert load_checkpoint(path).heads['toy'].config.width == 2
    assert checkpoint.heads['toy'].config.width == 7


def test_new_figures_leave_the_heads_as_they_are(saved):
    _, path = saved
    update_metadata(path, metrics={'rank': 3.0})
    assert load_checkpoint(path).heads['toy'].mean.tolist() == [3.0] * 7


def test_a_file_from_before_there_were_heads_still_loads(small_model, robot, tmp_path):
    path = tmp_path / 'old.safetensors'
    save_checkpoint(path, Checkpoint(small_model, robot))
    rewrite(path, lambda tensors, header: (header.pop('heads'), header.update(format=1)))
    assert load_checkpoint(path).heads == {} and read_metadata(path)['heads'] == {}


@pytest.mark.parametrize('group', ['train', 'planner', 'surprise'])
def test_a_setting_that_came_later_takes_its_default_in_an_older_file(saved, group):
    _, path = saved
    rewrite(path, lambda tensors, header: header[group].popitem())
    assert getattr(load_checkpoint(path), group) == getattr(saved[0], group)


@pytest.mark.parametrize('change, words', [
    (lambda t, h: h['heads'].update(spy={}), "head 'spy' is not known"),
    (lambda t, h: h.update(heads=[]), r'heads is \[\], but a mapping'),
    (lambda t, h: h['heads']['toy'].update(_target_='os.system'), "unknown key '_target_'"),
    (lambda t, h: h['heads']['toy'].clear(), "head 'toy': key 'width' is missing"),
    (lambda t, h: h['heads'].clear(), "unexpected 3 tensors, such as 'heads.toy.layer.bias'"),
    (lambda t, h: t.pop('heads.toy.mean'), "lacks 1 tensors, such as 'heads.toy.mean'"),
    (lambda t, h: t.update({'heads.toy.extra': torch.ones(1)}), "such as 'heads.toy.extra'"),
    (lambda t, h: h['heads']['toy'].update(width=8), 'do not belong together')])
def test_a_head_that_does_not_fit_its_tensors_is_refused(saved, change, words):
    _, path = saved
    rewrite(path, change)
    with pytest.raises(UserError, match=words) as error:
        load_checkpoint(path)
    assert '\n' not in str(error.value) and path.name in str(error.value)


def test_inspect_names_the_heads_of_a_checkpoint(saved):
    assert 'head       toy: 63 parameters; width 7' in inspect_checkpoint(saved[1])
