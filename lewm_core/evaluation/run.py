"""`lewm evaluate`: the chosen sections, one JSON file and one HTML page."""

from __future__ import annotations

import importlib
import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lewm_core import __version__
from lewm_core.atomic import refuse_existing, write_text
from lewm_core.checkpoint import load_checkpoint
from lewm_core.data import SPLITS, Dataset
from lewm_core.evaluation.perturbations import left_out
from lewm_core.evaluation.subject import Subject, find_world, fitting, settings
from lewm_core.jobs import SECTIONS, EvaluateJob
from lewm_core.monitor import latent_statistics
from lewm_core.paths import load_robot
from lewm_core.report import Page
from lewm_core.types import UserError

log = logging.getLogger(__name__)

# Each has `measure(subject) -> tree` and `show(page, tree)`.
_MODULES = {name: f'lewm_core.evaluation.{name}' for name in SECTIONS} | {
    'surprise': 'lewm_core.evaluation.detection'}
_TITLES = {'probes': 'Probes: what a latent tells of the state',
           'open_loop': 'Open loop: how far imagination holds',
           'straightness': 'Straightness of the way through the latents',
           'surprise': 'Surprise: what is noticed, and the false alarms',
           'robustness': 'Robustness: disturbed, and in rare states',
           'decoder': 'Decoder: what the imagined latents look like',
           'gap': 'Gap between two datasets'}


def main(job: EvaluateJob, overrides: list[str]) -> int:
    """The exit code of `lewm evaluate`: prints the sections' key figures and where the rest is."""
    page_path, json_path = (job.output / f'evaluation.{end}' for end in ('html', 'json'))
    for path in (page_path, json_path):
        refuse_existing(path, job.overwrite)
    checkpoint = load_checkpoint(job.checkpoint)
    robot = load_robot(job.robot) if job.robot else None
    dataset = fitting(checkpoint, Dataset.open(job.dataset, robot))
    subject = Subject(checkpoint, dataset, job, find_world(job.world, dataset))
    results = evaluate(subject)
    job.output.mkdir(parents=True, exist_ok=True)
    page(results).write(page_path)
    write_text(json_path, json.dumps(_plain(results), indent=1) + '\n')
    print(f'{page_path}\n{json_path}')
    return 0


def evaluate(subject: Subject) -> dict[str, Any]:
    """The results of the sections that the subject's job names, under their names, in order.

    Beside them `protocol`: what was measured on what, and `latents`, their spread on test. Raises
    UserError on a section that is not known.
    """
    chosen = subject.job.sections
    unknown = [name for name in chosen if name not in SECTIONS]
    if unknown or not chosen:
        raise UserError(f'sections={list(chosen)} is not a choice of {list(SECTIONS)}; name one '
                        'or more of these')
    latent = latent_statistics(subject.encoded('test').latents)
    results: dict[str, Any] = {
        'protocol': _protocol(subject), 'sections': {},
        'latents': {'std_min': latent.std_min, 'std_mean': latent.std_mean,
                    'effective_rank': latent.effective_rank, 'dimensions': latent.dimensions,
                    'collapsed': latent.collapsed}}
    for i, name in enumerate(section for section in SECTIONS if section in chosen):
        log.info('%s (%d of %d)', name, i + 1, len(set(chosen)))
        begun = time.perf_counter()
        found = importlib.import_module(_MODULES[name]).measure(subject)
        results['sections'][name] = {**found, 'seconds': time.perf_counter() - begun}
    return results


def _protocol(subject: Subject) -> dict[str, Any]:
    dataset, checkpoint = subject.dataset, subject.checkpoint
    return {'version': __version__, 'settings': settings(subject.job),
            'robot': checkpoint.spec.name, 'fingerprint': checkpoint.spec.fingerprint(),
            'model': checkpoint.model.config.name,
            'parameters': checkpoint.model.num_parameters(),
            'steps': checkpoint.metrics.get('step'), 'block_s': subject.block_s,
            'splits': {split: {'episodes': len(dataset.episodes(split)),
                               'frames': len(dataset.rows(split))} for split in SPLITS},
            'fresh_drives': subject.make_world is not None,
            'left_out': [*left_out(subject.make_world), *_not_held_out(dataset)],
            'rules': 'Everything that is fitted (probes, linear model, decoder) is fitted on '
                     'train; what is chosen (ridge, when to stop) is chosen on validation; '
                     'thresholds come from calibration episodes or a drive of their own; figures '
                     'are of test episodes and fresh drives. Intervals are 95 %, by bootstrap '
                     'over episodes; of shares of fresh drives and of goals by '
                     'Wilson; exact where it is said.'}


def _not_held_out(dataset: Dataset) -> list[str]:
    """What a dataset without validation episodes takes away, a sentence."""
    if len(dataset.rows('validation')) > 1:
        return []
    return ['The dataset has no validation episodes: what is chosen on validation was chosen on '
            'train.']


def page(results: dict[str, Any]) -> Page:
    """The results as one HTML page."""
    protocol, latents = results['protocol'], results['latents']
    made = Page(f'Evaluation of a world model of {protocol["robot"]}')
    made.text(protocol['rules'], 'note')
    for sentence in protocol['left_out']:
        made.text(sentence, 'note')
    made.table([(split, counts['episodes'], counts['frames'])
                for split, counts in protocol['splits'].items()], ('split', 'episodes', 'frames'))
    made.text(f'Model {protocol["model"]}, {protocol["parameters"]:,} parameters, '
              f'{protocol["steps"] or "unknown"} training steps. Latents on test: std '
              f'{latents["std_min"]:.2f} at least and {latents["std_mean"]:.2f} on average, '
              f'effective rank {latents["effective_rank"]:.1f} of {latents["dimensions"]}.')
    if latents['collapsed']:
        made.text(latents['collapsed'], 'bad')
    for name, found in results['sections'].items():
        made.heading(_TITLES[name])
        importlib.import_module(_MODULES[name]).show(made, found)
    made.heading('Settings')
    made.table([(key, value) for key, value in protocol['settings'].items()], ('key', 'value'))
    return made


def _plain(value: Any) -> Any:
    """A tree for JSON: arrays as lists, what is not finite as null, pictures left out."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if not isinstance(v, bytes)}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
