"""What each job needs to know: one frozen dataclass a job, with every default."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

from lewm_core.config import (DataConfig, ModelConfig, PlannerConfig, SurpriseConfig,
                              TrainConfig)


def _option(help: str, default: Any = MISSING, low: float | None = None,
            high: float | None = None, among: tuple[str, ...] = ()) -> Any:
    """A dataclass field with its description; required when it has no default."""
    meta = {'help': help, 'low': low, 'high': high, 'among': among}
    return field(metadata=meta) if default is MISSING else field(default=default, metadata=meta)


def _group(kind: type) -> Any:
    return field(default_factory=kind)


@dataclass(frozen=True)
class ConvertJob:
    """Bags to one dataset."""

    bags: tuple[Path, ...] = _option('the bags: PATH or PATH,PATH')
    robot: str = _option('the robot: a name in config/robot, or the path of a YAML file')
    output: Path = _option('the dataset to write, such as data.h5')
    overwrite: bool = _option('replace an output that exists', False)
    append: bool = _option('add the bags that an existing output does not hold yet', False)
    storage: str = _option('raw pixels, mapped into memory in training, or jpeg: a tenth of the '
                           'space, decoded whenever they are read', 'raw', among=('raw', 'jpeg'))
    jpeg_quality: int = _option('of storage=jpeg', 95, 50, 100)
    workers: int = _option('processes; 0: as many as the bags are worth', 0, 0, 256)
    report: bool = _option('write OUTPUT.report.html and .json: frames, actions, drops', True)
    typestore: str = _option('for message types that a bag does not define: a ROS distribution, '
                             'such as humble, or a folder of .msg files', '')
    data: DataConfig = _group(DataConfig)


@dataclass(frozen=True)
class MergeJob:
    """Datasets of one robot to one dataset: the shards of many machines."""

    datasets: tuple[Path, ...] = _option('the datasets: PATH or PATH,PATH')
    output: Path = _option('the dataset to write')
    overwrite: bool = _option('replace an output that exists', False)


@dataclass(frozen=True)
class TrainJob:
    """A dataset to a checkpoint."""

    dataset: Path = _option('the dataset, as convert writes it')
    robot: str | None = _option('the robot of a dataset that names none: a name or a YAML', None)
    output: Path = _option('the run folder: model.safetensors, logs, state for resuming',
                           Path('runs/train'))
    overwrite: bool = _option('replace an output that exists', False)
    model: ModelConfig = _group(ModelConfig)
    data: DataConfig = _group(DataConfig)
    train: TrainConfig = _group(TrainConfig)
    planner: PlannerConfig = _group(PlannerConfig)
    surprise: SurpriseConfig = _group(SurpriseConfig)


@dataclass(frozen=True)
class BagsJob:
    """Bags to a dataset and a checkpoint, in one folder."""

    bags: tuple[Path, ...] = _option('the bags: PATH or PATH,PATH')
    robot: str = _option('the robot: a name in config/robot, or the path of a YAML file')
    output: Path = _option('the run folder: data.h5, model.safetensors, logs',
                           Path('runs/train_from_bags'))
    overwrite: bool = _option('replace an output that exists', False)
    typestore: str = _option('for message types that a bag does not define: a ROS distribution, '
                             'such as humble, or a folder of .msg files', '')
    model: ModelConfig = _group(ModelConfig)
    data: DataConfig = _group(DataConfig)
    train: TrainConfig = _group(TrainConfig)
    planner: PlannerConfig = _group(PlannerConfig)
    surprise: SurpriseConfig = _group(SurpriseConfig)


SECTIONS = ('probes', 'open_loop', 'straightness', 'surprise', 'robustness', 'decoder', 'gap')


@dataclass(frozen=True)
class EvaluateJob:
    """A checkpoint's figures on the held-out episodes of a dataset: JSON and an HTML page."""

    checkpoint: Path = _option('the checkpoint, a .safetensors file')
    dataset: Path = _option('the dataset, for the same robot')
    robot: str | None = _option('the robot of a dataset that names none: a name or a YAML', None)
    output: Path = _option('the folder of evaluation.json and evaluation.html',
                           Path('runs/evaluate'))
    overwrite: bool = _option('replace an output that exists', False)
    sections: tuple[str, ...] = _option(f'what to measure, of {", ".join(SECTIONS)}', SECTIONS)
    compare: Path | None = _option('a second dataset, for the gap between the two: the same '
                                   'robot, simulated and real', None)
    world: str = _option('where fresh drives come from: two_room, push, none, or auto: as the '
                         'robot is called', 'auto')
    seed: int = _option('of the fits, the drives and the bootstrap', 0, 0, 2**31 - 1)
    frames: int = _option('frames looked at in each split, at most', 20_000, 2, 10**9)
    windows: int = _option('windows for open loop and straightness, at most', 1000, 1, 10**7)
    horizon: int = _option('blocks to imagine ahead', 10, 1, 1000)
    probe_steps: int = _option('training steps of the MLP probe, at most', 3000, 1, 10**7)
    trajectories: int = _option('trajectories for each perturbation', 200, 1, 10**6)
    hours: float = _option('ordinary driving that false alarms are counted in', 10.0, 0.001, 1e5)
    calibration_minutes: float = _option('ordinary driving that the alarm is calibrated on, in a '
                                         'world', 20.0, 0.1, 1e5)
    calibrations: int = _option('how often that is repeated, to see how much the outcome depends '
                                'on the drive', 5, 1, 1000)
    goals: int = _option('goals driven to under each disturbance, in a world', 50, 1, 10**5)
    decoder_steps: int = _option('training steps of the decoder', 1500, 1, 10**7)
    resamples: int = _option('bootstrap resamples of the episodes', 1000, 0, 10**6)


