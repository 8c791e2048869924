"""Checkpoints to and from the reference library, against what that library itself computed.

tests/data/reference holds small models of stable-worldmodel 0.1.1 with noise in every tensor, as
transformers 4.57 and 5.23 name them, and what they made of random pictures and actions
(tests/data/make_reference.py).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lewm_core.checkpoint import load_checkpoint
from lewm_core.cli import main
from lewm_core.config import ModelConfig
from lewm_core.data import Dataset, DatasetWriter, action_statistics
from lewm_core.interchange_config import config_tree, model_config
from lewm_core.interchange_names import ours, theirs
from lewm_core.robot import Camera
from lewm_core.types import UserError

CASES = Path(__file__).resolve().parents[1] / 'data' / 'reference'
BOTH = pytest.mark.parametrize('case', ['transformers4', 'transformers5'])
# The same for folders that make_reference.py --full made: LEWM_REFERENCE=DIR,DIR pytest …
FULL = [Path(folder) for folder in os.environ.get('LEWM_REFERENCE', '').split(',') if folder]


@pytest.fixture(scope='module')
def dataset(robot, tmp_path_factory):
    """A dataset whose camera is the small cases'."""
    return record(tmp_path_factory.mktemp('dataset') / 'data.h5', robot, 28)


def record(path, robot, size):
    """Ten episodes under a camera of `size`, the actions not centred."""
    rng = np.random.default_rng(0)
    spec = dataclasses.replace(robot, cameras=(Camera('top', 'camera/image_raw', size, size),))
    with DatasetWriter(path, spec) as writer:
        for _ in range(10):
            writer.add_episode(rng.integers(0, 255, (20, size, size, 3), np.uint8),
                               rng.normal([0.1, -0.2], [0.05, 0.1], (20, 2)),
                               np.arange(20) * 10**8, {'x': np.zeros(20), 'y': np.zeros(20)})
    return Dataset.open(path)


def imported(case, dataset, output, *more):
    """The exit code of `lewm import` of a folder with weights.pt and config.json."""
    return main(['import', f'weights={case}/weights.pt', f'config={case}/config.json',
                 f'dataset={dataset.path}', f'output={output}', *more])


def changed(case, folder, **parts):
    """A copy of `case` whose config.json has other values: part={key: value}."""
    shutil.copytree(case, folder)
    tree = json.loads((folder / 'config.json').read_text())
    for part, values in parts.items():
        tree[part].update(values)
    (folder / 'config.json').write_text(json.dumps(tree))
    return folder


@BOTH
def test_an_imported_model_computes_what_the_reference_does(case, dataset, tmp_path):
    compare(CASES / case, dataset, tmp_path / 'model.safetensors')


@pytest.mark.skipif(not FULL, reason='LEWM_REFERENCE names no folder of make_reference.py --full')
@pytest.mark.parametrize('case', FULL)
def test_an_imported_model_of_the_papers_size_does_too(case, robot, tmp_path):
    compare(case, record(tmp_path / 'data.h5', robot, 224), tmp_path / 'model.safetensors')


@torch.no_grad()
def compare(case, dataset, output):
    """Fails unless encoding, prediction and a rollout of 5 blocks agree to 1e-5 in float32."""
    assert imported(case, dataset, output) == 0
    model = load_checkpoint(output).model
    expected = {k: torch.from_numpy(v) for k, v in np.load(case / 'expected.npz').items()}
    # The reference is fed z-scores, ours robot units: so the statistics are part of the test.
    actions = expected['blocks'].unflatten(-1, (5, 2)) * model.action_std + model.action_mean
    latents = model.encode(expected['pixels'])
    torch.testing.assert_close(latents, expected['latents'], rtol=0, atol=1e-5)
    predicted = model.predict(latents, model.embed_actions(actions[:, 0, :3]))
    torch.testing.assert_close(predicted, expected['prediction'], rtol=0, atol=1e-5)
    other = model.predict(latents, model.embed_actions(actions[:, 1, :3]))
    assert (other - predicted).abs().max() > 0.01, 'the actions have no effect'
    rollout = model.rollout(latents, actions[:, 0, :2], actions[:, :, 2:])
    torch.testing.assert_close(rollout, expected['rollout'], rtol=0, atol=1e-5)
    for name, found in (('latents', latents), ('prediction', predicted), ('rollout', rollout)):
        print(f'{case.name} {name}: {(found - expected[name]).abs().max():.1e}')


