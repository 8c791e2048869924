"""What the demo counts of a watched drive, and when it takes a drive for heard."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lewm_core.types import UserError
from lewm_ros import demo
from lewm_ros.demo_drive import _score, _surprise
from lewm_ros.demo_report import Material, write_report

BLOCK_NS = 5 * 10**8


def status(block, score=1.0, cusum=0.0, alarm=False):
    """What the surprise node says of a block; the threshold is 10, and 5 for the sum."""
    return _score({'stamp_ns': block * BLOCK_NS, 'score': f'{score}', 'threshold': '10.0',
                   'cusum': f'{cusum}', 'cusum_threshold': '5.0',
                   'exceeds': 'true' if score > 10 or cusum > 5 else 'false',
                   'alarm': 'true' if alarm else 'false'})


@pytest.fixture
def watched():
    """A thousand ordinary blocks with four alarms, and a teleport that is noticed."""
    said = {100: status(100, 12.0, 3.0, True), 101: status(101, 13.0, 4.0),
            300: status(300, 3.0, 6.0, True), 400: status(400, 4.0, 7.0, True),
            # Both at once: the block would have been an alarm without the sum.
            500: status(500, 40.0, 8.0, True), 1000: status(1000, 50.0, 3.0, True)}
    scores = [said.get(n, status(n)) for n in range(1010)]
    spec = SimpleNamespace(rate_hz=10.0)
    job = SimpleNamespace(surprise=SimpleNamespace(promised_per_hour=6.0))
    material = Material(scores=scores, events=[(999 * BLOCK_NS + 1, 'teleport')])
    return SimpleNamespace(material=material, spec=spec, job=job)


def test_false_alarms_are_told_apart_by_what_raised_them(watched):
    found = _surprise(watched, 500.0, 0.5)
    assert found['false_alarms'] == 4 and found['teleports_detected'] == 1
    assert (found['false_alarms_by_score'], found['false_alarms_by_sum']) == (2, 2)
    assert found['normal_hours'] == pytest.approx(1000 * 0.5 / 3600)


def test_blocks_before_the_first_event_are_ordinary_though_the_clock_jumped(watched):
    """An episode that the world ends lets the clock jump, which is no ordinary driving."""
    for block in watched.material.scores[200:]:
        block['stamp_ns'] += 60 * 10**9
    watched.material.events = [(999 * BLOCK_NS + 1 + 60 * 10**9, 'teleport')]
    assert _surprise(watched, 500.0, 0.5)['normal_hours'] == pytest.approx(1000 * 0.5 / 3600)


@pytest.mark.parametrize('block, counts', [(1004, 1), (1005, 1), (1006, 0), (1007, 0)])
def test_a_colours_end_is_not_how_it_was_noticed(watched, block, counts):
    """The change back is as great a surprise, and came within the four seconds looked at.

    A colour's slot and its end's are each moved by up to eight ticks, so it may last 3.2 s only.
    """
    begun, ended = 1000 * BLOCK_NS + 3 * 10**8, 1005 * BLOCK_NS + 10**8
    watched.material.events = [(begun, 'colour'), (ended, 'colour_end')]
    watched.material.scores[1000:] = [status(n, 50.0 if n == block else 1.0)
                                      for n in range(1000, 1010)]
    assert _surprise(watched, 500.0, 0.5)['colours_detected'] == counts


def test_the_report_says_both_counts(watched, tmp_path):
    figures = {'surprise': _surprise(watched, 500.0, 0.5), 'plan': {}}
    paths = write_report(tmp_path, figures, watched.material)
    assert '"false_alarms_by_sum": 2' in paths[0].read_text()
    page = paths[1].read_text()
    assert 'false_alarms_by_score' in page and page.count('data:image/png') == 1


def heard(count, **kwargs):
    """Follows a node that has ended after `count` of ten, with none to come."""
    fleet = SimpleNamespace(ended=lambda node: True, check=lambda: None, log_dir=demo.Path('logs'))
    demo.Run.follow(SimpleNamespace(fleet=fleet), 'blocks', 10, lambda: count, 'sim', **kwargs)


def test_a_drive_with_fewer_blocks_is_whole_where_the_world_ended_episodes(monkeypatch):
    monkeypatch.setattr(demo, 'CALM_S', 0.1)
    monkeypatch.setattr(demo, 'SILENCE_S', 0.3)
    heard(10)
    heard(8, enough=lambda: 8)
    with pytest.raises(UserError, match='stopped at 8 of 10'):
        heard(8)
    with pytest.raises(UserError, match='stopped at 7 of 10'):
        heard(7, enough=lambda: 8)
