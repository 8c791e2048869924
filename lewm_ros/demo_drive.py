"""The demo's second half: plan to goals, then watch for surprises, with the trained model."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lewm_core.tails import auroc, poisson_interval, wilson_interval
from lewm_ros.fleet import ros_arguments

if TYPE_CHECKING:
    from lewm_ros.demo import Run

TRIAL_TICKS = 60
EVENT_GAP_TICKS = 40
# Times real time: what the surprise node keeps up with on two cores, so that it misses no block.
WATCH_SPEED = 40.0
# Room for a whole drive: a node that is short of processor time is late, but misses nothing.
QUEUE_DEPTH = 20_000
# In lock-step time stands still while the planner thinks, so lateness has no meaning there.
LOCKSTEP_DEADLINE_S = 5.0
# The calibration drive, the watched drive and the trials must not be one and the same random walk.
CALIBRATION_SEED, WATCH_SEED = 1_000_003, 2_000_003


def plan(run: Run) -> None:
    """Drives to the goals with the planner, then with what does not plan, on the same tasks."""
    start_planner(run, 'planner_node', plan_deadline_s=LOCKSTEP_DEADLINE_S)
    driven = trials(run, 'external', run.job.goals, lockstep=True,
                    lockstep_timeout_s=2 * LOCKSTEP_DEADLINE_S)
    run.material.trials = driven[:8]
    run.material.goal_images = run.watcher.goal_pictures()[:8]
    run.material.extent = _extent(run)
    spoken = run.watcher.news_of('planner_node')
    run.fleet.stop('planner_node')
    start_planner(run, 'planner_node_realtime')
    realtime = trials(run, 'external', run.job.realtime_goals, lockstep=False, speed=1.0)
    run.fleet.stop('planner_node_realtime')
    others = {policy: trials(run, policy, run.job.goals) for policy in ('random', 'hold', 'line')}
    reached = sum(trial['reached'] for trial in driven)
    low, high = wilson_interval(reached, len(driven))
    run.figures['plan'] = {
        'goals': len(driven), 'success_rate': _share(driven, 'reached'), 'ci_low': low,
        'ci_high': high, 'strict_success_rate': _share(driven, 'strict'),
        **{f'{name}_success_rate': _share(trials, 'reached') for name, trials in others.items()},
        'realtime_goals': len(realtime), 'realtime_success_rate': _share(realtime, 'reached'),
        'realtime_factor': _realtime_factor(driven),
        'timeouts': sum(t['timeouts'] for t in driven),
        'latency_ms_p50': float(spoken['latency_ms_p50']),
        'latency_ms_p95': float(spoken['latency_ms_p95']),
        'action_limit_violations': sum(t['violations'] for t in driven + realtime)}


def start_planner(run: Run, name: str, **parameters: Any) -> None:
    """Starts a planner with the demo's search; its log is called `name`."""
    search = {f'planner.{key}': value for key, value in vars(run.job.planner).items()}
    run.fleet.start(name, 'lewm_ros.planner_node', ros_arguments({
        'checkpoint': run.checkpoint, 'robot': run.robot, 'reliable_camera': True, 'threads': 1,
        **search, **parameters}))


def _extent(run: Run) -> tuple[float, float, float, float]:
    """What the camera sees in the units of the path: left, right, bottom, top."""
    return (0.0, 512.0, 512.0, 0.0) if 'PushT' in run.world else (0.0, 1.0, 0.0, 1.0)


def _share(trials: list[dict[str, Any]], key: str) -> float:
    return sum(trial[key] for trial in trials) / len(trials) if trials else math.nan


def _realtime_factor(trials: list[dict[str, Any]]) -> float:
    """Simulated seconds a wall second, over all trials."""
    simulated = sum(trial['driven'] for trial in trials)
    return simulated / sum(trial['driven'] / trial['realtime_factor'] for trial in trials)


