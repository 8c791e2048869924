"""What each job needs to know: one frozen dataclass a job, with every default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lewm_core.bench_jobs import (BenchAngleJob, BenchConvertJob, BenchLoaderJob, BenchNodeJob,
                                  BenchObjectivesJob, BenchPlannerJob, BenchProposalJob,
                                  BenchTrainJob)
from lewm_core.config import DataConfig
from lewm_core.config_field import option
from lewm_core.job_fields import (TrainingGroups, bags, episode_s, group, overwrite, robot,
                                  robot_of_dataset, typestore)


@dataclass(frozen=True)
class ConvertJob:
    """Recorded bags to one dataset."""

    bags: tuple[Path, ...] = bags()
    robot: str = robot()
    output: Path = option('the dataset to write, such as data.h5')
    overwrite: bool = overwrite()
    append: bool = option('add the bags that an existing output does not hold yet', False)
    storage: str = option('raw pixels, mapped into memory in training, or jpeg: a tenth of the '
                          'space, decoded whenever they are read', 'raw', among=('raw', 'jpeg'))
    jpeg_quality: int = option('of storage=jpeg', 95, 50, 100)
    workers: int = option('processes; 0: as many as the bags are worth', 0, 0, 256)
    report: bool = option('write OUTPUT.report.html and .json: frames, actions, drops', True)
    typestore: str = typestore()
    episode_s: float = episode_s()
    data: DataConfig = group(DataConfig)


@dataclass(frozen=True)
class MergeJob:
    """Datasets of one robot to one dataset: the shards of many machines."""

    datasets: tuple[Path, ...] = option('the datasets: PATH or PATH,PATH')
    output: Path = option('the dataset to write')
    overwrite: bool = overwrite()


@dataclass(frozen=True)
class RepackJob:
    """A dataset of another tool, or a compressed one, with its pixels in one piece."""

    dataset: Path = option('the dataset: of the reference library, or one of ours')
    output: Path = option('the dataset to write, such as data.h5')
    robot: str | None = robot_of_dataset()
    overwrite: bool = overwrite()


@dataclass(frozen=True, kw_only=True)
class TrainJob(TrainingGroups):
    """A dataset to a checkpoint."""

    dataset: Path = option('the dataset, as convert writes it')
    robot: str | None = robot_of_dataset()
    output: Path = option('the run folder: model.safetensors, logs, state for resuming',
                          Path('runs/train'))
    overwrite: bool = overwrite()


@dataclass(frozen=True, kw_only=True)
class BagsJob(TrainingGroups):
    """Bags to a dataset and a checkpoint, in one folder."""

    bags: tuple[Path, ...] = bags()
    robot: str = robot()
    output: Path = option('the run folder: data.h5, model.safetensors, logs',
                          Path('runs/train_from_bags'))
    overwrite: bool = overwrite()
    typestore: str = typestore()
    episode_s: float = episode_s()


@dataclass(frozen=True, kw_only=True)
class TuneLambdaJob(TrainingGroups):
    """The weight of SIGReg that suits a dataset, by short trainings."""

    dataset: Path = option('the dataset, as convert writes it')
    output: Path = option('the folder of the trials and tune_lambda.json and .html',
                          Path('runs/tune_lambda'))
    overwrite: bool = overwrite()
    low: float = option('smallest λ', 0.005, 1e-6, 100.0)
    high: float = option('greatest λ', 2.0, 1e-6, 100.0)
    trials: int = option('short trainings', 6, 1, 100)
    share: float = option('length of a trial, as a share of train.steps', 0.25, 1e-4, 1.0)


SECTIONS = ('probes', 'open_loop', 'straightness', 'surprise', 'robustness', 'decoder', 'gap')


@dataclass(frozen=True)
class EvaluateJob:
    """A checkpoint's figures on the held-out episodes of a dataset: JSON and an HTML page."""

    checkpoint: Path = option('the checkpoint, a .safetensors file')
    dataset: Path = option('the dataset, for the same robot')
    robot: str | None = robot_of_dataset()
    output: Path = option('the folder of evaluation.json and evaluation.html',
                          Path('runs/evaluate'))
    overwrite: bool = overwrite()
    sections: tuple[str, ...] = option(f'what to measure, of {", ".join(SECTIONS)}', SECTIONS)
    compare: Path | None = option('a second dataset, for the gap between the two: the same '
                                  'robot, simulated and real', None)
    world: str = option('where fresh drives come from: two_room, push, pusht, a Gymnasium '
                        "environment's id, none, or auto: as the robot is called", 'auto')
    seed: int = option('of the fits, the drives and the bootstrap', 0, 0, 2**31 - 1)
    frames: int = option('frames looked at in each split, at most', 20_000, 2, 10**9)
    windows: int = option('windows for open loop and straightness, at most', 1000, 1, 10**7)
    horizon: int = option('blocks to imagine ahead', 10, 1, 1000)
    probe_steps: int = option('training steps of the MLP probe, at most', 3000, 1, 10**7)
    trajectories: int = option('trajectories for each perturbation', 200, 1, 10**6)
    hours: float = option('ordinary driving that false alarms are counted in', 10.0, 0.001, 1e5)
    calibration_minutes: float = option('ordinary driving that the alarm is calibrated on, in a '
                                        'world', 20.0, 0.1, 1e5)
    calibrations: int = option('how often that is repeated, to see how much the outcome depends '
                               'on the drive', 5, 1, 1000)
    goals: int = option('goals driven to under each disturbance, in a world', 50, 1, 10**5)
    decoder_steps: int = option('training steps of the decoder', 1500, 1, 10**7)
    resamples: int = option('bootstrap resamples of the episodes', 1000, 0, 10**6)


