"""Two tables of time alone: the small model's plan as in the demo, and a model of patch tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lewm_core.agent import Agent
from lewm_core.bench.common import alternate, peak_mb, ratio, reset_peak
from lewm_core.bench.kernels import kernel_share
from lewm_core.bench.planner_speed import perturbed
from lewm_core.bench.planner_success import world_of
from lewm_core.checkpoint import Checkpoint, load_checkpoint
from lewm_core.config import PlannerConfig
from lewm_core.envs import make_world
from lewm_core.imagine import Imagination
from lewm_core.jobs import BenchPlannerJob
from lewm_core.model import LatentDynamics
from lewm_core.planner import goal_objective, solve
from lewm_core.trainer import resolve_device
from lewm_core.types import Frame, UserError

_PLANS = 200
# DINO-WM's predictor (arXiv 2411.04983): 3 frames of 14² or 16² tokens, width 384.
_WIDTH, _DEPTH, _HEADS, _HEAD_DIM, _MLP, _FRAMES = 384, 6, 16, 64, 2048, 3
# Of patches, a GPU has room for more; with two of them it would be idle.
_PATCH_SAMPLES, _PATCH_SAMPLES_GPU, _VECTOR_SAMPLES = 2, 100, 300


def small(job: BenchPlannerJob) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The time of a plan from a picture as the demo plans: the checkpoint's search, one thread."""
    if job.checkpoint is None:
        raise UserError('the table small needs a trained model; give checkpoint=PATH')
    checkpoint = load_checkpoint(job.checkpoint, job.device)
    job = dataclasses.replace(job, world=world_of(job.world, checkpoint))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [_timed(job, checkpoint, precision) for precision in ('float32', 'bf16')]
    finally:
        torch.set_num_threads(before)
    chosen = rows[checkpoint.planner.precision == 'bf16']
    return rows, {'demo_plan_ms_p50': chosen['plan_ms'], 'demo_plan_ms_p95': chosen['plan_ms_p95']}


def _timed(job: BenchPlannerJob, checkpoint: Checkpoint, precision: str) -> dict[str, Any]:
    config = dataclasses.replace(checkpoint.planner, precision=precision)
    reset_peak(torch.device(job.device))
    agent = Agent(checkpoint, config, job.device)
    agent.warm_up()  # as the planner node does
    world = make_world(job.world.removesuffix('_far'), checkpoint.model.config.image_size)
    rng, seconds, costs = np.random.default_rng(job.seed), [], []
    for number in range(_PLANS):
        if number % 10 == 0:
            task = world.sample_task(rng)
            world.reset_to(task)
            agent.reset()
            agent.set_goal(world.goal_image(task))
        plan = agent.plan(Frame(number, world.render()))
        seconds.append(plan.seconds)
        costs.append(plan.cost)
        for action in plan.actions[:agent.frameskip]:
            world.step(action)
    p50, p95 = (1e3 * float(np.percentile(seconds, q)) for q in (50, 95))
    share = kernel_share(lambda: agent.plan(Frame(0, world.render())), torch.device(job.device))
    return _row('small', config.solver, precision, config, job, p50, plan_ms_p95=p95,
                final_cost=float(np.median(costs)), recorded=agent.recorded > 0,
                kernel_share=share)


