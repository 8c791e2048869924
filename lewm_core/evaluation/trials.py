"""The same trajectories with and without each perturbation, and how far off the model was."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lewm_core.evaluate import encode_pixels, evenly
from lewm_core.evaluation.drives import trajectories
from lewm_core.evaluation.perturbations import Happening, InWorld, in_world, recorded
from lewm_core.evaluation.subject import Subject
from lewm_core.kinds import BLOCKS, wait
from lewm_core.residuals import Residuals, block_residuals

# Blocks before and, at most, after the event; with a spare one for what is dropped, 90 ticks.
_AFTER = 12
# So many drives are tried for each one that the world does not end too soon.
_TRIES = 10
_STREAM = 10  # of the drives' random numbers


@dataclass(frozen=True)
class Trials:
    """Ordinary trajectories: pictures (N, T, H, W, 3), commands (N, T - 1, F, A), `episode` (N,).

    What happens, happens at frame `event`; `after` blocks from it on are looked at, and frame
    T - 1 is a spare one. `fresh`: drives in a world, each an episode of its own, which `numbers`
    tell.
    """

    pixels: np.ndarray
    actions: np.ndarray
    episode: np.ndarray
    event: int
    after: int
    fresh: bool
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """The residuals (N, before + after) of N trajectories, with and without what happened.

    Block `before` is the first that it touches; `episode` (N,) says which trajectories are of
    one episode.
    """

    name: str
    kind: str
    disturbed: Residuals
    control: Residuals
    episode: np.ndarray
    before: int


def ordinary(subject: Subject) -> Trials | None:
    """The trajectories that things happen to: fresh drives, or windows of test episodes.

    None where no episode is long enough to tell a jump from a shift.
    """
    event = subject.model.history + 3
    if subject.make_world is not None:
        return _driven(subject, event)
    dataset, least = subject.dataset, wait(subject.model.history) + BLOCKS
    lengths = dataset.ep_len[dataset.episodes('test')]
    room = (int(lengths.max(initial=1)) - 1) // subject.skip + 1
    after = min(_AFTER, room - event - 1)
    if after < least:
        return None
    frames = event + after + 1
    starts = evenly(dataset.windows('test', frames, subject.skip), subject.job.trajectories)
    pixels, actions = dataset.batch(starts, frames, subject.skip)
    return Trials(pixels, actions, subject.episode_of(starts), event, after, False)


def _driven(subject: Subject, event: int) -> Trials | None:
    """Fresh drives that the world did not end too soon; None where it ends all of them."""
    count, tried = subject.job.trajectories, range(_TRIES * subject.job.trajectories)
    drives = zip(tried, trajectories(subject, event + _AFTER, _STREAM, tried))
    made = list(itertools.islice(((n, *found) for n, found in drives if found), count))
    if not made:
        return None
    return Trials(np.stack([p for _, p, _ in made]), np.stack([a for *_, a in made]),
                  np.arange(len(made)), event, _AFTER, True, tuple(n for n, *_ in made))


def outcomes(subject: Subject, trials: Trials,
             note: Callable[[str], None] = lambda name: None) -> Iterator[Outcome]:
    """What each perturbation did, one after the other."""
    latents = encode_pixels(subject.model, trials.pixels)
    control = _scored(subject, trials, latents, trials.actions)
    rng = np.random.default_rng([subject.job.seed, _STREAM + 1])
    for change in recorded():
        note(change.name)
        pixels, actions = change.alter(trials.pixels, trials.actions, trials.event,
                                       subject.checkpoint.spec, rng)
        seen = latents
        if pixels is not trials.pixels:
            seen = np.concatenate([latents[:, :trials.event], encode_pixels(
                subject.model, pixels[:, trials.event:])], axis=1)
        yield Outcome(change.name, change.kind, _scored(subject, trials, seen, actions), control,
                      trials.episode, trials.event - 1)
    if subject.make_world is not None:
        for i, change in enumerate(in_world(subject.make_world())):
            note(change.name)
            yield _happened(subject, trials, control, change, i)


def _happened(subject: Subject, trials: Trials, control: Residuals, change: InWorld, number: int
              ) -> Outcome:
    """The outcome of driving all trajectories again, with `change` in the block of the event."""
    happenings = []

    def at(drive: int) -> Happening:
        rng = np.random.default_rng([subject.job.seed, _STREAM + 2, number, drive])
        last = trials.event * subject.skip  # any tick after the frame before, this one included
        happenings.append(Happening(change, int(rng.integers(last - subject.skip, last)) + 1, rng))
        return happenings[-1]

    blocks = trials.actions.shape[1]
    made = list(trajectories(subject, blocks, _STREAM, trials.numbers, at))
    good = np.array([h.happened and m is not None for h, m in zip(happenings, made)])
    if not good.any():
        return Outcome(change.name, change.kind, control[good], control[good],
                       trials.episode[good], trials.event - 1)
    pixels, actions = (np.stack([made[j][i] for j in np.flatnonzero(good)]) for i in (0, 1))
    disturbed = _scored(subject, trials, encode_pixels(subject.model, pixels), actions)
    return Outcome(change.name, change.kind, disturbed, control[good], trials.episode[good],
                   trials.event - 1)


def _scored(subject: Subject, trials: Trials, latents: np.ndarray, actions: np.ndarray
            ) -> Residuals:
    """The residuals (N, before + after): `after` blocks that end at the event and later."""
    last = trials.event - 1 + trials.after
    return block_residuals(subject.model, latents, actions)[:, :last]
