"""A driver without ROS, whose worker works when the test says so."""

from __future__ import annotations

import numpy as np
from ros_toys import ToyAgent

from lewm_core.types import UserError
from lewm_ros.drive import Driver

TICK = 100_000_000


class Bench:
    """A driver whose worker works when `work` is called."""

    def __init__(self, spec, ahead=False, **toy):
        self.agent = ToyAgent(spec, **toy)
        self.jobs, self.sent, self.now = [], [], 0
        self.driver = Driver(self.agent, lambda job, done: self.jobs.append((job, done)),
                             lambda stamp, values: self.sent.append((stamp, *map(float, values))),
                             ahead=ahead)

    def work(self):
        while self.jobs:
            job, done = self.jobs.pop(0)
            try:
                result, error = job(), None
            except Exception as raised:
                result, error = None, raised
            done(result, error)

    def goal(self):
        self.driver.set_goal(np.zeros((64, 64, 3), np.uint8), lambda error: None)
        self.work()
        return self

    def frame(self, work=True, start=False, broken=False):
        """The commands that one more frame brings."""
        before = len(self.sent)

        def pixels():
            if broken:
                raise UserError('the image is 3x3')
            return np.full((64, 64, 3), self.now % 256, np.uint8)

        self.driver.frame(self.now * TICK, start, pixels)
        if work:
            self.work()
        self.now += 1
        return [values for _, *values in self.sent[before:]]