@dataclass(frozen=True)
class DemoJob:
    """The whole way: drive, record, train, plan, watch, report."""

    seed: int = _option('of the robot, the training and the planner', 0, 0, 2**31 - 1)
    robot: str = _option('two_room, push, pusht or the path of a YAML file', 'two_room')
    output: Path = _option('the folder of the bag, the checkpoint and the report',
                           Path('runs/demo'))
    overwrite: bool = _option('replace an output that exists', False)
    frames: int = _option('frames to record for training', 10_000, 100, 10**7)
    goals: int = _option('goals to drive to in lock-step', 100, 1, 10**5)
    realtime_goals: int = _option('goals to drive to at real time', 10, 0, 10**4)
    calibration_minutes: float = _option('simulated driving the alarm is calibrated on', 20.0,
                                         0.1, 10_000.0)
    normal_minutes: float = _option('simulated ordinary driving that is watched', 10.0,
                                    0.1, 10_000.0)
    teleports: int = _option('teleports to detect', 20, 0, 10**4)
    colours: int = _option('colour changes to detect', 20, 0, 10**4)
    model: ModelConfig = _group(ModelConfig)
    data: DataConfig = _group(DataConfig)
    train: TrainConfig = _group(TrainConfig)
    planner: PlannerConfig = _group(PlannerConfig)
    surprise: SurpriseConfig = _group(SurpriseConfig)


@dataclass(frozen=True)
class ImportJob:
    """A checkpoint of the reference library to one of ours."""

    weights: Path = _option('the weights.pt of the reference checkpoint')
    config: Path = _option('the config.json beside it')
    dataset: Path = _option('a dataset of that robot: its spec and its action statistics')
    output: Path = _option('the checkpoint to write, such as model.safetensors')
    robot: str | None = _option('the robot of a dataset that names none: a name or a YAML', None)
    overwrite: bool = _option('replace an output that exists', False)


@dataclass(frozen=True)
class ExportJob:
    """One of our checkpoints to weights.pt and config.json of the reference library."""

    checkpoint: Path = _option('the checkpoint, a .safetensors file')
    output: Path = _option('the folder to write weights.pt and config.json to')
    transformers: int = _option('whose names the encoder gets: transformers 4 or 5', 4, 4, 5)
    overwrite: bool = _option('replace an output that exists', False)


