"""The monitor and the batch scores: one block at a time or all at once, the same numbers."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from lewm_core.calibration import MIN_BLOCKS
from lewm_core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from lewm_core.config import SurpriseConfig
from lewm_core.evaluation.promise import alarms_in
from lewm_core.model import WorldModel
from lewm_core.surprise import SurpriseMonitor, calibrate, score_dataset
from lewm_core.types import Frame, UserError


@pytest.fixture(scope='module')
def checkpoint(toy_model, robot) -> Checkpoint:
    """An untrained model, whose dynamics are arbitrary but its own."""
    torch.manual_seed(0)
    model = WorldModel(toy_model, robot).eval()
    model.set_action_statistics(np.array([0.01, -0.02]), np.array([0.2, 0.3]))
    with torch.no_grad():
        # Fresh adaptive norms are all zeros, and the actions would not count.
        for weights in model.predictor.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    return Checkpoint(model, robot)


def replay(monitor: SurpriseMonitor, dataset, episode: int, ticks: int | None = None) -> list:
    """What the monitor says at each tick of a recorded episode; pixels only when it wants them."""
    first, said = int(dataset.ep_offset[episode]), []
    for tick in range(ticks or int(dataset.ep_len[episode])):
        row = first + tick
        wanted = monitor.wants_frame or tick == 0
        pixels = dataset.frames(np.array([row]))[0] if wanted else None
        action = dataset.action[row - 1] if tick else None
        said.append(monitor.update(Frame(int(dataset.stamp_ns[row]), pixels), action))
    return said


def numbers(said: list) -> np.ndarray:
    return np.array([s.score for s in said if s is not None])


def test_batch_scores_are_the_monitors(checkpoint, recording):
    batch = score_dataset(checkpoint.model, recording, 'all')
    monitor = SurpriseMonitor(checkpoint)
    live = []
    for episode in recording.episodes('all'):
        live.append(numbers(replay(monitor, recording, episode)))
    assert len(batch) == len(live) == 20 and all(len(b) == 19 for b in batch)
    np.testing.assert_allclose(np.concatenate(batch), np.concatenate(live), rtol=1e-4)


def test_the_score_is_a_rollout_of_one_block_against_the_latent_that_came(checkpoint, recording):
    model, skip = checkpoint.model, checkpoint.model.config.frameskip
    scores = score_dataset(model, recording, 'all')[0]
    for block, context in ((1, 1), (2, 2), (3, 3), (9, 3)):
        rows = (block - context + np.arange(context + 1)) * skip
        acts = torch.from_numpy(recording.action[rows[0]:rows[-1]]).unflatten(0, (context, skip))
        with torch.no_grad():
            z = model.encode(torch.from_numpy(recording.frames(rows)))
            imagined = model.rollout(z[None, :-1], acts[None, :-1], acts[None, None, -1:])
        expected = float((imagined[0, 0, 0] - z[-1]).square().mean())
        assert scores[block - 1] == pytest.approx(expected, rel=1e-4)


def test_a_score_comes_once_a_block_with_a_fixed_phase_and_the_frames_stamp(
        checkpoint, recording):
    said = replay(SurpriseMonitor(checkpoint), recording, 0, ticks=11)
    assert [i for i, s in enumerate(said) if s is not None] == [3, 6, 9]
    assert said[6].stamp_ns == recording.stamp_ns[6]


def test_frames_are_wanted_only_where_blocks_begin_and_end(checkpoint, recording):
    monitor, wanted = SurpriseMonitor(checkpoint), []
    for tick in range(8):
        wanted.append(monitor.wants_frame)
        frame = Frame(tick, recording.frames(np.array([tick]))[0] if monitor.wants_frame else None)
        monitor.update(frame, np.zeros(2))
    assert wanted == [True, False, False, True, False, False, True, False]
    assert math.isfinite(monitor.latency_s) and monitor.latency_s > 0
    with pytest.raises(ValueError, match='wants_frame'):
        monitor.update(Frame(8, None), np.zeros(2))
        monitor.update(Frame(9, None), np.zeros(2))


def test_a_frame_without_an_action_begins_an_episode(checkpoint, recording):
    monitor = SurpriseMonitor(checkpoint)
    replay(monitor, recording, 0, ticks=8)
    again = numbers(replay(monitor, recording, 1))
    monitor.reset()
    np.testing.assert_array_equal(again, numbers(replay(monitor, recording, 1)))


def test_scores_depend_on_the_actions_of_the_block(checkpoint, recording):
    def scores(change: float) -> np.ndarray:
        monitor = SurpriseMonitor(checkpoint)
        return np.array([s.score for tick in range(13) if (s := monitor.update(
            Frame(tick, recording.frames(np.array([tick]))[0]),
            recording.action[tick - 1] + change * (tick == 12) if tick else None))])
    plain, changed = scores(0.0), scores(0.3)
    np.testing.assert_array_equal(plain[:3], changed[:3])
    assert plain[3] != changed[3]


def test_without_a_calibration_there_are_scores_and_no_alarms(checkpoint, recording):
    said = replay(SurpriseMonitor(checkpoint), recording, 0, ticks=4)[-1]
    assert said.score > 0 and math.isnan(said.p_value) and math.isnan(said.threshold)
    assert said.exceeds is False and said.alarm is False


def test_recalibrating_on_what_was_watched_is_calibrating_on_the_same_scores(checkpoint,
                                                                             recording):
    monitor = SurpriseMonitor(checkpoint, SurpriseConfig(promised_per_hour=30.0))
    with pytest.raises(UserError, match='0 blocks'):
        monitor.recalibrate()
    watched = [numbers(replay(monitor, recording, episode)) for episode in range(4)]
    assert monitor.blocks == 76 > MIN_BLOCKS
    calibration = monitor.recalibrate()
    assert calibration == calibrate(watched, monitor.block_s, monitor.config,
                                    calibration.scoring)
    assert monitor.calibration is calibration and calibration.block_s == pytest.approx(0.3)
    said = replay(monitor, recording, 5, ticks=4)[-1]
    assert said.threshold == calibration.threshold
    assert said.p_value == calibration.p_value(said.score)
    monitor.clear_scores()
    with pytest.raises(UserError, match='0 blocks'):
        monitor.recalibrate()
    assert monitor.calibration is calibration


@pytest.mark.parametrize('after, told', [
    ('......', 'jump'), ('xuuuuu', 'shift'), ('uuu...', 'jump'), ('...uu.', 'shift')])
def test_an_alarm_is_told_once_the_history_has_left_it_behind(checkpoint, recording, after, told):
    """What is high in the three blocks whose history begins before the alarm says nothing."""
    monitor = SurpriseMonitor(checkpoint)
    for episode in range(4):
        replay(monitor, recording, episode)
    limit = monitor.recalibrate().threshold
    scores = {'.': 1e-6 * limit, 'u': 0.99 * limit, 'x': 2 * limit}
    said = [monitor._judge(0, scores[c]) for c in '.x' + after + '.']
    assert [s.kind for s in said] == [''] * 7 + [told, '']
    monitor._judge(0, scores['x'])
    monitor.reset()
    assert not any(monitor._judge(0, scores['.']).kind for _ in range(9))


def test_an_alarm_is_the_first_block_of_a_cluster(checkpoint, recording):
    monitor = SurpriseMonitor(checkpoint)
    for episode in range(4):
        replay(monitor, recording, episode)
    calibration = monitor.recalibrate(SurpriseConfig(cluster_blocks=2))
    high, low = 2 * calibration.threshold, 1e-6 * calibration.threshold
    said = [monitor._judge(0, high if c == 'x' else low) for c in '..x.xx..x...x..']
    assert ''.join('x' if s.exceeds else '.' for s in said) == '..x.xx..x...x..'
    # At most 2 blocks apart is one alarm, also across a chain of them; 3 apart is another.
    assert [i for i, s in enumerate(said) if s.alarm] == [2, 8, 12]
    assert all(s.p_value < 0.1 for s in said if s.exceeds)
    monitor._judge(0, high)
    monitor.reset()
    assert monitor._judge(0, high).alarm


def test_what_lasts_is_one_alarm_is_told_at_once_and_is_over_soon_after(checkpoint, recording):
    monitor = SurpriseMonitor(checkpoint)
    for episode in range(20):
        replay(monitor, recording, episode)
    calibration = monitor.recalibrate(SurpriseConfig(promised_per_hour=60.0))
    odd = 0.999 * min(calibration.threshold, max(calibration.scores))
    usual = float(np.median(calibration.scores))
    said = [monitor._judge(0, score) for score in [usual] * 5 + [odd] * 300 + [usual] * 15]
    alarms = [i for i, s in enumerate(said) if s.alarm]
    assert len(alarms) == 1 and 5 < alarms[0] < 20, 'not the first odd block, but soon'
    assert said[alarms[0]].kind == 'shift' and not any(s.kind for s in said[alarms[0] + 1:])
    assert all(s.score <= s.threshold for s in said)
    assert all(s.exceeds == (s.cusum > s.cusum_threshold) for s in said)
    assert said[304].exceeds and not said[-1].exceeds
    np.testing.assert_allclose([s.cusum for s in said],
                               calibration.sums(np.array([s.score for s in said])))
    monitor.reset()
    assert monitor._judge(0, odd).cusum < calibration.cusum_threshold, 'an episode begins anew'


def test_the_evaluation_counts_the_alarms_that_the_monitor_raises(checkpoint, recording):
    monitor = SurpriseMonitor(checkpoint)
    for episode in range(20):
        replay(monitor, recording, episode)
    calibration = monitor.recalibrate(SurpriseConfig(promised_per_hour=600.0))
    scores = np.random.default_rng(0).choice(calibration.scores, 3000)
    raised = sum(monitor._judge(0, float(score)).alarm for score in scores)
    assert raised == alarms_in(scores, calibration) > 20


def test_a_checkpoints_calibration_comes_back_and_follows_the_promise(checkpoint, recording,
                                                                      tmp_path):
    kept = calibrate(score_dataset(checkpoint.model, recording, 'all'), 0.3, SurpriseConfig())
    save_checkpoint(tmp_path / 'model.safetensors', dataclasses.replace(
        checkpoint, calibration=kept.to_dict()))
    loaded = load_checkpoint(tmp_path / 'model.safetensors')
    assert SurpriseMonitor(loaded).calibration == kept
    stricter = SurpriseMonitor(loaded, SurpriseConfig(promised_per_hour=0.1)).calibration
    assert stricter.threshold > kept.threshold and stricter.promised_per_hour == 0.1
    with pytest.raises(UserError, match='promised_per_hour=0.1'):
        SurpriseMonitor(loaded, SurpriseConfig(promised_per_hour=0.1, extrapolate=False))


def test_bad_input_is_refused_in_a_sentence_and_begins_an_episode(checkpoint, recording):
    monitor = SurpriseMonitor(checkpoint)
    picture = recording.frames(np.array([0]))[0]
    monitor.update(Frame(0, picture), None)
    for action in (np.array([np.nan, 0.0]), np.zeros(3)):
        with pytest.raises(UserError, match="2 finite numbers.*'cmd_vel'"):
            monitor.update(Frame(1, picture), action)
        assert monitor.wants_frame
        monitor.update(Frame(2, picture), np.zeros(2))
    monitor.reset()
    with pytest.raises(UserError, match='8, 8, 3'):
        monitor.update(Frame(0, np.zeros((8, 8, 3), np.uint8)), None)
    assert monitor.blocks == 0


def test_diverged_weights_are_said_and_not_scored(toy_model, robot, recording):
    torch.manual_seed(0)
    model = WorldModel(toy_model, robot).eval()
    with torch.no_grad():
        next(model.pred_proj.parameters()).fill_(math.nan)
    monitor = SurpriseMonitor(Checkpoint(model, robot))
    with pytest.raises(UserError, match='score is nan'):
        replay(monitor, recording, 0)
    assert monitor.blocks == 0
    with pytest.raises(UserError, match='scores are not finite'):
        calibrate(score_dataset(model, recording, 'all'), 0.3, SurpriseConfig())


def test_warming_up_measures_and_changes_nothing(checkpoint, recording):
    monitor = SurpriseMonitor(checkpoint)
    assert 0 < monitor.warm_up() < 60 and monitor.blocks == 0 and monitor.wants_frame
    plain = numbers(replay(SurpriseMonitor(checkpoint), recording, 0))
    np.testing.assert_array_equal(numbers(replay(monitor, recording, 0)), plain)


def test_episodes_shorter_than_a_block_have_no_scores(checkpoint, record, tmp_path):
    few = record(tmp_path / 'few.h5', [4, 3, 2, 40])
    scores = {e: s for e, s in zip((0, 3), score_dataset(checkpoint.model, few, 'all'))}
    assert len(scores[0]) == 1 and len(scores[3]) == 13


def test_scoring_keeps_no_graph_and_no_more_than_the_history(checkpoint, recording):
    monitor = SurpriseMonitor(checkpoint)
    replay(monitor, recording, 0)
    assert all(not z.requires_grad for z in monitor._latents) and len(monitor._latents) == 3
    assert torch.is_grad_enabled()
