"""`lewm bench planner`: how fast the search is, what it costs, and how often it arrives."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from lewm_core.bench.common import write_result
from lewm_core.jobs import BenchPlannerJob
from lewm_core.trainer import resolve_device
from lewm_core.types import UserError

_TABLES = ('speed', 'small', 'patches', 'success')
_TRAINED = ('small', 'success')  # these need a checkpoint
_COLUMNS = {
    'speed': ('solver', 'dtype', 'recorded', 'batch', 'samples', 'iterations', 'plan_ms',
              'kernel_share', 'final_cost', 'peak_mb'),
    'small': ('solver', 'dtype', 'recorded', 'samples', 'iterations', 'plan_ms', 'plan_ms_p95',
              'kernel_share'),
    'success': ('world', 'solver', 'knots', 'proposal', 'samples', 'iterations', 'problems',
                'success', 'low', 'high', 'imagined', 'executed', 'plan_ms'),
    'patches': ('solver', 'dtype', 'tokens', 'samples', 'iterations', 'plan_ms', 'peak_mb')}


def run_planner(job: BenchPlannerJob, overrides: list[str]) -> int:
    """The exit code of `lewm bench planner`: the tables asked for, as text and as JSON."""
    unknown = [name for name in job.tables if name not in _TABLES]
    if unknown:
        raise UserError(f'tables={unknown[0]} is not known; choose among {list(_TABLES)}')
    # Said here, not by a worker at the end of a traceback; and what 'auto' is, in every row.
    job = dataclasses.replace(job, device=str(resolve_device(job.device)))
    if job.threads:
        torch.set_num_threads(job.threads)
    rows, summary = [], {}
    for name in job.tables or [t for t in _TABLES if job.checkpoint or t not in _TRAINED]:
        found, said = _table(name, job)
        rows += found
        summary |= said
        print(as_text(found, _COLUMNS[name]) + '\n')
        # After each table: a bench that is stopped keeps what it has.
        write_result(job.output, {'summary': summary, 'rows': rows, 'overrides': overrides})
    for key, value in summary.items():
        print(f'{key}: {shown(value)}')
    print(job.output)
    return 0


def _table(name: str, job: BenchPlannerJob) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    if name == 'speed':
        from lewm_core.bench.planner_speed import speed
        return speed(job)
    if name == 'success':
        from lewm_core.bench.planner_success import success
        return success(job)
    from lewm_core.bench import planner_small
    return {'small': planner_small.small, 'patches': planner_small.patches}[name](job)


def as_text(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """The rows as a table of text, one line each."""
    table = [list(columns)] + [[shown(row.get(c)) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    return '\n'.join('  '.join(cell.rjust(w) for cell, w in zip(line, widths)) for line in table)


def shown(value: Any) -> str:
    """A value as the table shows it."""
    if value is None:
        return '-'
    return f'{value:.4g}' if isinstance(value, float) else str(value)
