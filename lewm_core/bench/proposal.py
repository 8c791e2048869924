"""`lewm bench proposal`: what a learned start and a learned distance save, on the same problems.

Every search drives the same robots from the same starts to the same goals, none of which any
training saw, at least twice as far as the training drive came within a plan's horizon. What is
compared is compared problem by problem.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from lewm_core.agent import Agent
from lewm_core.arena import Task
from lewm_core.bench.common import write_result
from lewm_core.bench.trials import run_trials
from lewm_core.checkpoint import Checkpoint, load_checkpoint
from lewm_core.config import PlannerConfig
from lewm_core.data import Dataset
from lewm_core.envs import make_world
from lewm_core.evaluate import encode_rows
from lewm_core.jobs import BenchProposalJob
from lewm_core.tails import wilson_interval
from lewm_core.threads import set_threads
from lewm_core.types import UserError

_FULL = dict(samples=300, elites=30, iterations=30, proposal=False)
_SMALL = dict(samples=30, elites=6, iterations=3)
_LEAN = dict(samples=20, elites=3, iterations=3)  # planner=small
_TINY = dict(samples=16, elites=4, iterations=1)
# What is compared, by name; `full` is the reference's budget.
ARMS: dict[str, dict[str, Any]] = {
    'full': _FULL, 'small': {**_SMALL, 'proposal': False}, 'small_proposal': _SMALL,
    'lean': {**_LEAN, 'proposal': False}, 'lean_proposal': _LEAN,
    'tiny': {**_TINY, 'proposal': False}, 'tiny_proposal': _TINY,
    'proposal': dict(solver='proposal', warm_start=False),
    'small_distance': {**_SMALL, 'proposal': False, 'distance_weight': 0.2},
    'small_proposal_distance': {**_SMALL, 'distance_weight': 0.2}}
_MARGIN = 0.03   # of success: what counts as no worse
_CHUNK = 25      # problems driven at a time
_DRAWS = 10_000
_PAIRS = 4000


def run(job: BenchProposalJob, overrides: list[str]) -> int:
    """The exit code; goes on where an earlier run with the same settings was stopped."""
    set_threads(job.threads)
    unknown = sorted(set(job.arms) - set(ARMS))
    if unknown:
        raise UserError(f'arm {unknown[0]!r} is not known; choose among {sorted(ARMS)}')
    checkpoint = load_checkpoint(job.checkpoint)
    dataset = Dataset.open(job.dataset).with_split(checkpoint.data)
    name = job.world or checkpoint.spec.name
    reach = training_distance(checkpoint, dataset, make_world(name))
    identity = {'bench': 'proposal', 'world': name, 'seed': job.seed, 'ticks': job.ticks,
                'checkpoint': hashlib.sha256(job.checkpoint.read_bytes()).hexdigest()[:16],
                'training_distance_m': reach}
    arms = _earlier(job.output, identity)
    for arm in job.arms:
        planner = dataclasses.replace(checkpoint.planner, **ARMS[arm])
        count = min(job.problems, job.full_problems) if arm == 'full' else job.problems
        row = arms.setdefault(arm, {'planner': dataclasses.asdict(planner), 'ticks': [],
                                    'plans': 0, 'seconds': 0.0})
        for first in range(len(row['ticks']), count, _CHUNK):
            worlds, tasks = problems(name, range(first, min(first + _CHUNK, count)), 2 * reach,
                                     job.seed, checkpoint.model.config.image_size)
            found = run_trials(Agent(checkpoint, planner), worlds, tasks, ticks=job.ticks,
                               seed=job.seed + first)
            row['ticks'] += found.ticks.tolist()
            row['plans'], row['seconds'] = row['plans'] + found.plans, (row['seconds']
                                                                        + found.seconds)
            write_result(job.output, {**identity, 'arms': arms})
            print(f'{arm}: {len(row["ticks"])} of {count} problems', file=sys.stderr)
    result = {**identity, 'arms': arms, 'table': table(arms, job.ticks),
              'distance': distance_figures(checkpoint, dataset, make_world(name)),
              'summary': summary(arms, job.seed, job.ticks)}
    write_result(job.output, result)
    print(json.dumps({k: result[k] for k in ('table', 'distance', 'summary')}, indent=2))
    return 0


def problems(name: str, indices: range, least_m: float, seed: int, pixels: int = 64
             ) -> tuple[list[Any], list[Task]]:
    """A world and a task for each index, its way at least `least_m` long; the same for all.

    The worlds' pictures are `pixels` square.
    """
    worlds, tasks = [], []
    for index in indices:
        world, rng = make_world(name, pixels), np.random.default_rng([seed, index])
        while True:
            task = world.sample_task(rng)
            start = np.array([[task.start['x'], task.start['y']]])
            if world.way(start, task.goal[None])[0] >= least_m:
                break
        worlds.append(world)
        tasks.append(task)
    return worlds, tasks


def training_distance(checkpoint: Checkpoint, dataset: Dataset, world: Any) -> float:
    """How far, m, the training drive came within a plan's horizon: the median shortest way."""
    blocks = checkpoint.planner.horizon + 1
    rows = dataset.windows('train', blocks, checkpoint.model.config.frameskip)
    places = np.stack([dataset.states['x'], dataset.states['y']], axis=1)
    ahead = rows + (blocks - 1) * checkpoint.model.config.frameskip
    return float(np.median(world.way(places[rows], places[ahead])))


