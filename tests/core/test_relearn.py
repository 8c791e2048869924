"""A drive teaches the score where errors are large, and is not judged by what it taught."""

from __future__ import annotations

import base64
import dataclasses
import threading

import numpy as np
import pytest
import torch
from tests.core.evaluation_toys import Seer

from lewm_core.calibration import Calibration
from lewm_core.checkpoint import Checkpoint
from lewm_core.config import SurpriseConfig, UncertaintyConfig
from lewm_core.head_training import encode_split
from lewm_core.model import WorldModel
from lewm_core.paths import load_robot
from lewm_core.relearn import from_text, relearn, to_text
from lewm_core.surprise import SurpriseMonitor
from lewm_core.types import Frame, UserError
from lewm_core.uncertainty import Errors, Uncertainty, bound, train_uncertainty

SHAPE = UncertaintyConfig(width=32, dropout=0.0, batch_size=128, learning_rate=1e-2)


@pytest.fixture(scope='module')
def head():
    """One that expects the same everywhere."""
    torch.manual_seed(0)
    return Uncertainty(SHAPE, Seer(load_robot('two_room'))).eval()


def gusts(head: Uncertainty, seed: int, count: int = 1500) -> list[Errors]:
    """Drives with errors that are a hundred times as large, squared, in the east (given[0] > 0).
    """
    rng = np.random.default_rng(seed)
    given = rng.normal(size=(count, len(head.given_mean))).astype(np.float32)
    squared = rng.chisquare(3, count) * np.where(given[:, 0] > 0, 100.0, 1.0)
    cut = count // 3
    return [Errors(squared[:cut], given[:cut]), Errors(squared[cut:], given[cut:])]


def test_the_same_error_is_usual_where_the_drive_had_such_and_news_elsewhere(head):
    found = relearn(head, gusts(head, 0), steps=150, learning_rate=1e-2)
    east, west = gusts(head, 1, 300)[0].given[[0, 0]]
    east[0], west[0] = 1.0, -1.0
    same = Errors(np.array([100.0, 100.0]), np.stack([east, west]))
    before, after = head.over_expected(same), found.head.over_expected(same)
    assert before[0] == before[1], 'the head that was given has learned nothing'
    assert after[1] > 20 * after[0]


def test_each_blocks_score_comes_back_in_its_episode_and_half_are_below_1(head):
    drives = gusts(head, 0)
    found = relearn(head, drives, steps=150, learning_rate=1e-2)
    assert [len(scores) for scores in found.scores] == [500, 1000]
    assert (np.concatenate(found.scores) < 1).mean() == pytest.approx(0.5, abs=0.01)
    # By another fold's head, but of the same block: what was large for its place is large.
    later = [found.head.over_expected(drive) for drive in drives]
    for own, by_all in zip(found.scores, later):
        assert np.corrcoef(np.log(own), np.log(by_all))[0, 1] > 0.9


def test_no_block_is_scored_by_a_head_that_learned_from_it(head):
    """By what was learned from them, the drive's own rare errors would look usual, and their
    threshold would be too low for those of the next drive."""
    drive = Errors.joined(gusts(head, 0))
    rare = np.arange(910, 990)  # all in the fourth fifth, and far from all other places
    drive.given[rare, 1], drive.squared[rare] = 6.0, 1e5
    found = relearn(head, [drive], steps=150, learning_rate=1e-2)
    later = found.head.over_expected(drive)
    assert np.median(found.scores[0][rare]) > 5 * np.median(later[rare])
    others = np.setdiff1d(np.arange(1500), rare)
    assert np.median(found.scores[0][others]) < 1.5 * np.median(later[others])


def test_what_the_drive_never_saw_excuses_no_error(head):
    found = relearn(head, gusts(head, 0), steps=150, learning_rate=1e-2).head
    strange = Errors(np.array([1e4]), gusts(head, 2, 3)[0].given + np.float32(1e4))
    usual = np.concatenate([e.given for e in gusts(head, 0)])
    with torch.no_grad():
        most = float(found(torch.from_numpy(usual)).max())
    assert found.over_expected(strange) >= 1e4 / np.exp(most) * 0.99


def test_a_heads_range_is_that_of_what_it_learned_from_now_not_of_before(head):
    """The mean of the five was held to the range of the first of them, too."""
    found = relearn(head, gusts(head, 0), steps=150, learning_rate=1e-2).head
    every = Errors.joined(gusts(head, 0))
    bound(found, every[every.given[:, 0] < 0])
    calm = float(found.range[1])
    bound(found, every)
    assert float(found.range[1]) > calm + 1


def test_the_same_seed_gives_the_same_head_and_a_stop_gives_none(head):
    one, same, other = (relearn(head, gusts(head, 0), steps=20, seed=seed).head.state_dict()
                        for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one['out.weight'], other['out.weight'])
    told = []
    assert relearn(head, gusts(head, 0), steps=20, on_progress=told.append,
                   should_stop=lambda: len(told) > 30) is None
    assert told == sorted(told) and 0 < told[0] and 0.2 < told[-1] < 1


