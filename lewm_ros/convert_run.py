"""`lewm convert` and `lewm merge` on a terminal: progress, what failed, the report, exit codes."""

from __future__ import annotations

import sys
from typing import Any

from lewm_core.dataset_layout import writing
from lewm_core.dataset_report import write_dataset_report
from lewm_core.merge import merge
from lewm_core.paths import load_robot
from lewm_core.terminal import EXIT_ERROR, EXIT_INTERRUPTED, Bar, failures, interrupts
from lewm_core.types import UserError
from lewm_ros.bag_files import shown
from lewm_ros.bags import AllFailed, ConversionStopped, convert


def run(job: Any, overrides: list[str]) -> int:
    """The exit code of `lewm convert`: 1 when a bag failed, though the others are converted."""
    bar = Bar('converting')
    with interrupts() as stopped:
        try:
            report = convert(job.bags, load_robot(job.robot), job.output, job.data, job.overwrite,
                             bar, should_stop=lambda: bool(stopped), workers=job.workers,
                             storage=job.storage, quality=job.jpeg_quality, append=job.append,
                             typestore=job.typestore, episode_s=job.episode_s)
        except ConversionStopped:
            print('stopped; nothing was written', file=sys.stderr)
            return EXIT_INTERRUPTED
        except AllFailed as error:
            print(failures(error.failed, 'bags cannot be converted'), file=sys.stderr, end='')
            raise UserError('none of the bags can be converted, for the reasons above; nothing '
                            'was written') from None
        finally:
            bar.close()
    if job.report:
        with writing(job.output.with_suffix('.report.html')):
            write_dataset_report(job.output, [(shown(p), why) for p, why in report.failed])
    print(job.output)
    print(failures(report.failed, 'bags are not in the dataset'), file=sys.stderr, end='')
    return EXIT_ERROR if report.failed else 0


def run_merge(job: Any, overrides: list[str]) -> int:
    """The exit code of `lewm merge`."""
    summary = merge(job.datasets, job.output, job.overwrite)
    print(f'{job.output}: {summary.frames} frames in {summary.episodes} episodes')
    return 0
