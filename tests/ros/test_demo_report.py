"""What the demo's page shows, and the picture of the README that is made of it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from lewm_core.report import new_figure
from lewm_ros.demo_report import Material, _events, _scores, write_report

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import readme_picture  # noqa: E402

S = 10**9
EVENTS = [(60 * S, 'teleport'), (64 * S, 'colour'), (68 * S, 'colour_end'), (72 * S, 'teleport')]
PLAN = {f'{kind}success_rate': 0.5 for kind in ('', 'strict_', 'realtime_', 'line_', 'random_',
                                                'hold_')}


def scores():
    """160 blocks of half a second; four of them exceed, of which one is above the threshold."""
    return [{'stamp_ns': i * S // 2, 'score': 9.0 if i == 121 else 1.0 + i % 3, 'threshold': 5.0,
             'exceeds': i in (121, 130, 131, 132)} for i in range(160)]


def test_every_block_that_the_node_spoke_of_has_a_dot_below_the_threshold_too():
    _, axis = new_figure()
    _scores(axis, scores(), 0)
    dots = axis.lines[-1].get_xydata()
    assert dots[:, 0] * 120 == pytest.approx([121, 130, 131, 132])
    assert (dots[:, 1] < 5).sum() == 3


def test_a_colour_change_is_a_band_and_a_teleport_a_line():
    _, axis = new_figure()
    _events(axis, EVENTS, 0)
    assert [round(60 * line.get_xdata()[0]) for line in axis.lines] == [60, 72]
    (band,) = axis.patches
    assert [round(60 * x) for x in band.get_extents().transformed(
        axis.transData.inverted()).intervalx] == [64, 68]


@pytest.mark.parametrize('events', [EVENTS, []])
def test_the_picture_of_the_readme_is_made_of_a_report(events, tmp_path):
    frame = np.zeros((64, 64, 3), np.uint8)
    material = Material('toy', recorded=[frame] * 8, scores=scores(), events=events,
                        trials=[{'path': [[0, 0], [1, 1]], 'reached': True}],
                        goal_images=[frame])
    _, page = write_report(tmp_path, {'plan': {**PLAN, 'ci_low': 0.4, 'ci_high': 0.6}}, material)
    assert readme_picture.compose(page.read_text()).shape[1:] == (readme_picture.WIDTH, 3)


def test_a_page_without_the_pictures_is_refused():
    with pytest.raises(SystemExit, match='surprise over time'):
        readme_picture.compose('<html></html>')
