"""The demo's report: figures from what was measured in the run, in JSON and as one HTML page."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lewm_core.atomic import write_text
from lewm_core.report import Page, new_figure, picture_png, strip, to_png

_NOTE = ('All figures were measured in this run. Intervals are 95 %: Wilson for shares, exact '
         'Poisson for rates.')


@dataclass
class Material:
    """What the page shows beside the numbers, gathered step by step."""

    title: str = ''
    recorded: list[np.ndarray] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    trials: list[dict[str, Any]] = field(default_factory=list)
    start_images: list[np.ndarray] = field(default_factory=list)
    goal_images: list[np.ndarray] = field(default_factory=list)
    extent: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 1.0)
    scores: list[dict[str, Any]] = field(default_factory=list)
    events: list[tuple[int, str]] = field(default_factory=list)
    verdicts: list[tuple[bool, str]] = field(default_factory=list)
    steps: list[tuple[str, float]] = field(default_factory=list)


def write_report(output: Path, figures: dict[str, Any], material: Material) -> tuple[Path, Path]:
    """The paths of report.json and report.html, written whole."""
    page = Page(material.title)
    page.text(_NOTE, 'note')
    for good, sentence in material.verdicts:
        page.text(('✓ ' if good else '✗ ') + sentence, 'good' if good else 'bad')
    _recording(page, material)
    _training(page, material)
    _planning(page, figures, material)
    _surprise(page, material)
    page.heading('Every figure')
    page.table(list(_flatten(figures)), ('figure', 'value'))
    page.table([(name, f'{seconds:.1f} s') for name, seconds in material.steps],
               ('step', 'wall time'))
    page.write(output / 'report.html')
    text = json.dumps(_plain(figures), indent=2, allow_nan=False)
    write_text(output / 'report.json', text + '\n')
    return output / 'report.json', output / 'report.html'


def _plain(tree: Any) -> Any:
    """The figures as JSON knows them: what is no number is null."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _flatten(tree: dict[str, Any], prefix: str = '') -> Any:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', f'{value:.4g}' if isinstance(value, float) else value


def _recording(page: Page, material: Material) -> None:
    if material.recorded:
        page.heading('What the robot recorded')
        page.text('Frames of one recorded episode, a block apart.', 'note')
        page.picture(picture_png(strip(material.recorded)), 'recorded frames')


def _training(page: Page, material: Material) -> None:
    rows = [row for row in material.curves if 'prediction' in row]
    if not rows:
        return
    page.heading('What it learned')
    figure, axes = new_figure(ncols=3)
    step = [row['step'] for row in rows]
    for key in ('prediction', 'sigreg'):
        axes[0].plot(step, [row[key] for row in rows], label=key)
    axes[0].set(yscale='log', xlabel='step', title='loss terms')
    axes[0].legend()
    for axis, key, line, title in ((axes[1], 'latent_std_min', 0.5, 'smallest latent std'),
                                   (axes[2], 'effective_rank', 5.0, 'effective rank')):
        points = [(row['step'], row[key]) for row in material.curves if key in row]
        axis.plot([p[0] for p in points], [p[1] for p in points])
        axis.axhline(line, linestyle=':', color='grey')
        axis.set(xlabel='step', title=title, ylim=(0, None))
    page.picture(to_png(figure), 'loss and collapse curves')


def _planning(page: Page, figures: dict[str, Any], material: Material) -> None:
    if not material.trials:
        return
    page.heading('Where it drove')
    shown = material.trials[:8]
    figure, axes = new_figure(10, 5.2, nrows=2, ncols=4, squeeze=False)
    for axis, trial, image in zip(axes.flat, shown, material.goal_images):
        axis.imshow(image, extent=material.extent, interpolation='nearest')
        path = np.asarray(trial['path'], dtype=float).reshape(-1, 2)
        axis.plot(path[:, 0], path[:, 1], '.-', color='tab:blue', linewidth=1, markersize=3)
        axis.plot(*path[0], 'o', color='tab:green')
        axis.set_title('reached' if trial['reached'] else 'missed', fontsize=9,
                       color='tab:green' if trial['reached'] else 'tab:red')
        axis.set_xticks([])
        axis.set_yticks([])
    for axis in axes.flat[len(shown):]:
        axis.axis('off')
    page.text('The first trials, not the best ones: the goal image, the start (green) and the '
              'path driven.', 'note')
    page.picture(to_png(figure), 'paths driven')
    _success_bars(page, figures['plan'])


