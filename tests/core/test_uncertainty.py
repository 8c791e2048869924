"""What error to expect: the same error is news in the calm, and none where all is rough."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch
from tests.core.evaluation_toys import Seer

from lewm_core.calibration import calibrate
from lewm_core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from lewm_core.config import SurpriseConfig, TrainConfig, UncertaintyConfig
from lewm_core.head_training import Episodes, encode_split
from lewm_core.model import WorldModel
from lewm_core.paths import load_robot
from lewm_core.residuals import Residuals, block_residuals, plain
from lewm_core.surprise import SurpriseMonitor, score_dataset
from lewm_core.train_heads import train_heads
from lewm_core.types import Frame, UserError
from lewm_core.uncertainty import (Uncertainty, _errors, score_of, scoring, train_uncertainty,
                                   whitener)

SHAPE = UncertaintyConfig(width=32, dropout=0.0, batch_size=128, learning_rate=1e-2)
ROUGH = 10.0


@pytest.fixture(scope='module')
def seer(two_room):
    return Seer(two_room).eval()


@pytest.fixture(scope='module')
def two_room():
    return load_robot('two_room')


def weather(seer: Seer, seed: int, episodes: int = 20, ticks: int = 60) -> Episodes:
    """Drives in which the latents jitter, ten times as much on the right as on the left.

    The jitter is along the first two axes alone, and three times as large along the first.
    """
    rng = np.random.default_rng(seed)
    place = rng.choice([-1, 1], (episodes, 1, 3)) * rng.uniform(0.2, 1, (episodes, ticks, 3))
    place[:] = place[:, :1]
    actions = rng.uniform(-0.1, 0.1, (episodes, ticks, 2))
    jitter = rng.normal(size=place.shape) * [3e-3, 1e-3, 0]
    jitter *= np.where(place[..., :1] > 0, ROUGH, 1)
    place[:, 1:, :2] += np.cumsum(actions[:, :-1], axis=1) / 10
    last = np.repeat(np.arange(1, episodes + 1) * ticks - 1, ticks)
    return Episodes(*(torch.from_numpy(v).float() for v in (
        (place + jitter).reshape(-1, 3), actions.reshape(-1, 2))), torch.from_numpy(last))


@pytest.fixture(scope='module')
def head(seer):
    return train_uncertainty(seer, weather(seer, 0), weather(seer, 1), SHAPE, steps=300)[0]


def errors(side: float, off: list[float]) -> Residuals:
    """One error of a robot that stands at `side` and was expected to stay."""
    return Residuals(np.array(off), np.array([side, 0, 0, side, 0, 0, *10 * [0]], np.float32))


def test_the_same_error_is_news_in_the_calm_and_none_in_the_rough(head):
    calm, rough = (float(head.score(errors(side, [0.03, 0, 0]))) for side in (-0.5, 0.5))
    assert calm > 30 * rough and rough < 3


def test_an_error_across_the_usual_direction_counts_for_more(head):
    along, across, never = (float(head.score(errors(-0.5, off))) for off in (
        [0.03, 0, 0], [0, 0.03, 0], [0, 0, 0.03]))
    assert 5 * along < across < never


def test_half_of_the_blocks_of_ordinary_drives_that_were_not_seen_score_below_1(seer, head):
    scores = head.score(_errors(seer, weather(seer, 2)))
    assert 0.35 < (scores < 1).mean() < 0.65 and (scores >= 0).all()
    rough = _errors(seer, weather(seer, 2)).given[:, 0] > 0.1
    assert 0.5 < scores[rough].mean() / scores[~rough].mean() < 2


def test_what_was_never_seen_excuses_no_error(head):
    """A network may say anything of what is far from all it knows: that any error is usual."""
    strange = errors(0.0, [0.3, 0, 0])
    strange = Residuals(strange.off, strange.given + np.float32(1e4))
    assert float(head.score(strange)) > 0.5 * float(head.score(errors(0.9, [0.3, 0, 0])))


def test_blocks_begin_at_any_tick_and_their_history_stays_in_their_episode(seer):
    episodes, skip = weather(seer, 0, episodes=2, ticks=17), seer.config.frameskip
    found = _errors(seer, episodes)
    rows = [r for first in (0, 17) for r in range(first, first + 17 - skip)]
    assert len(found) == len(rows) == 24
    for i in (0, 7, 11, 12, 23):
        first, phase = rows[i] // 17 * 17, (rows[i] % 17) % skip
        count = (rows[i] - first - phase) // skip + 1
        at = first + phase + skip * np.arange(count + 1)
        blocks = episodes.actions[at[0]:at[-1]].reshape(1, count, skip, 2)
        same = block_residuals(seer, episodes.latents[at][None].numpy(), blocks.numpy())[0, -1]
        np.testing.assert_allclose(found.off[i], same.off, atol=1e-6)
        np.testing.assert_array_equal(found.given[i], same.given)


def test_the_same_seed_gives_the_same_head_and_a_stop_leaves_none(seer):
    def trained(seed: int, stop: bool = False):
        return train_uncertainty(seer, weather(seer, 0, 4), weather(seer, 1, 4), SHAPE, steps=20,
                                 seed=seed, should_stop=lambda: stop)
    same, again, other = (trained(seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert not torch.equal(same['out.weight'], other['out.weight'])
    assert trained(0, stop=True)[1] is None


def test_few_errors_are_whitened_less():
    """Of 40 errors in 60 dimensions the covariance is mostly chance; 20,000 tell it well."""
    rng = np.random.default_rng(0)
    spread = np.r_[np.full(30, 3.0), np.full(30, 0.3)]
    held_out = rng.normal(size=(500, 60)) * spread

    def varies(matrix: np.ndarray) -> float:
        """The deviation of lengths over their mean: sqrt(2 / 60) at best."""
        lengths = np.square(held_out @ matrix).mean(axis=1)
        return lengths.std() / lengths.mean() / (2 / 60) ** 0.5

    many = rng.normal(size=(20_000, 60)) * spread
    assert varies(whitener(many, held_out)) < 1.1 and varies(whitener(many, many[:0])) < 1.1
    few, held_out = (rng.normal(size=(count, 60)) for count in (40, 500))
    as_they_are = np.linalg.inv(np.linalg.cholesky(np.cov(few.T) + 1e-6 * np.eye(60))).T
    assert varies(as_they_are) > 1.5
    assert varies(whitener(few, held_out)) < 1.2 and varies(whitener(few, few[:0])) < 1.2


def test_a_direction_without_errors_decides_nothing_by_rounding():
    usual = np.random.default_rng(0).normal(size=(1000, 3)) * [1, 1, 0]
    made = whitener(usual, usual[:200])
    assert np.isfinite(made).all() and np.square(np.array([0, 0, 1e-6]) @ made).mean() < 1e-3


def test_the_monitor_scores_as_the_batch_does_and_the_checkpoint_keeps_it(
        toy_model, robot, recording, tmp_path):
    torch.manual_seed(0)
    model = WorldModel(toy_model, robot).eval()
    train, held_out = (encode_split(model, recording, s) for s in ('train', 'validation'))
    head = train_uncertainty(model, train, held_out, SHAPE, steps=30)[0]
    path = tmp_path / 'm.safetensors'
    save_checkpoint(path, Checkpoint(model, robot, heads={'uncertainty': head}))
    kept = load_checkpoint(path)
    batch = score_dataset(kept.model, recording, 'all', score_of(kept.heads))[0]
    monitor, live = SurpriseMonitor(kept), []
    for row in range(int(recording.ep_len[0])):
        said = monitor.update(Frame(row, recording.frames(np.array([row]))[0]),
                              recording.action[row - 1] if row else None)
        live += [] if said is None else [said.score]
    np.testing.assert_allclose(live, batch, rtol=1e-3)
    assert not np.allclose(batch, score_dataset(kept.model, recording, 'all')[0], rtol=0.1)
    assert score_of({}) is plain and isinstance(kept.heads['uncertainty'], Uncertainty)


def test_a_calibration_of_another_models_scores_is_refused(seer, two_room, head):
    """A calibration file outlives the training that comes after it; its threshold does not."""
    other = train_uncertainty(seer, weather(seer, 0, 4), weather(seer, 1, 4), SHAPE, steps=5)[0]
    scores = [head.score(_errors(seer, weather(seer, 2)))]
    stored = {}
    for name, heads in (('its own', {'uncertainty': head}), ('another', {'uncertainty': other}),
                        ('the plain', {})):
        stored[name] = calibrate(scores, 0.5, SurpriseConfig(), scoring(seer, heads)).to_dict()
    stored['an old'] = {k: v for k, v in stored['its own'].items() if k != 'scoring'}
    made = Checkpoint(seer, two_room, heads={'uncertainty': head})
    assert SurpriseMonitor(dataclasses.replace(made, calibration=stored['its own'])).calibration
    for name in ('another', 'the plain', 'an old'):
        with pytest.raises(UserError, match='scores of another checkpoint .* delete'):
            SurpriseMonitor(dataclasses.replace(made, calibration=stored[name]))
    plainly = dataclasses.replace(made, heads={})
    for name in ('the plain', 'an old'):
        assert SurpriseMonitor(dataclasses.replace(plainly, calibration=stored[name])).calibration
    with pytest.raises(UserError, match='scores of another checkpoint'):
        SurpriseMonitor(dataclasses.replace(plainly, calibration=stored['its own']))


def test_too_short_a_recording_leaves_the_plain_error_and_says_so(toy_model, robot, recording,
                                                                  caplog):
    model = WorldModel(toy_model, robot).eval()
    split = np.where(np.arange(len(recording.ep_len)) == 0, 0, 3)
    few = dataclasses.replace(recording, ep_split=split.astype(recording.ep_split.dtype))
    with caplog.at_level(logging.WARNING):
        heads = train_heads(model, few, TrainConfig(uncertainty_steps=5))
    assert heads == {} and 'plain squared error; record more' in caplog.text


def test_a_long_recording_is_encoded_in_part_whole_episodes_from_all_over_it(
        toy_model, robot, recording):
    model = WorldModel(toy_model, robot).eval()
    whole, part = (encode_split(model, recording, 'all', most) for most in (None, 200))
    assert len(whole.latents) == 1200 and len(part.latents) == 180
    assert part.last.tolist() == 60 * [59] + 60 * [119] + 60 * [179]
    for i, episode in enumerate((0, 9, 19)):
        torch.testing.assert_close(part.latents[60 * i:60 * i + 60],
                                   whole.latents[60 * episode:60 * episode + 60])
