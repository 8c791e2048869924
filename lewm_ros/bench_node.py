"""`lewm bench node`: the planner node's latency at real time, and the ablation of its delay."""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lewm_core.bench.ahead import compare_delays
from lewm_core.bench.arrival import in_words, measure_arrival
from lewm_core.bench.common import write_result
from lewm_core.checkpoint import load_checkpoint
from lewm_core.envs import WORLDS
from lewm_core.jobs import BenchNodeJob, DemoJob
from lewm_core.tails import wilson_interval
from lewm_core.threads import set_threads
from lewm_core.types import UserError
from lewm_ros.demo import Run, say
from lewm_ros.demo_drive import start_planner, trials
from lewm_ros.demo_watch import Watcher
from lewm_ros.fleet import Fleet, free_domain


def main(job: BenchNodeJob, overrides: list[str]) -> int:
    """The exit code: 0 when all was measured, whatever the figures are.

    Raises UserError when the checkpoint's robot lives in none of the simulated worlds.
    """
    set_threads(1)
    checkpoint = load_checkpoint(job.checkpoint)
    if checkpoint.spec.name not in WORLDS:
        raise UserError(f'the checkpoint is for robot {checkpoint.spec.name!r}, which has no '
                        f'simulated world; give one for a robot of {sorted(WORLDS)}')
    rows = _realtime(job, checkpoint.spec) if job.realtime_goals else []
    with tqdm(total=job.goals, desc='ablation', leave=False,
              disable=not sys.stderr.isatty()) as bar:
        reached = compare_delays(checkpoint, job.planner, job.goals, job.seed,
                                 lambda done, _: bar.update(done - bar.n))
    ablation = {mode: _share(outcomes) for mode, outcomes in reached.items()}
    for mode, row in ablation.items():
        say('{:<8} {success_rate:6.1%} of goals ({ci_low:.1%} to {ci_high:.1%}), no clock'.format(
            mode, **row))
    with tqdm(total=job.goals, desc='arrival', leave=False,
              disable=not sys.stderr.isatty()) as bar:
        arrival = measure_arrival(checkpoint, job.planner, job.goals, job.seed,
                                  lambda done, _: bar.update(done - bar.n))
    say(in_words(arrival))
    write_result(job.output, {
        'robot': checkpoint.spec.name, 'goals': job.goals, 'seed': job.seed, 'arrival': arrival,
        'planner': dataclasses.asdict(job.planner), 'ablation': ablation, 'realtime': rows})
    say(str(job.output))
    return 0


def _share(outcomes: list[bool]) -> dict[str, float]:
    low, high = wilson_interval(sum(outcomes), len(outcomes))
    return {'success_rate': sum(outcomes) / len(outcomes), 'ci_low': low, 'ci_high': high}


def _realtime(job: BenchNodeJob, spec: Any) -> list[dict[str, Any]]:
    """A row for each mode: success, latency and missed ticks at real time over DDS."""
    rows, domain = [], free_domain()
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    with tempfile.TemporaryDirectory(prefix='lewm_bench_') as folder:
        os.environ['ROS_LOG_DIR'] = folder
        robot = Path(folder) / 'robot.yaml'
        robot.write_text(spec.to_json())  # which is YAML too
        demo = DemoJob(seed=job.seed, robot=str(robot), planner=job.planner)
        with Fleet(Path(folder), domain) as fleet:
            watcher = Watcher(domain)
            try:
                run = Run(demo, spec, robot, spec.name, Path(folder), fleet, watcher, [],
                          checkpoint=Path(job.checkpoint).resolve())
                for when in ('now', 'ahead'):
                    rows.append(_mode(run, job, when))
            finally:
                watcher.close()
    return rows


def _mode(run: Run, job: BenchNodeJob, when: str) -> dict[str, Any]:
    name = f'planner_node_{when}'
    start_planner(run, name, plan_when=when)
    driven = trials(run, 'external', job.realtime_goals, lockstep=False, speed=1.0)
    heard = run.watcher.news_of('planner_node')
    run.fleet.stop(name)
    row = {'plan_when': when, 'goals': len(driven), **_share([t['reached'] for t in driven])}
    for key in ('latency_ms_p50', 'latency_ms_p95', 'deadline_ms', 'missed_share', 'blocks',
                'plans', 'late'):
        row[key] = float(heard[key])
    say(f'planned {when}: {row["success_rate"]:.0%} of {len(driven)} goals at real time; plan p50 '
        f'{row["latency_ms_p50"]:.1f} ms, p95 {row["latency_ms_p95"]:.1f} ms; missed '
        f'{row["missed_share"]:.1%} of {row["blocks"]:.0f} blocks')
    return row
