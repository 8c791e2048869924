"""A world model made ready for the search: the same rollout as the model's, with less work.

What a rollout repeats is done once: the modulation of each block by each action, keys and values
of tokens that stay where they are in the window, the context's tokens for all candidates at
once. What nobody asks for is left out: queries of a window's first token, and all but the last
token behind the last block's keys and values. Norms' weights, the batch norm and the action's
statistics are folded into the products beside them.

Conventions: B problems, S candidates, N = B·S of them, K blocks, C context frames, D latent
width, W predictor width, I = heads · head width, T tokens of a window; they come first: (T, N, W).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lewm_core.model import WorldModel
from lewm_core.products import Product

# Candidates at a time: their tokens stay in the processor's cache.
_ROWS = 1024


class _Layer(NamedTuple):
    """One block's products, norms folded in."""

    modulation: Product  # W -> 6·W: shift, 1 + scale, gate, twice
    query: Product
    key_value: Product   # W -> 2·I
    out: Product
    widen: Product
    narrow: Product


class _Memory(NamedTuple):
    """Keys and values (T, N, I) of a window's earlier tokens in one block."""

    keys: Tensor
    values: Tensor

    def of_each(self, count: int) -> _Memory:
        """The same for each of `count` candidates of every problem."""
        return _Memory(*(v.repeat_interleave(count, dim=1) for v in self))


