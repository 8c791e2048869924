"""When the planner node plans: at the frame that begins a block, or during the block before."""

from __future__ import annotations

import pytest

from lewm_ros.schedule import patience, plans_ahead


@pytest.mark.parametrize('when, plan_s, ahead', [
    ('auto', 0.02, False), ('auto', 0.06, True), ('now', 0.06, False), ('ahead', 0.001, True)])
def test_a_plan_that_would_keep_its_frame_waiting_is_made_ahead(when, plan_s, ahead):
    assert plans_ahead(when, plan_s, frame_s=0.1, block_s=0.5) == (ahead, '')


def test_a_plan_that_takes_longer_than_there_is_time_is_warned_of_with_the_cure():
    ahead, warning = plans_ahead('now', 0.2, frame_s=0.1, block_s=0.5)
    assert not ahead and '0.200 s' in warning and 'plan_when:=ahead' in warning
    ahead, warning = plans_ahead('auto', 0.7, frame_s=0.1, block_s=0.5)
    assert ahead and '0.500 s' in warning and 'planner.samples' in warning


def test_waiting_for_a_plan_longer_than_for_the_camera_is_warned_of():
    """Above max_age_s the plan's deadline keeps a robot going by a picture that is stale."""
    assert patience(0.5, max_age_s=0.5) == ''
    assert 'plan_deadline_s is 2 s, longer than the 0.5 s' in patience(2.0, max_age_s=0.5)
