"""The agent: history, goal and a new plan each block. NumPy in and out, no ROS and no threads.

A caller that plans and drives in one thread uses `act(frame)` alone, once a tick. One that must
answer in time (the planner node) takes it apart: at each block's first frame `plan(frame)`, then
for every tick `commit(action)` with what was really published, so that the history the model sees
is what the robot did. Whoever loses frames or time calls `reset`.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from lewm_core.arrival import Arrival, tolerance_of
from lewm_core.checkpoint import Checkpoint
from lewm_core.config import PlannerConfig
from lewm_core.dynamics import imagination, recordable
from lewm_core.graphs import Recordings, frozen
from lewm_core.guidance import Guidance
from lewm_core.model import pixels_on
from lewm_core.planner import (Solution, check_search, drawn_by, goal_objective, optimise,
                               refuse_nothing, search_space, shift)
from lewm_core.solvers.common import Draw
from lewm_core.types import Action, Frame, Plan, UserError


class Agent:
    """Plans towards a goal image with a trained model.

    `spec` is the checkpoint's robot and `frameskip` the ticks in a block. The parameters of the
    search are the checkpoint's unless `planner` is given; none of them changes a tensor. With
    `rest` a plan is the safe action while the goal is reached.
    """

    def __init__(self, checkpoint: Checkpoint, planner: PlannerConfig | None = None,
                 device: str | torch.device = 'cpu', rest: bool = False) -> None:
        self.spec = checkpoint.spec
        self.planner = planner or checkpoint.planner
        self.device = torch.device(device)
        self._model = checkpoint.model.to(self.device).eval()
        self.frameskip = self._model.config.frameskip
        if self.planner.context > self._model.config.history:
            raise UserError(f'planner.context={self.planner.context} is more than the '
                            f'{self._model.config.history} frames of history that this '
                            'checkpoint was trained with; lower it')
        check_search(self.planner, self.frameskip)
        self._dynamics = imagination(self._model, self.planner)
        self._guidance = Guidance(checkpoint.heads, self.planner, self.device)
        self._generator = torch.Generator(self.device)
        self._space = search_space(self.spec.low, self.spec.high, self._model.action_std,
                                   self.planner, self.frameskip, self.device)
        self._searches = Recordings(self._find, self._generator)
        self._pictures = Recordings(lambda _, pixels: (self._model.encode(pixels),),
                                    self._generator)
        self._goal: torch.Tensor | None = None
        self.arrival = Arrival(tolerance_of(checkpoint.metrics), rest)
        self.reset()

    @property
    def recorded(self) -> int:
        """How many kinds of search run as recordings; see `record`."""
        return len(self._searches)

    @property
    def has_goal(self) -> bool:
        """Whether there is a goal to plan to."""
        return self._goal is not None

    def reset(self) -> None:
        """Nothing; forgets history and plan and keeps the goal: after a gap, at a new episode."""
        self._latents: list[torch.Tensor] = []   # (D,) each, one block apart
        self._blocks: list[torch.Tensor] = []    # (F, A) each: what led from one to the next
        self._ticks: list[np.ndarray] = []       # what was done since the newest latent
        self._start: torch.Tensor | None = None  # (1, K, F, A): the latest plan's mean
        self._since = 0                          # ticks done since that plan's first one
        self._stamp_ns = 0                       # of the newest latent's frame
        self._plan: Plan | None = None
        self._plans = 0
        self.arrival.forget()

    def lose_history(self) -> None:
        """Nothing; the next frame begins a block without history, but the plan goes on.

        For a plan that came too late: the ticks driven meanwhile are committed first.
        """
        self._latents, self._blocks, self._ticks = [], [], []

    @torch.no_grad()
    def set_goal(self, pixels: np.ndarray) -> None:
        """Nothing; from now on plans lead to where the camera sees `pixels` (H, W, 3) uint8.

        Raises UserError when the picture's size is not the camera's.
        """
        camera, shape = self.spec.camera, np.shape(pixels)
        if shape != (camera.height, camera.width, 3):
            raise UserError(f'the goal image has shape {shape}, but the model sees '
                            f'{camera.width}x{camera.height} RGB; give a picture from the camera '
                            f'{camera.name!r} of robot {self.spec.name!r}')
        self._goal = self._encode(pixels)
        self._start, self._plan = None, None
        self.arrival.forget()

    def clear_goal(self) -> None:
        """Nothing; there is no goal any more."""
        self._goal = None
        self.reset()

    @torch.no_grad()
    def plan(self, frame: Frame) -> Plan:
        """The plan from this frame, which begins a block, to the goal.

        With `planner.deadline_ms` the best one found until then, with the iterations done.
        Raises ValueError without a goal, and SearchError when no candidate has a finite cost.
        """
        begun = time.perf_counter()
        self._observe(frame)
        return self._planned(begun, None)

    @torch.no_grad()
    def plan_next(self, frame: Frame | None, committed: np.ndarray) -> Plan:
        """The plan for the block that follows the one this frame begins.

        `committed` (F, A) is what this block does, and the search starts from the latent that
        the model predicts for its end: so a search may take as long as a block, and is not late.
        `frame` is None when `plan` has seen it already. Raises as `plan` does.
        """
        begun = time.perf_counter()
        if frame is not None:
            self._observe(frame)
        return self._planned(begun, self._tensor(committed))

    def _observe(self, frame: Frame) -> None:
        self._stamp_ns = frame.stamp_ns
        self._remember(self._encode(frame.pixels))
        self.arrival.look(self._latents[-1], self._goal)

    def _planned(self, begun: float, committed: torch.Tensor | None) -> Plan:
        if self._goal is None:
            raise ValueError('there is no goal to plan to; call set_goal first')
        arrival, ahead = self.arrival, 0 if committed is None else self.frameskip
        stamp_ns = self._stamp_ns + round(1e9 * ahead * self.spec.tick_s)
        if arrival.resting:
            self._start = None
            return arrival.rest(stamp_ns, self.spec, self.planner.horizon * self.frameskip, begun)
        solution = self._search(self._goal, begun, committed)
        self._start, self._since = solution.mean, len(self._ticks) - ahead
        actions = solution.actions[0].flatten(0, 1).double().cpu().numpy()
        return Plan(stamp_ns, self.spec.clamp(actions), float(solution.cost[0]),
                    solution.iterations, time.perf_counter() - begun, *arrival.told)

    def commit(self, action: Action) -> None:
        """Nothing; notes the action of one tick as it was published: it becomes history."""
        self._ticks.append(np.asarray(action.values, dtype=np.float64))
        self._since += 1

    def act(self, frame: Frame) -> Action:
        """The action of this tick, within the limits: a new plan each block, then its ticks."""
        tick = len(self._ticks) % self.frameskip
        if tick == 0 or self._plan is None:
            self._plan, tick = self.plan(frame), 0
        action = Action(frame.stamp_ns, self._plan.actions[tick])
        self.commit(action)
        return action

    @torch.no_grad()
    def warm_up(self, times: int = 5) -> float:
        """The seconds that a plan takes (the median), after first-use costs.

        Searches are recorded; nothing else changes. In the thread that will plan.
        """
        self.record()
        camera, seconds = self.spec.camera, []
        blank = np.zeros((camera.height, camera.width, 3), np.uint8)
        kept = dict(vars(self))
        self._ticks = []
        for _ in range(times):
            begun = time.perf_counter()
            self._remember(self._encode(blank))
            self._search(self._latents[-1], begun, None)
            seconds.append(time.perf_counter() - begun)
        vars(self).update(kept)
        return float(np.median(seconds))

    @torch.no_grad()
    def search(self, latents: torch.Tensor, past: torch.Tensor, goals: torch.Tensor,
               seed: int, start: torch.Tensor | None = None, deadline: float | None = None
               ) -> Solution:
        """The solutions of B problems at once, each from its context to its goal.

        `latents` (B, C, D) and the blocks `past` (B, C - 1, F, A) between them, `goals` (B, D),
        `start` (B, K, F, A) the means to begin with. See `planner.solve`.
        """
        self._generator.manual_seed(seed)
        config, draw = self.planner, drawn_by(self._generator)
        if deadline is not None or not self.recorded:
            found = self._solution(draw, latents, past, goals, start, deadline)
        else:
            start = self._center(len(goals)) if start is None else start
            actions, cost, mean = self._searches(draw, latents, past, goals, start)
            done = 0 if config.solver == 'proposal' else config.iterations
            found = Solution(actions, cost, done, mean)
        refuse_nothing(found.cost, config, found.iterations)
        return found

    def _find(self, draw: Draw, latents: torch.Tensor, past: torch.Tensor, goals: torch.Tensor,
              start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Actions, cost and mean of the solution; to be recorded."""
        found = self._solution(draw, latents, past, goals, start, None)
        return found.actions, found.cost, found.mean

    def _solution(self, draw: Draw, latents: torch.Tensor, past: torch.Tensor,
                  goals: torch.Tensor, start: torch.Tensor | None, deadline: float | None
                  ) -> Solution:
        objective = goal_objective(self._dynamics, latents, past, goals, self.planner.cost,
                                   self._guidance.term())
        return optimise(objective, self._space, self.planner, draw, batch=len(goals), mean=start,
                        center=self._model.action_mean,
                        prior=self._guidance.prior(latents[:, -1], goals), deadline=deadline)

    def _center(self, batch: int) -> torch.Tensor:
        """The means (B, K, F, A) that a search begins with when there was none before."""
        return self._model.action_mean.expand(batch, self.planner.horizon, self.frameskip, -1)

    @torch.no_grad()
    def record(self, batch: int = 1) -> bool:
        """Whether searches for `batch` problems run as recordings from now on (see `graphs`).

        For each length of the history; and so do the encodings of as many pictures. In the thread
        that will search.
        """
        config, latent, camera = self.planner, self._model.config.latent_dim, self.spec.camera
        with frozen(self._model):
            self._pictures.record(torch.zeros((batch, camera.height, camera.width, 3),
                                              dtype=torch.uint8, device=self.device))
        if not recordable(config, self._dynamics, self.device, batch):
            return False
        goals = torch.zeros(batch, latent, device=self.device)
        return all(self._searches.record(
            goals[:, None].expand(-1, frames, -1),
            goals.new_zeros(batch, frames - 1, self.frameskip, self.spec.action_dim), goals,
            self._center(batch)) for frames in range(1, config.context + 1))

    def _search(self, goal: torch.Tensor, begun: float,
                committed: torch.Tensor | None) -> Solution:
        """The solution for the present history; `begun` is when its deadline began to run."""
        config = self.planner
        latents, past = self._context(committed)
        ahead = 0 if committed is None else self.frameskip
        start = deadline = None
        if config.warm_start and self._start is not None:
            begins = self._since - len(self._ticks) + ahead  # ticks after the latest plan's start
            start = shift(self._start, begins // self.frameskip)
        if config.deadline_ms:
            deadline = begun + config.deadline_ms / 1e3
        # One seed a plan: the same situation gives the same plan, whatever was planned before.
        self._plans += 1
        return self.search(latents, past, goal[None], (config.seed << 20) + self._plans - 1,
                           start, deadline)

    def _context(self, committed: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The latents (1, C, D) that the search starts from and the blocks between them.

        After the block `committed` (F, A) the last of them is what the model predicts.
        """
        latents = torch.stack(self._latents)[None]
        past = (torch.stack(self._blocks)[None] if self._blocks
                else latents.new_zeros(1, 0, self.frameskip, self.spec.action_dim))
        if committed is None:
            return latents, past
        coming = self._model.rollout(latents, past, committed[None, None, None])[:, 0]
        latents = torch.cat([latents, coming], dim=1)[:, -self.planner.context:]
        past = torch.cat([past, committed[None, None]], dim=1)
        return latents, past[:, past.shape[1] - (latents.shape[1] - 1):]

    def _remember(self, latent: torch.Tensor) -> None:
        """Nothing; puts a block's first latent into the history, which stays `context` long."""
        whole = len(self._ticks) == self.frameskip
        if not (self._latents and whole):
            self._latents, self._blocks = [], []  # the first frame, or ticks were lost
        else:
            self._blocks.append(self._tensor(np.stack(self._ticks)))
        self._ticks = []
        self._latents.append(latent)
        keep = self.planner.context
        self._latents = self._latents[-keep:]
        self._blocks = self._blocks[-(keep - 1):] if keep > 1 else []

    @torch.no_grad()
    def encode(self, pixels: np.ndarray) -> torch.Tensor:
        """The latents (B, D) of prepared pictures (B, H, W, 3) uint8."""
        return self._pictures(drawn_by(self._generator), pixels_on(self.device, pixels))[0]

    def _encode(self, pixels: np.ndarray) -> torch.Tensor:
        """The latent (D,) of one prepared picture."""
        return self.encode(pixels[None])[0]

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=self.device)