class Imagination:
    """`rollout` of `model` as it is now, in `dtype`; later changes of the model are not seen.

    Without gradients and with dropout and batch norm as in evaluation.
    """

    @torch.no_grad()
    def __init__(self, model: WorldModel, dtype: torch.dtype = torch.float32) -> None:
        self.dtype, self.history = dtype, model.history
        net, embed = model.predictor.transformer, model.action_encoder
        self._heads = model.config.predictor_heads
        self._head_dim = model.config.predictor_head_dim
        self._scale = (1 / model.action_std, -model.action_mean / model.action_std)
        # The first product of the actions stays in float32: small commands must not be rounded.
        self._patch = tuple(v.detach().clone() for v in (embed.patch_embed.weight.squeeze(2),
                                                         embed.patch_embed.bias))
        self._embed = [self._ready(layer.weight, layer.bias)
                       for layer in (embed.embed[0], embed.embed[2])]
        self._layers = [self._layer(block) for block in net.layers]
        self._positions = model.predictor.pos_embedding[0].detach().clone().to(dtype)
        self._input = (None if isinstance(net.input_proj, nn.Identity)
                       else self._ready(net.input_proj.weight, net.input_proj.bias))
        self._head = self._folded_head(net, model.pred_proj.net)
        # Sums each head's products of query and key, as a product itself: (heads, I).
        eye = torch.eye(self._heads, device=self._positions.device)
        self._sum = eye.repeat_interleave(self._head_dim, dim=1).to(dtype)

    def rollout(self, latents: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """The imagined latents (B, S, K, D) float32; see `LatentDynamics.rollout`."""
        on_cpu = actions.device.type == 'cpu'
        at_once = max(1, _ROWS // actions.shape[1]) if on_cpu else len(actions)
        parts = [self._rollout(*part) for part in zip(
            latents.split(at_once), past.split(at_once), actions.split(at_once))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _rollout(self, latents: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        count, horizon = actions.shape[1:3]
        keep = min(latents.shape[1], self.history)
        context = self._tokens(latents[:, -keep:].to(self.dtype).transpose(0, 1))  # (C, B, W)
        before = self._modulations(past[:, past.shape[1] - keep + 1:].transpose(0, 1))
        modulations = self._modulations(actions.flatten(0, 1).transpose(0, 1))     # (K, N, ...)
        tokens = context[-1:].repeat_interleave(count, dim=1)                      # (1, N, W)
        imagined: list[Tensor] = []
        for step in range(horizon):
            # Token i of all is context before `keep - 1` and this candidate's own from there on.
            first = max(0, keep + step - self.history)
            own = max(0, first - keep + 1)
            if step and first == 0:
                own = step  # the window has only grown: its other tokens are remembered
            else:
                memory = self._context(context[first:-1], [m[first:] for m in before], count)
            position = own + keep - 1 - first
            new = tokens[own:] + self._positions[position:position + step + 1 - own, None]
            out, memory = self._predict(new, [m[own:step + 1] for m in modulations], memory)
            imagined.append(out)
            if step + 1 < horizon:
                tokens = torch.cat([tokens, self._tokens(out)[None]])
        return torch.stack(imagined, dim=1).float().unflatten(0, (-1, count))

    def _context(self, tokens: Tensor, modulations: list[Tensor], count: int
                 ) -> list[_Memory | None]:
        """What each block remembers of the context (C, B, W), for every candidate."""
        if not len(tokens):
            return [None] * len(self._layers)
        x = tokens + self._positions[:len(tokens), None]
        memory, last = [], len(self._layers) - 1
        for index, (layer, m) in enumerate(zip(self._layers, modulations)):
            h = self._modulated(x, m, 0)
            made = self._remember(layer, h, None)
            memory.append(made.of_each(count))
            if index < last:
                x = self._through(layer, x, m, self._hear(layer, h, made))
        return memory

    def _predict(self, x: Tensor, modulations: list[Tensor], memory: list[_Memory | None]
                 ) -> tuple[Tensor, list[_Memory | None]]:
        """The latent (N, D) after the last of the new tokens (T, N, W), and what is remembered."""
        made: list[_Memory | None] = []
        for index, (layer, m) in enumerate(zip(self._layers, modulations)):
            h = self._modulated(x, m, 0)
            made.append(self._remember(layer, h, memory[index]))
            if index == len(self._layers) - 1:
                x, m, h = x[-1:], m[-1:], h[-1:]
            x = self._through(layer, x, m, self._hear(layer, h, made[-1]))
        *first, widen, narrow = self._head
        x = functional.layer_norm(x[0], x.shape[-1:])
        for product in first:
            x = product(x)
        return narrow(widen(x, gelu=True)), made

    def _modulated(self, x: Tensor, modulation: Tensor, part: int) -> Tensor:
        """The tokens normed, shifted and scaled, and normed again, without weights."""
        shape = x.shape[-1:]
        h = torch.addcmul(modulation[..., part, :], functional.layer_norm(x, shape, eps=1e-6),
                          modulation[..., part + 1, :])
        return functional.layer_norm(h, shape)

    def _remember(self, layer: _Layer, h: Tensor, before: _Memory | None) -> _Memory:
        """Keys and values of the window's tokens up to and with the new ones `h`."""
        new = layer.key_value(h).chunk(2, dim=-1)
        if before is None:
            return _Memory(*new)
        return _Memory(*(torch.cat(both) for both in zip(before, new)))

    def _hear(self, layer: _Layer, h: Tensor, memory: _Memory) -> Tensor:
        """What the tokens `h`, the window's last, hear of it (T, N, I)."""
        keys, values = memory
        earlier = len(keys) - len(h)
        if earlier:
            queries, heard = layer.query(h), []
        elif len(h) == 1:
            return values  # the first token hears itself alone
        else:
            queries, heard, earlier = layer.query(h[1:]), [values[0]], 1
        for index, query in enumerate(queries):
            end = earlier + index + 1
            heard.append(self._attend(query, keys[:end], values[:end]))
        return heard[0][None] if len(heard) == 1 else torch.stack(heard)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The answer (N, I) to one query (N, I) from keys and values (T, N, I)."""
        weights = functional.linear(query * keys, self._sum).softmax(dim=0)[..., None]
        values = values.unflatten(-1, (self._heads, self._head_dim))
        answer = weights[0] * values[0]
        for weight, value in zip(weights[1:], values[1:]):
            answer = answer.addcmul_(weight, value)
        return answer.flatten(1)

    def _through(self, layer: _Layer, x: Tensor, modulation: Tensor, heard: Tensor) -> Tensor:
        """The tokens after the block, once they have heard."""
        x = torch.addcmul(x, modulation[..., 2, :], layer.out(heard))
        h = layer.widen(self._modulated(x, modulation, 3), gelu=True)
        return x.addcmul_(modulation[..., 5, :], layer.narrow(h))

    def _tokens(self, latents: Tensor) -> Tensor:
        return latents if self._input is None else self._input(latents)

    def _modulations(self, blocks: Tensor) -> list[Tensor]:
        """The modulation (..., 6, W) of each block by each of the actions (..., F, A)."""
        scale, offset = self._scale
        x = torch.addcmul(offset, blocks.to(scale), scale).flatten(-2)
        x = functional.linear(x, *self._patch).to(self.dtype)
        first, second = self._embed
        x = functional.silu(second(functional.silu(first(x))))
        return [layer.modulation(x).unflatten(-1, (6, -1)) for layer in self._layers]

    # Once
    def _ready(self, weight: Tensor, bias: Tensor | None) -> Product:
        # A copy: what trains or moves the model later must not change half of this.
        return Product(*(None if v is None else v.detach().clone().to(self.dtype)
                         for v in (weight, bias)))

    def _layer(self, block: nn.Module) -> _Layer:
        attention, mlp, width = block.attn, block.mlp.net, len(block.attn.norm.weight)
        inner = self._heads * self._head_dim
        modulation = block.adaLN_modulation[1]
        one = torch.tensor([0.0, 1, 0, 0, 1, 0]).repeat_interleave(width).to(modulation.bias)
        qkv, bias = _after_norm(attention.norm, attention.to_qkv.weight)
        scale = self._head_dim ** -0.5
        return _Layer(self._ready(modulation.weight, modulation.bias + one),
                      self._ready(scale * qkv[:inner], scale * bias[:inner]),
                      self._ready(qkv[inner:], bias[inner:]),
                      self._ready(attention.to_out[0].weight, attention.to_out[0].bias),
                      self._ready(*_after_norm(mlp[0], mlp[1].weight, mlp[1].bias)),
                      self._ready(mlp[4].weight, mlp[4].bias))

    def _folded_head(self, net: nn.Module, head: nn.Sequential
                     ) -> list[Product]:
        """The products behind the last block: the norm and the batch norm are folded in."""
        linear, norm = head[0], head[1]
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        bias = gain * (linear.bias - norm.running_mean) + norm.bias
        widen, narrow = (gain[:, None] * linear.weight, bias), (head[3].weight, head[3].bias)
        if isinstance(net.output_proj, nn.Identity):
            products = [_after_norm(net.norm, *widen), narrow]
        else:
            out = _after_norm(net.norm, net.output_proj.weight, net.output_proj.bias)
            products = [out, widen, narrow]
        return [self._ready(*product) for product in products]


def _after_norm(norm: nn.LayerNorm, weight: Tensor, bias: Tensor | None = None
                ) -> tuple[Tensor, Tensor]:
    """Weight and bias of norm and product in one, behind a norm without weights."""
    carried = weight @ norm.bias
    return weight * norm.weight, carried if bias is None else bias + carried
