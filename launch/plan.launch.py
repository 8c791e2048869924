"""The planner: drives the robot to what a goal image shows."""

from lewm_ros.launching import SIM_TIME, Argument, describe


def generate_launch_description():
    """The planner node (lifecycle); with autostart it configures and activates itself."""
    return describe('planner_node', (
        Argument('checkpoint', 'the trained model, a .safetensors file'),
        Argument('robot', 'robot spec, by name or path, that the checkpoint must be made for'),
        Argument('goal', 'an image file to drive to; empty: wait for the topic goal_image'),
        Argument('device', 'auto, cpu, cuda or cuda:N'),
        Argument('autostart', 'configure and activate at once: true or false', kind=bool),
        Argument('dry_run', 'publish to ~/command_preview alone: true or false', kind=bool),
        Argument('at_goal', 'once the goal is reached: keep (drive on, to stay there) or rest'),
        SIM_TIME,
    ), 'planner.yaml')
