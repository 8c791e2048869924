"""The whole way in small: record over DDS, convert, train, plan in lock-step, watch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SMALL = ['seed=0', 'frames=4000', 'train.steps=120', 'train.distance_steps=50', 'goals=40',
         'train.uncertainty_steps=300', 'realtime_goals=0', 'calibration_minutes=3',
         'normal_minutes=3', 'teleports=20', 'colours=4']


# 120 steps are a seventh of the demo's, so SIGReg gets more weight to be done with in them; the
# paper finds success flat for weights from 0.01 to 0.2.
SHORT = 'model.sigreg_weight=0.15'


def demo(output, *overrides):
    """The report of a small demo, run as a user runs it; fails with its output."""
    command = [sys.executable, '-m', 'lewm_core.cli', 'demo', f'output={output}', *SMALL,
               *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    logs = '\n'.join(f'{path.name}: {path.read_text(errors="replace")[-1500:]}'
                     for path in sorted(output.glob('logs/*.log')))
    assert done.returncode == 0, f'{done.stdout}\n{done.stderr}\n{logs}'
    return json.loads((output / 'report.json').read_text()), done.stdout


@pytest.fixture(scope='module')
def small_run(tmp_path_factory):
    output = tmp_path_factory.mktemp('demo') / 'run'
    report, said = demo(output, SHORT)
    return output, report, said


def test_a_robot_learns_from_its_own_recording_and_plans_better_than_chance(small_run):
    _, report, _ = small_run
    assert report['record']['lost'] == 0
    assert report['record']['frames'] == report['dataset']['frames'] == 4000
    plan = report['plan']
    assert plan['success_rate'] > plan['random_success_rate'] + 0.4, plan
    assert plan['action_limit_violations'] == 0


def test_the_latents_spread_out_and_a_teleport_surprises_the_model(small_run):
    _, report, _ = small_run
    assert report['latent']['std_min'] > 0.5, report['latent']
    assert report['latent']['effective_rank'] > 5, report['latent']
    assert report['surprise']['auroc_teleport'] > 0.95, report['surprise']


def test_the_report_is_one_page_that_needs_nothing_else(small_run):
    output, _, said = small_run
    page = (output / 'report.html').read_text()
    assert page.count('data:image/png;base64,') >= 4
    assert 'src="http' not in page
    assert 'report.html' in said


def test_without_sigreg_the_latents_collapse_and_the_report_says_so(tmp_path):
    # A collapse needs few frames, and no head is looked at.
    report, said = demo(tmp_path / 'run', 'model.sigreg_weight=0', 'frames=1000', 'goals=2',
                        'train.batch_size=32', 'train.proposal_steps=0', 'train.distance_steps=0',
                        'train.uncertainty_steps=0',
                        'calibration_minutes=1', 'normal_minutes=1', 'teleports=2', 'colours=0')
    assert report['latent']['std_min'] < 0.1
    assert 'the latents have collapsed' in said
    assert 'the latents have collapsed' in (tmp_path / 'run' / 'report.html').read_text()
