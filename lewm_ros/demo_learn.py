"""The demo's first half: record a drive, train on the bag, examine what was learned."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from lewm_core.checkpoint import load_checkpoint
from lewm_core.data import Dataset
from lewm_core.evaluate import evaluate_checkpoint
from lewm_core.threads import set_threads
from lewm_core.types import UserError
from lewm_ros.fleet import ros_arguments

if TYPE_CHECKING:
    from lewm_ros.demo import Run

EPISODE_FRAMES = 100


def record(run: Run) -> None:
    """Drives the robot by its own policy while the recorder writes `bag/`."""
    run.fleet.start('recorder', 'lewm_ros.recorder',
                    ros_arguments({'robot': run.robot, 'output': run.output / 'bag'}))
    run.sim('sim_robot_record', mode='drive', policy='explore', frames=run.job.frames,
            episode_frames=EPISODE_FRAMES, wait_subscribers=1, speed=0.0)
    camera = run.spec.camera.topic

    def recorded(topic: str) -> int:
        counts = run.watcher.counts.get('recorder/recorded', {})
        return next((int(n) for name, n in counts.items() if name.strip('/') == topic), 0)

    run.follow('recording', run.job.frames, lambda: recorded(camera), 'sim_robot_record')
    published = {name.strip('/'): int(n) for name, n
                 in run.watcher.counts['sim_robot/published'].items()}
    run.watcher.call('recorder/stop')
    run.fleet.wait('recorder', 60)
    lost = sum(count - recorded(topic) for topic, count in published.items())
    run.figures['record'] = {'frames': recorded(camera), 'commands': recorded(
        run.spec.action.topic), 'lost': lost, 'published': published}


def learn(run: Run) -> None:
    """Runs `train_from_bags` on the bag and keeps its loss curves."""
    job = run.job
    words = [f'bags={run.output / "bag"}', f'robot={run.robot}', f'output={run.output / "model"}',
             *run.settings]
    begun = time.monotonic()
    run.fleet.start('train_from_bags', 'lewm_ros.train_from_bags', words)
    node = 'train_from_bags'
    # Conversion and training together are one job to the node; its progress runs from 0 to 1.
    run.follow('learning, %', 100, lambda: 100 if run.fleet.ended(node)
               else round(100 * run.watcher.progress), node, 24 * 3600)
    seconds = time.monotonic() - begun
    metrics = (run.output / 'model' / 'metrics.jsonl').read_text().splitlines()
    run.material.curves = [json.loads(line) for line in metrics]
    run.figures['train'] = {'steps': job.train.steps, 'seconds': seconds}


def examine(run: Run) -> None:
    """Probes and latent statistics on test episodes, which training never saw."""
    set_threads(1)  # a small model; see config/train/tiny.yaml
    dataset = Dataset.open(run.output / 'model' / 'data.h5')
    checkpoint = load_checkpoint(run.checkpoint)
    result = evaluate_checkpoint(checkpoint, dataset)
    if not result.probe_r2:
        raise UserError(f'{run.robot} names no state topics, so nothing can be probed; add '
                        'state: to it')
    latent = result.latent
    run.figures['dataset'] = {'frames': len(dataset), 'episodes': len(dataset.ep_len)}
    run.figures['train']['parameters'] = checkpoint.model.num_parameters()
    run.figures['latent'] = {'std_min': latent.std_min, 'std_mean': latent.std_mean,
                             'effective_rank': latent.effective_rank}
    run.figures['probe'] = {'r2_min': min(result.probe_r2.values()), 'r2': result.probe_r2}
    offset, length = int(dataset.ep_offset[0]), int(dataset.ep_len[0])
    rows = range(offset, offset + length, checkpoint.model.config.frameskip)
    run.material.recorded = [dataset.pixels[row] for row in list(rows)[:8]]
