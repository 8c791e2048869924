"""What the simulated robot is asked to do: one frozen dataclass, which its parameters follow."""

from __future__ import annotations

from dataclasses import dataclass

from lewm_core.config import check
from lewm_core.robot import RobotSpec
from lewm_core.types import UserError
from lewm_ros.fields import check_fields, check_paths, message_class
from lewm_ros.params import option

MODES = ('drive', 'trials')
POLICIES = ('explore', 'random', 'hold', 'line', 'external')


@dataclass(frozen=True)
class SimConfig:
    """One run of the simulated robot; each field is a ROS parameter of the same name."""

    robot: str = option('', 'robot spec: a name in config/robot or the path of a YAML file')
    world: str = option('', 'two_room, push or a Gymnasium id; empty: what the spec is named')
    mode: str = option('drive', 'drive: on and on; trials: from starts to goals', among=MODES)
    policy: str = option('explore', 'who drives; external: commands from the action topic',
                         among=POLICIES)
    seed: int = option(0, 'of the world, the policy, the tasks and the events', 0, 2**31 - 1)
    start_stamp: float = option(1000.0, 'simulation time of the first frame, s', 0.0, 4e9)
    # time
    lockstep: bool = option(True, 'an external driver is waited for: time moves on when a '
                            'command with the stamp of the frame has come')
    lockstep_timeout_s: float = option(2.0, 'the longest wait for that command, wall seconds',
                                       1e-3, 3600.0)
    speed: float = option(0.0, 'simulated seconds a wall second; 0: as fast as possible',
                          0.0, 1e6)
    publish_clock: bool = option(False, 'publish /clock, one message a tick')
    # drive
    frames: int = option(10_000, 'frames of a drive; 0: until it is stopped', 0, 10**9)
    episode_frames: int = option(0, 'frames an episode of a drive; 0: all one episode',
                                 0, 10**9)
    goal_ticks: int = option(0, 'external drive: ticks between new goals; 0: no goals', 0, 10**9)
    hold_ticks: int = option(5, 'random policy: ticks that a command is held', 1, 10**6)
    # events
    normal_ticks: int = option(0, 'ticks of ordinary driving before the first event', 0, 10**9)
    teleports: int = option(0, 'teleports in the drive', 0, 10**6)
    colours: int = option(0, 'colour changes in the drive', 0, 10**6)
    event_gap_ticks: int = option(40, 'ticks from one event to the next', 4, 10**6)
    # trials
    trials: int = option(100, 'tasks to drive', 1, 10**6)
    trial_ticks: int = option(60, 'ticks within which a goal must be reached', 1, 10**6)
    settle_ticks: int = option(10, 'strict success: still there so many ticks later', 0, 10**6)
    goal_accepted_topic: str = option('planner_node/goal_accepted', 'std_msgs/Header, '
                                      'that of the goal image taken; empty: not waited for')
    goal_timeout_s: float = option(60.0, 'the longest wait for that header, wall seconds',
                                   1e-3, 3600.0)
    # who listens
    wait_for_start: bool = option(False, 'wait for a call of ~/start')
    wait_subscribers: int = option(0, 'readers that each recorded topic waits for', 0, 100)
    wait_topics: str = option('', 'topics that wait for readers, separated by commas; empty: all '
                              'that the spec names')
    wait_timeout_s: float = option(60.0, 'the longest wait for readers, wall seconds',
                                   1e-3, 3600.0)
    recorded_topic: str = option('recorder/recorded', 'counts of the recorder that the robot '
                                 'stays for when wait_subscribers is set; empty: it does not')
    record_timeout_s: float = option(30.0, 'the longest stay without a new count, wall seconds',
                                     1e-3, 3600.0)
    queue_depth: int = option(2000, 'messages kept for slow readers, each topic', 1, 10**6)

    @property
    def external(self) -> bool:
        """Whether the commands come from another node."""
        return self.policy == 'external'


def validate(config: SimConfig, spec: RobotSpec) -> None:
    """Nothing; raises UserError when the settings contradict the spec or one another."""
    check(config)
    action = message_class(spec.action.type)
    check_fields(action, spec)
    for state in spec.state:
        check_paths(message_class(state.type), [f.path for f in state.fields], 'state field')
    if config.external and config.lockstep and not _stamped(action):
        raise UserError(f'action type {spec.action.type} has no header, so a command cannot echo '
                        'the stamp of its frame; choose a stamped type or set lockstep:=false')
    if config.mode == 'trials' and config.policy == 'explore':
        raise UserError("policy='explore' follows no goal; choose one of "
                        "['random', 'hold', 'line', 'external'] for mode:=trials")
    if config.mode == 'drive' and config.policy == 'line':
        raise UserError("policy='line' needs goals; set mode:=trials or choose one of "
                        "['explore', 'random', 'hold', 'external']")


def _stamped(message_type: type) -> bool:
    return 'header' in message_type.get_fields_and_field_types()