def test_statistics_are_those_of_the_datasets_training_episodes(dataset, tmp_path):
    assert imported(CASES / 'transformers4', dataset, tmp_path / 'm.safetensors') == 0
    checkpoint = load_checkpoint(tmp_path / 'm.safetensors')
    mean, std = action_statistics(dataset, 'train')
    np.testing.assert_array_equal(checkpoint.model.action_mean, mean)
    np.testing.assert_array_equal(checkpoint.model.action_std, std)
    assert checkpoint.metrics['imported']['tensors'] == 91 and checkpoint.spec == dataset.spec


@BOTH
def test_what_was_imported_is_exported_tensor_by_tensor(case, dataset, tmp_path):
    assert imported(CASES / case, dataset, tmp_path / 'm.safetensors') == 0
    assert main(['export', f'checkpoint={tmp_path}/m.safetensors', f'output={tmp_path}/out',
                 f'transformers={case[-1]}']) == 0
    one = torch.load(CASES / case / 'weights.pt', weights_only=True)
    two = torch.load(tmp_path / 'out' / 'weights.pt', weights_only=True)
    assert set(one) == set(two)
    assert all(torch.equal(one[name], two[name]) for name in one)
    before, after = (json.loads((folder / 'config.json').read_text())
                     for folder in (CASES / case, tmp_path / 'out'))
    assert after['encoder'] == before['encoder'] and after['predictor'] == before['predictor']
    assert imported(tmp_path / 'out', dataset, tmp_path / 'again.safetensors') == 0


def test_the_papers_shape_is_the_papers_config():
    tree = config_tree(ModelConfig(), 2)
    assert model_config(tree, 2, 'config') == ModelConfig()
    assert tree['encoder']['size'] == 'tiny' and 'hidden_size' not in tree['encoder']
    assert tree['action_encoder']['input_dim'] == 10


def test_the_names_of_one_encoder_layer_in_transformers_5():
    theirs_5 = ['attention.q_proj', 'attention.k_proj', 'attention.v_proj', 'attention.o_proj',
                'mlp.fc1', 'mlp.fc2', 'layernorm_before', 'layernorm_after']
    ours_4 = ['attention.attention.query', 'attention.attention.key', 'attention.attention.value',
              'attention.output.dense', 'intermediate.dense', 'output.dense', 'layernorm_before',
              'layernorm_after']
    for new, old in zip(theirs_5, ours_4):
        new, old = f'encoder.layers.11.{new}.bias', f'encoder.encoder.layer.11.{old}.bias'
        assert (ours(new), ours(old), theirs(old, 5), theirs(old, 4)) == (old, old, new, old)
    assert ours('predictor.transformer.layers.0.attn.norm.bias').startswith('predictor.')


@pytest.mark.parametrize(('change', 'words'), [
    ({'predictor': {'output_dim': 9}}, 'predictor.output_dim is 9'),
    ({'predictor': {'depth': 'many'}}, "predictor.depth is 'many', but int is expected"),
    ({'predictor': {'depth': 3}}, 'lacks 13 tensors'),
    ({'predictor': {'depth': 1}}, 'has unexpected 13 tensors'),
    ({'predictor': {'mlp_dim': 17}}, r'is \(16, 8\), but its config asks for \(17, 8\)'),
    ({'action_encoder': {'input_dim': 9}}, 'not a multiple of the 2 action fields'),
    ({'projector': {'norm_fn': None}}, 'can only take torch.nn.BatchNorm1d'),
    ({'encoder': {'size': 'gigantic'}}, "'gigantic' is not known"),
    ({'encoder': {'image_size': 56}}, 'takes images of 56x56')])
def test_a_config_that_does_not_fit_is_one_sentence(change, words, dataset, tmp_path, capsys):
    case = changed(CASES / 'transformers4', tmp_path / 'case', **change)
    assert imported(case, dataset, tmp_path / 'm.safetensors') == 1
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1

    assert re.search(words, error), error
    assert not (tmp_path / 'm.safetensors').exists()


@pytest.mark.parametrize(('part', 'key', 'value'), [
    ('projector', 'act_fn', {'_target_': 'torch.nn.ReLU', '_partial_': True}),
    ('pred_proj', 'act_fn', {'_target_': 'torch.nn.GELU', 'approximate': 'tanh'}),
    ('projector', 'norm_fn', {'_target_': 'torch.nn.BatchNorm1d', 'eps': 1e-3}),
    ('encoder', 'hidden_act', 'relu'), ('encoder', 'layer_norm_eps', 1e-6)])
