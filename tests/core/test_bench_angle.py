"""`lewm bench angle`: what is read out; a square's angle is asked for as it can be seen."""

import json

import numpy as np
import pytest
import torch

from lewm_core.bench.angle import changes, table
from lewm_core.bench.price import price
from lewm_core.checkpoint import load_checkpoint
from lewm_core.cli import main
from lewm_core.data import Dataset
from lewm_core.evaluate import encode_rows
from lewm_core.model import WorldModel


@pytest.fixture(scope='module')
def bench(tmp_path_factory):
    """The folder of one finished run, and its arguments."""
    folder = tmp_path_factory.mktemp('angle')
    words = ['bench', 'angle', f'output={folder / "toy.json"}', 'frames=1000', 'ceiling_steps=3',
             'probe_steps=20', 'train.steps=2', 'train.batch_size=8', 'train.tensorboard=false',
             'train.device=cpu', 'train.precision=float32', 'model.sigreg_projections=16',
             'model.conv_channels=[4,4,4,8]', 'model.projector_hidden=16']
    assert main(words) == 0
    return folder, words


def test_pictures_and_latents_are_asked_for_the_same_columns(bench):
    found = json.loads((bench[0] / 'toy.json').read_text())
    assert set(found['r2']) == {'pictures', 'linear', 'mlp'}
    for figures in found['r2'].values():
        assert {'block_x', 'sin 4 block_angle', 'cos 4 block_angle'} <= set(figures)
    assert 'sin block_angle' in found['r2']['mlp']
    assert 'sin block_angle' not in found['r2']['pictures']  # no picture shows it
    assert found['metrics']['step'] == 2


def test_a_quarter_turn_changes_the_angle_and_not_its_fourfold(bench):
    drives = Dataset.open(bench[0] / 'push_64_1000_of_100_seed0.h5')
    turned = Dataset.open(drives.path)
    turned.states['block_angle'] = drives.states['block_angle'] + np.pi / 2
    rows = np.arange(50)
    here, there = table(drives, rows, 4), table(turned, rows, 4)
    assert np.allclose(here['sin 4 block_angle'], there['sin 4 block_angle'])
    assert np.allclose(here['sin block_angle'], -there['cos block_angle'])
    assert here['cos 4 block_angle'].std() > 0.1
    assert not any('4' in name for name in table(drives, rows, 1))  # a T shows all of it


def test_the_t_shaped_block_is_asked_for_its_whole_angle(tmp_path, bench):
    pytest.importorskip('gym_pusht', reason='the Push-T extra is not installed: make pusht')
    words = [w for w in bench[1][2:] if not w.startswith('output')]
    assert main(['bench', 'angle', f'output={tmp_path / "t.json"}', 'world=pusht', *words]) == 0
    found = json.loads((tmp_path / 't.json').read_text())['r2']
    assert all({'x', 'block_x', 'sin block_angle', 'cos block_angle'} == set(f) - {'y', 'block_y'}
               for f in found.values())


def test_drives_and_trainings_are_not_made_twice(bench, monkeypatch, capsys):
    for name in ('angle_drives.make_world', 'angle.train'):
        monkeypatch.setattr(f'lewm_core.bench.{name}', None)
    before = json.loads((bench[0] / 'toy.json').read_text())['r2']
    assert main(bench[1]) == 0
    assert json.loads((bench[0] / 'toy.json').read_text())['r2'] == before
    assert 'linear    x ' in capsys.readouterr().out


def test_a_training_of_other_settings_is_not_taken_for_the_one_that_is_asked_for(bench, capsys):
    """It was, and its figures were printed under the settings of the command."""
    assert main([*bench[1], 'train.steps=3']) == 1
    assert 'train.steps=2, but 3 is asked for' in ' '.join(capsys.readouterr().err.split())


