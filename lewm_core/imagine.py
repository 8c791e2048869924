"""A world model made ready for the search: the same rollout as the model's, with less work.

What a rollout repeats is done once: the modulation of each block by each action, keys and values
of tokens that stay where they are in the window, the context's tokens for all candidates at
once. What nobody asks for is left out: queries of a window's first token, which hears itself
alone, and all but the last token behind the last block's keys and values. Norms' weights, the
batch norm and the action's statistics are folded into the products beside them.

Conventions: B problems, S candidates, N = B·S of them, K blocks, C context frames, D latent
width, W predictor width, H heads, I = heads · head width, T tokens of a window. Tokens come one
after the other, each for all candidates: (T·N, W). A block's modulations are as many rows of six
parts: shift, 1 + scale and gate, for the attention and for the MLP. What a window remembers of
its tokens in a block is their keys and values, (N, 2·I) each.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lewm_core.int8 import Int8Product, Watched
from lewm_core.model import WorldModel
from lewm_core.products import Product

# Candidates at a time: their tokens stay in the processor's cache.
_ROWS = 1024
# Numbers in a tensor from which its passes through memory cost a CPU more than the calls.
_LARGE = 2 ** 15

# Of a window's tokens: keys and values (N, 2·I) each; and one of both, or all T in one tensor.
_Memory = tuple[Tensor, ...]
_Tokens = Tensor | tuple[Tensor, ...]


class _Layer(NamedTuple):
    """One block's products, norms folded in."""

    modulation: Product  # W -> 6·W: shift, 1 + scale, gate, twice
    query: Product
    key_value: Product   # W -> 2·I
    out: Product
    alone: Product       # W -> W: what a window's first token hears, itself, behind `out`
    widen: Product
    narrow: Product