@dataclass(frozen=True, kw_only=True)
class DemoJob(TrainingGroups):
    """The whole way: drive, record, train, plan, watch, report."""

    seed: int = option('of the robot, the training and the planner', 0, 0, 2**31 - 1)
    robot: str = option('two_room, push, pusht or the path of a YAML file', 'two_room')
    output: Path = option('the folder of the bag, the checkpoint and the report',
                          Path('runs/demo'))
    overwrite: bool = overwrite()
    frames: int = option('frames to record for training', 10_000, 100, 10**7)
    goals: int = option('goals to drive to in lock-step', 100, 1, 10**5)
    realtime_goals: int = option('goals to drive to at real time', 10, 0, 10**4)
    calibration_minutes: float = option('simulated driving the alarm is calibrated on', 20.0,
                                        0.1, 10_000.0)
    normal_minutes: float = option('simulated ordinary driving that is watched', 10.0,
                                   0.1, 10_000.0)
    teleports: int = option('teleports to detect', 20, 0, 10**4)
    colours: int = option('colour changes to detect', 20, 0, 10**4)


@dataclass(frozen=True)
class ImportJob:
    """A checkpoint of the reference library to one of ours."""

    weights: Path = option('the weights.pt of the reference checkpoint')
    config: Path = option('the config.json beside it')
    dataset: Path = option('a dataset of that robot: its spec and its action statistics')
    output: Path = option('the checkpoint to write, such as model.safetensors')
    robot: str | None = robot_of_dataset()
    overwrite: bool = overwrite()


@dataclass(frozen=True)
class ExportJob:
    """One of our checkpoints to weights.pt and config.json of the reference library."""

    checkpoint: Path = option('the checkpoint, a .safetensors file')
    output: Path = option('the folder to write weights.pt and config.json to')
    transformers: int = option('whose names the encoder gets: transformers 4 or 5', 4, 4, 5)
    overwrite: bool = overwrite()


# Each job by its name, in the order of `lewm --help`; `lewm bench NAME` is bench_NAME.
JOBS: dict[str, type] = {
    'demo': DemoJob,
    'convert': ConvertJob,
    'merge': MergeJob,
    'repack': RepackJob,
    'train': TrainJob,
    'train_from_bags': BagsJob,
    'tune_lambda': TuneLambdaJob,
    'evaluate': EvaluateJob,
    'import': ImportJob,
    'export': ExportJob,
    'bench_convert': BenchConvertJob,
    'bench_loader': BenchLoaderJob,
    'bench_train': BenchTrainJob,
    'bench_objectives': BenchObjectivesJob,
    'bench_planner': BenchPlannerJob,
    'bench_proposal': BenchProposalJob,
    'bench_node': BenchNodeJob,
    'bench_angle': BenchAngleJob,
}
