"""The end of a DDS participant, which must not wait for ever for its last discovery callback.

Destroying the last node of a context makes rmw_fastrtps take the participant's listener away
"without a time limit". Where Fast DDS was built for an older libc, as in the wheels (2.14.5), that
limit overflows: if another participant is being discovered at that moment, the call spins on an
error with the mutex held that the callback needs, and with Python's lock: no signal is heard any
more. Of 740 processes that ended five at a time one stood still so. With a time limit the same
call waits as it should, and where no listener is left the later one has nothing to wait for.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from rclpy.node import Node
from rclpy.utilities import get_rmw_implementation_identifier

LIMIT_S = 5
_PARTICIPANT = '_ZN16rmw_fastrtps_cpp22get_domain_participantEP10rmw_node_s'
_SET_LISTENER = ('_ZN8eprosima7fastdds3dds17DomainParticipant12set_listenerEPNS1_'
                 '25DomainParticipantListenerENSt6chrono8durationIlSt5ratioILl1ELl1EEEE')


def leave(node: Node) -> None:
    """Nothing; destroys the last node of its context, and with it the participant."""
    stop_discovery(node)
    node.destroy_node()


def stop_discovery(node: Node) -> bool:
    """Whether the participant of a node's context hears of no other participant any more.

    It is false where the middleware isn't Fast DDS with these entry points: nothing is changed
    there, and nothing needs to be. No node can be added to the context after it.
    """
    if get_rmw_implementation_identifier() != 'rmw_fastrtps_cpp':
        return False
    try:
        rmw_node = _function('librcl.so', 'rcl_node_get_rmw_handle', ctypes.c_void_p,
                             ctypes.c_void_p)(node.handle.pointer)
        participant = _function('librmw_fastrtps_cpp.so', _PARTICIPANT, ctypes.c_void_p,
                                ctypes.c_void_p)(rmw_node)
        set_listener = _function('librmw_fastrtps_cpp.so', _SET_LISTENER, ctypes.c_uint32,
                                 ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    except (AttributeError, OSError):  # another version, or linked otherwise
        return False
    return bool(participant) and set_listener(participant, None, LIMIT_S) == 0


def _function(library: str, name: str, result: Any, *arguments: Any) -> Any:
    """A function of a library that this process has loaded, or of one that it depends on."""
    loaded = ctypes.CDLL(library, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    function = getattr(loaded, name)
    function.restype, function.argtypes = result, arguments
    return function
