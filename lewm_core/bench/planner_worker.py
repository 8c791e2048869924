"""Our planner behind a pipe, as the reference's is: a process of its own shows its own memory.

`python -m lewm_core.bench.planner_worker FOLDER THREADS PRECISION`; see `swm_worker`. The plan,
plan_ours_PRECISION_N.npy (B, K, F, A), is in robot units.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

from lewm_core.agent import Agent
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
        begun = time.perf_counter()
        with torch.no_grad():
            latents, goals = (checkpoint.model.encode(torch.from_numpy(problem[name]).to(
                search['device'])) for name in ('frame', 'goal'))
            past = latents.new_zeros(len(latents), 0, agent.frameskip, agent.spec.action_dim)
            found = agent.search(latents[:, None], past, goals, search['seed'] + number)
            plan = found.actions.cpu().numpy()
        seconds = time.perf_counter() - begun
        np.save(folder / f'plan_ours_{precision}_{number}.npy', plan)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() / 2**20
        print(json.dumps({'seconds': seconds, 'peak_mb': peak}), flush=True)


if __name__ == '__main__':
    main()
