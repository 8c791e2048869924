"""λ found by short trainings: bisection on a logarithmic scale, no success labels."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lewm_core.atomic import write_text
from lewm_core.checkpoint import read_metadata
from lewm_core.compose import compose
from lewm_core.data import Dataset
from lewm_core.jobs import TuneLambdaJob
from lewm_core.report import Page, new_figure, to_png
from lewm_core.run_folder import Settings, trained_already
from lewm_core.train import train
from lewm_core.types import UserError

log = logging.getLogger(__name__)

_HOW = (
    'λ weighs SIGReg, which spreads the latents out, against the prediction. Too small, and the '
    'latents collapse or lie in few directions; too large, and they follow the normal more than '
    'the world. Each trial is a short training; its figure is the open-loop skill of its last '
    'model on validation episodes: 1 - error / "nothing moves", both over the variance along the '
    "latents' principal axes, so that shrinking what cannot be predicted earns nothing. A "
    'collapsed model has no skill. The next λ halves, on the logarithmic scale, the wider of the '
    'two gaps beside the best λ so far.')


@dataclass(frozen=True)
class Trial:
    """One short training: its λ, its skill (None: collapsed) and its last validation's figures."""

    weight: float
    skill: float | None
    figures: dict[str, float]


def next_weight(skills: Mapping[float, float | None], low: float, high: float) -> float:
    """The λ to try next in [low, high], after those in `skills`: λ to skill, None: collapsed.

    The first is the middle of the range. Then the wider gap beside the best one is halved; of
    two equal ones that whose far end is the better, and above rather than below where neither is
    known. All on a logarithmic scale. Between two that collapsed the greater λ is the better.
    """
    if not skills:
        return math.sqrt(low * high)
    best = best_weight(skills)
    below = max((w for w in skills if w < best), default=low)
    above = min((w for w in skills if w > best), default=high)
    down, up = math.log(best / below), math.log(above / best)
    if abs(down - up) > 1e-6:
        far = above if up > down else below
    else:
        known = [w for w in (above, below) if skills.get(w) is not None]
        far = max(known, key=lambda w: skills[w], default=above)
    return math.sqrt(best * far)


def best_weight(skills: Mapping[float, float | None]) -> float:
    """The λ of the greatest skill; of collapsed ones the greatest λ."""
    return max(skills, key=lambda w: (skills[w] is not None, skills[w] or 0.0, w))


def run_tune_lambda(job: TuneLambdaJob, overrides: list[str]) -> int:
    """The exit code of `lewm tune-lambda`: 0; leaves tune_lambda.json and .html in the output.

    Trials that are finished there already are not trained again. Raises UserError when the
    output is finished, when all trials collapsed, when nothing is held out, and when the loss has
    no λ.
    """
    dataset = Dataset.open(job.dataset)
    job = compose('tune_lambda', overrides, dataset.spec)
    result = job.output / 'tune_lambda.json'
    if result.exists() and not job.overwrite:
        raise UserError(f'output {str(job.output)!r} holds a finished search; give another output '
                        'or overwrite=true')
    if job.low >= job.high:
        raise UserError(f'low={job.low:g} must be below high={job.high:g}')
    if job.train.loss != 'lewm':
        raise UserError(f'train.loss={job.train.loss!r} has no λ, so there is nothing to tune; '
                        'leave it out, or compare the two with `lewm bench objectives`')
    trials: list[Trial] = []
    while len(trials) < job.trials:
        weight = next_weight({t.weight: t.skill for t in trials}, job.low, job.high)
        trials.append(train_trial(job, dataset, float(f'{weight:.3g}')))
        log.info('trial %d of %d: %s', len(trials), job.trials, _sentence(trials[-1]))
    found = best_weight({t.weight: t.skill for t in trials})
    if all(t.skill is None for t in trials):
        raise UserError(f'the latents collapsed at each of {len(trials)} λ up to {found:g}, or no '
                        'validation episode is long enough to tell; raise high, share or '
                        'data.validation')
    _write(job, trials, found)
    print(f'model.sigreg_weight={found:g}\n{job.output / "tune_lambda.html"}')
    return 0


