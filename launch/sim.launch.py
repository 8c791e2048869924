"""The simulated robot: drives by itself, or is driven by a planner in lock-step."""

from lewm_ros.launching import Argument, describe


def generate_launch_description():
    """The sim_robot node; arguments left empty take the parameter file's values."""
    return describe('sim_robot', (
        Argument('robot', 'robot spec: a name in config/robot or the path of a YAML file',
                 'two_room'),
        Argument('world', 'two_room, push or a Gymnasium id; empty: what the spec is named'),
        Argument('mode', 'drive: on and on; trials: from starts to goals'),
        Argument('policy', 'explore, random, hold, line, or external: commands from the topic'),
        Argument('seed', 'of the world, the policy, the tasks and the events', kind=int),
        Argument('frames', 'frames of a drive; 0: until it is stopped', kind=int),
        Argument('episode_frames', 'frames an episode of a drive; 0: all one', kind=int),
        Argument('wait_subscribers', 'readers that each topic waits for, such as a recorder',
                 kind=int),
        Argument('trials', 'tasks to drive', kind=int),
        Argument('speed', 'simulated seconds a wall second; 0: as fast as possible', kind=float),
        Argument('lockstep', 'wait for the planner: true or false', kind=bool),
        Argument('publish_clock', 'publish /clock: true or false', kind=bool),
    ), 'sim.yaml', patience_s=10.0)
