"""The recorder: every message of a robot's topics into an mcap bag."""

from lewm_ros.launching import SIM_TIME, Argument, describe


def generate_launch_description():
    """The recorder node; SIGINT finishes the bag."""
    return describe('recorder', (
        Argument('output', 'the bag to write, a directory that does not exist yet'),
        Argument('robot', 'robot spec, by name or path: its topics are recorded'),
        Argument('overwrite', 'replace an output that exists: true or false', kind=bool),
        SIM_TIME,
    ), 'record.yaml', patience_s=60.0)
