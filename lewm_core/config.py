"""Every default of the project, as frozen dataclasses; Hydra's YAML and ROS parameters follow.

A field's `metadata` holds its one-line description and, where it has one, its range: the ROS
parameter descriptors and the README's table are generated from them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

from lewm_core.config_field import option
from lewm_core.plain import from_plain
from lewm_core.types import UserError

_Config = TypeVar('_Config')


def check(config: Any) -> None:
    """Raises UserError on the first field outside the range its metadata states."""
    for f in fields(config):
        value, meta = getattr(config, f.name), f.metadata
        low, high, among = meta.get('low'), meta.get('high'), meta.get('among')
        if value is None:
            continue
        if among and value not in among:
            raise UserError(f'{f.name}={value!r} is not known; choose one of {list(among)}')
        if isinstance(value, float) and value != value:
            raise UserError(f'{f.name}=nan is not a number; give one in [{low}, {high}]')
        if (low is not None and value < low) or (high is not None and value > high):
            raise UserError(f'{f.name}={value!r} is out of range; give a value in '
                            f'[{"-inf" if low is None else low}, '
                            f'{"inf" if high is None else high}]')


@dataclass(frozen=True)
class ModelConfig:
    """The world model's shape and the weight of its regulariser. Defaults: the paper's LeWM."""

    name: str = option('what this shape is called', 'lewm')
    encoder: str = option('the image encoder', 'vit', among=('vit', 'conv'))
    image_size: int = option('height and width of the images, pixels', 224, 8, 1024)
    frameskip: int = option('ticks in a block: one latent step', 5, 1, 100)
    history: int = option('frames the predictor sees', 3, 1, 16)
    latent_dim: int = option('width of a latent', 192, 2, 4096)
    # ViT
    patch_size: int = option('side of a ViT patch, pixels', 14, 1, 64)
    encoder_depth: int = option('ViT layers', 12, 1, 48)
    encoder_width: int = option('ViT width', 192, 8, 4096)
    encoder_heads: int = option('ViT attention heads', 3, 1, 64)
    encoder_mlp: int = option('ViT MLP width', 768, 8, 16384)
    # conv
    conv_channels: tuple[int, ...] = option('channels of the conv encoder, stride 2 each', ())
    # heads, actions, predictor
    projector_hidden: int = option('hidden width of both projectors', 2048, 8, 16384)
    action_hidden: int = option('width of the first action layer', 10, 1, 4096)
    action_mlp: int = option('hidden width of the action MLP', 768, 8, 16384)
    predictor_depth: int = option('predictor blocks', 6, 1, 48)
    predictor_width: int = option('predictor width', 192, 8, 4096)
    predictor_heads: int = option('predictor attention heads', 16, 1, 64)
    predictor_head_dim: int = option('width of a predictor head', 64, 1, 512)
    predictor_mlp: int = option('predictor MLP width', 2048, 8, 16384)
    dropout: float = option('dropout in the predictor', 0.1, 0.0, 0.9)
    # SIGReg
    sigreg_weight: float = option('λ: weight of SIGReg against the prediction', 0.09, 0.0, 100.0)
    sigreg_projections: int = option('random directions a step', 1024, 1, 65536)
    sigreg_knots: int = option('integration knots on [0, 3]', 17, 3, 1025)


@dataclass(frozen=True)
class DataConfig:
    """Which episodes go where. Fractions are of whole episodes, never of windows."""

    validation: float = option('share of episodes for keep-best and settings', 0.1, 0.0, 0.5)
    calibration: float = option('share of episodes for surprise thresholds', 0.1, 0.0, 0.5)
    test: float = option('share of episodes for reported figures', 0.1, 0.0, 0.5)
    split_seed: int = option('which episodes go where', 0, 0, 2**31 - 1)


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation. Defaults: the paper's, but for the number of steps."""

    steps: int = option('optimiser steps', 60_000, 1, 10**9)
    batch_size: int = option('windows a step', 128, 2, 65536)
    learning_rate: float = option('peak AdamW learning rate', 5e-5, 1e-9, 1.0)
    weight_decay: float = option('AdamW weight decay', 1e-3, 0.0, 1.0)
    warmup: float = option('share of the steps with a rising learning rate', 0.01, 0.0, 1.0)
    grad_clip: float = option('gradient norm is clipped here', 1.0, 1e-6, 1e6)
    precision: str = option('auto: bf16 where the device is fast at it, else float32', 'auto',
                            among=('auto', 'float32', 'bf16'))
    device: str = option('auto, cpu, cuda or cuda:N', 'auto')
    compile: bool = option('compile encoder and predictor first; needs a C++ compiler, on a CPU '
                           'it gains next to nothing', False)
    seed: int = option('weights, order of windows, dropout, directions', 0, 0, 2**31 - 1)
    validate_every: int = option('steps between validations', 1000, 1, 10**9)
    checkpoint_every: int = option('steps between checkpoints', 1000, 1, 10**9)
    log_every: int = option('steps between log lines', 50, 1, 10**9)
    tensorboard: bool = option('write TensorBoard events where it is installed', True)
    threads: int = option('CPU threads; 0: as PyTorch chooses', 0, 0, 1024)
    frames: str = option('mapped: read from the file; resident: all on the device; auto: '
                         'resident on a GPU with room', 'auto',
                         among=('auto', 'mapped', 'resident'))
    logger: str = option('where figures go beside metrics.jsonl; wandb (Weights & Biases) must '
                         'be installed', 'tensorboard', among=('tensorboard', 'wandb'))
    stop_on_collapse: bool = option('end with an error once the latents stay collapsed', True)
    init: str = option('a checkpoint of the same robot to go on learning from; its action '
                       'statistics are kept', '')
    loss: str = option("what is minimised: LeWM's, or PLDM's as a baseline", 'lewm',
                       among=('lewm', 'pldm'))
    pldm_variance: float = option('with loss=pldm: weight of the variance term', 4.0, 0.0, 1e6)
    pldm_covariance: float = option('with loss=pldm: of the covariance term', 6.9, 0.0, 1e6)
    pldm_time_variance: float = option('with loss=pldm: of the variance over time', 0.25, 0.0, 1e6)
    pldm_similarity: float = option('with loss=pldm: of the temporal similarity', 0.74, 0.0, 1e6)
    pldm_inverse: float = option('with loss=pldm: of the inverse dynamics', 1.1, 0.0, 1e6)
    proposal_steps: int = option('optimiser steps of the proposal, after the model; 0: none', 0, 0,
                                 10**7)
    distance_steps: int = option('optimiser steps of the distance in time, after the model; 0: '
                                 'none', 0, 0, 10**7)
    uncertainty_steps: int = option('optimiser steps of the error to expect, after the model; 0: '
                                    'surprise is the plain squared error', 1500, 0, 10**7)


