"""Robustness: driving and imagining under disturbance, and in states that were rarely seen."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm_core.evaluate import encode_pixels
from lewm_core.evaluation.goals import drive_from_rare, drive_to_goals
from lewm_core.evaluation.intervals import over_episodes, text
from lewm_core.evaluation.open_loop import (episode_sums, imagination_errors, longest,
                                            still_errors)
from lewm_core.evaluation.perturbations import brightened, measurable, noisy, shifted
from lewm_core.evaluation.probes import targets, varies
from lewm_core.evaluation.subject import Subject
from lewm_core.probes import LinearProbe
from lewm_core.report import Page

log = logging.getLogger(__name__)

_RARE, _NEIGHBOURS = 0.1, 10


@dataclass(frozen=True)
class Disturbance:
    """What is between robot and model: the picture's change, the commands' noise, their delay.

    `noise` is in standard deviations of the training commands, `delay` in ticks.
    """

    name: str
    look: Callable[[np.ndarray], np.ndarray] = lambda pixels: pixels
    noise: float = 0.0
    delay: int = 0


DISTURBANCES = (
    Disturbance('none'),
    Disturbance('camera shift 3 %', lambda p: shifted(p, 0.03)),
    Disturbance('camera shift 6 %', lambda p: shifted(p, 0.06)),
    Disturbance('brightness 80 %', lambda p: brightened(p, 0.8)),
    Disturbance('brightness 60 %', lambda p: brightened(p, 0.6)),
    Disturbance('action noise 25 %', noise=0.25),
    Disturbance('action noise 50 %', noise=0.5),
    Disturbance('delay 1 tick', delay=1),
    Disturbance('delay 3 ticks', delay=3))


def measure(subject: Subject) -> dict[str, Any]:
    """Open-loop error, and in a world the goals reached, under each disturbance; rare states.

    The disturbance is there all the time: context, commands and what came are all seen through
    it. Goals are pictures of the undisturbed camera. `rare`: the errors in the rarest tenth of the
    test states beside the others', and in a world the goals reached from the rarest starts.
    """
    starts, blocks, episode = _windows(subject)
    rows = []
    driven = subject.make_world is not None and measurable(subject.make_world())
    for i, disturbance in enumerate(DISTURBANCES):
        log.info('  %s', disturbance.name)
        row: dict[str, Any] = {'name': disturbance.name}
        if len(starts):
            row['open_loop'] = _imagined(subject, disturbance, starts, blocks, episode, i)
        if driven:
            row['goals'] = drive_to_goals(subject, disturbance.look, disturbance.noise,
                                          disturbance.delay)
        rows.append(row)
    return {'disturbances': rows, 'windows': len(starts), 'goals': subject.job.goals,
            'rare': _rare(subject, driven)}


def _windows(subject: Subject) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows of test episodes that imagine as far as a plan looks, a delay after each."""
    horizon = longest(subject, 'test', subject.checkpoint.planner.horizon)
    frames = subject.model.history + max(horizon, 1)
    starts, blocks, episode = subject.windows('test', frames)
    end = starts + (frames - 1) * subject.skip
    last = subject.dataset.ep_offset[episode] + subject.dataset.ep_len[episode] - 1
    room = end + max(d.delay for d in DISTURBANCES) <= last
    return starts[room], blocks[room], episode[room]


def _imagined(subject: Subject, disturbance: Disturbance, starts: np.ndarray, blocks: np.ndarray,
              episode: np.ndarray, number: int) -> dict[str, Any]:
    """Error and skill one block ahead and at the end, the model told what was commanded.

    The recorded commands are what the robot did; with a delay it was told them that much before,
    so what is commanded now is done later; and with noise it was told something else.
    """
    model, dataset, job = subject.model, subject.dataset, subject.job
    frames = blocks.shape[1] + 1
    pixels = dataset.frames(subject.frame_rows(starts, frames))
    latents = encode_pixels(model, disturbance.look(pixels))
    ticks = starts[:, None] + np.arange((frames - 1) * subject.skip) + disturbance.delay
    told = dataset.action[ticks].reshape(blocks.shape)
    if disturbance.noise:
        told = noisy(told, disturbance.noise, model.action_std.cpu().numpy(), dataset.spec,
                     np.random.default_rng([job.seed, number]))
    errors = imagination_errors(model, latents, told, model.history)
    still = still_errors(latents, model.history)
    found = {}
    for name, k in (('one_block', 0), ('end', errors.shape[1] - 1)):
        sums = episode_sums(np.stack([errors[:, k], still[:, k]], 1), episode)
        found[name] = {
            'error': _over(sums, lambda s: s[:, 1] / s[:, 0], subject),
            'skill': _over(sums, lambda s: 1 - s[:, 1] / s[:, 2], subject)}
    return {**found, 'horizon': errors.shape[1]}


def _over(sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], subject: Subject
          ) -> dict[str, Any]:
    return over_episodes(sums, statistic, subject.job.resamples, subject.job.seed).to_dict()