def trials(run: Run, policy: str, count: int, **parameters: Any) -> list[dict[str, Any]]:
    """The outcomes of `count` tasks driven by `policy`, the same tasks for each policy."""
    if count == 0:
        return []
    run.watcher.forget()
    name = f'sim_robot_{policy}' + ('' if parameters.get('lockstep', True) else '_realtime')
    run.sim(name, mode='trials', policy=policy, trials=count, trial_ticks=TRIAL_TICKS,
            **parameters)
    heard = run.watcher.trials
    run.follow(f'{policy} goals', count, lambda: len(heard), name)
    return [_outcome(values) for values in heard]


def _outcome(values: dict[str, str]) -> dict[str, Any]:
    """A trial's key–value pairs as what they mean."""
    path = json.loads(values['path'])
    return {'reached': values['reached'] == 'true', 'strict': values['strict'] == 'true',
            'ticks': int(values['ticks']), 'timeouts': int(values['timeouts']),
            'violations': int(values['violations']), 'path': path, 'driven': len(path) - 1,
            'realtime_factor': float(values['realtime_factor'])}


def watch(run: Run) -> None:
    """Calibrates the surprise node on one drive; another, with events in it, is watched."""
    job, rate = run.job, run.spec.rate_hz
    run.watcher.forget()
    run.fleet.start('surprise_node', 'lewm_ros.surprise_node', ros_arguments({
        'checkpoint': run.checkpoint, 'reliable_camera': True, 'queue_depth': QUEUE_DEPTH,
        'threads': 1, **vars(job.surprise)}))
    run.watcher.wait_for('surprise_node', lambda: 'surprise_node' in run.watcher.diagnostics, 60,
                         run.fleet.check)
    ticks = math.ceil(60 * job.calibration_minutes * rate)
    _drive(run, 'sim_robot_calibrate', ticks, job.seed + CALIBRATION_SEED)
    # It learns from the drive: ten seconds, and more where others want the processor.
    run.watcher.call('surprise_node/recalibrate', timeout_s=300.0)
    run.watcher.forget()
    quiet = math.ceil(60 * job.normal_minutes * rate)
    busy = (job.teleports + 2 * job.colours + 1) * EVENT_GAP_TICKS
    _drive(run, 'sim_robot_watch', quiet + busy, job.seed + WATCH_SEED, start_stamp=1e6,
           normal_ticks=quiet, teleports=job.teleports, colours=job.colours,
           event_gap_ticks=EVENT_GAP_TICKS)
    run.fleet.stop('surprise_node')
    run.material.scores = [_score(values) for values in run.watcher.statuses]
    run.material.events = list(run.watcher.events)
    run.figures['surprise'] = _surprise(run, quiet / rate, job.model.frameskip / rate)


def _drive(run: Run, name: str, frames: int, seed: int, **parameters: Any) -> None:
    """Lets the robot drive itself for `frames` ticks while the surprise node scores each block."""
    frameskip = run.job.model.frameskip
    run.sim(name, mode='drive', policy='explore', frames=frames, seed=seed, wait_subscribers=1,
            wait_topics=f'{run.spec.camera.topic},{run.spec.action.topic}', recorded_topic='',
            speed=WATCH_SPEED, queue_depth=QUEUE_DEPTH, **parameters)
    statuses, counts = run.watcher.statuses, run.watcher.counts
    marker = (run.spec.episode_topic or '').strip('/')

    def least() -> int:
        # Where the world ends an episode, the block that was under way is lost.
        episodes = next((int(count) for topic, count in counts.get(
            'sim_robot/published', {}).items() if topic.strip('/') == marker), 1)
        return frames // frameskip - episodes

    run.follow('blocks watched', frames // frameskip - 1, lambda: len(statuses), name,
               enough=least)


def _score(values: dict[str, Any]) -> dict[str, Any]:
    score, threshold = float(values['score']), float(values['threshold'])
    return {'stamp_ns': values['stamp_ns'], 'score': score, 'threshold': threshold,
            'cusum': float(values['cusum']), 'cusum_threshold': float(values['cusum_threshold']),
            'jumped': score > threshold, 'exceeds': values['exceeds'] == 'true',
            'alarm': values['alarm'] == 'true'}


