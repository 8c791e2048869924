"""Full searches side by side: ours in each precision and as it is chosen, and the reference's."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lewm_core.bench.common import other_python, ratio
from lewm_core.checkpoint import Checkpoint, save_checkpoint
from lewm_core.config import ModelConfig
from lewm_core.int8 import supported
from lewm_core.interchange import export_tensors
from lewm_core.interchange_config import config_tree
from lewm_core.jobs import BenchPlannerJob
from lewm_core.model import WorldModel
from lewm_core.paths import load_robot
from lewm_core.two_room import TwoRoom
from lewm_core.types import UserError

# Beyond any plan, as in the reference, which knows no limits; and statistics that are not 0 and 1.
_LIMIT, _MEAN, _STD = 100.0, (0.05, -0.02), (0.2, 0.3)


class Worker:
    """A planner in a process of its own: it plans one problem at a time."""

    def __init__(self, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True, env=environment)
        self._answer()

    def plan(self, number: int) -> dict[str, float]:
        """The seconds that the plan of problem `number` took, and the process's peak memory."""
        self._process.stdin.write(json.dumps({'problem': number}) + '\n')
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Nothing; ends the process."""
        self._process.stdin.close()
        self._process.wait(60)

    def _answer(self) -> dict[str, float]:
        line = self._process.stdout.readline()
        if not line:
            raise UserError(f'{self._process.args[:3]} ended with code {self._process.wait()}; '
                            'what it said is above: mend it, or leave reference_python out')
        return json.loads(line)


def perturbed(config: ModelConfig, seed: int, scale: float = 0.05) -> WorldModel:
    """A model of random weights in evaluation, every tensor moved by seeded noise.

    As it is built, its modulation is zero: no action would change anything.
    """
    spec = load_robot('two_room')
    camera = dataclasses.replace(spec.camera, width=config.image_size, height=config.image_size)
    fields = tuple(dataclasses.replace(f, min=-_LIMIT, max=_LIMIT) for f in spec.action.fields)
    spec = dataclasses.replace(spec, cameras=(camera,),
                               action=dataclasses.replace(spec.action, fields=fields))
    torch.manual_seed(seed)
    model = WorldModel(config, spec).eval()
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = scale * torch.randn(tensor.shape, generator=draw)
                tensor.add_(noise.abs() if name.endswith('running_var') else noise)
    model.set_action_statistics(_MEAN, _STD)
    return model


def speed(job: BenchPlannerJob) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The rows of all planners and how they compare, on the same problems in turn."""
    model = perturbed(job.model, job.seed)
    int8 = ['int8'] if job.device == 'cpu' and supported() else []
    names = {f'ours_{precision}': [sys.executable, '-m', 'lewm_core.bench.planner_worker']
             for precision in ('float32', 'bf16', *int8, 'auto')}
    if job.reference_python:
        names['swm'] = [str(job.reference_python), str(Path(__file__).with_name('swm_worker.py'))]
    with tempfile.TemporaryDirectory(prefix='lewm_bench_') as where:
        folder = Path(where)
        _write(folder, model, job)
        threads = job.threads or torch.get_num_threads()
        workers = {name: Worker([*command, where, str(threads), name.removeprefix('ours_')],
                                other_python() if name == 'swm' else None)
                   for name, command in names.items()}
        told: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for number in range(job.rounds):
            for name, worker in workers.items():
                told[name].append(worker.plan(number))
                print(f'round {number + 1} of {job.rounds}: {name} '
                      f'{told[name][-1]["seconds"]:.2f} s', file=sys.stderr)
        costs = {name: np.concatenate([_cost(folder, model, name, number, job)
                                       for number in range(job.rounds)]) for name in names}
        for worker in workers.values():
            worker.close()
    rows = [_row(job, name, told[name], costs[name]) for name in names]
    return rows, _compare(told, costs, job.seed)