@dataclass(frozen=True)
class TuneLambdaJob:
    """The weight of SIGReg, found by short trainings."""

    dataset: Path = _option('the dataset, as convert writes it')
    output: Path = _option('the folder of the trials and tune_lambda.json and .html',
                           Path('runs/tune_lambda'))
    overwrite: bool = _option('replace an output that exists', False)
    low: float = _option('smallest λ', 0.005, 1e-6, 100.0)
    high: float = _option('greatest λ', 2.0, 1e-6, 100.0)
    trials: int = _option('short trainings', 6, 1, 100)
    share: float = _option('length of a trial, as a share of train.steps', 0.25, 1e-4, 1.0)
    model: ModelConfig = _group(ModelConfig)
    data: DataConfig = _group(DataConfig)
    train: TrainConfig = _group(TrainConfig)
    planner: PlannerConfig = _group(PlannerConfig)
    surprise: SurpriseConfig = _group(SurpriseConfig)


@dataclass(frozen=True)
class BenchObjectivesJob:
    """LeWM's loss beside PLDM's on one dataset of a simulated world."""

    dataset: Path = _option('a dataset of two_room or push, as convert writes it')
    output: Path = _option('the JSON file; the trainings lie in the folder of its name',
                           Path('runs/bench/objectives.json'))
    overwrite: bool = _option('train again what is there', False)
    seeds: int = _option('whole trainings of each', 3, 1, 100)
    share: float = _option('length of a tuning run, as a share of train.steps', 0.5, 1e-4, 1.0)
    goals: int = _option('goals to drive to', 50, 1, 10**5)
    teleports: int = _option('teleports to detect', 100, 1, 10**5)
    model: ModelConfig = _group(ModelConfig)
    data: DataConfig = _group(DataConfig)
    train: TrainConfig = _group(TrainConfig)
    planner: PlannerConfig = _group(PlannerConfig)
    surprise: SurpriseConfig = _group(SurpriseConfig)


@dataclass(frozen=True)
class BenchNodeJob:
    """How fast the planner node answers, and what a plan made a block ahead costs."""

    checkpoint: Path = _option('the checkpoint of two_room or push')
    goals: int = _option('tasks of the ablation, in process and without a clock', 100, 1, 10**5)
    realtime_goals: int = _option('tasks driven at real time over DDS, in each mode', 10, 0, 10**4)
    seed: int = _option('of the tasks', 0, 0, 2**31 - 1)
    output: Path = _option('the JSON file to write', Path('runs/bench/node.json'))
    planner: PlannerConfig = _group(PlannerConfig)


@dataclass(frozen=True)
class BenchPlannerJob:
    """The planner's speed, cost and success, beside the reference library's."""

    tables: tuple[str, ...] = _option('speed, small, success, patches', ('speed',))
    output: Path = _option('the JSON file to write', Path('runs/bench/planner.json'))
    reference_python: str | None = _option('a Python that has stable-worldmodel; none: ours alone',
                                           None)
    device: str = _option('cpu or cuda', 'cpu')
    threads: int = _option('CPU threads; 0: as PyTorch chooses', 0, 0, 1024)
    rounds: int = _option('plans of each planner, in turn', 5, 1, 10_000)
    batch: int = _option('problems planned at once', 1, 1, 10_000)
    checkpoint: Path | None = _option('for success and small: a trained model', None)
    world: str = _option('for success: two_room, two_room_far or push', 'two_room')
    problems: int = _option('for success: how many', 100, 1, 10**6)
    budgets: tuple[str, ...] = _option('for success: SOLVER:SAMPLESxITERATIONS[:KNOTS][+proposal]',
                                       ('cem:64x3',))
    seed: int = _option('of weights, problems and candidates', 0, 0, 2**31 - 1)
    model: ModelConfig = _group(ModelConfig)
    planner: PlannerConfig = _group(PlannerConfig)