def test_what_leaves_no_trace_in_the_tensors_is_refused(part, key, value, dataset, tmp_path,
                                                        capsys):
    """All tensors of such a checkpoint find their places, so it was imported without a word and
    computed something else: activations and the epsilons of norms have no tensors."""
    case = changed(CASES / 'transformers4', tmp_path / 'case', **{part: {key: value}})
    assert imported(case, dataset, tmp_path / 'm.safetensors') == 1
    assert f'{part}.{key} is ' in capsys.readouterr().err


def test_an_encoder_of_another_width_keeps_the_mlp_of_its_size():
    """The reference's `size` sets the MLP, and `hidden_size` does not change it; ours did, and
    refused the tensors."""
    tree = config_tree(ModelConfig(), 2)
    tree['encoder']['hidden_size'] = 96
    assert model_config(tree, 2, 'config').encoder_mlp == 768
    tree['projector']['act_fn'] = {'_target_': 'torch.nn.GELU', '_partial_': True}
    assert model_config(tree, 2, 'config').encoder_width == 96


def test_targets_are_read_and_never_run(dataset, tmp_path):
    case = changed(CASES / 'transformers4', tmp_path / 'case',
                   encoder={'_target_': 'os.mkdir', 'path': str(tmp_path / 'owned')})
    assert imported(case, dataset, tmp_path / 'm.safetensors') == 0
    assert not (tmp_path / 'owned').exists()


def test_a_pickle_that_runs_code_is_refused(dataset, tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'owned'),)

    case = changed(CASES / 'transformers4', tmp_path / 'case')
    torch.save({'encoder': Evil()}, case / 'weights.pt')
    assert imported(case, dataset, tmp_path / 'm.safetensors') == 1
    assert 'cannot be read as plain tensors' in capsys.readouterr().err
    assert not (tmp_path / 'owned').exists()


@pytest.mark.parametrize(('content', 'words'), [
    (b'', 'cannot be read as plain tensors'), (b'PK\x03\x04 half a zip', 'cannot be read'),
    (None, 'is not a file')])
def test_weights_that_are_none_are_one_sentence(content, words, dataset, tmp_path, capsys):
    case = changed(CASES / 'transformers4', tmp_path / 'case')
    (case / 'weights.pt').unlink()
    if content is not None:
        (case / 'weights.pt').write_bytes(content)
    assert imported(case, dataset, tmp_path / 'm.safetensors') == 1
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1


def test_a_copy_that_was_cut_short_and_tensors_in_both_spellings_are_one_sentence(
        dataset, tmp_path, capsys):
    """PyTorch raises an OSError for the first; of two tensors of one name one was taken."""
    case = changed(CASES / 'transformers4', tmp_path / 'case')
    whole = (case / 'weights.pt').read_bytes()
    tensors = torch.load(case / 'weights.pt', weights_only=True)
    (case / 'weights.pt').write_bytes(whole[:5000])
    assert imported(case, dataset, tmp_path / 'm.safetensors') == 1
    assert 'or copy it again' in capsys.readouterr().err
    other = torch.load(CASES / 'transformers5' / 'weights.pt', weights_only=True)
    for both, words in ((other | tensors, 'tensors twice'), ({1: torch.ones(2)}, 'no state dict')):
        torch.save(both, case / 'weights.pt')
        assert imported(case, dataset, tmp_path / 'm.safetensors') == 1
        assert words in capsys.readouterr().err


def test_a_tensor_that_is_not_finite_is_named(dataset, tmp_path, capsys):
    case = changed(CASES / 'transformers4', tmp_path / 'case')
    tensors = torch.load(case / 'weights.pt', weights_only=True)
    tensors['projector.net.1.running_var'][3] = float('nan')
    torch.save(tensors, case / 'weights.pt')
    assert imported(case, dataset, tmp_path / 'm.safetensors') == 1
    assert "'projector.net.1.running_var' holds numbers that are not" in capsys.readouterr().err


def test_a_model_that_the_reference_cannot_build_is_not_exported(toy_model):
    with pytest.raises(UserError, match="encoder='conv', which the reference library cannot"):
        config_tree(toy_model, 2)


def test_what_exists_is_kept(dataset, tmp_path, capsys):
    (tmp_path / 'm.safetensors').write_text('mine')
    assert imported(CASES / 'transformers4', dataset, tmp_path / 'm.safetensors') == 1
    assert 'exists already' in capsys.readouterr().err
    assert (tmp_path / 'm.safetensors').read_text() == 'mine'
    assert imported(CASES / 'transformers4', dataset, tmp_path / 'm.safetensors',
                    'overwrite=true') == 0
