"""The configs: every default is allowed, every field described, every bad value named."""

from __future__ import annotations

import dataclasses
import json

import pytest

from lewm_core.config import (DataConfig, ModelConfig, PlannerConfig, SurpriseConfig, TrainConfig,
                              check, config_from_dict, default)
from lewm_core.plain import from_plain
from lewm_core.types import UserError

CONFIGS = (ModelConfig, DataConfig, TrainConfig, PlannerConfig, SurpriseConfig)


@pytest.mark.parametrize('config', CONFIGS, ids=lambda c: c.__name__)
def test_every_default_is_allowed_and_every_field_described(config):
    check(config())
    for field in dataclasses.fields(config):
        assert field.metadata['help'], field.name
        assert default(config, field.name) == getattr(config(), field.name)


@pytest.mark.parametrize('config', CONFIGS, ids=lambda c: c.__name__)
def test_a_config_is_frozen_and_goes_through_json_and_back(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config(), dataclasses.fields(config)[0].name, 1)
    tree = json.loads(json.dumps(dataclasses.asdict(config())))
    assert config_from_dict(config, tree, 'here') == config()


@pytest.mark.parametrize('config', CONFIGS, ids=lambda c: c.__name__)
def test_every_bound_is_enforced_on_both_sides(config):
    for field in dataclasses.fields(config):
        for bound, step in (('low', -1), ('high', 1)):
            limit = field.metadata[bound]
            if limit is None:
                continue
            check(dataclasses.replace(config(), **{field.name: limit}))
            beyond = dataclasses.replace(config(), **{field.name: limit + step / 2})
            with pytest.raises(UserError, match=f'^{field.name}=.* is out of range; give a value'):
                check(beyond)


def test_the_defaults_are_those_of_the_paper():
    model, train = ModelConfig(), TrainConfig()
    assert (model.latent_dim, model.history, model.frameskip) == (192, 3, 5)
    assert (model.sigreg_weight, model.sigreg_projections, model.sigreg_knots) == (0.09, 1024, 17)
    assert (train.learning_rate, train.batch_size, train.weight_decay) == (5e-5, 128, 1e-3)


def test_a_value_outside_the_known_ones_is_named():
    with pytest.raises(UserError, match=r"encoder='cnn' is not known; choose one of \['vit',"):
        check(dataclasses.replace(ModelConfig(), encoder='cnn'))
    with pytest.raises(UserError, match="precision='fp8' is not known"):
        check(dataclasses.replace(TrainConfig(), precision='fp8'))


def test_nan_is_no_value():
    with pytest.raises(UserError, match='learning_rate=nan is not a number'):
        check(dataclasses.replace(TrainConfig(), learning_rate=float('nan')))


@pytest.mark.parametrize('change, message', [
    ({'test': 'much'}, "test is 'much', but float is expected"),
    ({'test': True}, 'test is True, but float is expected'),
    ({'split_seed': 1.5}, 'split_seed is 1.5, but int is expected'),
    ({'tests': 0.1}, "unknown key 'tests'; known keys are"),
    ({'test': 0.9}, 'test=0.9 is out of range')])
def test_a_wrong_tree_is_named_with_its_place(change, message):
    tree = dataclasses.asdict(DataConfig()) | change
    with pytest.raises(UserError, match=f'^here: {message}'):
        config_from_dict(DataConfig, tree, 'here')


def test_a_missing_key_is_an_error_unless_defaults_may_fill_in():
    with pytest.raises(UserError, match="here: key 'validation' is missing; add it"):
        config_from_dict(DataConfig, {'test': 0.2}, 'here')
    partial = config_from_dict(DataConfig, {'test': 0.2}, 'here', partial=True)
    assert partial == DataConfig(test=0.2)
    with pytest.raises(UserError, match=r'here is \[\], but a mapping'):
        config_from_dict(DataConfig, [], 'here')


def test_lists_become_tuples_and_whole_numbers_floats():
    model = config_from_dict(ModelConfig, {'conv_channels': [8, 16], 'dropout': 0}, 'here',
                             partial=True)
    assert model.conv_channels == (8, 16) and isinstance(model.dropout, float)
    with pytest.raises(UserError, match=r"conv_channels\[1\] is 'a', but int is expected"):
        config_from_dict(ModelConfig, {'conv_channels': [8, 'a']}, 'here', partial=True)


@pytest.mark.parametrize('tree, words', [
    ({'samples': '64'}, "here: samples is '64', but int is expected"),
    ({'samples': 64.0}, 'here: samples is 64.0, but int'),
    ({'samples': True}, 'here: samples is True, but int'),
    ({'limits': 1}, 'here: limits is 1, but bool'),
    ({'samples': None}, 'here: samples is None'),
    ({'samples': 1}, 'here: samples=1 is out of range'),
    ({'cost': 'least'}, "here: cost='least' is not known"),
    ({'simples': 64}, "here: unknown key 'simples'"),
    ([], r'here is \[\], but a mapping')])
def test_a_wrong_value_in_a_config_is_named(tree, words):
    with pytest.raises(UserError, match=words):
        config_from_dict(PlannerConfig, tree, 'here', partial=True)


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    at: tuple[int, int] | None = dataclasses.field(
        default=None, metadata={'expected': 'two whole numbers'})


@dataclasses.dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    note: str | None = None


def test_dataclasses_within_dataclasses_are_read_and_a_fault_is_named_with_its_place():
    whole = Whole((Part('a', (1, 2)), Part('b')))
    tree = json.loads(json.dumps(dataclasses.asdict(whole)))
    assert from_plain(Whole, tree, 'here') == whole
    assert from_plain(Whole, {'parts': [{'name': 'a', 'at': [1, 2]}, {'name': 'b'}]}, 'here',
                      partial=True) == whole
    for parts, words in (([{'name': 'a', 'at': [1]}], r'parts\[0\]: at is \[1\], but two whole'),
                         ([{'name': 'a'}, {'at': None}], r"parts\[1\]: key 'name' is missing"),
                         ('a', "parts is 'a', but a list is expected")):
        with pytest.raises(UserError, match=f'^here: {words}'):
            from_plain(Whole, {'parts': parts}, 'here', partial=True)