class Imagination:
    """`rollout` of `model` as it is now, in `dtype`; later changes of the model are not seen.

    Without gradients and with dropout and batch norm as in evaluation. `coarse`, where there is
    one, is nearly the same in less time: for sorting candidates where few are good.
    """

    coarse: Imagination | None = None
    rolls = False  # what is remembered of tokens stays as it was, also when the window slides

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

    def rollout(self, latents: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """The imagined latents (B, S, K, D) float32; see `LatentDynamics.rollout`."""
        on_cpu = actions.device.type == 'cpu'
        at_once = max(1, _ROWS // int(actions.shape[1])) if on_cpu else len(actions)
        parts = [self._rollout(*part) for part in zip(
            latents.split(at_once), past.split(at_once), actions.split(at_once))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @torch.no_grad()
    def in_int8(self, latents: Tensor, past: Tensor, actions: Tensor) -> Imagination:
        """The same with most of the blocks' products in int8, at scales from this rollout.

        The others are small, or what is saved there is lost again in making bytes of its inputs.
        """
        other = copy.copy(self)
        other._layers = [_Layer(*map(Watched, layer)) for layer in self._layers]
        other.rollout(latents, past, actions)
        other._layers = [_in_int8(layer, watched)
                         for layer, watched in zip(self._layers, other._layers)]
        return other

    def rolling(self) -> Imagination:
        """The same with a rolling cache of keys and values: a token is never done again.

        As in language models with a sliding window (arXiv 2310.06825). Nearly the same, for
        tokens would have another place in the window, and not know what has left it.
        """
        other = copy.copy(self)
        other.rolls = True
        return other

    def _rollout(self, latents: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        # As numbers: a search that is recorded must not ask for them again in every run.
        batch, count, horizon = (int(size) for size in actions.shape[:3])
        keep, rows = min(int(latents.shape[1]), self.history), batch * count
        context = self._tokens(latents[:, -keep:].to(self.dtype).transpose(0, 1))  # (C, B, W)
        before = self._modulations(past[:, int(past.shape[1]) - keep + 1:].transpose(0, 1))
        modulations = self._modulations(actions.flatten(0, 1).transpose(0, 1))
        tokens = [_each(context[-1:], count)]                                      # (N, W) each
        imagined: list[Tensor] = []
        for step in range(horizon):
            # Token i of all is context before `keep - 1` and this candidate's own from there on.
            first = max(0, keep + step - self.history)
            own = max(0, first - keep + 1)
            if step and (first == 0 or self.rolls):
                own = step  # the window has only grown: its other tokens are remembered
            else:
                memory = self._context(context[first:-1], [m[first * batch:] for m in before],
                                       count)
            new = self._placed(tokens[own:], own + keep - 1 - first)
            now = [m[own * rows:(step + 1) * rows] for m in modulations]
            out, memory = self._predict(new, step + 1 - own, now, memory)
            imagined.append(out)
            if step + 1 < horizon:
                tokens.append(self._tokens(out))
        return torch.stack(imagined, dim=1).float().unflatten(0, (batch, count))

    def _placed(self, tokens: Sequence[Tensor], position: int) -> Tensor:
        """Tokens (N, W) in a row (T·N, W), the first one at `position` of the window."""
        if len(tokens) == 1:
            return tokens[0] + self._positions[position]
        places = self._positions[position:position + len(tokens), None]
        return (torch.stack(list(tokens)) + places).flatten(0, 1)

    def _context(self, tokens: Tensor, modulations: list[Tensor], count: int) -> list[_Memory]:
        """What each block remembers of the context (C, B, W), for every candidate."""
        frames, last = len(tokens), len(self._layers) - 1
        if not frames:
            return [()] * len(self._layers)
        memory, x = [], self._placed(tokens, 0)
        for index, (layer, modulation) in enumerate(zip(self._layers, modulations)):
            parts = modulation.chunk(6, dim=1)
            h = _modulated(x, *parts[:2])
            made = layer.key_value(h).unflatten(0, (frames, -1))
            memory.append(_each(made, count).unflatten(0, (frames, -1)).unbind())
            if index < last:
                x = self._through(layer, x, parts, self._hear(layer, h, made.unbind(), frames))
        return memory

    def _predict(self, x: Tensor, count: int, modulations: list[Tensor],
                 memory: list[_Memory]) -> tuple[Tensor, list[_Memory]]:
        """The latent (N, D) after the last of `count` new tokens, and what is remembered."""
        made: list[_Memory] = []
        rows, asking = len(x) // count, count
        for index, (layer, modulation) in enumerate(zip(self._layers, modulations)):
            parts = modulation.chunk(6, dim=1)
            h = _modulated(x, *parts[:2])
            new = layer.key_value(h).unflatten(0, (count, rows)).unbind()
            made.append((*memory[index], *new)[-self.history:])
            if index == len(self._layers) - 1 and count > 1:
                x, h, parts = x[-rows:], h[-rows:], [part[-rows:] for part in parts]
                asking = 1
            heard = self._hear(layer, h, made[-1], asking)
            x = self._through(layer, x, parts, heard)
        *first, widen, narrow = self._head
        x = _normed(x)
        for product in first:
            x = product(x)
        return narrow(widen(x, gelu=True)), made

    def _hear(self, layer: _Layer, h: Tensor, memory: _Memory, asking: int) -> Tensor:
        """What the tokens `h`, the last `asking` of the window `memory`, hear of it (T·N, W)."""
        rows, window = len(memory[0]), len(memory)
        first = [layer.alone(h[:rows])] if asking == window else []
        if asking == len(first):
            return first[0]
        heads = self._heads, self._head_dim
        queries = layer.query(h[len(first) * rows:]).view(-1, rows, *heads)
        if h.device.type != 'cpu' or queries[0].numel() < _LARGE:
            keys, values = torch.stack(memory).view(window, rows, 2, *heads).unbind(2)
        else:  # not side by side in memory: that would be to copy them
            keys, values = zip(*(token.view(rows, 2, *heads).unbind(1) for token in memory))
        answers = [_attend(query, keys[:end], values[:end])
                   for end, query in enumerate(queries.unbind(), window - len(queries) + 1)]
        heard = layer.out(answers[0] if len(answers) == 1 else torch.cat(answers))
        return torch.cat([*first, heard]) if first else heard

    def _through(self, layer: _Layer, x: Tensor, modulation: Sequence[Tensor], heard: Tensor
                 ) -> Tensor:
        """The tokens after the block, once they have heard."""
        _, _, gate1, shift2, scale2, gate2 = modulation
        x = torch.addcmul(x, gate1, heard)
        h = layer.widen(_modulated(x, shift2, scale2), gelu=True)
        return x.addcmul_(gate2, layer.narrow(h))

    def _tokens(self, latents: Tensor) -> Tensor:
        return latents if self._input is None else self._input(latents)

    def _modulations(self, blocks: Tensor) -> list[Tensor]:
        """The modulation (T·N, 6·W) of each block by each of the actions (T, N, F, A)."""
        scale, offset = self._scale
        x = torch.addcmul(offset, blocks.to(scale), scale).flatten(2).flatten(0, 1)
        x = functional.linear(x, *self._patch).to(self.dtype)
        first, second = self._embed
        x = functional.silu(second(functional.silu(first(x))))
        return [layer.modulation(x) for layer in self._layers]

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
        out, value = attention.to_out[0], qkv[2 * inner:]
        return _Layer(self._ready(modulation.weight, modulation.bias + one),
                      self._ready(scale * qkv[:inner], scale * bias[:inner]),
                      self._ready(qkv[inner:], bias[inner:]),
                      self._ready(out.weight, out.bias),
                      self._ready(out.weight @ value, out.weight @ bias[2 * inner:] + out.bias),
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


def _in_int8(layer: _Layer, watched: _Layer) -> _Layer:
    ready = {name: Int8Product(getattr(watched, name))
             for name in ('query', 'key_value', 'narrow')}
    # What is between the MLP's products, behind the GELU, stays bytes.
    return layer._replace(widen=Int8Product(watched.widen, watched.narrow.levels()), **ready)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The tokens normed, shifted and scaled, and normed again, without weights."""
    return _normed(torch.addcmul(shift, _normed(x, 1e-6), scale))


def _normed(x: Tensor, eps: float = 1e-5) -> Tensor:
    return functional.layer_norm(x, (int(x.shape[-1]),), eps=eps)


def _attend(query: Tensor, keys: _Tokens, values: _Tokens) -> Tensor:
    """The answer (N, I) to one query (N, H, d) from T keys and values (N, H, d)."""
    if isinstance(keys, Tensor):
        weights = (query * keys).sum(dim=-1, keepdim=True).softmax(dim=0)
        return (weights * values).sum(dim=0).flatten(1)
    weights = torch.stack([(query * key).sum(dim=-1, keepdim=True) for key in keys]).softmax(dim=0)
    answer = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:]):
        answer = answer.addcmul_(weight, value)
    return answer.flatten(1)


def _each(x: Tensor, count: int) -> Tensor:
    """Problems' values (T, B, W) for each of `count` candidates (T·B·count, W)."""
    return x.unsqueeze(2).expand(-1, -1, count, -1).flatten(0, 2)


def _after_norm(norm: nn.LayerNorm, weight: Tensor, bias: Tensor | None = None
                ) -> tuple[Tensor, Tensor]:
    """Weight and bias of norm and product in one, behind a norm without weights."""
    carried = weight @ norm.bias
    return weight * norm.weight, carried if bias is None else bias + carried
