"""LeWorldModel (arXiv 2603.19312): pixels to latents, and latents with actions to the next ones.

Conventions: B batch, S candidates, C context frames, T time in blocks, K horizon blocks, F ticks
in a block (frameskip), A action dimensions, D latent width, E action embedding width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lewm_core.config import ModelConfig, check
from lewm_core.encoders import build_encoder
from lewm_core.layers import ActionEncoder, Predictor, Projector
from lewm_core.robot import RobotSpec
from lewm_core.types import UserError

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class LatentDynamics(nn.Module):
    """What can be rolled out: `embed_actions` and `predict` over at most `history` latents.

    `condition` and `predict_last` may be overridden to share work between the steps of a rollout.
    """

    history: int

    def embed_actions(self, blocks: Tensor) -> Tensor:
        """The embeddings (..., E) of action blocks (..., F, A) in robot units."""
        raise NotImplementedError

    def predict(self, latents: Tensor, action_emb: Tensor) -> Tensor:
        """The next latents (B, T, D): position t is ẑ_{t+1}, after latent t and block t."""
        raise NotImplementedError

    def condition(self, blocks: Tensor) -> Tensor:
        """All that prediction needs to know of blocks (..., F, A), one row for each."""
        return self.embed_actions(blocks)

    def predict_last(self, latents: Tensor, condition: Tensor) -> Tensor:
        """The next latent (B, D) alone, after latents (B, T, D) and `condition` (B, T, ...)."""
        return self.predict(latents, condition)[:, -1]

    def rollout(self, latents: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """The imagined latents (B, S, K, D), one after each block of each candidate.

        `latents` (B, C, D) are the context, one block apart; `past` (B, C - 1, F, A) the blocks
        between them, shared by all candidates; `actions` (B, S, K, F, A) the candidates, in robot
        units. Block k leaves latent k: `past[:, -1]` leads to `latents[:, -1]`, and
        `actions[..., 0, :, :]` is what leaves it. The predictor sees the newest `history` latents,
        real and imagined ones, each with the block that leaves it.
        """
        count, horizon = actions.shape[1:3]
        keep = min(latents.shape[1], self.history)
        window = latents[:, -keep:].repeat_interleave(count, dim=0)          # (B·S, C, D)
        ahead = self.condition(actions.flatten(0, 1))                        # (B·S, K, ...)
        if keep > 1:
            before = self.condition(past[:, past.shape[1] - keep + 1:])      # (B, C - 1, ...)
            ahead = torch.cat([before.repeat_interleave(count, dim=0), ahead], dim=1)
        imagined = []
        for last in range(keep, keep + horizon):
            first = max(0, last - self.history)
            imagined.append(self.predict_last(window, ahead[:, first:last]))
            window = torch.cat([window, imagined[-1].unsqueeze(1)], dim=1)[:, -self.history:]
        return torch.stack(imagined, dim=1).unflatten(0, (-1, count))


def check_camera(config: ModelConfig, spec: RobotSpec) -> None:
    """Nothing; raises UserError where the model takes other images than the camera gives."""
    camera, size = spec.camera, config.image_size
    if (camera.width, camera.height) != (size, size):
        raise UserError(f'the model {config.name!r} takes images of {size}x{size}, but the '
                        f'camera {camera.name!r} of robot {spec.name!r} gives '
                        f'{camera.width}x{camera.height}; change image_size or the camera')


class WorldModel(LatentDynamics):
    """The world model: encoder and projector, action encoder, predictor and its projector.

    The statistics of the robot's actions and of the pixels are inside, so every caller speaks in
    robot units and in bytes.
    """

    def __init__(self, config: ModelConfig, spec: RobotSpec):
        super().__init__()
        check(config)
        check_camera(config, spec)
        self.config, self.spec, self.history = config, spec, config.history
        latent, width = config.latent_dim, config.predictor_width
        self.encoder = build_encoder(config)
        self.projector = Projector(self.encoder.out_features, config.projector_hidden, latent)
        self.action_encoder = ActionEncoder(config.frameskip * spec.action_dim,
                                            config.action_hidden, config.action_mlp, width)
        self.predictor = Predictor(config)
        self.pred_proj = Projector(latent, config.projector_hidden, latent)
        self.register_buffer('action_mean', torch.zeros(spec.action_dim))
        self.register_buffer('action_std', torch.ones(spec.action_dim))
        # (byte / 255 - mean) / std as one multiplication and one addition.
        mean, std = torch.tensor(_IMAGENET_MEAN), torch.tensor(_IMAGENET_STD)
        self.register_buffer('pixel_scale', (1 / (255 * std)).view(3, 1, 1), persistent=False)
        self.register_buffer('pixel_shift', (-mean / std).view(3, 1, 1), persistent=False)

    def set_action_statistics(self, mean: np.ndarray | Tensor, std: np.ndarray | Tensor) -> None:
        """Nothing; keeps the mean and deviation (A,) of the training actions, in robot units.

        Raises UserError when a deviation is not positive: such an action was never tried, and a
        model cannot learn what it does.
        """
        mean, std = (torch.as_tensor(v, dtype=torch.float32) for v in (mean, std))
        names = [f.path for f in self.spec.action.fields]
        if mean.shape != (len(names),) or std.shape != (len(names),):
            raise ValueError(f'action statistics have shapes {tuple(mean.shape)} and '
                             f'{tuple(std.shape)}, but ({len(names)},) is expected')
        for name, m, s in zip(names, mean.tolist(), std.tolist()):
            if not (np.isfinite([m, s]).all() and s > 0):
                raise UserError(f'action {name!r} has mean {m:g} and standard deviation {s:g} in '
                                'the training episodes, but it must vary for its effect to be '
                                'learned; record driving that uses it, or drop it from the spec')
        self.action_mean.copy_(mean)
        self.action_std.copy_(std)

    def encode(self, pixels: Tensor) -> Tensor:
        """The latents (..., D) float32 of pixels (..., H, W, 3) uint8 RGB, after the projector.

        Raises UserError when the size is not the model's.
        """
        size = self.config.image_size
        if pixels.shape[-3:] != (size, size, 3) or pixels.dtype != torch.uint8:
            raise UserError(f'images of shape {tuple(pixels.shape)} and type {pixels.dtype} were '
                            f'given, but the model takes (..., {size}, {size}, 3) uint8 RGB; '
                            'prepare them with the robot spec of the checkpoint')
        lead = pixels.shape[:-3]
        x = pixels.reshape(-1, size, size, 3).permute(0, 3, 1, 2).to(self.pixel_scale.dtype)
        x = torch.addcmul(self.pixel_shift, x, self.pixel_scale)
        return at_least_float32(self.projector(self.encoder(x))).view(*lead, -1)

    def embed_actions(self, blocks: Tensor) -> Tensor:
        """The embeddings (..., E) of action blocks (..., F, A) in robot units."""
        x = (blocks.to(self.action_mean) - self.action_mean) / self.action_std
        return self.action_encoder(x.flatten(-2))

    def predict(self, latents: Tensor, action_emb: Tensor) -> Tensor:
        """The next latents (B, T, D) float32, T <= history: position t is ẑ_{t+1}.

        `latents` (B, T, D) and `action_emb` (B, T, E), block t leaving frame t. No position knows
        anything later than itself.
        """
        out = self.predictor(latents, self.predictor.modulations(action_emb))
        return at_least_float32(self.pred_proj(out.flatten(0, 1))).view_as(latents)

    def condition(self, blocks: Tensor) -> Tensor:
        """The modulation (..., depth, 6, W) by each of the blocks (..., F, A), computed once."""
        return self.predictor.modulations(self.embed_actions(blocks))

    def predict_last(self, latents: Tensor, condition: Tensor) -> Tensor:
        """The next latent (B, D) float32 alone, after (B, T, D) and (B, T, depth, 6, W)."""
        return at_least_float32(self.pred_proj(self.predictor.last(latents, condition)))

    def num_parameters(self) -> int:
        """The number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def pixels_on(device: torch.device, pixels: np.ndarray) -> Tensor:
    """`pixels` (..., H, W, 3) uint8 on `device`.

    Copied where nobody may write to them, such as those that lie in a message: PyTorch knows no
    tensor that is read-only.
    """
    return torch.from_numpy(np.require(pixels, requirements=('C', 'W'))).to(device)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` as float32, or as it is where it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
