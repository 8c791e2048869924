"""Whether ROS 2 takes the topics of a spec: ROS 1 and recordings know names that it refuses."""

from __future__ import annotations

from rclpy.expand_topic_name import expand_topic_name
from rclpy.validate_full_topic_name import validate_full_topic_name

from lewm_core.robot import RobotSpec
from lewm_core.types import UserError


def check_topics(spec: RobotSpec, states: bool = False) -> None:
    """Nothing; raises UserError naming the first of a spec's topics that no node can have.

    `states`: those of the states, too.
    """
    named = [('camera topic', spec.camera.topic), ('action topic', spec.action.topic)]
    if spec.episode_topic is not None:
        named.append(('episode_topic', spec.episode_topic))
    if states:
        named += [('state topic', state.topic) for state in spec.state]
    for what, name in named:
        check_topic(what, name)


def check_topic(what: str, name: str) -> None:
    """Nothing; raises UserError when `name` is no topic of ROS 2."""
    try:
        validate_full_topic_name(expand_topic_name(name, 'node', '/'))
    except Exception:  # rclpy's own, of several types
        raise UserError(f'{what} is {name!r}, but a name of ROS 2 is expected, of letters, digits '
                        'and _ with single / between; correct it') from None
