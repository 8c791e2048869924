"""The reference library's planner behind a pipe, in its own interpreter, without this package.

`python swm_worker.py FOLDER THREADS`: FOLDER holds weights.pt and config.json as `lewm export`
writes them, and search.json. A line {"problem": N} on stdin plans from problem_N.npz (`frame` and
`goal` (B, H, W, 3) uint8) and answers a line on stdout, after writing plan_swm_N.npy
(B, K, F·A), in normalised actions.
"""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import torch
from stable_worldmodel.solver.cem import CEMSolver
from stable_worldmodel.wm.lewm import LeWM
from stable_worldmodel.wm.lewm import module as parts
from transformers import ViTConfig, ViTModel

_MEAN, _STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406),
                                                       (0.229, 0.224, 0.225)))


def build(folder: Path) -> torch.nn.Module:
    """The reference's model with our weights, in evaluation."""
    tree = json.loads((folder / 'config.json').read_text())

    def sizes(part: str, *names: str) -> dict:
        return {name: tree[part][name] for name in names}
    shape = json.loads((folder / 'search.json').read_text())['encoder']
    encoder = ViTModel(ViTConfig(image_size=shape['image_size'], patch_size=shape['patch_size'],
                                 hidden_size=shape['width'], num_hidden_layers=shape['depth'],
                                 num_attention_heads=shape['heads'],
                                 intermediate_size=shape['mlp']), add_pooling_layer=False)
    heads = [parts.MLP(**sizes(part, 'input_dim', 'hidden_dim', 'output_dim'),
                       norm_fn=torch.nn.BatchNorm1d) for part in ('projector', 'pred_proj')]
    model = LeWM(encoder, parts.Predictor(**{k: v for k, v in tree['predictor'].items()
                                             if k != '_target_'}),
                 parts.Embedder(**{k: v for k, v in tree['action_encoder'].items()
                                   if k != '_target_'}), *heads)
    model.load_state_dict(torch.load(folder / 'weights.pt', weights_only=True))
    return model.eval().requires_grad_(False)


def main() -> None:
    """Nothing; answers until stdin ends."""
    folder, answers = Path(sys.argv[1]), sys.stdout
    sys.stdout = sys.stderr  # the library prints
    torch.set_num_threads(int(sys.argv[2]))
    search = json.loads((folder / 'search.json').read_text())
    device = torch.device(search['device'])
    model = build(folder).to(device)
    print(json.dumps({'ready': True}), file=answers, flush=True)
    for line in sys.stdin:
        number = json.loads(line)['problem']
        problem = np.load(folder / f'problem_{number}.npz')
        batch = len(problem['frame'])
        # One problem after the other, as by default: swm 0.1.1 spreads a goal's latent over the
        # candidates of one problem alone.
        solver = CEMSolver(model, batch_size=1, num_samples=search['samples'],
                           n_steps=search['iterations'], topk=search['elites'],
                           device=search['device'], seed=search['seed'] + number)
        space = gymnasium.spaces.Box(-1, 1, (batch, search['action_dim']))
        solver.configure(action_space=space, n_envs=batch, config=SimpleNamespace(
            horizon=search['horizon'], action_block=search['frameskip']))
        if device.type == 'cuda' and not number:
            solver.solve(_info(problem, search))  # first-use costs, which ours has paid as well
        begun = time.perf_counter()
        plan = solver.solve(_info(problem, search))['actions']
        seconds = time.perf_counter() - begun
        np.save(folder / f'plan_swm_{number}.npy', plan.float().numpy())
        # Not ru_maxrss, which a process inherits from the one that starts it.
        status = Path('/proc/self/status').read_text()
        peak = int(status.split('VmHWM:')[1].split()[0]) / 1024
        if device.type == 'cuda':
            peak = torch.cuda.max_memory_allocated(device) / 2**20
        print(json.dumps({'seconds': seconds, 'peak_mb': peak}), file=answers, flush=True)


def _info(problem: np.lib.npyio.NpzFile, search: dict) -> dict:
    """What the solver is given: both pictures as its loader's workers make them."""
    frame, goal = (((torch.from_numpy(problem[name]).permute(0, 3, 1, 2) / 255) - _MEAN)
                   .div(_STD)[:, None] for name in ('frame', 'goal'))
    width = search['action_dim'] * search['frameskip']
    return {'pixels': frame, 'goal': goal, 'action': torch.zeros(len(frame), 1, width)}


if __name__ == '__main__':
    main()