@dataclass(frozen=True)
class BenchProposalJob:
    """Success against the planner's budget, with and without a proposal and a distance."""

    checkpoint: Path = _option('a checkpoint with a proposal (train.proposal_steps)')
    dataset: Path = _option('the dataset it was trained on')
    world: str = _option('the world to drive in; empty: the one called as the robot', '')
    arms: tuple[str, ...] = _option('what to compare: full, small, small_proposal, tiny, …', (
        'full', 'small', 'small_proposal', 'tiny', 'tiny_proposal', 'proposal'))
    problems: int = _option('problems for each', 500, 1, 10**6)
    full_problems: int = _option('problems for the full search, the first of the same', 500, 1,
                                 10**6)
    ticks: int = _option('ticks to reach a goal in', 60, 1, 10**6)
    seed: int = _option('of problems and candidates', 1000, 0, 2**31 - 1)
    threads: int = _option('CPU threads; 0: as PyTorch chooses', 1, 0, 1024)
    output: Path = _option('the JSON file; a run that was stopped goes on from it',
                           Path('runs/bench/proposal.json'))


@dataclass(frozen=True)
class RepackJob:
    """A dataset of another tool, or a compressed one, with its pixels in one piece."""

    dataset: Path = _option('the dataset: of the reference library, or one of ours')
    output: Path = _option('the dataset to write, such as data.h5')
    robot: str | None = _option('the robot of a dataset that names none: a name or a YAML', None)
    overwrite: bool = _option('replace an output that exists', False)


@dataclass(frozen=True)
class BenchTrainJob:
    """Clips a second of a training step of the paper's model, beside the reference library's."""

    reference_python: Path | None = _option('an interpreter that has stable-worldmodel; none: '
                                            'beside our own step in float32', None)
    batch_size: int = _option('clips a step', 8, 2, 65536)
    rounds: int = _option('steps of each, in turn', 5, 1, 10**6)
    device: str = _option('auto, cpu, cuda or cuda:N', 'auto')
    threads: int = _option('CPU threads; 0: as PyTorch chooses', 0, 0, 1024)
    output: Path = _option('the JSON file to write', Path('runs/bench/train.json'))


@dataclass(frozen=True)
class BenchLoaderJob:
    """Clips a second out of a large file, beside HDF5's own random reads."""

    folder: Path = _option('where the files to read are made and kept', Path('runs/bench'))
    gigabytes: float = _option('of the file', 4.2, 0.01, 1000.0)
    batch_size: int = _option('clips a batch', 128, 1, 65536)
    batches: int = _option('batches a round', 16, 1, 10**6)
    rounds: int = _option('rounds of each, in turn', 5, 1, 10**6)
    output: Path = _option('the JSON file to write', Path('runs/bench/loader.json'))


JOBS: dict[str, type] = {'convert': ConvertJob, 'train': TrainJob, 'train_from_bags': BagsJob,
                         'evaluate': EvaluateJob, 'demo': DemoJob}
JOBS |= {'import': ImportJob, 'export': ExportJob}
JOBS |= {'merge': MergeJob}
JOBS |= {'tune_lambda': TuneLambdaJob, 'bench_objectives': BenchObjectivesJob}
JOBS |= {'bench_node': BenchNodeJob}


@dataclass(frozen=True)
class BenchConvertJob:
    """How fast bags become a dataset, beside OpenCV alone; memory against the bag's size."""

    frames: int = _option('images of the bags that are timed', 3000, 10, 10**6)
    rounds: int = _option('timed rounds, after one that does not count', 3, 1, 1000)
    sizes_gb: tuple[float, ...] = _option('sizes of the bags that memory is measured with',
                                          (0.2, 1.0, 4.0))
    folder: Path = _option('where the bags lie meanwhile: on the disk to be measured',
                           Path('runs/bench'))
    output: Path = _option('the figures as JSON', Path('runs/bench/convert.json'))


JOBS |= {'bench_convert': BenchConvertJob}
JOBS |= {'bench_planner': BenchPlannerJob}
JOBS |= {'bench_proposal': BenchProposalJob}
JOBS |= {'bench_train': BenchTrainJob, 'bench_loader': BenchLoaderJob}
JOBS |= {'repack': RepackJob}
