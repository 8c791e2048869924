"""One file that gives back all that went in, or says in a sentence why it cannot."""

import dataclasses
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from lewm_core.checkpoint import (Checkpoint, load_checkpoint, read_metadata, save_checkpoint,
                                  update_metadata)
from lewm_core.config import DataConfig, PlannerConfig, SurpriseConfig, TrainConfig
from lewm_core.types import UserError


@pytest.fixture
def checkpoint(small_model, robot):
    small_model.set_action_statistics([0.1, -0.2], [0.5, 0.25])
    return Checkpoint(small_model, robot, DataConfig(split_seed=3), TrainConfig(steps=7),
                      PlannerConfig(samples=64), SurpriseConfig(promised_per_hour=0.5),
                      {'threshold': 1.5}, {'probe': {'x': 0.99}, 'nothing': None})


@pytest.fixture
def path(checkpoint, tmp_path):
    save_checkpoint(tmp_path / 'model.safetensors', checkpoint)
    return tmp_path / 'model.safetensors'


def rewrite(path, change=lambda tensors, header: None, **raw):
    """Writes the checkpoint anew after `change(tensors, header)`; `raw` replaces the metadata."""
    tensors, header = load_file(path), read_metadata(path)
    change(tensors, header)
    save_file(tensors, path, metadata=raw.get('metadata', {'lewm': json.dumps(header)}))


def refused(path, words):
    with pytest.raises(UserError, match=words) as error:
        load_checkpoint(path)
    text = str(error.value)
    assert '\n' not in text and path.name in text
    return text


def test_a_checkpoint_gives_back_all_that_went_in(checkpoint, path):
    loaded = load_checkpoint(path)
    for f in dataclasses.fields(Checkpoint):
        if f.name != 'model':
            assert getattr(loaded, f.name) == getattr(checkpoint, f.name), f.name
    assert loaded.model.config == checkpoint.model.config
    assert not loaded.model.training and loaded.model.spec == loaded.spec
    before, after = checkpoint.model.state_dict(), loaded.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_loaded_model_computes_the_same_latents_and_predictions(checkpoint, path):
    model, loaded = checkpoint.model.eval(), load_checkpoint(path).model
    pixels = torch.randint(0, 256, (1, 3, 16, 16, 3), dtype=torch.uint8)
    latents, actions = model.encode(pixels), torch.randn(1, 3, 3, 2)
    assert torch.equal(latents, loaded.encode(pixels))
    assert torch.equal(model.predict(latents, model.embed_actions(actions)),
                       loaded.predict(latents, loaded.embed_actions(actions)))


def test_saving_leaves_only_the_finished_file_and_replaces_the_old_one(checkpoint, path):
    save_checkpoint(path, dataclasses.replace(checkpoint, metrics={'second': 2}))
    assert load_checkpoint(path).metrics == {'second': 2}
    assert os.listdir(path.parent) == [path.name]


def test_a_write_that_fails_leaves_the_old_file_whole(checkpoint, path, monkeypatch):
    def full(descriptor):
        raise OSError(28, 'No space left on device')

    old = path.read_bytes()
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(UserError, match='No space left on device'):
        save_checkpoint(path, checkpoint)
    assert path.read_bytes() == old and os.listdir(path.parent) == [path.name]


def test_a_folder_that_does_not_exist_is_named(checkpoint, tmp_path):
    with pytest.raises(UserError, match='nowhere.*cannot be written'):
        save_checkpoint(tmp_path / 'nowhere' / 'model.safetensors', checkpoint)


def test_metadata_is_updated_without_touching_the_weights(path):
    weights = load_file(path)
    update_metadata(path, calibration={'threshold': 2.0}, metrics={'rank': 14.5})
    loaded = load_checkpoint(path)
    assert loaded.calibration == {'threshold': 2.0}
    assert loaded.metrics == {'probe': {'x': 0.99}, 'nothing': None, 'rank': 14.5}
    update_metadata(path, metrics={'rank': 15.0})
    assert load_checkpoint(path).calibration == {'threshold': 2.0}
    assert all(torch.equal(weights[name], t) for name, t in load_file(path).items())
    assert os.listdir(path.parent) == [path.name]


def test_a_missing_file_is_refused(tmp_path):
    refused(tmp_path / 'model.safetensors', 'is not a file')


