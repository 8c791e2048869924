"""Every default of the project, as frozen dataclasses; Hydra's YAML and ROS parameters follow.

A field's `metadata` holds its one-line description and, where it has one, its range: the ROS
parameter descriptors and the README's table are generated from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from lewm_core.plain import from_plain
from lewm_core.types import UserError

_Config = TypeVar('_Config')


def _option(default: Any, help: str, low: float | None = None, high: float | None = None,
            among: tuple[str, ...] = ()) -> Any:
    """A dataclass field with its description and the values it may take."""
    meta = {'help': help, 'low': low, 'high': high, 'among': among}
    if isinstance(default, (list, tuple)):
        return field(default_factory=lambda: tuple(default), metadata=meta)
    return field(default=default, metadata=meta)


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

    name: str = _option('lewm', 'what this shape is called')
    encoder: str = _option('vit', 'the image encoder', among=('vit', 'conv'))
    image_size: int = _option(224, 'height and width of the images, pixels', 8, 1024)
    frameskip: int = _option(5, 'ticks in a block: one latent step', 1, 100)
    history: int = _option(3, 'frames the predictor sees', 1, 16)
    latent_dim: int = _option(192, 'width of a latent', 2, 4096)
    # ViT
    patch_size: int = _option(14, 'side of a ViT patch, pixels', 1, 64)
    encoder_depth: int = _option(12, 'ViT layers', 1, 48)
    encoder_width: int = _option(192, 'ViT width', 8, 4096)
    encoder_heads: int = _option(3, 'ViT attention heads', 1, 64)
    encoder_mlp: int = _option(768, 'ViT MLP width', 8, 16384)
    # conv
    conv_channels: tuple[int, ...] = _option((), 'channels of the conv encoder, stride 2 each')
    # heads, actions, predictor
    projector_hidden: int = _option(2048, 'hidden width of both projectors', 8, 16384)
    action_hidden: int = _option(10, 'width of the first action layer', 1, 4096)
    action_mlp: int = _option(768, 'hidden width of the action MLP', 8, 16384)
    predictor_depth: int = _option(6, 'predictor blocks', 1, 48)
    predictor_width: int = _option(192, 'predictor width', 8, 4096)
    predictor_heads: int = _option(16, 'predictor attention heads', 1, 64)
    predictor_head_dim: int = _option(64, 'width of a predictor head', 1, 512)
    predictor_mlp: int = _option(2048, 'predictor MLP width', 8, 16384)
    dropout: float = _option(0.1, 'dropout in the predictor', 0.0, 0.9)
    # SIGReg
    sigreg_weight: float = _option(0.09, 'λ: weight of SIGReg against the prediction', 0.0, 100.0)
    sigreg_projections: int = _option(1024, 'random directions a step', 1, 65536)
    sigreg_knots: int = _option(17, 'integration knots on [0, 3]', 3, 1025)


@dataclass(frozen=True)
class DataConfig:
    """Which episodes go where. Fractions are of whole episodes, never of windows."""

    validation: float = _option(0.1, 'share of episodes for keep-best and settings', 0.0, 0.5)
    calibration: float = _option(0.1, 'share of episodes for surprise thresholds', 0.0, 0.5)
    test: float = _option(0.1, 'share of episodes for reported figures', 0.0, 0.5)
    split_seed: int = _option(0, 'which episodes go where', 0, 2**31 - 1)


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation. Defaults: the paper's, but for the number of steps."""

    steps: int = _option(60_000, 'optimiser steps', 1, 10**9)
    batch_size: int = _option(128, 'windows a step', 2, 65536)
    learning_rate: float = _option(5e-5, 'peak AdamW learning rate', 1e-9, 1.0)
    weight_decay: float = _option(1e-3, 'AdamW weight decay', 0.0, 1.0)
    warmup: float = _option(0.01, 'share of the steps with a rising learning rate', 0.0, 1.0)
    grad_clip: float = _option(1.0, 'gradient norm is clipped here', 1e-6, 1e6)
    precision: str = _option('auto', 'auto: bf16 where the device is fast at it, else float32',
                             among=('auto', 'float32', 'bf16'))
    device: str = _option('auto', 'auto, cpu, cuda or cuda:N')
    seed: int = _option(0, 'weights, order of windows, dropout, directions', 0, 2**31 - 1)
    validate_every: int = _option(1000, 'steps between validations', 1, 10**9)
    checkpoint_every: int = _option(1000, 'steps between checkpoints', 1, 10**9)
    log_every: int = _option(50, 'steps between log lines', 1, 10**9)
    tensorboard: bool = _option(True, 'write TensorBoard events where it is installed')
    threads: int = _option(0, 'CPU threads; 0: as PyTorch chooses', 0, 1024)
    frames: str = _option('auto', 'mapped: read from the file; resident: all on the device; auto: '
                          'resident on a GPU with room', among=('auto', 'mapped', 'resident'))
    logger: str = _option('tensorboard', 'where figures go beside metrics.jsonl; wandb (Weights '
                          '& Biases) must be installed', among=('tensorboard', 'wandb'))
    stop_on_collapse: bool = _option(True, 'end with an error once the latents stay collapsed')
    init: str = _option('', 'a checkpoint of the same robot to go on learning from; its action '
                        'statistics are kept')
    loss: str = _option('lewm', "what is minimised: LeWM's, or PLDM's as a baseline",
                        among=('lewm', 'pldm'))
    pldm_variance: float = _option(4.0, 'with loss=pldm: weight of the variance term', 0.0, 1e6)
    pldm_covariance: float = _option(6.9, 'with loss=pldm: of the covariance term', 0.0, 1e6)
    pldm_time_variance: float = _option(0.25, 'with loss=pldm: of the variance over time', 0.0,
                                        1e6)
    pldm_similarity: float = _option(0.74, 'with loss=pldm: of the temporal similarity', 0.0, 1e6)
    pldm_inverse: float = _option(1.1, 'with loss=pldm: of the inverse dynamics', 0.0, 1e6)
    proposal_steps: int = _option(0, 'optimiser steps of the proposal, after the model; 0: none',
                                  0, 10**7)
    distance_steps: int = _option(0, 'optimiser steps of the distance in time, after the model; '
                                  '0: none', 0, 10**7)