def _success_bars(page: Page, plan: dict[str, Any]) -> None:
    names = [('planner', 'success_rate'), ('planner, strict', 'strict_success_rate'),
             ('planner, real time', 'realtime_success_rate'), ('line', 'line_success_rate'),
             ('random', 'random_success_rate'), ('hold', 'hold_success_rate')]
    figure, axis = new_figure(9, 2.6)
    rates = [100 * plan[key] for _, key in names]
    axis.barh([name for name, _ in names], rates, color=['tab:blue'] * 3 + ['tab:gray'] * 3)
    axis.errorbar(rates[0], 0, xerr=[[rates[0] - 100 * plan['ci_low']],
                                     [100 * plan['ci_high'] - rates[0]]], color='black')
    axis.invert_yaxis()
    axis.set(xlim=(0, 100), xlabel='goals reached, %')
    page.picture(to_png(figure), 'success rates')


def _surprise(page: Page, material: Material) -> None:
    if not material.scores:
        return
    page.heading('What surprised it')
    page.text('A score for each block: ordinary driving, then events. A teleport is over at once, '
              'a colour change lasts. Red dots: the node says that something is wrong, because '
              'the score is above its threshold or because a smaller surprise lasts.', 'note')
    stamps = [s['stamp_ns'] for s in material.scores]
    begun = min((stamp for stamp, _ in material.events), default=stamps[-1] + 1)
    figure, axes = new_figure(10, 3.4, ncols=2, sharey=True, width_ratios=(3, 4))
    for axis, part in ((axes[0], lambda stamp: stamp < begun), (axes[1], begun.__le__)):
        shown = [s for s in material.scores if part(s['stamp_ns'])]
        _scores(axis, shown, stamps[0])
    _events(axes[1], material.events, stamps[0])
    axes[0].set(yscale='log', title='ordinary driving', ylabel='surprise (about 1: usual)')
    axes[1].set(title='teleports and colour changes')
    axes[1].legend(loc='lower center', ncols=5, fontsize=8)
    page.picture(to_png(figure), 'surprise over time')


def _scores(axis: Any, scores: list[dict[str, Any]], start_ns: int) -> None:
    """Scores and their threshold over minutes; a dot where either threshold is exceeded."""
    minutes = np.array([(s['stamp_ns'] - start_ns) / 60e9 for s in scores])
    values = np.array([s['score'] for s in scores])
    odd = np.array([s['exceeds'] for s in scores], dtype=bool)
    axis.plot(minutes, values, linewidth=0.7, color='tab:blue', label='surprise')
    axis.plot(minutes, [s['threshold'] for s in scores], color='tab:red', label='threshold')
    axis.plot(minutes[odd], values[odd], '.', color='tab:red', markersize=4, label='noticed')
    axis.set_xlabel('minutes')


def _events(axis: Any, events: list[tuple[int, str]], start_ns: int) -> None:
    """A line at each teleport, and a band from the beginning of a colour change to its end."""
    said, colour = set(), None
    for stamp_ns, kind in sorted(events):
        at = (stamp_ns - start_ns) / 60e9
        label = None if kind in said else kind.replace('_', ' ')
        if kind == 'teleport':
            axis.axvline(at, color='tab:orange', linewidth=1, linestyle=':', label=label)
        elif kind == 'colour':
            colour = (at, label)
        elif colour is not None:
            axis.axvspan(colour[0], at, color='tab:purple', alpha=0.15, linewidth=0,
                         label=colour[1])
            colour = None
        said.add(kind)
