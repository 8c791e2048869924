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
        """What each token (B, T, W) hears from itself and those before it."""
        q, k, v = self._split(self.to_qkv(self.norm(x))).unbind(2)
        dropout = self.dropout if self.training else 0.0
        if x.device.type != 'cpu' or x.shape[1] > _SHORT:
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))
            x = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout,
                                                        is_causal=True).transpose(1, 2)
        else:
            x = torch.cat([_attend(q[:, t:t + 1], k[:, :t + 1], v[:, :t + 1], dropout)
                           for t in range(x.shape[1])], dim=1)
        return self.to_out(x.flatten(2))

    def last(self, x: Tensor) -> Tensor:
        """What the last token alone (B, W) hears; only it asks."""
        x = self.norm(x)
        inner = self.to_qkv.out_features // 3
        q = self._split(functional.linear(x[:, -1:], self.to_qkv.weight[:inner]))
        k, v = self._split(functional.linear(x, self.to_qkv.weight[inner:])).unbind(2)
        return self.to_out(_attend(q.squeeze(2), k, v).flatten(1))

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, n·heads·d) as (B, T, n, heads, d)."""
        return x.unflatten(-1, (-1, self.heads, self.to_out[0].in_features // self.heads))


# Up to this many tokens, plain products are several times faster on a CPU than the kernel for
# long sequences.
_SHORT = 4


def _attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """The answer (B, 1, heads, d) to one query from keys and values (B, T, heads, d)."""
    score = (q * q.shape[-1] ** -0.5 * k).sum(-1, keepdim=True)
    weight = functional.dropout(score.softmax(1), dropout, training=dropout > 0)
    return (weight * v).sum(1, keepdim=True)


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
        """The tokens (B, T, W) after this block.

        `modulation` is (B, T, 6, W): shift, 1 + scale and gate for the attention, then for the
        MLP.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.unbind(-2)
        x = torch.addcmul(x, gate1, self.attn(torch.addcmul(shift1, self.norm1(x), scale1)))
        return torch.addcmul(x, gate2, self.mlp(torch.addcmul(shift2, self.norm2(x), scale2)))

    def last(self, x: Tensor, modulation: Tensor) -> Tensor:
        """The last token alone (B, W) after this block, at a fraction of the work."""
        shift1, scale1 = modulation.unbind(-2)[:2]
        heard = self.attn.last(torch.addcmul(shift1, self.norm1(x), scale1))
        _, _, gate1, shift2, scale2, gate2 = modulation[:, -1].unbind(-2)
        x = torch.addcmul(x[:, -1], gate1, heard)
        return torch.addcmul(x, gate2, self.mlp(torch.addcmul(shift2, self.norm2(x), scale2)))


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
        # What turns shift, scale, gate (twice) into shift, 1 + scale, gate.
        self.register_buffer('ones', torch.tensor([0.0, 1, 0, 0, 1, 0]).view(6, 1),
                             persistent=False)

    def modulations(self, action_emb: Tensor) -> Tensor:
        """The modulation (..., depth, 6, W) of every block by each action embedding (..., W)."""
        parts = [layer.adaLN_modulation[1] for layer in self.transformer.layers]
        # One product for all blocks; the 1 of 1 + scale rides along in the bias.
        weight = torch.cat([part.weight for part in parts])
        bias = torch.stack([part.bias for part in parts]).unflatten(1, (6, -1)) + self.ones
        out = functional.linear(functional.silu(action_emb), weight, bias.flatten())
        return out.unflatten(-1, bias.shape)

    def forward(self, latents: Tensor, modulations: Tensor) -> Tensor:
        """Outputs (B, T, D) for latents (B, T, D) and modulations (B, T, depth, 6, W)."""
        net = self.transformer
        x = self._tokens(latents)
        for layer, modulation in zip(net.layers, modulations.unbind(-3)):
            x = layer(x, modulation)
        return net.output_proj(net.norm(x))

    def last(self, latents: Tensor, modulations: Tensor) -> Tensor:
        """The last output alone (B, D): what `forward` gives at its last position."""
        net, (*first, last) = self.transformer, modulations.unbind(-3)
        x = self._tokens(latents)
        for layer, modulation in zip(net.layers, first):
            x = layer(x, modulation)
        return net.output_proj(net.norm(net.layers[-1].last(x, last)))

    def _tokens(self, latents: Tensor) -> Tensor:
        return self.transformer.input_proj(latents) + self.pos_embedding[:, :latents.shape[1]]