@dataclass(frozen=True)
class PlannerConfig:
    """The search. None of these changes a tensor of the model."""

    samples: int = _option(300, 'candidates an iteration', 2, 100_000)
    elites: int = _option(30, 'candidates the distribution is refitted to', 1, 100_000)
    iterations: int = _option(10, 'refinements a plan', 1, 1000)
    horizon: int = _option(5, 'blocks a plan looks ahead', 1, 100)
    init_std: float = _option(1.0, 'first spread, in standard deviations of the data', 1e-3, 100.0)
    knots: int = _option(1, 'free actions in a block, each held for its share of the ticks; 0: '
                         'one a tick', 0, 100)
    cost: str = _option('nearest', 'distance to the goal: where a plan is nearest to it, its mean '
                        'over the horizon, or at its end', among=('nearest', 'mean', 'final'))
    context: int = _option(1, 'frames of history the search starts from', 1, 16)
    warm_start: bool = _option(True, 'start from the previous plan, shifted')
    seed: int = _option(0, 'of the candidates', 0, 2**31 - 1)
    solver: str = _option('cem', 'how candidates are found; proposal: no search at all',
                          among=('cem', 'icem', 'mppi', 'gradient', 'proposal'))
    limits: bool = _option(True, 'the limits hold inside the search, not only for what is sent')
    answer: str = _option('best', "the plan: the cheapest one tried, or always the elites' mean",
                          among=('best', 'mean'))
    proposal: bool = _option(True, "begin at the checkpoint's proposal, where it has one")
    proposal_share: float = _option(0.5, 'share of the first candidates from a proposal, where '
                                    'there is one', 0.0, 1.0)
    deadline_ms: float = _option(0.0, 'no iteration begins that would end later than this; 0: '
                                 'all are done', 0.0, 600_000.0)
    precision: str = _option('auto', 'of the imagination. auto: bf16 where the processor is fast '
                             'at it and the elites agree, else float32',
                             among=('auto', 'float32', 'bf16'))
    noise_beta: float = _option(2.0, 'icem: exponent of the noise, 0 for white', 0.0, 8.0)
    decay: float = _option(1.25, 'icem: each iteration draws this many times fewer', 1.0, 10.0)
    keep: float = _option(0.3, 'icem: share of the elites kept for the next iteration', 0.0, 1.0)
    temperature: float = _option(0.5, "mppi: in units of the elites' mean cost above the cheapest",
                                 1e-3, 1000.0)
    step_size: float = _option(0.1, 'gradient: of Adam, in units of the first spread', 1e-5, 10.0)
    distance_weight: float = _option(0.0, 'cost of a block of distance in time to the goal, mean '
                                     'over the horizon; 0: none is needed', 0.0, 1000.0)


@dataclass(frozen=True)
class SurpriseConfig:
    """The alarm. `promised_per_hour` is what the user chooses."""

    promised_per_hour: float = _option(2.0, 'false alarms an hour in ordinary driving',
                                       1e-6, 3600.0)
    extrapolate: bool = _option(True, 'allow a rate rarer than the data shows, marked as such')
    cluster_blocks: int = _option(3, 'exceedances at most this far apart are one alarm', 1, 1000)
    tail: float = _option(0.1, 'share of blocks the Pareto tail is fitted to', 0.01, 0.5)


@dataclass(frozen=True)
class ProposalConfig:
    """The proposal's shape, and the goals it is trained on."""

    blocks: int = _option(5, 'blocks whose commands are proposed', 1, 100)
    width: int = _option(256, 'hidden width', 8, 8192)
    depth: int = _option(2, 'hidden layers', 1, 16)
    dropout: float = _option(0.1, 'dropout', 0.0, 0.9)
    reach: int = _option(10, 'the farthest goal, blocks ahead', 1, 1000)
    discount: float = _option(0.8, 'weight of a goal for each block that it is farther', 0.01, 1.0)
    batch_size: int = _option(256, 'pairs of frame and goal a step', 2, 65536)
    learning_rate: float = _option(1e-3, 'first learning rate of AdamW', 1e-9, 1.0)


@dataclass(frozen=True)
class DistanceConfig:
    """The shape of the distance in time, and how it is trained."""

    width: int = _option(128, 'hidden width', 8, 8192)
    depth: int = _option(2, 'hidden layers', 1, 16)
    components: int = _option(8, 'components of the embedding', 1, 1024)
    intervals: int = _option(8, 'intervals in a component', 1, 1024)
    farthest: float = _option(15.0, 'pairs farther apart than this, blocks, are pushed less', 0.1,
                              1e6)
    tolerance: float = _option(0.1, 'how far neighbours may be more than a block apart', 1e-3, 1.0)
    batch_size: int = _option(512, 'pairs a step', 2, 65536)
    learning_rate: float = _option(3e-3, 'first learning rate of AdamW', 1e-9, 1.0)


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
