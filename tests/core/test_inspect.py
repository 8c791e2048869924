"""What `lewm inspect` says of a dataset and a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest

from lewm_core.checkpoint import Checkpoint, save_checkpoint
from lewm_core.data import DatasetWriter
from lewm_core.evaluate import evaluate_checkpoint
from lewm_core.inspect import inspect_checkpoint, inspect_dataset
from lewm_core.model import WorldModel
from lewm_core.types import UserError


def test_a_dataset_is_described(recording):
    text = inspect_dataset(recording.path)
    assert '1,200 frames in 20 episodes' in text
    assert f'toy ({recording.spec.fingerprint()}) at 10 Hz' in text
    assert 'train 14 (840 frames), validation 2 (120 frames)' in text
    assert '2.0 minutes; episodes of 60 to 60 frames' in text
    assert 'action twist.linear.x' in text and 'limits -0.4 to 0.4' in text
    assert 'state x' in text and 'memory-mapped' in text


def test_states_that_were_never_seen_are_counted_and_where_data_came_from_is_said(
        tmp_path, robot, episode):
    pixels, actions, stamps, states = episode(np.random.default_rng(0), 12)
    states['x'] = np.full(12, np.nan)
    states['y'][:5] = np.nan
    with DatasetWriter(tmp_path / 'd.h5', robot, provenance={'bags': ['tuesday.mcap']}) as writer:
        writer.add_episode(pixels, actions, stamps, states)
    text = inspect_dataset(tmp_path / 'd.h5')
    assert 'no finite value, 12 missing' in text and ', 5 missing' in text
    assert "bags       ['tuesday.mcap']" in text


def test_a_checkpoint_is_described(recording, robot, toy_model, tmp_path):
    model = WorldModel(toy_model, robot).eval()
    model.set_action_statistics([0.1, -0.1], [0.2, 0.3])
    metrics = {'step': 12, 'finished': False}
    save_checkpoint(tmp_path / 'a.safetensors', Checkpoint(model, robot, metrics=metrics))
    text = inspect_checkpoint(tmp_path / 'a.safetensors')
    assert f'model toy, {model.num_parameters():,} parameters' in text
    assert '12 of 60,000 steps' in text and 'unfinished' in text
    assert 'mean 0.1, std 0.2 m/s in training' in text and 'evaluated  no' in text
    assert 'not calibrated' in text
    figures = evaluate_checkpoint(Checkpoint(model, robot), recording).to_dict()
    assert 'not said when it is reached' in text
    metrics = {'step': 60_000, 'finished': True, 'evaluation': figures,
               'goal_tolerance': {'tolerance': 0.25, 'confusion': 0.031}}
    save_checkpoint(tmp_path / 'b.safetensors', Checkpoint(model, robot, metrics=metrics))
    text = inspect_checkpoint(tmp_path / 'b.safetensors')
    assert 'unfinished' not in text and 'effective rank' in text and 'of 8' in text
    assert 'probe R²   x ' in text and 'imagination' in text
    assert 'reached within a squared latent distance of 0.25, as are 3.1 % of frames' in text


@pytest.mark.parametrize('look', [inspect_dataset, inspect_checkpoint])
def test_what_is_neither_is_a_user_error(look, tmp_path):
    (tmp_path / 'hello').write_text('hello')
    with pytest.raises(UserError, match='cannot be read'):
        look(tmp_path / 'hello')
    with pytest.raises(UserError, match='is not a file'):
        look(tmp_path / 'nowhere')