@dataclass(frozen=True)
class PlannerConfig:
    """The search. None of these changes a tensor of the model."""

    samples: int = option('candidates an iteration', 300, 2, 100_000)
    elites: int = option('candidates the distribution is refitted to', 30, 1, 100_000)
    iterations: int = option('refinements a plan', 10, 1, 1000)
    horizon: int = option('blocks a plan looks ahead', 5, 1, 100)
    init_std: float = option('first spread, in standard deviations of the data', 1.0, 1e-3, 100.0)
    knots: int = option('free actions in a block, each held for its share of the ticks; 0: one a '
                        'tick', 1, 0, 100)
    cost: str = option('distance to the goal: where a plan is nearest to it, its mean over the '
                       'horizon, or at its end', 'nearest', among=('nearest', 'mean', 'final'))
    context: int = option('frames of history the search starts from', 1, 1, 16)
    warm_start: bool = option('start from the previous plan, shifted', True)
    seed: int = option('of the candidates', 0, 0, 2**31 - 1)
    solver: str = option('how candidates are found; proposal: no search at all', 'cem',
                         among=('cem', 'icem', 'mppi', 'gradient', 'proposal'))
    limits: bool = option('the limits hold inside the search, not only for what is sent', True)
    answer: str = option("the plan: the cheapest one tried, or always the elites' mean", 'best',
                         among=('best', 'mean'))
    proposal: bool = option("begin at the checkpoint's proposal, where it has one", True)
    proposal_share: float = option('share of the first candidates from a proposal, where there '
                                   'is one', 0.5, 0.0, 1.0)
    deadline_ms: float = option('no iteration begins that would end later than this; 0: all are '
                                'done', 0.0, 0.0, 600_000.0)
    precision: str = option('of the imagination. auto: bf16 where the processor is fast at it '
                            'and the elites agree, else float32; from 100 candidates on likewise '
                            'a rolling cache, on a CPU in int8, for the first five sixths of the '
                            'iterations. int8: for few as well, and unchecked', 'auto',
                            among=('auto', 'float32', 'bf16', 'int8'))
    noise_beta: float = option('icem: exponent of the noise, 0 for white', 2.0, 0.0, 8.0)
    decay: float = option('icem: each iteration draws this many times fewer', 1.25, 1.0, 10.0)
    keep: float = option('icem: share of the elites kept for the next iteration', 0.3, 0.0, 1.0)
    temperature: float = option("mppi: in units of the elites' mean cost above the cheapest", 0.5,
                                1e-3, 1000.0)
    step_size: float = option('gradient: of Adam, in units of the first spread', 0.1, 1e-5, 10.0)
    distance_weight: float = option('cost of a block of distance in time to the goal, mean over '
                                    'the horizon; 0: none is needed', 0.0, 0.0, 1000.0)