def _surprise(run: Run, quiet_s: float, block_s: float) -> dict[str, Any]:
    """Detection and false alarms, from the scores heard and the events announced."""
    scores, events = run.material.scores, run.material.events
    # The clock jumps where the world ends an episode: by it this would be less than was driven.
    end_ns = min([stamp for stamp, _ in events],
                 default=scores[0]['stamp_ns'] + round(1e9 * quiet_s))
    normal = [s for s in scores if s['stamp_ns'] < end_ns]
    hours = len(normal) * block_s / 3600
    alarms = sum(s['alarm'] for s in normal)
    by_score = sum(s['alarm'] and s['jumped'] for s in normal)
    low, high = poisson_interval(alarms, hours)
    quiet_scores = np.array([s['score'] for s in normal])
    # A teleport is seen at once or never; a colour lasts, and may take as long to be noticed. That
    # the sum is still high from a colour before is no detection of a teleport.
    lasts = int(EVENT_GAP_TICKS / run.spec.rate_hz / block_s)
    delays = {kind: [_delay(scores, stamp, block_s, *how, _end(events, stamp, kind))
                     for stamp, k in events if k == kind]
              for kind, how in (('teleport', ('jumped', 2)), ('colour', ('exceeds', lasts)))}
    found = {kind: [d for d in each if d is not None] for kind, each in delays.items()}
    first = {kind: np.array([_block_of(scores, stamp)['score'] for stamp, k in events
                             if k == kind]) for kind in delays}
    return {
        'teleports': len(delays['teleport']), 'teleports_detected': len(found['teleport']),
        'colours': len(delays['colour']), 'colours_detected': len(found['colour']),
        **{f'auroc_{kind}': auroc(each, quiet_scores) for kind, each in first.items()},
        'detection_delay_blocks_max': max(found['teleport'], default=math.nan),
        'false_alarms': alarms, 'false_alarms_by_score': by_score,
        'false_alarms_by_sum': alarms - by_score, 'normal_hours': hours,
        'promised_per_hour': run.job.surprise.promised_per_hour,
        'false_alarm_ci_low': low, 'false_alarm_ci_high': high,
        'threshold': scores[-1]['threshold'], 'cusum_threshold': scores[-1]['cusum_threshold'],
        'median_score': float(np.median(quiet_scores))}


def _block_of(scores: list[dict[str, Any]], stamp_ns: int) -> dict[str, Any]:
    """The score of the block that a stamp falls into: the first one that ends at or after it."""
    return next(s for s in scores if s['stamp_ns'] >= stamp_ns)


def _end(events: list[tuple[int, str]], stamp_ns: int, kind: str) -> float:
    """The stamp at which a colour that changed at `stamp_ns` is the usual one again, else inf."""
    return min((stamp for stamp, k in events if kind == 'colour' and k == 'colour_end'
                and stamp > stamp_ns), default=math.inf)


def _delay(scores: list[dict[str, Any]], stamp_ns: int, block_s: float, sign: str, within: int,
           end_ns: float = math.inf) -> int | None:
    """Blocks from an event to its detection: 1 in the block it falls into, None after `within`.

    None from the block that sees its end at `end_ns` on, too: that is another surprise.
    `sign` is what says it: 'jumped' (the score is above its threshold) or 'exceeds' (or the sum,
    unless that was high before).
    """
    block_ns = round(1e9 * block_s)
    if any(s['exceeds'] for s in scores if 0 < stamp_ns - s['stamp_ns'] <= block_ns):
        sign = 'jumped'
    for score in scores:
        blocks = (score['stamp_ns'] - stamp_ns) // block_ns + 1
        if stamp_ns <= score['stamp_ns'] < end_ns and blocks <= within and score[sign]:
            return blocks
    return None