def train_trial(job: TuneLambdaJob, dataset: Dataset, weight: float) -> Trial:
    """The trial of λ = `weight`, trained in the job's output unless it is there already.

    Raises UserError where one of other settings or data is there: two of them do not compare.
    """
    steps = max(1, round(job.share * job.train.steps))
    folder = job.output / 'trials' / f'{weight:g}'
    # A trial drives nowhere: no heads.
    config = dataclasses.replace(job.train, steps=steps, validate_every=steps,
                                 stop_on_collapse=False, proposal_steps=0, distance_steps=0,
                                 uncertainty_steps=0)
    model = dataclasses.replace(job.model, sigreg_weight=weight)
    path = folder / 'model.safetensors'
    settings = Settings(model, job.data, config, job.planner, job.surprise)
    if job.overwrite or not trained_already(folder, settings, dataset):
        train(dataset, model, job.data, config, folder, planner=job.planner,
              surprise=job.surprise, overwrite=job.overwrite)
    rows = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    # Only a model that lives is kept for its skill.
    skill = read_metadata(path)['metrics'].get('kept_skill')
    return Trial(weight, skill, rows[-1])


def _sentence(trial: Trial) -> str:
    said = 'collapsed' if trial.skill is None else f'skill {trial.skill:.3f}'
    return (f'λ = {trial.weight:g}: {said}, effective rank '
            f'{trial.figures["effective_rank"]:.1f}')


def _write(job: TuneLambdaJob, trials: list[Trial], found: float) -> None:
    """Nothing; tune_lambda.html and then tune_lambda.json, by which the search is finished."""
    page = Page('λ found by bisection')
    page.text(f'λ = {found:g} has the greatest open-loop skill of {len(trials)} trials of '
              f'{round(job.share * job.train.steps)} steps each.', 'good')
    page.picture(to_png(_plot(trials, found)), 'open-loop skill against λ')
    page.heading('How')
    page.text(_HOW)
    page.text('Differences of a few hundredths are within the noise of one seed; a shorter '
              'training than the real one favours a somewhat greater λ, because SIGReg has less '
              'time to do its work.', 'note')
    page.heading('Trials, in order')
    page.table([(i + 1, f'{t.weight:g}', 'collapsed' if t.skill is None else f'{t.skill:.3f}',
                 f'{t.figures["latent_std_min"]:.2f}', f'{t.figures["effective_rank"]:.1f}',
                 f'{t.figures["normal_distance"]:.2f}') for i, t in enumerate(trials)],
               ('trial', 'λ', 'open-loop skill', 'smallest std', 'effective rank',
                'distance to N(0, 1)'))
    page.text(f'lewm train dataset={job.dataset} model.sigreg_weight={found:g}')
    page.write(job.output / 'tune_lambda.html')
    tree = {'sigreg_weight': found, 'steps': round(job.share * job.train.steps),
            'trials': [dataclasses.asdict(t) for t in trials]}
    write_text(job.output / 'tune_lambda.json', json.dumps(tree, indent=2) + '\n')


def _plot(trials: list[Trial], found: float) -> Any:
    figure, axes = new_figure()
    alive = sorted((t for t in trials if t.skill is not None), key=lambda t: t.weight)
    axes.plot([t.weight for t in alive], [t.skill for t in alive], 'o-')
    for t in trials:
        if t.skill is None:
            axes.axvline(t.weight, color='#b00020', linestyle=':', label='collapsed')
    axes.axvline(found, color='#116329', linewidth=1, label=f'λ = {found:g}')
    axes.set(xscale='log', xlabel='λ (model.sigreg_weight)', ylabel='open-loop skill')
    axes.legend()
    return figure
