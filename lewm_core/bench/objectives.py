"""`lewm bench objectives`: LeWM's loss beside PLDM's, on one dataset, tuned with equal effort."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lewm_core.agent import Agent
from lewm_core.atomic import write_text
from lewm_core.bench.common import write_result
from lewm_core.bench.planner_success import problems
from lewm_core.bench.trials import run_trials
from lewm_core.checkpoint import Checkpoint, load_checkpoint, read_metadata
from lewm_core.compose import compose
from lewm_core.config import ModelConfig, TrainConfig
from lewm_core.data import Dataset
from lewm_core.envs import WORLDS, make_world
from lewm_core.evaluation.perturbations import in_world
from lewm_core.jobs import BenchObjectivesJob, BenchPlannerJob
from lewm_core.run_folder import Settings, trained_already
from lewm_core.skill import open_loop_skill
from lewm_core.surprise import SurpriseMonitor
from lewm_core.tails import auroc
from lewm_core.train import train
from lewm_core.types import Frame, UserError

log = logging.getLogger(__name__)

OBJECTIVES = ('lewm', 'pldm')
# The same for both: what keeps the latents apart, times each of these.
FACTORS = (1 / 9, 1 / 3, 1.0, 3.0, 9.0)
_STEP, _WIDEST = 3.0, 81.0  # while the best is at an end, one more beyond it, up to these
_TRIAL_TICKS = 60  # as in the demo
_TELEPORT = 'teleport robot 2 radii'
_ORDINARY_BLOCKS = 8
_EVALUATION_SEED = 10_000  # tasks and teleports that no explorer's seed drew


def run_objectives(job: BenchObjectivesJob, overrides: list[str]) -> int:
    """The exit code: 0; writes the table to `output`. Finished trainings are not repeated.

    For each objective its anti-collapse weights are multiplied by each of FACTORS and, while the
    best is at an end, by the next beyond it; trained with seed 0 for `share` of the steps; and the
    factor of the greatest open-loop skill on validation episodes is kept. Then `seeds` whole
    trainings are measured on test episodes and in the world.
    """
    dataset = Dataset.open(job.dataset)
    job = compose('bench_objectives', overrides, dataset.spec)
    if dataset.spec.name not in WORLDS:
        raise UserError(f'the dataset is of robot {dataset.spec.name!r}, but goals are driven to '
                        f'in a simulated world: give one of {sorted(WORLDS)}')
    found: dict[str, Any] = {}
    for name in OBJECTIVES:
        best, skills = tuned(lambda factor, n=name: _skill(job, dataset, n, factor))
        rows = [_measured(job, dataset, name, best, seed) for seed in range(job.seeds)]
        found[name] = {'tuning': [{'factor': f, 'val_skill': s} for f, s in skills.items()],
                       'factor': best, 'seeds': rows, 'mean': _over(rows, np.mean),
                       'std': _over(rows, deviation)}
        _say(name, found[name])
    write_result(job.output, {
        'dataset': str(job.dataset), 'steps': job.train.steps, 'goals': job.goals,
        'tuning_steps': round(job.share * job.train.steps), 'objectives': found})
    print(job.output)
    return 0


def weighted(name: str, factor: float, model: ModelConfig, config: TrainConfig
             ) -> tuple[ModelConfig, TrainConfig]:
    """The settings of objective `name` with its anti-collapse weights times `factor`."""
    if name == 'lewm':
        return (dataclasses.replace(model, sigreg_weight=factor * model.sigreg_weight),
                dataclasses.replace(config, loss=name))
    scaled = {key: factor * getattr(config, key)
              for key in ('pldm_variance', 'pldm_covariance', 'pldm_time_variance',
                          'pldm_inverse')}
    return model, dataclasses.replace(config, loss=name, **scaled)


def _trained(job: BenchObjectivesJob, dataset: Dataset, name: str, factor: float, seed: int,
             steps: int) -> Path:
    """The checkpoint of one training; the one that is there already where it is finished.

    Raises UserError where that one had other settings or data.
    """
    config = dataclasses.replace(job.train, steps=steps, seed=seed, stop_on_collapse=False,
                                 validate_every=max(1, steps // 4))
    if steps < job.train.steps:  # a tuning run drives nowhere
        config = dataclasses.replace(config, proposal_steps=0, distance_steps=0,
                                     uncertainty_steps=0)
    model, config = weighted(name, factor, job.model, config)
    folder = job.output.with_suffix('') / f'{name}_x{factor:.2g}_seed{seed}_steps{steps}'
    settings = Settings(model, job.data, config, job.planner, job.surprise)
    if job.overwrite or not trained_already(folder, settings, dataset):
        log.info('training %s', folder)
        train(dataset, model, job.data, config, folder, planner=job.planner,
              surprise=job.surprise, overwrite=job.overwrite)
    return folder / 'model.safetensors'


def tuned(skill: Callable[[float], float | None]) -> tuple[float, dict[float, float | None]]:
    """The factor of the greatest `skill(factor)`, and every skill; None is less than any."""
    skills = {factor: skill(factor) for factor in FACTORS}
    while True:
        best = max(skills, key=lambda f: -math.inf if skills[f] is None else skills[f])
        beyond = best * _STEP if best == max(skills) else best / _STEP
        too_far = abs(math.log(beyond)) > math.log(_WIDEST) + 1e-6
        if min(skills) < best < max(skills) or too_far:
            return best, skills
        skills[beyond] = skill(beyond)


def _skill(job: BenchObjectivesJob, dataset: Dataset, name: str, factor: float) -> float | None:
    steps = max(1, round(job.share * job.train.steps))
    path = _trained(job, dataset, name, factor, 0, steps)
    return read_metadata(path)['metrics'].get('kept_skill')


def _measured(job: BenchObjectivesJob, dataset: Dataset, name: str, factor: float, seed: int
              ) -> dict[str, Any]:
    """The figures of one whole training; those that lie beside it are not measured again."""
    path = _trained(job, dataset, name, factor, seed, job.train.steps)
    kept = path.with_name(f'measured_{job.goals}_{job.teleports}.json')
    if kept.exists() and not job.overwrite:
        return json.loads(kept.read_text())
    checkpoint = load_checkpoint(path)
    figures = checkpoint.metrics['evaluation']
    skill = open_loop_skill(checkpoint.model, dataset.with_split(checkpoint.data), 'test',
                            job.planner.horizon)
    row = {'seed': seed, 'probe_r2_min': figures['probe_r2_min'],
           'std_min': figures['latent']['std_min'],
           'effective_rank': figures['latent']['effective_rank'],
           'skill': None if skill is None else skill.skill,
           'teleport_auroc': teleport_auroc(checkpoint, job.teleports),
           'goals_reached': goals_reached(checkpoint, job.goals)}
    write_text(kept, json.dumps(row) + '\n')
    return row


def goals_reached(checkpoint: Checkpoint, goals: int) -> float:
    """The share in [0, 1] of `goals` tasks of the robot's world reached within 60 ticks."""
    asked = BenchPlannerJob(world=checkpoint.spec.name, problems=goals, seed=_EVALUATION_SEED)
    found = run_trials(Agent(checkpoint), *problems(asked, checkpoint), ticks=_TRIAL_TICKS,
                       seed=_EVALUATION_SEED)
    return float((found.ticks >= 0).mean())


