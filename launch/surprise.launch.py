"""The surprise node: says when the world breaks the rules that the model learned."""

from lewm_ros.launching import SIM_TIME, Argument, describe


def generate_launch_description():
    """The surprise node (lifecycle); with autostart it configures and activates itself."""
    return describe('surprise_node', (
        Argument('checkpoint', 'the trained model, a .safetensors file'),
        Argument('robot', 'robot spec, by name or path, that the checkpoint must be made for'),
        Argument('promised_per_hour', 'false alarms an hour in ordinary driving', kind=float),
        Argument('save_calibration', '~/recalibrate writes into the checkpoint: true or false',
                 kind=bool),
        Argument('device', 'auto, cpu, cuda or cuda:N'),
        Argument('autostart', 'configure and activate at once: true or false', kind=bool),
        SIM_TIME,
    ), 'surprise.yaml')
