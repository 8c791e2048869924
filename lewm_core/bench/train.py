"""`lewm bench train`: clips a second of whole training steps, beside the reference library's."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from lewm_core.bench.common import alternate, other_python, ratio, write_result
from lewm_core.bench.frames import synthetic
from lewm_core.config import DataConfig, ModelConfig, TrainConfig
from lewm_core.data import Dataset
from lewm_core.jobs import BenchTrainJob
from lewm_core.memory import keep_freed_memory
from lewm_core.trainer import Trainer, resolve_device
from lewm_core.types import UserError


def run_train(job: BenchTrainJob, overrides: list[str]) -> int:
    """The exit code; measures and writes `output`. See the job for the settings.

    Ours is a Trainer's step with its batch: gathered, moved, normalised, both losses, backward,
    clipping, AdamW. The reference is its library's model and loss in float32, its frames already
    on the device; without `reference_python`, our own step in float32.
    """
    if job.threads:
        torch.set_num_threads(job.threads)
    with tempfile.TemporaryDirectory() as folder, _reference(job) as theirs:
        synthetic(Path(folder) / 'd.h5', episodes=2, frames=max(40, job.batch_size),
                  data=DataConfig(0.0, 0.0, 0.0))
        dataset = Dataset.open(Path(folder) / 'd.h5')
        runs = {name: _steps(dataset, job, name) for name in ('bf16', 'float32')}
        if job.compile:
            runs['compiled'] = _steps(dataset, job, 'bf16', compiled=True)
        if theirs is not None:
            runs['reference'] = theirs
        seconds = alternate(runs, job.rounds)
    reference = seconds.get('reference', seconds['float32'])
    speed = {name: job.batch_size / float(np.median(s)) for name, s in seconds.items()}
    result = {'clips_per_s': speed['bf16'], 'reference_clips_per_s':
              job.batch_size / float(np.median(reference)),
              'ratio': ratio(reference, seconds['bf16']),
              'float32_clips_per_s': speed['float32'],
              'reference': 'stable-worldmodel, float32' if theirs else 'ours, float32',
              'batch_size': job.batch_size, 'rounds': job.rounds,
              'device': str(resolve_device(job.device)),
              'threads': torch.get_num_threads(),
              'ratios': {name: ratio(reference, s) for name, s in seconds.items()},
              'seconds': {name: s.tolist() for name, s in seconds.items()}}
    write_result(job.output, result)
    for name, value in speed.items():
        print(f'{name:<10} {value:8.2f} clips/s {value / job.batch_size:7.3f} steps/s')
    print(f'bf16 is {result["ratio"]:.2f} times as fast as {result["reference"]}')
    return 0


def _steps(dataset: Dataset, job: BenchTrainJob, precision: str, compiled: bool = False
           ) -> Callable[[], object]:
    """What does the next step of a fresh trainer of the paper's model."""
    config = TrainConfig(batch_size=job.batch_size, device=job.device, precision=precision,
                         compile=compiled)
    trainer = Trainer(dataset, ModelConfig(), config)
    if trainer.device.type == 'cpu':
        keep_freed_memory()

    def step() -> None:
        try:
            trainer.step(trainer.done, trainer.batch(trainer.done)).total.item()
        except torch.cuda.OutOfMemoryError:
            raise UserError(f'a step of batch_size={job.batch_size} in {precision} needs more '
                            'memory than the GPU has left; give fewer, or free what others use '
                            'of it') from None
    return step


@contextmanager
def _reference(job: BenchTrainJob) -> Iterator[Callable[[], object] | None]:
    """What does a step in a process of the reference library, or None where none is given."""
    if job.reference_python is None:
        yield None
        return
    device = 'cpu' if job.device == 'cpu' or not torch.cuda.is_available() else 'cuda'
    process = subprocess.Popen(
        [str(job.reference_python), str(Path(__file__).with_name('reference_step.py')),
         str(job.batch_size), str(job.threads), device, 'float32'],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=other_python())

    def answer() -> str:
        line = process.stdout.readline()
        if not line:
            raise UserError(f'reference_python={str(job.reference_python)!r} cannot run '
                            'stable-worldmodel (its words are above); install it there')
        return line

    def step() -> None:
        process.stdin.write('\n')
        process.stdin.flush()
        answer()
    try:
        while answer().strip() != 'ready':
            pass
        yield step
    finally:
        process.stdin.close()
        process.terminate()
        process.wait()
