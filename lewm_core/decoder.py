"""A small decoder from latents to pictures: for people to look at, never for training the model.

It is trained afterwards on frozen latents, so what it shows was in the latent; what it does not
show may be too fine for so small a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lewm_core.config import check
from lewm_core.config_field import option

if TYPE_CHECKING:
    from lewm_core.model import WorldModel

_SMALLEST = 7  # side of the first picture, at most


@dataclass(frozen=True)
class DecoderConfig:
    """The decoder's shape."""

    channels: int = option('channels of the smallest picture, halved at each doubling', 128, 8,
                           4096)


class Decoder(nn.Module):
    """Latents (..., D) to pictures; a head of the checkpoint, called `decoder`."""

    Config = DecoderConfig

    def __init__(self, config: DecoderConfig, model: WorldModel) -> None:
        super().__init__()
        check(config)
        self.config, self._size = config, model.config.image_size
        doublings = 0
        while self._size / 2 ** doublings > _SMALLEST:
            doublings += 1
        self._side = -(-self._size // 2 ** doublings)
        width = config.channels
        latent = model.config.latent_dim
        # Latents are near N(0, 1) where training went well; a decoder is wanted where it did not.
        self.first = nn.Sequential(nn.BatchNorm1d(latent, affine=False),
                                   nn.Linear(latent, width * self._side ** 2))
        # Transposed: on a CPU eight times faster than doubling the picture and then a convolution.
        layers: list[nn.Module] = []
        for left in range(doublings, 0, -1):
            narrow = max(8, width // 2) if left > 1 else 3
            layers += [nn.GELU(), nn.ConvTranspose2d(width, narrow, 4, stride=2, padding=1)]
            width = narrow
        self.rest = nn.Sequential(*layers)
        # What a picture looks like on the whole; the layers draw what differs.
        self.base = nn.Parameter(torch.zeros(3, self._size, self._size))

    def forward(self, latents: Tensor) -> Tensor:
        """The pictures (N, 3, H, W), 0 is black and 1 white, not limited, of latents (N, D)."""
        x = self.first(latents).view(len(latents), -1, self._side, self._side)
        return self.base + self.rest(x)[..., :self._size, :self._size]

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> Tensor:
        """The pictures (..., H, W, 3) uint8 RGB of latents (..., D), on the CPU."""
        flat = latents.reshape(-1, latents.shape[-1])
        made = torch.cat([self(piece) for piece in flat.split(256)])
        made = (made.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
        return made.reshape(*latents.shape[:-1], *made.shape[1:])