def rarity(states: np.ndarray, known: np.ndarray) -> np.ndarray:
    """How rare each of `states` (N, M) is: the distance to its tenth nearest in `known` (K, M).

    Both in the units of the columns' deviation among the known.
    """
    from scipy.spatial import cKDTree
    mean, scale = known.mean(axis=0), known.std(axis=0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    tree = cKDTree((known - mean) / scale)
    count = min(_NEIGHBOURS, len(known))
    return tree.query((states - mean) / scale, k=[count])[0][:, 0]


def _rare(subject: Subject, driven: bool) -> dict[str, Any] | None:
    """Probe and one-block errors in the rarest tenth of the test states, beside the rest's.

    With `driven` also the goals reached from the rarest tenth of a world's starts.
    """
    train, test = subject.encoded('train'), subject.encoded('test')
    columns = [targets(e.states, subject.angles) for e in (train, test)]
    # What is the same in all that was recorded, or never known, is no place to be rare in.
    names = [name for name, values in columns[0].items()
             if varies(values) and np.isfinite(columns[1][name]).any()]
    if not names:
        return None
    known, states = (np.stack([c[name] for name in names], axis=1) for c in columns)
    good = np.isfinite(known).all(axis=1)
    seen = np.isfinite(states).all(axis=1)
    if good.sum() < 2 or seen.sum() < 10:
        return None
    far = rarity(states[seen], known[good])
    rare = far >= np.quantile(far, 1 - _RARE)
    probe = LinearProbe.fit(train.latents[good], known[good])
    off = ((probe(test.latents[seen]) - states[seen]) / known[good].std(axis=0)) ** 2
    found = {'probe_nmse': _split(off.mean(axis=1), rare, test.episode[seen], subject)}
    # Surprise of a block that ends in a rare state; its error against the latents' motion too.
    starts, blocks, episode = subject.windows('test', subject.model.history + 1)
    if len(starts):
        rows = subject.frame_rows(starts, subject.model.history + 1)
        latents = encode_pixels(subject.model, subject.dataset.frames(rows))
        error = imagination_errors(subject.model, latents, blocks, subject.model.history)[:, 0]
        ends = targets({k: v[rows[:, -1]] for k, v in subject.dataset.states.items()},
                       subject.angles)
        place = np.stack([ends[name] for name in names], axis=1)
        fine = np.isfinite(place).all(axis=1)
        away = rarity(place[fine], known[good])
        found['one_block_error'] = _split(error[fine], away >= np.quantile(away, 1 - _RARE),
                                          episode[fine], subject)
        size = np.linalg.norm(latents[:, -1], axis=-1)[fine]
        found['latent_norm'] = _split(size, away >= np.quantile(away, 1 - _RARE), episode[fine],
                                      subject)
    if driven and set(subject.dataset.states) <= set(subject.make_world().state()):
        log.info('  goals from rare starts')
        found['goals_reached'] = drive_from_rare(subject, _RARE, lambda states: rarity(
            np.stack([targets(states, subject.angles)[name] for name in names], 1), known[good]))
    return found


def _split(values: np.ndarray, rare: np.ndarray, episode: np.ndarray, subject: Subject
           ) -> dict[str, Any]:
    """The means over rare and other rows, and their ratio."""
    sums = episode_sums(np.stack([values * rare, rare, values * ~rare, ~rare], 1), episode)
    statistics = {'rare': lambda s: s[:, 1] / s[:, 2], 'others': lambda s: s[:, 3] / s[:, 4],
                  'ratio': lambda s: s[:, 1] / s[:, 2] * s[:, 4] / s[:, 3]}
    return {name: _over(sums, statistic, subject) for name, statistic in statistics.items()}


def show(page: Page, found: dict[str, Any]) -> None:
    """Nothing; adds the table of disturbances and that of rare states."""
    rows = []
    for row in found['disturbances']:
        goals, imagined = row.get('goals'), row.get('open_loop')
        reached = '–' if goals is None else text(goals['reached'])
        figures = ('–',) * 3 if imagined is None else (
            text(imagined['one_block']['error']), text(imagined['one_block']['skill']),
            text(imagined['end']['skill']))
        rows.append((row['name'], reached, *figures))
    page.text('Skill: 1 - error over that of "nothing moves", both seen through the disturbance; '
              'with delay or noise the model is told what was commanded. Goals: fresh tasks, '
              'with the planner settings of the checkpoint.', 'note')
    page.table(rows, ('disturbance', 'goals reached', 'error one block ahead', 'skill',
                      'skill at the horizon'))
    if found['rare'] is None:
        page.text('Without state columns that vary nothing says which states are rare.', 'note')
        return
    page.text('The tenth of the test states, and of the starts of fresh tasks, that is farthest '
              'from its tenth nearest training state, beside the rest:')
    page.table([(name.replace('_', ' '), *(text(pair[k]) for k in ('rare', 'others', 'ratio')))
                for name, pair in found['rare'].items()], ('', 'rare', 'others', 'ratio'))