@pytest.mark.parametrize('share', [0.0, 0.00001, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(path, share):
    data = path.read_bytes()
    path.write_bytes(data[:int(share * len(data))])
    refused(path, 'truncated or no safetensors file')


@pytest.mark.parametrize('data', [b'hello', b'\x80\x02}q\x00.' * 100, b'\xff' * 64])
def test_what_is_no_safetensors_file_is_refused(path, data):
    path.write_bytes(data)
    refused(path, 'truncated or no safetensors file')


@pytest.mark.parametrize('metadata', [None, {}, {'format': 'pt'}, {'lewm': 'no json'},
                                      {'lewm': '[1]'}, {'lewm': '[' * 100_000},
                                      {'lewm': '9' * 5000}])
def test_tensors_without_our_header_are_refused(path, metadata):
    """JSON too deep, or with too long a number, for Python's reader was a traceback."""
    rewrite(path, metadata=metadata)
    refused(path, 'no lewm header')


def test_metadata_that_is_null_is_no_header(path):
    """safetensors reads it as none at all; here it was a traceback."""
    header = b'{"__metadata__": null}  '
    path.write_bytes(len(header).to_bytes(8, 'little') + header)
    refused(path, 'no lewm header')


def test_another_format_is_refused(path):
    rewrite(path, lambda tensors, header: header.update(format=99))
    refused(path, 'has format 99, but this version reads the formats 1 to 2; use the version')


@pytest.mark.parametrize('key', ['spec', 'model', 'planner', 'calibration'])
def test_a_header_without_one_of_its_parts_is_refused(path, key):
    rewrite(path, lambda tensors, header: header.pop(key))
    refused(path, rf"lacks \['{key}'\]")


def test_a_header_with_an_unknown_part_is_refused(path):
    rewrite(path, lambda tensors, header: header.update(extra=1))
    refused(path, r"unknown \['extra'\]")


@pytest.mark.parametrize('part', ['model', 'data', 'train', 'planner', 'surprise', 'spec'])
def test_an_unknown_key_in_a_config_is_refused(path, part):
    rewrite(path, lambda tensors, header: header[part].update(_target_='os.system'))
    refused(path, f"{part}: unknown key '_target_'")


@pytest.mark.parametrize('hold, knots', [(True, 1), (False, 0)])
def test_a_checkpoint_from_before_knots_plans_as_it_did(path, hold, knots):
    """`planner.hold` became `knots` without a new format: old files had an 'unknown key'."""
    def older(tensors, header):
        header['format'] = 1
        header.pop('heads')
        header['planner'].pop('knots')
        header['planner']['hold'] = hold
    rewrite(path, older)
    assert load_checkpoint(path).planner.knots == knots
    update_metadata(path, metrics={'rank': 14.5})
    assert read_metadata(path)['format'] == 2
    assert load_checkpoint(path).planner.knots == knots


def test_only_format_1_is_read_as_format_1(path):
    rewrite(path, lambda tensors, header: header['planner'].update(hold=True))
    refused(path, "planner: unknown key 'hold'")


@pytest.mark.parametrize('name', ['action_mean', 'action_std', 'predictor.pos_embedding',
                                  'projector.net.1.running_mean'])
def test_a_missing_tensor_is_refused(path, name):
    rewrite(path, lambda tensors, header: tensors.pop(name))
    refused(path, f"lacks 1 tensors, such as '{name}'")


def test_an_unexpected_tensor_is_refused(path):
    rewrite(path, lambda tensors, header: tensors.update(spy=torch.zeros(1)))
    refused(path, "unexpected 1 tensors, such as 'spy'")


@pytest.mark.parametrize('tensor', [torch.ones(3), torch.ones(2, dtype=torch.float64)])
def test_a_tensor_of_another_shape_or_type_is_refused(path, tensor):
    rewrite(path, lambda tensors, header: tensors.update(action_std=tensor))
    refused(path, "tensor 'action_std' is")


def test_a_config_for_other_weights_is_refused(path):
    rewrite(path, lambda tensors, header: header['model'].update(latent_dim=16))
    refused(path, 'do not belong together')


def test_a_device_that_is_not_there_is_named(path):
    for device in ('cuda:99', 'toaster'):
        with pytest.raises(UserError, match=f'{device}.*cannot be used here'):
            load_checkpoint(path, device)