def teleport_auroc(checkpoint: Checkpoint, teleports: int) -> float | None:
    """The AUROC of the block in which the robot is teleported against the ordinary ones before.

    `teleports` drives of the world's own explorer, one teleport each, two radii far: of those six
    radii far every model notices each. A drive in which there was no room for it has none.
    """
    spec, monitor = checkpoint.spec, SurpriseMonitor(checkpoint)
    world, skip = make_world(spec.name, spec.camera.width), checkpoint.model.config.frameskip
    rng = np.random.default_rng(_EVALUATION_SEED)
    jump = next(change for change in in_world(world) if change.name == _TELEPORT)
    ordinary, moved = [], []
    for drive in range(teleports):
        pixels, _ = world.reset(seed=_EVALUATION_SEED + drive)
        explore, action, happened = world.explorer(rng), None, False
        monitor.reset()
        for tick in range((_ORDINARY_BLOCKS + 1) * skip + 1):
            score = monitor.update(Frame(round(tick * spec.tick_s * 1e9), pixels), action)
            if score is not None:
                if tick < (_ORDINARY_BLOCKS + 1) * skip:
                    ordinary.append(score.score)
                elif happened:
                    moved.append(score.score)
            action = explore(world.state())
            pixels = world.step(action)[0]
            if tick == _ORDINARY_BLOCKS * skip + skip // 2:
                happened = jump.happen(world, rng)
                pixels = world.render()
    return auroc(np.array(moved), np.array(ordinary)) if moved else None


def deviation(values: list[float]) -> float:
    """The standard deviation of what `values` are a sample of; NaN of a single one.

    Over n - 1: three seeds are three of all that could have been, and over n they would seem to
    differ by a fifth less than seeds do.
    """
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _over(rows: list[dict[str, float | None]], take: Any) -> dict[str, float]:
    names = [name for name in rows[0] if name != 'seed'] if rows else []
    return {name: float(take([row[name] for row in rows])) for name in names
            if all(row[name] is not None for row in rows)}


def _say(name: str, found: dict[str, Any]) -> None:
    figures = ', '.join(f'{key} {value:.3f} ± {found["std"][key]:.3f}'
                        for key, value in found['mean'].items())
    print(f'{name} (weights x {found["factor"]:.2g}): {figures}', flush=True)
