"""What a dataset or a checkpoint holds, in words."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from lewm_core.arrival import KEY, tolerance_of
from lewm_core.checkpoint import Checkpoint, load_checkpoint
from lewm_core.data import SPLITS, Dataset
from lewm_core.robot import RobotSpec


def inspect_dataset(path: str | Path) -> str:
    """A text on the dataset at `path`: robot, episodes, splits, actions and states.

    Raises UserError when it is no dataset or is damaged.
    """
    dataset = Dataset.open(path)
    spec, lengths = dataset.spec, dataset.ep_len
    mapped = isinstance(dataset.pixels, np.ndarray)
    splits = [f'{name} {len(dataset.episodes(name))} ({len(dataset.rows(name)):,} frames)'
              for name in SPLITS]
    lines = [
        f'dataset {path}: {len(dataset):,} frames in {len(lengths):,} episodes',
        *_robot(spec),
        _line('driven', f'{len(dataset) * spec.tick_s / 60:.1f} minutes; episodes of '
              f'{lengths.min()} to {lengths.max()} frames'),
        _line('episodes', ', '.join(splits)),
        _line('pixels', f'{np.prod(dataset.pixels.shape) / 1e6:,.0f} MB, '
              + ('in one piece, memory-mapped' if mapped else 'chunked: slow to read at random')),
        *_actions(dataset)]
    for name, values in dataset.states.items():
        good = values[np.isfinite(values)]
        span = f'{good.min():.4g} to {good.max():.4g}' if len(good) else 'no finite value'
        lines.append(_line(f'state {name}', span + _missing(len(values) - len(good))))
    lines += [_line(key, _short(value)) for key, value in dataset.provenance.items()]
    return '\n'.join(lines)


def inspect_checkpoint(path: str | Path) -> str:
    """A text on the checkpoint at `path`: robot, model, training, evaluation, calibration.

    Raises UserError when it is no checkpoint or is damaged.
    """
    checkpoint = load_checkpoint(path)
    model, metrics = checkpoint.model, checkpoint.metrics
    config, block_s = model.config, model.config.frameskip * checkpoint.spec.tick_s
    step = metrics.get('step', 0)
    lines = [
        f'checkpoint {path}: model {config.name}, {model.num_parameters():,} parameters',
        *_robot(checkpoint.spec),
        _line('model', f'{config.encoder} encoder of {config.image_size}x{config.image_size}, '
              f'{config.latent_dim} latent dimensions, history {config.history}, blocks of '
              f'{config.frameskip} ticks ({block_s:g} s), SIGReg weight {config.sigreg_weight:g}'),
        _line('trained', f'{step:,} of {checkpoint.train.steps:,} steps of '
              f'{checkpoint.train.batch_size} windows in {metrics.get("seconds", 0):.0f} s, seed '
              f'{checkpoint.train.seed}' + ('' if metrics.get('finished') else ': unfinished'))]
    for field, mean, std in zip(checkpoint.spec.action.fields, model.action_mean.tolist(),
                                model.action_std.tolist()):
        lines.append(_line(f'action {field.path}',
                           f'mean {mean:.4g}, std {std:.4g} {field.unit} in training'))
    evaluation = metrics.get('evaluation')
    lines += _evaluation(evaluation) if evaluation else [_line('evaluated', 'no')]
    lines += _heads(checkpoint)
    lines.append(_goal(metrics))
    calibration = checkpoint.calibration
    lines.append(_line('surprise', 'not calibrated: alarms need ~/recalibrate first'
                       if calibration is None else _calibration(calibration)))
    return '\n'.join(lines)


def _goal(metrics: dict[str, Any]) -> str:
    if tolerance_of(metrics) is None:
        return _line('goal', 'not said when it is reached')
    found = metrics[KEY]
    return _line('goal', f'reached within a squared latent distance of {found["tolerance"]:.3g}, '
                 f'as are {100 * found.get("confusion", np.nan):.1f} % of frames of other times')


def _heads(checkpoint: Checkpoint) -> list[str]:
    lines = []
    for name, head in checkpoint.heads.items():
        config = ', '.join(f'{f.name} {getattr(head.config, f.name)}'
                           for f in dataclasses.fields(head.config))
        count = sum(p.numel() for p in head.parameters())
        lines.append(_line('head', f'{name}: {count:,} parameters' + (f'; {config}' if config
                                                                      else '')))
    return lines


def _robot(spec: RobotSpec) -> list[str]:
    camera = spec.camera
    source = f', from {camera.source_width}x{camera.source_height}' if camera.source_width else ''
    return [_line('robot', f'{spec.name} ({spec.fingerprint()}) at {spec.rate_hz:g} Hz'),
            _line('camera', f'{camera.name} on {camera.topic}, {camera.width}x{camera.height}'
                  + source),
            _line('commands', f'{spec.action.type} on {spec.action.topic}')]


def _actions(dataset: Dataset) -> list[str]:
    actions = dataset.action[np.isfinite(dataset.action).all(axis=1)]
    lines = []
    for i, field in enumerate(dataset.spec.action.fields):
        if not len(actions):
            return [_line('actions', 'none')]
        column = actions[:, i]
        lines.append(_line(
            f'action {field.path}', f'{column.min():.4g} to {column.max():.4g} {field.unit}, mean '
            f'{column.mean():.4g}, std {column.std():.4g}; limits {field.min:g} to {field.max:g}'))
    return lines


def _evaluation(tree: dict[str, Any]) -> list[str]:
    latent = tree['latent']
    lines = [_line('latents', f'std {latent["std_min"]:.2f} at least, {latent["std_mean"]:.2f} on '
                   f'average; effective rank {latent["effective_rank"]:.1f} of '
                   f'{latent["dimensions"]}, on {tree["frames"]:,} {tree["split"]} frames')]
    if tree.get('collapsed'):
        lines.append(_line('warning', tree['collapsed']))
    if tree['probe_r2']:
        lines.append(_line('probe R²', ', '.join(f'{name} {value:.3f}' for name, value
                                                 in tree['probe_r2'].items())))
    if tree['open_loop_error']:
        pairs = zip(tree['open_loop_error'], tree['still_error'])
        lines.append(_line('imagination', 'squared error by block ahead (if nothing moved): '
                           + ', '.join(f'{error:.2g} ({still:.2g})' for error, still in pairs)))
    return lines


def _calibration(tree: dict[str, Any]) -> str:
    text = (f'{tree["promised_per_hour"]:g} false alarms an hour promised, threshold '
            f'{tree["threshold"]:.4g}, from {tree["blocks"]:,} blocks ({tree["hours"]:.2f} hours)')
    if tree.get('cusum_threshold') is not None:
        text += f', {tree["cusum_threshold"]:.3g} for the sum of what lasts'
    text += ', extrapolated by the Pareto tail' if tree.get('extrapolated') else ''
    return text + (', which taught what error to expect where' if tree.get('uncertainty') else '')


def _line(name: str, text: str) -> str:
    return f'  {name:<10} {text}'


def _missing(count: int) -> str:
    return f', {count:,} missing' if count else ''


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:197] + '...'