def _write(folder: Path, model: WorldModel, job: BenchPlannerJob) -> None:
    """Nothing; the model in both formats, the search and the problems."""
    save_checkpoint(folder / 'model.safetensors', Checkpoint(model, model.spec))
    torch.save(export_tensors(model), folder / 'weights.pt')
    config, search = model.config, dataclasses.asdict(job.planner)
    (folder / 'config.json').write_text(json.dumps(config_tree(config, model.spec.action_dim)))
    encoder = {'image_size': config.image_size, 'patch_size': config.patch_size,
               'width': config.encoder_width, 'depth': config.encoder_depth,
               'heads': config.encoder_heads, 'mlp': config.encoder_mlp}
    (folder / 'search.json').write_text(json.dumps({
        'planner': search, 'encoder': encoder, 'device': job.device, 'seed': job.seed,
        'frameskip': config.frameskip, 'action_dim': model.spec.action_dim,
        **{key: search[key] for key in ('samples', 'iterations', 'elites', 'horizon')}}))
    rng = np.random.default_rng(job.seed)
    world = TwoRoom(config.image_size)
    for number in range(job.rounds):
        pairs = []
        for _ in range(job.batch):
            task = world.sample_task(rng)
            world.reset_to(task)
            pairs.append((world.render(), world.goal_image(task)))
        frame, goal = (np.stack(v) for v in zip(*pairs))
        np.savez(folder / f'problem_{number}.npz', frame=frame, goal=goal)


@torch.no_grad()
def _cost(folder: Path, model: WorldModel, name: str, number: int, job: BenchPlannerJob
          ) -> np.ndarray:
    """The cost (B,) of a plan at its end under the float32 model, whoever made it."""
    plan = torch.from_numpy(np.load(folder / f'plan_{name}_{number}.npy'))
    if name == 'swm':
        plan = plan.unflatten(-1, (model.config.frameskip, -1))
        plan = plan * model.action_std + model.action_mean
    problem = np.load(folder / f'problem_{number}.npz')
    latents, goals = (model.encode(torch.from_numpy(problem[key])) for key in ('frame', 'goal'))
    ends = model.rollout(latents[:, None], plan[:, :0], plan[:, None])[:, 0, -1]
    return (ends - goals).square().mean(dim=-1).numpy()


def _row(job: BenchPlannerJob, name: str, told: list[dict[str, float]], costs: np.ndarray
         ) -> dict[str, Any]:
    solver, _, dtype = name.partition('_')
    return {'table': 'speed', 'solver': 'swm CEMSolver' if solver == 'swm' else job.planner.solver,
            'device': job.device, 'dtype': dtype or 'float32', 'batch': job.batch,
            'samples': job.planner.samples, 'iterations': job.planner.iterations,
            'horizon': job.planner.horizon, 'rounds': len(told),
            'recorded': told[-1].get('recorded'), 'kernel_share': told[-1].get('kernel_share'),
            'plan_ms': 1e3 * float(np.median([t['seconds'] for t in told])),
            'final_cost': float(np.median(costs)), 'peak_mb': max(t['peak_mb'] for t in told)}


def _compare(told: dict[str, list[dict[str, float]]], costs: dict[str, np.ndarray], seed: int
             ) -> dict[str, float]:
    """How ours compare with the reference; of ours, the faster one, and each by name."""
    if 'swm' not in told:
        return {'speedup_vs_reference': np.nan, 'cost_ratio_vs_reference': np.nan}
    seconds = {name: np.array([t['seconds'] for t in rows]) for name, rows in told.items()}
    found: dict[str, float] = {}
    ours = [name for name in seconds if name != 'swm']
    for name in ours:
        found[f'speedup_{name}'] = ratio(seconds['swm'], seconds[name])
        ratios = costs[name] / costs['swm']
        low, high = median_interval(ratios, seed)
        found |= {f'cost_ratio_{name}': float(np.median(ratios)),
                  f'cost_ratio_{name}_low': low, f'cost_ratio_{name}_high': high}
    best = max(ours, key=lambda name: found[f'speedup_{name}'])
    return {'speedup_vs_reference': found[f'speedup_{best}'],
            'cost_ratio_vs_reference': found[f'cost_ratio_{best}'], 'fastest': best, **found}


def median_interval(values: np.ndarray, seed: int, draws: int = 10_000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median (Efron 1979, percentile)."""
    rng = np.random.default_rng(seed)
    medians = np.median(rng.choice(values, (draws, len(values))), axis=1)
    return tuple(float(v) for v in np.quantile(medians, (0.025, 0.975)))
