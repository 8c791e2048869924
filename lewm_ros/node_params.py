"""The parameters of the serving nodes; those of the search and the alarm are in lewm_core."""

from __future__ import annotations

from dataclasses import dataclass

from lewm_core.config_field import option
from lewm_ros.schedule import SCHEDULES

_CHECKPOINT = 'the model: a .safetensors file'
_ROBOT = 'a robot YAML or name that the checkpoint must be for; its topics are used'
_DEVICE = 'auto, cpu, cuda or cuda:N'
_THREADS = ('CPU threads of the model; 0: as many as are fastest, measured at configure; 1 where '
            'other nodes need the cores')
_RELIABLE = 'subscribe to the camera reliably, so that no frame is lost'


@dataclass(frozen=True)
class PlannerParams:
    """The planner node's own parameters; those of the search are `planner.*`."""

    checkpoint: str = option(_CHECKPOINT, '')
    robot: str = option(_ROBOT, '')
    goal: str = option('an image file to drive to from the start', '')
    device: str = option(_DEVICE, 'auto')
    threads: int = option(_THREADS, 0, 0, 1024)
    dry_run: bool = option('publish to ~/command_preview alone', False)
    plan_deadline_s: float = option('seconds from a frame to its command; 0: one tick', 0.0, 0.0,
                                    60.0)
    plan_when: str = option('now: a plan is made when its block begins, and the frame waits; '
                            'ahead: during the block before, from the latent predicted for its '
                            'start, and no frame waits; auto: ahead when a plan takes more than '
                            'half of the time a frame may wait', 'auto', among=SCHEDULES)
    at_goal: str = option('once the goal is reached. keep: drives on, to stay there; rest: the '
                          'safe action, until the robot is twice as far as the tolerance', 'keep',
                          among=('keep', 'rest'))
    goal_tolerance: float = option('squared latent distance within which the goal is reached; 0: '
                                   "the checkpoint's, half a block of ordinary motion", 0.0, 0.0,
                                   1e6)
    reliable_camera: bool = option(_RELIABLE, False)
    queue_depth: int = option('camera messages that wait while the node is busy', 5, 1, 10_000)


@dataclass(frozen=True)
class SurpriseParams:
    """The surprise node's own parameters; those of the alarm stand beside them."""

    checkpoint: str = option(_CHECKPOINT, '')
    robot: str = option(_ROBOT, '')
    device: str = option(_DEVICE, 'auto')
    threads: int = option(_THREADS, 0, 0, 1024)
    calibration_file: str = option('a JSON file: read when it exists, written by ~/recalibrate',
                                   '')
    save_calibration: bool = option('~/recalibrate writes into the checkpoint', False)
    reliable_camera: bool = option(_RELIABLE, False)
    queue_depth: int = option('messages that wait while the node is busy', 1000, 1, 100_000)
    grace_s: float = option('seconds that a frame waits for the commands before it', 0.5, 0.0,
                            60.0)