def test_what_moves_more_in_a_block_changes_more_and_what_rests_not_at_all(bench):
    drives = Dataset.open(bench[0] / 'push_64_1000_of_100_seed0.h5')
    found = changes(drives, 4, 5)
    assert 0 < found['sin block_angle'] < found['sin 4 block_angle'] < 2
    assert found['block_x'] < found['x']
    assert changes(drives, 4, 1)['sin 4 block_angle'] < found['sin 4 block_angle']
    drives.states['x'][:] = 3 + np.repeat(np.arange(10), 100)  # another place in each drive
    assert changes(drives, 4, 5)['x'] == 0


def test_drives_with_another_share_of_contact_are_drives_of_their_own(tmp_path, bench):
    words = [f'output={tmp_path / "calm.json"}' if w.startswith('output') else w
             for w in bench[1]] + ['contact=0']
    assert main(words) == 0
    calm = Dataset.open(tmp_path / 'push_contact0_64_1000_of_100_seed0.h5')
    usual = Dataset.open(bench[0] / 'push_64_1000_of_100_seed0.h5')
    assert not np.array_equal(calm.action, usual.action, equal_nan=True)


def test_contact_is_refused_where_no_explorer_knows_it(capsys):
    assert main(['bench', 'angle', 'world=pusht', 'contact=0.1']) == 1
    assert 'only the explorer of world=push' in ' '.join(capsys.readouterr().err.split())


def test_a_model_that_was_told_the_truth_is_probed_before_and_after_its_own_training(
        tmp_path, bench):
    words = [f'output={tmp_path / "told.json"}' if w.startswith('output') else w
             for w in bench[1]] + ['taught_steps=2', 'features=true']
    assert main(words) == 0
    found = json.loads((tmp_path / 'told.json').read_text())
    assert set(found['r2']) == {'pictures', 'taught linear', 'taught mlp', 'features', 'linear',
                                'mlp'}
    begun = load_checkpoint(tmp_path / 'told_taught' / 'model.safetensors').model
    after = load_checkpoint(tmp_path / 'told' / 'last.safetensors')
    assert after.train.init == str(tmp_path / 'told_taught' / 'model.safetensors')
    torch.manual_seed(0)
    fresh = WorldModel(begun.config, begun.spec)
    assert torch.equal(begun.predictor.pos_embedding, fresh.predictor.pos_embedding)
    assert not torch.equal(begun.encoder.net[0].weight, fresh.encoder.net[0].weight)


def test_a_model_that_is_asked_for_the_truth_while_it_trains_comes_to_hold_it(tmp_path, bench):
    said = {}
    for weight in ('0.001', '10'):
        words = [f'output={tmp_path / weight}.json' if w.startswith('output') else w
                 for w in bench[1]] + [f'asked_weight={weight}', 'train.steps=40']
        assert main(words) == 0
        said[weight] = json.loads((tmp_path / f'{weight}.json').read_text())['r2']['linear']
    assert said['10']['x'] > said['0.001']['x'] + 0.1
    assert load_checkpoint(tmp_path / '10' / 'asked.safetensors').metrics['evaluation']


def test_what_rests_is_cheap_to_foresee_and_what_is_drawn_anew_costs_its_variance(bench):
    drives = Dataset.open(bench[0] / 'push_64_1000_of_100_seed0.h5')
    model = load_checkpoint(bench[0] / 'toy' / 'last.safetensors').model
    rng, rows = np.random.default_rng(0), len(drives.action)
    found = price(model, drives, encode_rows(model, drives, np.arange(rows)), {
        'rests': np.repeat(rng.normal(size=10), 100), 'drawn': rng.normal(size=rows)}, 50, 0)
    assert set(found) == {'latents', 'rests', 'drawn'}
    assert found['rests'] < 0.8 * found['drawn']
    assert found['drawn'] > 0.8


def test_holding_the_angle_has_its_price_in_the_result(bench):
    words = [f'output={bench[0] / "toy.json"}', *bench[1][3:], 'price_steps=2']
    before = (bench[0] / 'toy.json').read_text()
    try:
        assert main(['bench', 'angle', *words]) == 0
        found = json.loads((bench[0] / 'toy.json').read_text())['metrics']['price']
    finally:
        (bench[0] / 'toy.json').write_text(before)
    assert set(found) == {'latents', 'sin 4 block_angle', 'cos 4 block_angle'}
