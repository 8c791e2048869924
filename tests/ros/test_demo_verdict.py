"""What the demo says of its own figures."""

from __future__ import annotations

import copy

import pytest

from lewm_ros.demo_verdict import verdicts

GOOD = {
    'record': {'frames': 100, 'commands': 100, 'lost': 0},
    'latent': {'std_min': 0.8, 'std_mean': 0.9, 'effective_rank': 15.0},
    'probe': {'r2_min': 0.97},
    'plan': {'goals': 100, 'success_rate': 0.9, 'ci_low': 0.83, 'ci_high': 0.95,
             'strict_success_rate': 0.8, 'random_success_rate': 0.05, 'hold_success_rate': 0.0,
             'line_success_rate': 0.5, 'realtime_goals': 10, 'realtime_success_rate': 0.9,
             'action_limit_violations': 0},
    'surprise': {'teleports': 20, 'teleports_detected': 20, 'detection_delay_blocks_max': 1,
                 'false_alarms': 1, 'false_alarms_by_score': 0, 'false_alarms_by_sum': 1,
                 'normal_hours': 1 / 6, 'promised_per_hour': 6.0,
                 'false_alarm_ci_low': 0.15, 'false_alarm_ci_high': 33.4},
    'wall_s': 300.0}


def changed(group, **values):
    figures = copy.deepcopy(GOOD)
    figures[group].update(values)
    return [sentence for good, sentence in verdicts(figures) if not good]


def test_a_good_run_has_nothing_to_complain_of():
    assert all(good for good, _ in verdicts(GOOD))
    assert any('20 of 20 teleports detected, each of these within one block' in said
               for _, said in verdicts(GOOD))


@pytest.mark.parametrize('group, values, words', [
    ('record', {'lost': 3}, '3 of 200 recorded frames and commands were lost'),
    ('latent', {'std_min': 0.004, 'effective_rank': 28.9}, 'collapsed: smallest std 0.004'),
    ('latent', {'effective_rank': 1.2}, 'collapsed: effective rank 1.2'),
    ('latent', {'std_min': 0.45}, 'less spread out than they should be: smallest std 0.450'),
    ('probe', {'r2_min': 0.5}, '0.500 at the least'),
    ('plan', {'success_rate': 0.84}, '84 of 100 goals reached'),
    ('plan', {'random_success_rate': 0.2}, 'random 20 %'),
    ('plan', {'action_limit_violations': 1}, '1 published commands were outside'),
    ('surprise', {'teleports_detected': 19}, '19 of 20 teleports'),
    ('surprise', {'detection_delay_blocks_max': 2}, 'the slowest in block 2 (aim: the first)'),
    ('surprise', {'false_alarm_ci_low': 6.5}, '6 were promised'),
    ('surprise', {'false_alarm_ci_low': 6.5, 'false_alarms_by_score': 3},
     '(3 by the score of a single block, 1 by the sum of what lasts)')])
def test_what_was_missed_is_said_in_words(group, values, words):
    said = changed(group, **values)
    assert len(said) == 1 and words in said[0]
