"""The two image encoders: the paper's ViT and a small convolutional one.

Both take normalised pixels (N, 3, H, W) and give features (N, `out_features`). The ViT's parameter
names are those of the reference files (Hugging Face transformers 4), so that weights trained
elsewhere load by name.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lewm_core.config import ModelConfig
from lewm_core.types import UserError


def build_encoder(config: ModelConfig) -> nn.Module:
    """The encoder that `config` names; raises UserError when its sizes do not fit together."""
    return VisionTransformer(config) if config.encoder == 'vit' else ConvEncoder(config)


class VisionTransformer(nn.Module):
    """ViT (Dosovitskiy et al. 2021), pre-norm, exact GELU; gives the CLS token after the norm."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.image_size % config.patch_size:
            raise UserError(f'image_size={config.image_size} is not a multiple of patch_size='
                            f'{config.patch_size}; choose a patch size that divides it')
        if config.encoder_width % config.encoder_heads:
            raise UserError(f'encoder_width={config.encoder_width} is not a multiple of '
                            f'encoder_heads={config.encoder_heads}; choose a number of heads '
                            'that divides it')
        self.out_features = config.encoder_width
        self.embeddings = _ViTEmbeddings(config)
        self.encoder = nn.ModuleDict(
            {'layer': nn.ModuleList(_ViTLayer(config) for _ in range(config.encoder_depth))})
        self.layernorm = nn.LayerNorm(config.encoder_width, eps=1e-12)
        self.apply(_init_vit)

    def forward(self, x: Tensor) -> Tensor:
        """The CLS feature (N, width) of pixels (N, 3, H, W)."""
        at_once = max(1, _TOKENS // self.embeddings.position_embeddings.shape[1])
        if x.device.type == 'cpu' and len(x) > at_once:
            return torch.cat([self(part) for part in x.split(at_once)])
        x = self.embeddings(x)
        *first, last = self.encoder['layer']
        for layer in first:
            x = layer(x)
        return self.layernorm(last(x, cls_only=True)[:, 0])


class _ViTEmbeddings(nn.Module):
    """Patches, a CLS token before them, and a learned position for each."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width, patch = config.encoder_width, config.patch_size
        patches = (config.image_size // patch) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, patches + 1, width))
        self.patch_embeddings = nn.ModuleDict(
            {'projection': nn.Conv2d(3, width, kernel_size=patch, stride=patch)})
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.position_embeddings, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embeddings['projection'](x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.to(x.dtype).expand(len(x), -1, -1), x], dim=1)
        return x + self.position_embeddings


class _ViTLayer(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        width, mlp = config.encoder_width, config.encoder_mlp
        self.heads = config.encoder_heads
        self.attention = nn.ModuleDict({
            'attention': nn.ModuleDict({name: nn.Linear(width, width)
                                        for name in ('query', 'key', 'value')}),
            'output': nn.ModuleDict({'dense': nn.Linear(width, width)})})
        self.intermediate = nn.ModuleDict({'dense': nn.Linear(width, mlp)})
        self.output = nn.ModuleDict({'dense': nn.Linear(mlp, width)})
        self.layernorm_before = nn.LayerNorm(width, eps=1e-12)
        self.layernorm_after = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, cls_only: bool = False) -> Tensor:
        """The tokens (N, T, W) after this layer; with `cls_only` the first alone (N, 1, W)."""
        h = self.layernorm_before(x)
        if cls_only:  # it hears all the others, and they need not hear anything any more
            x, (q,) = x[:, :1], self._heads(h[:, :1], 'query')
            k, v = self._heads(h, 'key', 'value')
        else:
            q, k, v = self._heads(h, 'query', 'key', 'value')
        x = x + self.attention['output']['dense'](_attention(q, k, v).transpose(1, 2).flatten(2))
        h = functional.gelu(self.intermediate['dense'](self.layernorm_after(x)))
        return x + self.output['dense'](h)

    def _heads(self, h: Tensor, *names: str) -> Tensor:
        """The `names` of the tokens (N, T, W) as (names, N, heads, T, d), by one product."""
        parts = [self.attention['attention'][name] for name in names]
        made = functional.linear(h, torch.cat([part.weight for part in parts]),
                                 torch.cat([part.bias for part in parts]))
        return made.unflatten(-1, (len(parts), self.heads, -1)).permute(2, 0, 3, 1, 4)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What each of the queries (N, heads, T, d) hears from all keys and values."""
    if q.device.type != 'cpu' or q.dtype != torch.bfloat16 or k.shape[2] > _SHORT:
        return functional.scaled_dot_product_attention(q, k, v)
    lead = q.shape[:2]
    q, k, v = (part.flatten(0, 1) for part in (q * q.shape[-1] ** -0.5, k, v))
    return torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v).unflatten(0, lead)


# Tokens at a time on a CPU, so that what a layer makes of them stays in the cache: 16 of the
# paper's images. Of twice as many, its widest products were measured at two thirds of the speed.
_TOKENS = 4200
# Up to this many tokens plain products in bfloat16 are faster on a CPU than the kernel that never
# holds all scores: with the 257 of the paper's encoder 2.4 times, forward and backward together.
_SHORT = 512
# Of a layer of the convolutional encoder, as of the other widths in ModelConfig.
_MOST_CHANNELS = 16384


def _init_vit(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


class ConvEncoder(nn.Module):
    """Convolutions of stride 2, each with BatchNorm and GELU, then flattened.

    Flattened and not averaged: where a thing is in the picture must reach the latent.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        channels, shrink = config.conv_channels, 2 ** len(config.conv_channels)
        if not channels or config.image_size % shrink:
            raise UserError(f'conv_channels={list(channels)} do not fit image_size='
                            f'{config.image_size}; give 1 or more, each of which halves the '
                            'image to whole pixels')
        if not all(1 <= count <= _MOST_CHANNELS for count in channels):
            raise UserError(f'conv_channels={list(channels)} are out of range; give numbers of '
                            f'channels in [1, {_MOST_CHANNELS}]')
        layers: list[nn.Module] = []
        for before, after in zip((3, *channels), channels):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                       nn.BatchNorm2d(after), nn.GELU()]
        self.net = nn.Sequential(*layers)
        self.out_features = channels[-1] * (config.image_size // shrink) ** 2
        # Pixels come as (N, H, W, 3), which is channels-last already: no transposition anywhere.
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C·h·w) of pixels (N, 3, H, W)."""
        # Flattened in the memory's own order (h, w, C): a view, not a copy.
        return self.net(x).permute(0, 2, 3, 1).flatten(1)
