"""What the simulated robot is asked to do: one frozen dataclass, which its parameters follow."""

from __future__ import annotations

from dataclasses import dataclass

from lewm_core.config import check
from lewm_core.config_field import option
from lewm_core.robot import RobotSpec
from lewm_core.types import UserError
from lewm_ros.fields import check_fields, check_paths, message_class
from lewm_ros.names import check_topics

MODES = ('drive', 'trials')
POLICIES = ('explore', 'random', 'hold', 'line', 'external')


@dataclass(frozen=True)
class SimConfig:
    """One run of the simulated robot; each field is a ROS parameter of the same name."""

    robot: str = option('robot spec: a name in config/robot or the path of a YAML file', '')
    world: str = option('two_room, push or a Gymnasium id; empty: what the spec is named', '')
    mode: str = option('drive: on and on; trials: from starts to goals', 'drive', among=MODES)
    policy: str = option('who drives; external: commands from the action topic', 'explore',
                         among=POLICIES)
    seed: int = option('of the world, the policy, the tasks and the events', 0, 0, 2**31 - 1)
    start_stamp: float = option('simulation time of the first frame, s', 1000.0, 0.0, 4e9)
    # time
    lockstep: bool = option('an external driver is waited for: time moves on when a command with '
                            'the stamp of the frame has come', True)
    lockstep_timeout_s: float = option('the longest wait for that command, wall seconds', 2.0,
                                       1e-3, 3600.0)
    speed: float = option('simulated seconds a wall second; 0: as fast as possible', 0.0, 0.0, 1e6)
    publish_clock: bool = option('publish /clock, one message a tick', False)
    # drive
    frames: int = option('frames of a drive; 0: until it is stopped', 10_000, 0, 10**9)
    episode_frames: int = option('frames an episode of a drive; 0: all one episode', 0, 0, 10**9)
    goal_ticks: int = option('external drive: ticks between new goals; 0: no goals', 0, 0, 10**9)
    hold_ticks: int = option('random policy: ticks that a command is held', 5, 1, 10**6)
    # events
    normal_ticks: int = option('ticks of ordinary driving before the first event', 0, 0, 10**9)
    teleports: int = option('teleports in the drive', 0, 0, 10**6)
    colours: int = option('colour changes in the drive', 0, 0, 10**6)
    event_gap_ticks: int = option('ticks from one event to the next', 40, 4, 10**6)
    # trials
    trials: int = option('tasks to drive', 100, 1, 10**6)
    trial_ticks: int = option('ticks within which a goal must be reached', 60, 1, 10**6)
    settle_ticks: int = option('strict success: still there so many ticks later', 10, 0, 10**6)
    goal_accepted_topic: str = option('std_msgs/Header, that of the goal image taken; empty: not '
                                      'waited for', 'planner_node/goal_accepted')
    goal_timeout_s: float = option('the longest wait for that header, wall seconds', 60.0, 1e-3,
                                   3600.0)
    # who listens
    wait_for_start: bool = option('wait for a call of ~/start', False)
    wait_subscribers: int = option('readers that each recorded topic waits for', 0, 0, 100)
    wait_topics: str = option('topics that wait for readers, separated by commas; empty: all '
                              'that the spec names', '')
    wait_timeout_s: float = option('the longest wait for readers, wall seconds', 60.0, 1e-3,
                                   3600.0)
    recorded_topic: str = option('counts of the recorder that the robot stays for when '
                                 'wait_subscribers is set; empty: it does not',
                                 'recorder/recorded')
    record_timeout_s: float = option('the longest stay without a new count, wall seconds', 30.0,
                                     1e-3, 3600.0)
    queue_depth: int = option('messages kept for slow readers, each topic', 2000, 1, 10**6)

    @property
    def external(self) -> bool:
        """Whether the commands come from another node."""
        return self.policy == 'external'


def validate(config: SimConfig, spec: RobotSpec) -> None:
    """Nothing; raises UserError when the settings contradict the spec or one another."""
    check(config)
    check_topics(spec, states=True)
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