def test_a_head_survives_as_text_and_damage_or_another_shape_is_said(head):
    found = relearn(head, gusts(head, 0), steps=20).head
    text = to_text(found)
    drive = gusts(head, 1)[0]
    np.testing.assert_array_equal(from_text(head, text).over_expected(drive),
                                  found.over_expected(drive))
    for damaged in (text[:-8], 'no base64 §', base64.b64encode(b'none').decode()):
        with pytest.raises(UserError, match='cannot be read .* delete calibration_file'):
            from_text(head, damaged)
    wider = Uncertainty(dataclasses.replace(SHAPE, width=48), Seer(load_robot('two_room')))
    with pytest.raises(UserError, match='of another checkpoint: delete calibration_file'):
        from_text(wider, text)


# The monitor

@pytest.fixture
def checkpoint(toy_model, robot, recording, monkeypatch):
    monkeypatch.setattr('lewm_core.relearn.LEAST', 100)
    torch.manual_seed(0)
    model = WorldModel(toy_model, robot).eval()
    train, held_out = (encode_split(model, recording, s) for s in ('train', 'validation'))
    head = train_uncertainty(model, train, held_out, SHAPE, steps=30)[0]
    return Checkpoint(model, robot, heads={'uncertainty': head},
                      surprise=SurpriseConfig(relearn_steps=40))


def watch(monitor: SurpriseMonitor, recording, episodes: int, first: int = 0) -> list[float]:
    """The scores of some episodes."""
    found = []
    for episode in range(first, first + episodes):
        start = int(recording.ep_offset[episode])
        for row in range(start, start + int(recording.ep_len[episode])):
            said = monitor.update(Frame(row, recording.frames(np.array([row]))[0]),
                                  recording.action[row - 1] if row > start else None)
            found += [] if said is None else [said.score]
    return found


def test_a_monitor_that_was_recalibrated_long_enough_scores_by_what_it_learned(checkpoint,
                                                                               recording):
    monitor = SurpriseMonitor(checkpoint)
    before = watch(monitor, recording, 8)
    calibration = monitor.recalibrate()
    after = watch(monitor, recording, 8)
    assert calibration.uncertainty and not np.allclose(before, after, rtol=0.05)
    assert len(after) > 100
    # Whoever is given the calibration scores the same, by the checkpoint as it always was.
    tree = Calibration.from_dict(calibration.to_dict()).to_dict()
    other = SurpriseMonitor(dataclasses.replace(checkpoint, calibration=tree))
    assert watch(other, recording, 8) == after
    assert watch(SurpriseMonitor(checkpoint), recording, 8) == before


def test_a_second_recalibration_learns_from_the_checkpoints_head_not_from_what_it_taught(
        checkpoint, recording):
    """Blocks that the serving head has learned from would be judged by what they taught."""
    once, twice = SurpriseMonitor(checkpoint), SurpriseMonitor(checkpoint)
    watch(twice, recording, 8)
    twice.recalibrate()
    twice.clear_scores()
    for monitor in (once, twice):
        watch(monitor, recording, 8, first=8)
    assert once.recalibrate().uncertainty == twice.recalibrate().uncertainty


def test_a_short_drive_moves_the_threshold_and_keeps_what_a_long_one_taught(checkpoint, recording):
    monitor = SurpriseMonitor(checkpoint)
    watch(monitor, recording, 4)
    assert not monitor.recalibrate().uncertainty, 'too little to learn from'
    watch(monitor, recording, 4, first=4)
    learned = monitor.recalibrate()
    monitor.clear_scores()
    scores = watch(monitor, recording, 4, first=8)
    short = monitor.recalibrate()
    assert short.uncertainty == learned.uncertainty and short.scoring == learned.scoring
    np.testing.assert_allclose(short.scores, sorted(scores), rtol=1e-5)
    assert short.threshold != learned.threshold


def test_without_steps_a_recalibration_changes_thresholds_alone(checkpoint, recording):
    plain = dataclasses.replace(checkpoint, surprise=SurpriseConfig(relearn_steps=0))
    monitor = SurpriseMonitor(plain)
    before = watch(monitor, recording, 8)
    assert not monitor.recalibrate().uncertainty
    assert watch(monitor, recording, 8) == before


def test_a_monitor_scores_on_while_another_thread_learns(checkpoint, recording):
    monitor, alone = SurpriseMonitor(checkpoint), SurpriseMonitor(checkpoint)
    for each in (monitor, alone):
        watch(each, recording, 8)
    learn, half, go, made = monitor.recalibration(), threading.Event(), threading.Event(), []

    def progress(share: float) -> None:
        if share > 0.5:
            half.set()
            assert go.wait(20)

    thread = threading.Thread(target=lambda: made.append(learn(on_progress=progress)))
    thread.start()
    assert half.wait(20)
    meanwhile = watch(monitor, recording, 2, first=8)
    assert monitor.calibration is None and meanwhile == watch(alone, recording, 2, first=8)
    go.set()
    thread.join(20)
    adopted = made[0]()
    assert monitor.calibration is adopted and adopted.blocks == 8 * len(meanwhile) // 2
    assert monitor.recalibration()(should_stop=lambda: True) is None
    assert monitor.calibration is adopted
