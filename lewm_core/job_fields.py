"""The fields that jobs are made of, and those that several of them have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lewm_core.config import DataConfig, ModelConfig, PlannerConfig, SurpriseConfig, TrainConfig
from lewm_core.config_field import option

EPISODE_S = 30.0


def group(kind: type) -> Any:
    """A dataclass field that holds a config of its own, such as `train`."""
    return field(default_factory=kind)


def bags() -> Any:
    """The field `bags` of a job that reads recordings."""
    return option('the bags: PATH or PATH,PATH')


def robot() -> Any:
    """The field `robot` of a job that cannot do without one."""
    return option('the robot: a name in config/robot, or the path of a YAML file')


def robot_of_dataset() -> Any:
    """The field `robot` of a job that reads a dataset."""
    return option('the robot of a dataset that names none: a name or a YAML', None)


def typestore() -> Any:
    """The field `typestore` of a job that reads recordings."""
    return option('for message types that a bag does not define: a ROS distribution, such as '
                  'humble, or a folder of .msg files', '')


def episode_s() -> Any:
    """The field `episode_s` of a job that reads recordings."""
    return option('a longer episode is cut into equal pieces, seconds, so that some can be held '
                  'out; 0: never', EPISODE_S, 0, 1e6)


def overwrite() -> Any:
    """The field `overwrite` of a job that writes."""
    return option('replace an output that exists', False)


def threads(default: int = 0) -> Any:
    """The field `threads` of a job that runs a model."""
    return option('CPU threads; 0: as PyTorch chooses', default, 0, 1024)


@dataclass(frozen=True, kw_only=True)
class TrainingGroups:
    """The groups of a job that trains: the model, and all that its checkpoint will hold."""

    model: ModelConfig = group(ModelConfig)
    data: DataConfig = group(DataConfig)
    train: TrainConfig = group(TrainConfig)
    planner: PlannerConfig = group(PlannerConfig)
    surprise: SurpriseConfig = group(SurpriseConfig)
