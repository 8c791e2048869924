"""What each benchmark needs to know: `lewm bench NAME` is the job bench_NAME."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lewm_core.config import ModelConfig, PlannerConfig
from lewm_core.config_field import option
from lewm_core.job_fields import TrainingGroups, group, threads


@dataclass(frozen=True)
class BenchConvertJob:
    """How fast bags become a dataset, beside OpenCV alone; memory against the bag's size."""

    frames: int = option('images of the bags that are timed', 6000, 10, 10**6)
    rounds: int = option('timed rounds, after one that does not count', 3, 1, 1000)
    sizes_gb: tuple[float, ...] = option('sizes of the bags that memory is measured with',
                                         (0.2, 1.0, 4.0))
    folder: Path = option('where the bags lie meanwhile: on the disk to be measured',
                          Path('runs/bench'))
    output: Path = option('the figures as JSON', Path('runs/bench/convert.json'))


@dataclass(frozen=True)
class BenchLoaderJob:
    """Clips a second out of a large file, beside HDF5's own random reads."""

    folder: Path = option('where the files to read are made and kept', Path('runs/bench'))
    gigabytes: float = option('of the file', 4.2, 0.01, 1000.0)
    batch_size: int = option('clips a batch', 128, 1, 65536)
    batches: int = option('batches a round', 16, 1, 10**6)
    rounds: int = option('rounds of each, in turn', 5, 1, 10**6)
    output: Path = option('the JSON file to write', Path('runs/bench/loader.json'))


@dataclass(frozen=True)
class BenchTrainJob:
    """Clips a second of a training step of the paper's model, beside the reference library's."""

    reference_python: Path | None = option('an interpreter that has stable-worldmodel; none: '
                                           'beside our own step in float32', None)
    batch_size: int = option('clips a step', 8, 2, 65536)
    rounds: int = option('steps of each, in turn', 5, 1, 10**6)
    device: str = option('auto, cpu, cuda or cuda:N', 'auto')
    compile: bool = option('our step in bf16 also with train.compile=true', False)
    threads: int = threads()
    output: Path = option('the JSON file to write', Path('runs/bench/train.json'))


@dataclass(frozen=True, kw_only=True)
class BenchObjectivesJob(TrainingGroups):
    """LeWM's loss beside PLDM's on one dataset of a simulated world."""

    dataset: Path = option('a dataset of two_room or push, as convert writes it')
    output: Path = option('the JSON file; the trainings lie in the folder of its name',
                          Path('runs/bench/objectives.json'))
    overwrite: bool = option('train again what is there', False)
    seeds: int = option('whole trainings of each', 3, 1, 100)
    share: float = option('length of a tuning run, as a share of train.steps', 0.5, 1e-4, 1.0)
    goals: int = option('goals to drive to', 200, 1, 10**5)
    teleports: int = option('teleports to detect', 200, 1, 10**5)


@dataclass(frozen=True)
class BenchPlannerJob:
    """The planner's speed, cost and success, beside the reference library's."""

    tables: tuple[str, ...] = option('speed, small, success, patches; none: all that can be made, '
                                     'small and success with a checkpoint', ())
    output: Path = option('the JSON file to write', Path('runs/bench/planner.json'))
    reference_python: Path | None = option('a Python that has stable-worldmodel; none: ours '
                                           'alone', None)
    device: str = option('auto, cpu, cuda or cuda:N', 'cpu')
    threads: int = threads()
    rounds: int = option('plans of each planner, in turn', 5, 1, 10_000)
    batch: int = option('problems planned at once', 1, 1, 10_000)
    checkpoint: Path | None = option('for success and small: a trained model', None)
    world: str = option('for success and small: two_room, two_room_far, push or pusht; empty: the '
                        'one called as the robot', '')
    problems: int = option('for success: how many', 100, 1, 10**6)
    budgets: tuple[str, ...] = option('for success: SOLVER:SAMPLESxITERATIONS[:KNOTS][+proposal]; '
                                      'none: each solver at a hundredth of the reference and CEM '
                                      'at all of it', ())
    seed: int = option('of weights, problems and candidates', 0, 0, 2**31 - 1)
    model: ModelConfig = group(ModelConfig)
    planner: PlannerConfig = group(PlannerConfig)


@dataclass(frozen=True)
class BenchProposalJob:
    """Success against the planner's budget, with and without a proposal and a distance."""

    checkpoint: Path = option('a checkpoint with a proposal (train.proposal_steps)')
    dataset: Path = option('the dataset it was trained on')
    world: str = option('the world to drive in; empty: the one called as the robot', '')
    arms: tuple[str, ...] = option('what to compare: full, small, small_proposal, tiny, …', (
        'full', 'small', 'small_proposal', 'tiny', 'tiny_proposal', 'proposal'))
    problems: int = option('problems for each', 500, 1, 10**6)
    full_problems: int = option('problems for the full search, the first of the same', 500, 1,
                                10**6)
    ticks: int = option('ticks to reach a goal in', 60, 1, 10**6)
    seed: int = option('of problems and candidates', 1000, 0, 2**31 - 1)
    threads: int = threads(1)
    output: Path = option('the JSON file; a run that was stopped goes on from it',
                          Path('runs/bench/proposal.json'))


@dataclass(frozen=True)
class BenchNodeJob:
    """How fast the planner node answers, what planning ahead costs, if goals are said reached."""

    checkpoint: Path = option('the checkpoint of two_room or push')
    goals: int = option('tasks of the ablation, in process and without a clock', 100, 1, 10**5)
    realtime_goals: int = option('tasks driven at real time over DDS, in each mode', 10, 0, 10**4)
    seed: int = option('of the tasks', 0, 0, 2**31 - 1)
    output: Path = option('the JSON file to write', Path('runs/bench/node.json'))
    planner: PlannerConfig = group(PlannerConfig)


@dataclass(frozen=True, kw_only=True)
class BenchAngleJob(TrainingGroups):
    """What pictures and latents of the push world hold of its block's angle."""

    output: Path = option('the JSON file; the training lies in the folder of its name, the '
                          'drives beside it', Path('runs/bench/angle/tiny.json'))
    overwrite: bool = option('train again what is there', False)
    world: str = option('a square block (push), or a T (pusht: `make pusht`)', 'push',
                        among=('push', 'pusht'))
    frames: int = option('frames to drive, a tenth of them for the test', 20_000, 1000, 10**8)
    episode_frames: int = option('frames an episode: in shorter ones the block lies in more '
                                 'places', 100, 20, 10**6)
    contact: float = option("with world=push: share of the explorer's errands that lead through "
                            'the block', 0.6, 0.0, 1.0)
    seed: int = option('of the drives, the supervised network and the probes', 0, 0, 2**31 - 1)
    ceiling_steps: int = option('steps of the supervised network; 0: none', 0, 0, 10**7)
    taught_steps: int = option('steps in which the world model is told the true state before it '
                               'trains by itself; 0: none', 0, 0, 10**7)
    asked_weight: float = option('weight of a further term in the loss: the true state, as a '
                                 'linear layer says it of the latents; 0: none', 0.0, 0.0, 1e3)
    features: bool = option("also probe the encoder's features, before the projector, with the "
                            'MLP', False)
    price_steps: int = option('steps of a predictor over frozen latents and the true angle: what '
                              'holding it would cost; 0: none', 0, 0, 10**7)
    probe_steps: int = option('training steps of the MLP probe, at most', 3000, 1, 10**7)
