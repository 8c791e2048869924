"""The parts behind the encoder: projectors, action encoder, AdaLN predictor.

Parameter names are those of the reference files. Sizes in the comments are the paper's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lewm_core.config import ModelConfig


class Projector(nn.Module):
    """Linear, BatchNorm, GELU, Linear: (N, D_in) -> (N, D_out).

    The BatchNorm is what lets SIGReg shape the latents behind an encoder that ends in a
    LayerNorm, whose output lies on a sphere.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.GELU(),
                                 nn.Linear(hidden, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The projection (N, D_out) of (N, D_in)."""
        return self.net(x)


class ActionEncoder(nn.Module):
    """One embedding for each block of actions: (N, F·A), z-scored -> (N, E)."""

    def __init__(self, inputs: int, hidden: int, mlp: int, outputs: int):
        super().__init__()
        self.patch_embed = nn.Conv1d(inputs, hidden, kernel_size=1)
        self.embed = nn.Sequential(nn.Linear(hidden, mlp), nn.SiLU(), nn.Linear(mlp, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The embeddings (N, E) of blocks (N, F·A)."""
        # A convolution of width 1 is a Linear on each block; as such it needs no transposition.
        x = functional.linear(x, self.patch_embed.weight.squeeze(2), self.patch_embed.bias)
        return self.embed(x)


class _Attention(nn.Module):
    """Causal self-attention with a norm of its own before it."""

    def __init__(self, width: int, heads: int, head_dim: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_dim, width), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.to_qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        x = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.to_out(x.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(),
                                 nn.Dropout(dropout), nn.Linear(hidden, width),
                                 nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Block(nn.Module):
    """A transformer block that an action modulates (AdaLN-zero, Peebles & Xie 2023).

    The modulation starts at zero: a new block passes its input on unchanged.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.predictor_width
        self.attn = _Attention(width, config.predictor_heads, config.predictor_head_dim,
                               config.dropout)
        self.mlp = _FeedForward(width, config.predictor_mlp, config.dropout)
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        nn.init.zeros_(self.adaLN_modulation[1].weight)
        nn.init.zeros_(self.adaLN_modulation[1].bias)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """The tokens (B, T, W) after this block; `modulation` is (B, T, 6·W)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class _Transformer(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        latent, width = config.latent_dim, config.predictor_width
        same = latent == width
        self.input_proj = nn.Identity() if same else nn.Linear(latent, width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.predictor_depth))
        self.norm = nn.LayerNorm(width)
        self.output_proj = nn.Identity() if same else nn.Linear(width, latent)


class Predictor(nn.Module):
    """The next latent from up to `history` latents, each with the action that leaves it.

    Position t of the output knows latents and actions 0..t and nothing later.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.pos_embedding = nn.Parameter(
            0.02 * torch.randn(1, config.history, config.predictor_width))
        self.transformer = _Transformer(config)

    def modulations(self, action_emb: Tensor) -> Tensor:
        """The modulation (..., depth, 6·W) of every block by each action embedding (..., W)."""
        return torch.stack([layer.adaLN_modulation(action_emb)
                            for layer in self.transformer.layers], dim=-2)

    def forward(self, latents: Tensor, modulations: Tensor) -> Tensor:
        """Outputs (B, T, D) for latents (B, T, D) and modulations (B, T, depth, 6·W)."""
        net = self.transformer
        x = net.input_proj(latents) + self.pos_embedding[:, :latents.shape[1]]
        for layer, modulation in zip(net.layers, modulations.unbind(-2)):
            x = layer(x, modulation)
        return net.output_proj(net.norm(x))
