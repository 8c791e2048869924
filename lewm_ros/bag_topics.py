"""Which topics of a recording are those of a robot spec: by name, and by type."""

from __future__ import annotations

from lewm_core.robot import ANY_TOPIC, RobotSpec
from lewm_core.types import UserError
from lewm_ros.bag_reader import Bag, Topic

_FOREIGN = ('protobuf', 'flatbuffer', 'cbor', 'msgpack', 'json')  # of the mcap format's registry


def find_topic(bag: Bag, wanted: str, type: str, what: str) -> Topic:
    """The topic of the bag that the spec means by `wanted`.

    A relative name also matches under a namespace, when exactly one there is of the type; '*'
    is the one topic of the type that has messages. Of a topic that comes in several types that
    one is meant. Raises UserError when it is missing, of another type (with the topics that are
    there), or of another system than ROS.
    """
    tail = '/' + wanted.lstrip('~/')
    named = [t for t in bag.topics if t.name == tail]
    if wanted == ANY_TOPIC:
        typed = [t for t in bag.topics if t.type == type]
        named = [t for t in typed if t.count] or typed
    elif not named and not wanted.startswith('/'):
        named = [t for t in bag.topics if t.name.endswith(tail)]
    named = [t for t in named if t.type == type] or named
    names = sorted({t.name for t in named})
    if not names:
        wanted = f'{wanted!r} of type {type}' if wanted == ANY_TOPIC else repr(wanted)
        raise UserError(f'bag {str(bag.path)!r} has no topic {wanted} for the {what}, only '
                        f'{bag.listing()}; correct the robot spec or record that topic')
    if len(names) > 1:
        raise UserError(f'bag {str(bag.path)!r} has several topics that {wanted!r} may mean for '
                        f'the {what}: {names}; give one of them in full in the robot spec')
    topic = named[0]
    if topic.type != type:
        raise UserError(f'topic {topic.name!r} in bag {str(bag.path)!r} is a '
                        f'{topic.type or "message of no type"}, but the robot spec expects {type} '
                        f'for the {what}; correct the spec or record the other topic')
    if topic.encoding in _FOREIGN:
        raise UserError(f'topic {topic.name!r} in bag {str(bag.path)!r} is written as '
                        f'{topic.encoding}, but cdr (ROS 2) or ros1 is expected; record it from '
                        'ROS')
    return topic


def find_topics(bag: Bag, spec: RobotSpec) -> dict[str, str]:
    """The names in the bag of 'camera', 'action', 'episode' and each state topic of the spec.

    Raises UserError where one is missing, or has no message though a conversion needs them.
    """
    camera = find_topic(bag, spec.camera.topic, spec.camera.type, f'camera {spec.camera.name!r}')
    if camera.count == 0:
        raise UserError(f'bag {str(bag.path)!r} has no image on {camera.name!r}; record it again '
                        'with the camera running')
    try:
        action = find_topic(bag, spec.action.topic, spec.action.type, 'commands')
    except UserError as error:
        if 'has no topic' not in str(error):
            raise
        wanted = spec.action.topic if spec.action.topic != ANY_TOPIC else spec.action.type
        raise UserError(f'bag {str(bag.path)!r} has {camera.count} images on {camera.name!r} but '
                        f'no commands: no topic {wanted!r} is among {bag.listing()}; '
                        'correct the robot spec or record that topic too') from None
    if action.count == 0:
        raise UserError(f'bag {str(bag.path)!r} has {camera.count} images on {camera.name!r} but '
                        f'no command on {action.name!r}; record it again while the robot is '
                        'driven')
    if action.name == camera.name:
        raise UserError(f'camera and commands are both {camera.name!r} in the robot spec; give '
                        'the topic of what the robot is told')
    names = {'camera': camera.name, 'action': action.name}
    for state in spec.state:
        names[state.topic] = find_topic(bag, state.topic, state.type, 'state').name
    if spec.episode_topic is not None:
        names['episode'] = find_topic(bag, spec.episode_topic, 'std_msgs/msg/Header',
                                      'episode markers').name
    return names