@dataclass(frozen=True)
class SurpriseConfig:
    """The alarm. `promised_per_hour` is what the user chooses."""

    promised_per_hour: float = option('false alarms an hour in ordinary driving', 2.0, 1e-6,
                                      3600.0)
    extrapolate: bool = option('allow a rate rarer than the data shows, marked as such', True)
    cluster_blocks: int = option('exceedances at most this far apart are one alarm', 3, 1, 1000)
    tail: float = option('share of blocks the Pareto tail is fitted to', 0.05, 0.01, 0.5)
    relearn_steps: int = option('training steps, five times, by which a calibration on 1,000 '
                                'blocks or more learns what error to expect where; 0: thresholds '
                                'alone', 800, 0, 10**6)


@dataclass(frozen=True)
class ProposalConfig:
    """The proposal's shape, and the goals it is trained on."""

    blocks: int = option('blocks whose commands are proposed', 5, 1, 100)
    width: int = option('hidden width', 256, 8, 8192)
    depth: int = option('hidden layers', 2, 1, 16)
    dropout: float = option('dropout', 0.1, 0.0, 0.9)
    reach: int = option('the farthest goal, blocks ahead', 10, 1, 1000)
    discount: float = option('weight of a goal for each block that it is farther', 0.8, 0.01, 1.0)
    batch_size: int = option('pairs of frame and goal a step', 256, 2, 65536)
    learning_rate: float = option('first learning rate of AdamW', 1e-3, 1e-9, 1.0)


@dataclass(frozen=True)
class UncertaintyConfig:
    """The shape of what error to expect of a block, and how it is trained."""

    width: int = option('hidden width', 128, 8, 8192)
    depth: int = option('hidden layers', 2, 1, 16)
    dropout: float = option('dropout', 0.1, 0.0, 0.9)
    batch_size: int = option('blocks a step', 256, 2, 65536)
    learning_rate: float = option('first learning rate of AdamW', 1e-3, 1e-9, 1.0)


@dataclass(frozen=True)
class DistanceConfig:
    """The shape of the distance in time, and how it is trained."""

    width: int = option('hidden width', 128, 8, 8192)
    depth: int = option('hidden layers', 2, 1, 16)
    components: int = option('components of the embedding', 8, 1, 1024)
    intervals: int = option('intervals in a component', 8, 1, 1024)
    farthest: float = option('pairs farther apart than this, blocks, are pushed less', 15.0, 0.1,
                             1e6)
    tolerance: float = option('how far neighbours may be more than a block apart', 0.1, 1e-3, 1.0)
    batch_size: int = option('pairs a step', 512, 2, 65536)
    learning_rate: float = option('first learning rate of AdamW', 3e-3, 1e-9, 1.0)


def default(config: type, name: str) -> Any:
    """The default of one field of a config dataclass."""
    return getattr(config(), name)


def config_from_dict(cls: type[_Config], tree: Any, where: str, partial: bool = False) -> _Config:
    """The config of type `cls` in `tree`, a plain mapping as JSON or YAML gives it.

    Raises UserError that begins with `where` on an unknown key, a value of another type or out of
    range, and, unless `partial` lets the defaults fill in, a missing key.
    """
    return checked(from_plain(cls, tree, where, partial), where)


def checked(config: _Config, where: str) -> _Config:
    """`config`, once every field is in its range; else raises UserError that begins with `where`.
    """
    try:
        check(config)
    except UserError as error:
        raise UserError(f'{where}: {error}') from None
    return config