def table(arms: dict[str, Any], limit: int) -> list[dict[str, Any]]:
    """A row for each arm: its budget, success with its 95 % Wilson interval, ticks, time."""
    rows = []
    for name, arm in arms.items():
        ticks, planner = np.array(arm['ticks']), PlannerConfig(**arm['planner'])
        reached = int((ticks >= 0).sum())
        low, high = wilson_interval(reached, len(ticks))
        searched = planner.solver != 'proposal'
        rows.append({'arm': name, 'rollouts': planner.samples * planner.iterations * searched,
                     'problems': len(ticks), 'success': reached / len(ticks), 'low': low,
                     'high': high, 'ticks_mean': float(_spent(ticks, limit).mean()),
                     'plan_ms': 1e3 * arm['seconds'] / max(arm['plans'], 1)})
    return rows


def summary(arms: dict[str, Any], seed: int, limit: int) -> dict[str, Any]:
    """Each arm beside the full search, and each with a proposal beside itself without.

    Differences of success with their 95 % bootstrap intervals over problems; `not_inferior` where
    the difference is, with 95 % confidence, above minus three points (`one_sided_low`). Of the
    ticks needed, all that were allowed where the goal was missed, the mean difference and
    Wilcoxon's p.
    """
    pairs = [(name, 'full') for name in arms if name != 'full' and 'full' in arms]
    pairs += [(a, b) for a, b in (('small_proposal', 'small'), ('lean_proposal', 'lean'),
                                  ('lean_proposal', 'small_proposal'), ('tiny_proposal', 'tiny'),
                                  ('small_distance', 'small'),
                                  ('small_proposal_distance', 'small_proposal'))
              if a in arms and b in arms]
    return {f'{a} - {b}': _paired(np.array(arms[a]['ticks']), np.array(arms[b]['ticks']), seed,
                                  limit) for a, b in pairs}


def _least(gain: np.ndarray) -> float:
    """The one-sided 95 % lower bound of the mean of paired differences (N,), each -1, 0 or 1.

    Bonett & Price 2012: two problems are added, one for each side. A bootstrap of ten problems
    that all ended alike would be certain of everything.
    """
    count, won, lost = len(gain) + 2, (gain > 0).sum() + 1, (gain < 0).sum() + 1
    mean = (won - lost) / count
    spread = np.sqrt(((won + lost) / count - mean ** 2) / count)
    return float(mean - stats.norm.ppf(0.95) * spread)


def _paired(ours: np.ndarray, other: np.ndarray, seed: int, limit: int) -> dict[str, Any]:
    count = min(len(ours), len(other))
    ours, other = ours[:count], other[:count]
    gain = (ours >= 0).astype(float) - (other >= 0)
    rng = np.random.default_rng(seed)
    means = gain[rng.integers(count, size=(_DRAWS, count))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    one_sided = _least(gain)
    later = _spent(ours, limit) - _spent(other, limit)
    p = stats.wilcoxon(later).pvalue if later.any() else 1.0
    return {'problems': count, 'success': float(gain.mean()), 'low': float(low),
            'high': float(high), 'one_sided_low': float(one_sided),
            'not_inferior': bool(one_sided > -_MARGIN), 'ticks': float(later.mean()),
            'ticks_p': float(p)}


def distance_figures(checkpoint: Checkpoint, dataset: Dataset, world: Any
                     ) -> dict[str, Any] | None:
    """How latent distances and the learned one go with the shortest way, on unseen pairs.

    Pairs of test frames of all episodes; `far` those farther apart than the median. None without
    a distance.
    """
    if 'distance' not in checkpoint.heads:
        return None
    import torch
    rows = dataset.rows('test')
    latents = torch.from_numpy(encode_rows(checkpoint.model, dataset, rows))
    places = np.stack([dataset.states['x'], dataset.states['y']], axis=1)[rows]
    i, j = np.random.default_rng(0).integers(len(rows), size=(2, _PAIRS))
    way = world.way(places[i], places[j])
    with torch.no_grad():
        found = {'latent': (latents[i] - latents[j]).square().mean(dim=-1).numpy(),
                 'learned': checkpoint.heads['distance'](latents[i], latents[j]).numpy()}
    far = way > np.median(way)
    return {name: {'pearson': float(np.corrcoef(values, way)[0, 1]),
                   'spearman': float(stats.spearmanr(values, way)[0]),
                   'spearman_far': float(stats.spearmanr(values[far], way[far])[0])}
            for name, values in found.items()}


def _spent(ticks: np.ndarray, limit: int) -> np.ndarray:
    return np.where(ticks < 0, limit, ticks)


def _earlier(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The arms of an earlier run with the same settings; UserError when they are others."""
    if not path.exists():
        return {}
    try:
        before = json.loads(path.read_text())
    except ValueError:
        before = {}
    for key, value in identity.items():
        if before.get(key) != value:
            raise UserError(f'output {str(path)!r} holds another bench ({key}: '
                            f'{before.get(key)!r}, not {value!r}); give another output, or '
                            'remove it')
    return before['arms']
