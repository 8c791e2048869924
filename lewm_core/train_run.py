"""`lewm train` on a terminal: progress, exit codes."""

from __future__ import annotations

import sys

from lewm_core import distributed
from lewm_core.checkpoint import read_metadata
from lewm_core.compose import compose
from lewm_core.data import Dataset
from lewm_core.jobs import TrainJob
from lewm_core.paths import load_robot
from lewm_core.progress import Progress, Spoken
from lewm_core.terminal import EXIT_INTERRUPTED, Bar, interrupts
from lewm_core.train import train


def run(job: TrainJob, overrides: list[str]) -> int:
    """The exit code of `lewm train`; what the overrides leave open suits the dataset's camera."""
    dataset = Dataset.open(job.dataset, load_robot(job.robot) if job.robot else None)
    job = compose('train', overrides, dataset.spec)
    bar, said = Bar('training'), Spoken()

    def show(progress: Progress) -> None:
        bar(progress.step, progress.steps, f'loss {progress.loss:.4f}')
        said(progress)

    with interrupts() as interrupted:
        try:
            path = train(dataset, job.model, job.data, job.train, job.output,
                         planner=job.planner, surprise=job.surprise, on_progress=show,
                         overwrite=job.overwrite, should_stop=lambda: bool(interrupted))
        finally:
            bar.close()
    # What comes after the last step is not stopped by a signal, and then the job is done.
    done = distributed.leader() and read_metadata(path)['metrics']['finished']
    if interrupted and not done:
        print('stopped; the same command goes on from here', file=sys.stderr)
        return EXIT_INTERRUPTED
    if distributed.leader():
        print(path)
    return 0