def patches(job: BenchPlannerJob) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Ours beside a predictor of patch tokens; both searched by the same solver, a few rollouts.

    What counts is the time of one rollout: a full search of the latter takes an hour here.
    """
    device, rows = resolve_device(job.device), []
    model = perturbed(job.model, job.seed).to(device)
    runs: dict[str, Any] = {}
    few = _PATCH_SAMPLES if device.type == 'cpu' else _PATCH_SAMPLES_GPU
    configs = {count: dataclasses.replace(job.planner, samples=count, elites=2, iterations=1)
               for count in (few, _VECTOR_SAMPLES)}
    for dtype, name in ((torch.float32, 'float32'), (torch.bfloat16, 'bf16')):
        ours = Imagination(model, dtype)
        runs[f'vector_{name}'] = _search(ours, model.config.latent_dim, configs[_VECTOR_SAMPLES],
                                         device)
        for tokens in (196, 256):
            theirs = PatchDynamics(tokens, job.seed).to(device, dtype)
            runs[f'patches{tokens}_{name}'] = _search(theirs, tokens * _WIDTH,
                                                      configs[few], device)
    peaks = {name: _peak(run, device) for name, run in runs.items()}  # which warms them up
    seconds = alternate(runs, job.rounds, warm=0)
    summary: dict[str, Any] = {}
    for key, taken in seconds.items():
        kind, name = key.split('_')
        config = configs[_VECTOR_SAMPLES if kind == 'vector' else few]
        tokens = 1 if kind == 'vector' else int(kind.removeprefix('patches'))
        rows.append(_row('patches', config.solver, name, config, job,
                         1e3 * float(np.median(taken)), tokens=tokens, peak_mb=peaks[key]))
        if tokens > 1:
            # The mean is tried after the candidates: one rollout more.
            summary[f'rollouts_faster_than_{tokens}_tokens_{name}'] = ratio(
                taken / (few + 1), seconds[f'vector_{name}'] / (_VECTOR_SAMPLES + 1))
    return rows, summary


class PatchDynamics(LatentDynamics):
    """A predictor of DINO-WM's shape with random weights: a frame is many tokens, not one.

    A latent (tokens · 384) is a frame's tokens in a row; the action is added to each of them
    (there it is concatenated). Frames attend to themselves and to those before.
    """

    history = _FRAMES

    def __init__(self, tokens: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.tokens, inner = tokens, _HEADS * _HEAD_DIM
        self.action = nn.Linear(10, _WIDTH)
        self.positions = nn.Parameter(0.02 * torch.randn(_FRAMES * tokens, _WIDTH))
        self.norm = nn.LayerNorm(_WIDTH)
        self.layers = nn.ModuleList(nn.ModuleList([
            nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, 3 * inner, bias=False),
            nn.Linear(inner, _WIDTH), nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, _MLP),
            nn.Linear(_MLP, _WIDTH)]) for _ in range(_DEPTH))

    def embed_actions(self, blocks: Tensor) -> Tensor:
        """The embeddings (..., 384) of action blocks (..., F, A)."""
        return self.action(blocks.flatten(-2).to(self.action.weight.dtype))

    def predict(self, latents: Tensor, action_emb: Tensor) -> Tensor:
        """The next latents (B, T, tokens · 384)."""
        batch, frames = latents.shape[:2]
        x = latents.to(action_emb.dtype).unflatten(-1, (self.tokens, _WIDTH))
        x = (x + action_emb[:, :, None]).flatten(1, 2) + self.positions[:frames * self.tokens]
        frame = torch.arange(x.shape[1], device=x.device) // self.tokens
        mask = frame[:, None] >= frame[None]
        for norm1, qkv, out, norm2, widen, narrow in self.layers:
            q, k, v = qkv(norm1(x)).unflatten(-1, (3, _HEADS, _HEAD_DIM)).permute(2, 0, 3, 1, 4)
            heard = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            x = x + out(heard.transpose(1, 2).flatten(2))
            x = x + narrow(functional.gelu(widen(norm2(x))))
        return self.norm(x).unflatten(1, (frames, -1)).flatten(2).float()


def _search(dynamics: Any, latent: int, config: PlannerConfig, device: torch.device) -> Any:
    """A function that plans once from and to random latents of width `latent` on `device`."""
    draw = torch.Generator(device).manual_seed(0)
    start, goal = torch.randn(2, 1, latent, generator=draw, device=device)
    past = torch.zeros(1, 0, 5, 2, device=device)
    objective = goal_objective(dynamics, start[None], past, goal, 'final')
    return lambda: solve(objective, [-1, -1], [1, 1], [0.3, 0.3], config, generator=draw,
                         frameskip=5)


def _peak(run: Any, device: torch.device) -> float:
    """The peak memory of one run, MiB, beside all that the table holds."""
    reset_peak(device)
    run()
    return peak_mb(device)


def _row(table: str, solver: str, dtype: str, config: PlannerConfig, job: BenchPlannerJob,
         plan_ms: float, **more: Any) -> dict[str, Any]:
    return {'table': table, 'solver': solver, 'device': job.device, 'dtype': dtype, 'batch': 1,
            'samples': config.samples, 'iterations': config.iterations,
            'horizon': config.horizon, 'plan_ms': plan_ms, 'final_cost': None,
            'peak_mb': peak_mb(torch.device(job.device)), **more}
