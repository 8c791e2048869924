"""What is in a dataset, to look at: frames, actions, drops and rates by episode; HTML and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lewm_core.atomic import write_text
from lewm_core.dataset import Dataset
from lewm_core.report import Page, new_figure, picture_png, strip, to_png
from lewm_core.splits import SPLITS

_STRIP = 10  # frames shown of an episode
_COUNTS = ('images', 'commands', 'skipped', 'dropped_episodes', 'dropped_frames', 'unreadable',
           'unstamped', 'timeouts', 'queued', 'not_finite', 'uncommanded')


def write_dataset_report(path: str | Path, failed: Sequence[tuple[str, str]] = (),
                         most: int = 30) -> tuple[Path, Path]:
    """The paths of PATH.report.html and .json on the dataset at `path`, written whole.

    Pictures and curves are shown of `most` episodes, spread evenly over all; the tables are of
    all. `failed`: the recordings that are not in it, each with the reason.
    """
    dataset = Dataset.open(path)
    path = dataset.path.with_suffix('')
    html, figures = (path.with_name(f'{path.name}.report.{end}') for end in ('html', 'json'))
    tree = {'dataset': str(dataset.path), 'robot': dataset.spec.to_dict(),
            'fingerprint': dataset.spec.fingerprint(), 'rate_hz': dataset.spec.rate_hz,
            'frames': len(dataset), 'episodes': _episodes(dataset),
            'bags': dataset.provenance.get('bags', []),
            'converter': dataset.provenance.get('converter'),
            'failed': [{'bag': bag, 'reason': reason} for bag, reason in failed]}
    write_text(figures, json.dumps(tree, indent=1, allow_nan=False) + '\n')
    _page(dataset, tree, most).write(html)
    return html, figures


def _episodes(dataset: Dataset) -> list[dict[str, Any]]:
    """Of each episode: bag, split, length, rate, longest gap, drops, the range of its actions."""
    told = [(bag.get('name'), episode) for bag in dataset.provenance.get('bags', [])
            for episode in bag.get('episodes', [])]
    if len(told) != len(dataset.ep_len):  # of an earlier version, or another tool
        told = [(None, {})] * len(dataset.ep_len)
    found = []
    for e, (bag, counts) in enumerate(told):
        rows = slice(dataset.ep_offset[e], dataset.ep_offset[e] + dataset.ep_len[e])
        seconds = np.diff(dataset.stamp_ns[rows]) / 1e9
        action = dataset.action[rows][:-1]
        found.append({
            'bag': bag, 'split': SPLITS[dataset.ep_split[e]], 'frames': int(dataset.ep_len[e]),
            'seconds': float(seconds.sum()),
            'rate_hz': float(1 / np.median(seconds)) if len(seconds) else None,
            'gap_s': float(seconds.max()) if len(seconds) else None,
            'skipped': counts.get('skipped'), 'unreadable': counts.get('unreadable'),
            'actions': {field.path: _range(action[:, i])
                        for i, field in enumerate(dataset.spec.action.fields)}})
    return found


def _range(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    return {'min': float(values.min()), 'mean': float(values.mean()), 'max': float(values.max())}


def _page(dataset: Dataset, tree: dict[str, Any], most: int) -> Page:
    spec, episodes = dataset.spec, tree['episodes']
    page = Page(f'Dataset {dataset.path.name}')
    page.text(f'{len(dataset):,} frames in {len(episodes):,} episodes of robot {spec.name} '
              f'({spec.fingerprint()}) at {spec.rate_hz:g} Hz: '
              f'{len(dataset) * spec.tick_s / 60:.1f} minutes.')
    for fault in tree['failed']:
        page.text(f'✗ {fault["bag"]} is not in it: {fault["reason"]}', 'bad')
    if tree['bags']:
        page.heading('Recordings')
        page.text('skipped: images between two ticks; dropped: in episodes shorter than a window; '
                  'timeouts: steps without a command in force.', 'note')
        page.table([(bag.get('name'), bag.get('clock'), *(bag.get(k) for k in _COUNTS),
                     str(bag.get('sha256'))[:12], ', '.join(bag.get('topics', {}).values()))
                    for bag in tree['bags']],
                   ('bag', 'clock', *(k.replace('_', ' ') for k in _COUNTS), 'hash', 'topics'))
        for bag in tree['bags']:
            for loss in bag.get('lost', []):
                page.text(f'✗ {bag.get("name")} is damaged; lost: {loss.get("why")}', 'bad')
    page.heading('Episodes')
    page.table([(e, v['bag'], v['split'], v['frames'], _number(v['seconds']),
                 _number(v['rate_hz']), _number(v['gap_s']), v['skipped'], v['unreadable'])
                for e, v in enumerate(episodes)],
               ('episode', 'bag', 'split', 'frames', 'seconds', 'rate, Hz', 'longest gap, s',
                'skipped', 'unreadable'))
    shown = np.unique(np.linspace(0, len(episodes) - 1, min(most, len(episodes))).astype(int))
    for e in shown.tolist():
        _show(page, dataset, e, episodes[e])
    return page


def _number(value: float | None) -> str:
    return '' if value is None else f'{value:.3g}'


def _show(page: Page, dataset: Dataset, e: int, episode: dict[str, Any]) -> None:
    """A strip of frames from the first to the last, and the actions over time."""
    start, count = int(dataset.ep_offset[e]), int(dataset.ep_len[e])
    page.heading(f'Episode {e}' + (f' of {episode["bag"]}' if episode['bag'] else ''))
    rows = start + np.unique(np.linspace(0, count - 1, min(_STRIP, count)).astype(int))
    frames = list(dataset.frames(rows))
    page.picture(picture_png(strip(frames, scale=max(1, 96 // frames[0].shape[0]))),
                 f'frames of episode {e}')
    figure, axis = new_figure(9, 2.2)
    seconds = (dataset.stamp_ns[start:start + count] - dataset.stamp_ns[start]) / 1e9
    for i, field in enumerate(dataset.spec.action.fields):
        axis.step(seconds, dataset.action[start:start + count, i], where='post',
                  label=f'{field.path} {field.unit}', linewidth=1)
    axis.set(xlabel='seconds', ylabel='action')
    axis.legend(fontsize=8, loc='upper right')
    page.picture(to_png(figure), f'actions of episode {e}')
