"""train_from_bags: recorded bags to a dataset and a checkpoint."""

from lewm_ros.launching import Argument, describe


def generate_launch_description():
    """The train_from_bags node; SIGINT writes a checkpoint to go on from, and ends."""
    return describe('train_from_bags', (
        Argument('bags', 'the bags: PATH or PATH,PATH', word=True),
        Argument('robot', 'robot spec: a name in config/robot or the path of a YAML file',
                 word=True),
        Argument('output', 'the run folder: dataset, checkpoint, logs', word=True),
        Argument('overwrite', 'replace an output that exists: true or false', word=True),
        Argument('model', 'tiny or lewm; empty: as suits the camera', word=True),
        Argument('overrides', 'more overrides, separated by blanks: train.steps=2000 '
                 'train.device=cuda', words=True),
    ), patience_s=60.0)
