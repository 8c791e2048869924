"""Our planner behind a pipe, as the reference's is: a process of its own shows its own memory.

`python -m lewm_core.bench.planner_worker FOLDER THREADS PRECISION`; see `swm_worker`. The plan,
plan_ours_PRECISION_N.npy (B, K, F, A), is in robot units.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lewm_core.agent import Agent
from lewm_core.bench.common import peak_mb
from lewm_core.bench.kernels import kernel_share
from lewm_core.checkpoint import load_checkpoint
from lewm_core.config import PlannerConfig
from lewm_core.memory import keep_freed_memory


def main() -> None:
    """Nothing; answers until stdin ends."""
    folder, precision = Path(sys.argv[1]), sys.argv[3]
    torch.set_num_threads(int(sys.argv[2]))
    keep_freed_memory()  # as the planner node does
    search = json.loads((folder / 'search.json').read_text())
    checkpoint = load_checkpoint(folder / 'model.safetensors', search['device'])
    planner = PlannerConfig(**{**search['planner'], 'precision': precision})
    agent = Agent(checkpoint, planner, search['device'])
    print(json.dumps({'ready': True}), flush=True)
    for line in sys.stdin:
        number = json.loads(line)['problem']
        problem = np.load(folder / f'problem_{number}.npz')
        plan = partial(_plan, agent, problem, search['seed'] + number)
        if not number:
            agent.record(len(problem['frame']))  # as the planner node does
            share = kernel_share(plan, agent.device)
        begun = time.perf_counter()
        found = plan()
        seconds = time.perf_counter() - begun
        np.save(folder / f'plan_ours_{precision}_{number}.npy', found)
        print(json.dumps({'seconds': seconds, 'peak_mb': peak_mb(agent.device),
                          'kernel_share': share, 'recorded': agent.recorded > 0}), flush=True)


def _plan(agent: Agent, problem: Any, seed: int) -> np.ndarray:
    """The actions (B, K, F, A) from the pictures `frame` to the pictures `goal`."""
    latents, goals = (agent.encode(problem[name]) for name in ('frame', 'goal'))
    past = latents.new_zeros(len(latents), 0, agent.frameskip, agent.spec.action_dim)
    return agent.search(latents[:, None], past, goals, seed).actions.cpu().numpy()


if __name__ == '__main__':
    main()
