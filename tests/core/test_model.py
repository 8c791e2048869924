"""The world model: the paper's shape, what it can see, and the pairing of actions and frames."""

import dataclasses

import numpy as np
import pytest
import torch

from lewm_core.config import ModelConfig
from lewm_core.encoders import _attention
from lewm_core.losses import prediction_losses
from lewm_core.model import LatentDynamics, WorldModel
from lewm_core.types import UserError


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stir(model):
    """Makes the zero-initialised modulation count, as training does."""
    generator = torch.Generator().manual_seed(1)
    for layer in model.predictor.transformer.layers:
        for p in layer.adaLN_modulation.parameters():
            p.data += 0.05 * torch.randn(p.shape, generator=generator)
    return model.eval()


@pytest.fixture(scope='module')
def paper(robot):
    camera = dataclasses.replace(robot.camera, width=224, height=224)
    torch.manual_seed(0)
    return WorldModel(ModelConfig(), dataclasses.replace(robot, cameras=(camera,)))


# The paper's model

def test_the_papers_model_has_its_number_of_parameters_part_by_part(paper):
    parts = {name: sum(p.numel() for p in part.parameters())
             for name, part in paper.named_children()}
    assert parts == {'encoder': 5_501_376, 'projector': 792_768, 'action_encoder': 156_206,
                     'predictor': 10_791_360, 'pred_proj': 792_768}
    assert paper.num_parameters() == 18_034_478


def reference_keys():
    """The names of the reference's state dict."""
    both = ('weight', 'bias')
    keys = {'encoder.embeddings.cls_token', 'encoder.embeddings.position_embeddings',
            'predictor.pos_embedding'}
    pairs = ['encoder.embeddings.patch_embeddings.projection', 'encoder.layernorm',
             'predictor.transformer.norm', 'action_encoder.patch_embed', 'action_encoder.embed.0',
             'action_encoder.embed.2']
    for i in range(12):
        pairs += [f'encoder.encoder.layer.{i}.{name}' for name in (
            'attention.attention.query', 'attention.attention.key', 'attention.attention.value',
            'attention.output.dense', 'intermediate.dense', 'output.dense', 'layernorm_before',
            'layernorm_after')]
    for i in range(6):
        keys.add(f'predictor.transformer.layers.{i}.attn.to_qkv.weight')
        pairs += [f'predictor.transformer.layers.{i}.{name}' for name in (
            'attn.norm', 'attn.to_out.0', 'mlp.net.0', 'mlp.net.1', 'mlp.net.4',
            'adaLN_modulation.1')]
    for head in ('projector', 'pred_proj'):
        pairs += [f'{head}.net.{i}' for i in (0, 1, 3)]
        keys |= {f'{head}.net.1.{name}'
                 for name in ('running_mean', 'running_var', 'num_batches_tracked')}
    return keys | {f'{pair}.{name}' for pair in pairs for name in both}


def test_the_papers_model_has_the_references_tensors_and_two_of_our_own(paper):
    assert len(reference_keys()) == 303
    assert set(paper.state_dict()) == reference_keys() | {'action_mean', 'action_std'}


def test_the_papers_tensors_have_the_references_shapes(paper):
    shapes = {name: tuple(t.shape) for name, t in paper.state_dict().items()}
    layer = 'predictor.transformer.layers.5'
    assert shapes['encoder.embeddings.cls_token'] == (1, 1, 192)
    assert shapes['encoder.embeddings.position_embeddings'] == (1, 257, 192)
    assert shapes['encoder.embeddings.patch_embeddings.projection.weight'] == (192, 3, 14, 14)
    assert shapes['predictor.pos_embedding'] == (1, 3, 192)
    assert shapes[f'{layer}.attn.to_qkv.weight'] == (3072, 192)
    assert shapes[f'{layer}.adaLN_modulation.1.weight'] == (1152, 192)
    assert shapes['action_encoder.patch_embed.weight'] == (10, 10, 1)
    assert shapes['projector.net.0.weight'] == (2048, 192)


def test_the_papers_norms_have_its_epsilons_and_its_gelu_is_exact(paper):
    norms = {name: m for name, m in paper.named_modules()
             if isinstance(m, torch.nn.LayerNorm)}
    for name, norm in norms.items():
        modulated = name.endswith(('norm1', 'norm2'))
        expected = 1e-12 if name.startswith('encoder') else 1e-6 if modulated else 1e-5
        assert norm.eps == expected and norm.elementwise_affine != modulated, name
    gelus = [m for m in paper.modules() if isinstance(m, torch.nn.GELU)]
    assert len(gelus) == 8 and all(m.approximate == 'none' for m in gelus)


def test_the_papers_model_gives_losses_and_gradients_in_bfloat16(paper):
    assert_bfloat16_trains(paper.train(), torch.zeros(2, 4, 224, 224, 3, dtype=torch.uint8))


def test_a_small_model_gives_losses_and_gradients_in_bfloat16(small_model):
    assert_bfloat16_trains(small_model, torch.zeros(2, 4, 16, 16, 3, dtype=torch.uint8))


def assert_bfloat16_trains(model, pixels):
    pixels.random_(generator=torch.Generator().manual_seed(0))
    actions = 0.2 * seeded(2, 3, model.config.frameskip, 2)
    with torch.autocast('cpu', torch.bfloat16):
        losses = prediction_losses(model, pixels, actions)
    tensors = [value for value in losses if isinstance(value, torch.Tensor)]
    assert len(tensors) == 4 and all(value.dtype == torch.float32 for value in tensors)
    losses.total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(g).all() for g in gradients)
    model.zero_grad()


# What the model sees

def test_pixels_are_scaled_to_one_and_normalised_with_imagenets_statistics(small_model):
    seen = []
    small_model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    pixels = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    pixels[..., 0] = 255
    small_model.eval().encode(pixels)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    assert torch.allclose(seen[0][0, :, 3, 5], torch.tensor(expected), atol=1e-5)


def test_encode_keeps_the_leading_shape_and_treats_each_image_alone(small_model):
    pixels = torch.randint(0, 256, (2, 3, 16, 16, 3), dtype=torch.uint8)
    small_model.eval()
    latents = small_model.encode(pixels)
    assert latents.shape == (2, 3, 8) and latents.dtype == torch.float32
    assert torch.allclose(latents[1, 2], small_model.encode(pixels[1, 2]), atol=1e-5)
    assert small_model.encode(pixels[0, 0]).shape == (8,)


def test_where_a_thing_is_survives_the_conv_encoder(small_model):
    pixels = torch.zeros(16, 16, 16, 3, dtype=torch.uint8)
    for i in range(16):
        pixels[i, 4 * (i // 4):4 * (i // 4) + 2, 4 * (i % 4):4 * (i % 4) + 2] = 255
    features = small_model.eval().encoder(pixels.permute(0, 3, 1, 2).float())
    # The same square in 16 places: a pooled encoder would give 16 equal rows.
    apart = torch.cdist(features, features) + 1e9 * torch.eye(16)
    assert apart.min() > 0.1 * features.norm(dim=1).mean()


@pytest.mark.parametrize('shape, dtype', [((1, 8, 8, 3), torch.uint8), ((16, 16), torch.uint8),
                                          ((1, 3, 16, 16), torch.uint8),
                                          ((1, 16, 16, 3), torch.float32)])
def test_pixels_of_another_shape_or_type_are_refused(small_model, shape, dtype):
    with pytest.raises(UserError, match=r'takes \(..., 16, 16, 3\) uint8'):
        small_model.encode(torch.zeros(shape, dtype=dtype))


def test_a_camera_of_another_size_than_the_models_is_refused(robot, toy_model):
    with pytest.raises(UserError, match="takes images of 32x32.*'top'.*16x16"):
        WorldModel(dataclasses.replace(toy_model, image_size=32), robot)


@pytest.mark.parametrize('changes, words', [
    ({'conv_channels': ()}, 'conv_channels'), ({'conv_channels': (4,) * 5}, 'image_size=16'),
    ({'encoder': 'vit'}, 'patch_size=14'), ({'history': 0}, 'history=0'),
    ({'encoder': 'vit', 'patch_size': 4, 'encoder_heads': 5}, 'encoder_heads=5')])
def test_sizes_that_do_not_fit_together_are_refused(robot, toy_model, changes, words):
    with pytest.raises(UserError, match=words):
        WorldModel(dataclasses.replace(toy_model, **changes), robot)


# Actions

def test_actions_are_z_scored_with_the_statistics_inside(small_model):
    blocks = seeded(4, 3, 2)
    plain = small_model.embed_actions((blocks - torch.tensor([0.1, -2])) / torch.tensor([3, 0.5]))
    small_model.set_action_statistics(np.array([0.1, -2]), np.array([3, 0.5]))
    assert torch.allclose(small_model.embed_actions(blocks), plain, atol=1e-5)
    assert torch.allclose(small_model.embed_actions(blocks.double()), plain, atol=1e-5)


def test_the_action_encoder_is_a_convolution_of_width_one_and_an_mlp(small_model):
    net, blocks = small_model.action_encoder, seeded(4, 5, 6)
    conv = net.patch_embed(blocks.transpose(1, 2)).transpose(1, 2)
    assert torch.allclose(net(blocks), net.embed(conv), atol=1e-6)


@pytest.mark.parametrize('std', [[1.0, 0.0], [float('nan'), 1.0]])
def test_an_action_that_never_varied_is_refused(small_model, std):
    with pytest.raises(UserError, match='must vary'):
        small_model.set_action_statistics([0.0, 0.0], std)


def test_a_new_predictor_ignores_actions_and_a_trained_one_does_not(small_model):
    model, latents = small_model.eval(), seeded(2, 3, 8)
    actions = [model.embed_actions(seeded(2, 3, 3, 2, seed=s)) for s in (1, 2)]
    before = [model.predict(latents, a) for a in actions]
    stir(model)
    after = [model.predict(latents, a) for a in actions]
    assert torch.equal(*before)
    assert (after[0] - after[1]).abs().amax(dim=(0, 2)).min() > 1e-3


def test_the_modulation_is_shift_scale_gate_for_attention_then_for_the_mlp(small_model):
    stir(small_model)
    predictor = small_model.predictor
    block = predictor.transformer.layers[0]
    x, embedded = seeded(2, 3, 32), seeded(2, 3, 32, seed=1)
    shift1, scale1, gate1, shift2, scale2, gate2 = block.adaLN_modulation(embedded).chunk(6, -1)
    norm = torch.nn.LayerNorm(32, eps=1e-6, elementwise_affine=False)
    middle = x + gate1 * block.attn(norm(x) * (1 + scale1) + shift1)
    expected = middle + gate2 * block.mlp(norm(middle) * (1 + scale2) + shift2)
    got = block(x, predictor.modulations(embedded)[:, :, 0])
    assert torch.allclose(got, expected, atol=1e-5)


def test_attention_is_the_softmax_of_scaled_products_over_the_past(small_model):
    attention = small_model.eval().predictor.transformer.layers[0].attn
    for tokens in (3, 6):  # few and many tokens go different ways
        x = seeded(2, tokens, 32)
        q, k, v = attention.to_qkv(attention.norm(x)).chunk(3, dim=-1)
        q, k, v = (part.view(2, tokens, 2, 16).transpose(1, 2) for part in (q, k, v))
        score = (q @ k.transpose(2, 3) / 4).masked_fill(
            torch.ones(tokens, tokens).triu(1).bool(), -torch.inf)
        heard = (score.softmax(-1) @ v).transpose(1, 2).flatten(2)
        expected = attention.to_out(heard)
        assert torch.allclose(attention(x), expected, atol=1e-5)
        assert torch.allclose(attention.last(x), expected[:, -1], atol=1e-5)


def test_no_prediction_knows_a_later_latent_or_action(small_model):
    model = stir(small_model)
    latents, actions = seeded(2, 3, 8), model.embed_actions(seeded(2, 3, 3, 2))
    whole = model.predict(latents, actions)
    for t in (1, 2):
        part = model.predict(latents[:, :t], actions[:, :t])
        assert torch.allclose(whole[:, :t], part, atol=1e-5)
    changed = model.predict(latents, actions + torch.tensor([0.0, 0, 1]).view(1, 3, 1))
    assert torch.allclose(whole[:, :2], changed[:, :2], atol=1e-5)
    assert (whole[:, 2] - changed[:, 2]).abs().max() > 1e-3


# Rollout

class CumulativeSum(LatentDynamics):
    """A toy: an image's brightness is its position, and an action is added to the position.

    The latent is (position, number of frames that the predictor was shown for it), and the
    prediction from a frame that the latent's own actions did not lead to is poisoned.
    """

    history = 3

    def encode(self, pixels):
        position = pixels.flatten(-3).float().mean(-1)
        return torch.stack([position, torch.zeros_like(position)], dim=-1)

    def embed_actions(self, blocks):
        return blocks.sum(dim=(-2, -1)).unsqueeze(-1)

    def predict(self, latents, action_emb):
        position, moves = latents[..., 0], action_emb[..., 0]
        assert latents.shape[1] == action_emb.shape[1] <= self.history
        wrong = (position[:, :-1] + moves[:, :-1] != position[:, 1:]).any()
        shown = torch.arange(1, latents.shape[1] + 1).expand_as(position)
        return torch.stack([position + moves + (1000 if wrong else 0), shown], dim=-1)


@pytest.mark.parametrize('context', [1, 2, 3, 5])
def test_rollout_pairs_each_block_with_the_frame_it_leaves(context):
    toy, moves = CumulativeSum(), torch.tensor([2, 3, 5, 7, 11, 13, 17, 19, 23])
    positions = torch.cat([torch.zeros(1), moves.cumsum(0)])
    pixels = positions[:context, None, None, None].expand(-1, 4, 4, 3).to(torch.uint8)
    past = moves[:context - 1].view(1, -1, 1, 1).float()
    # The first candidate is what happens; the second moves ten times as far.
    ahead = moves[context - 1:context + 3].float()
    candidates = torch.stack([ahead, 10 * ahead]).view(1, 2, 4, 1, 1)
    out = toy.rollout(toy.encode(pixels).unsqueeze(0), past, candidates)
    assert out.shape == (1, 2, 4, 2)
    assert out[0, 0, :, 0].tolist() == positions[context:context + 4].tolist()
    assert out[0, 1, :, 0].tolist() == (positions[context - 1] + 10 * ahead.cumsum(0)).tolist()
    assert out[0, 0, :, 1].tolist() == [min(context + k, 3) for k in range(4)]


def naive_rollout(model, latents, past, actions):
    """One candidate at a time, one step at a time, everything encoded anew."""
    history, out = model.history, []
    for b in range(actions.shape[0]):
        for s in range(actions.shape[1]):
            blocks = torch.cat([past[b], actions[b, s]])
            frames = list(latents[b])
            for k in range(actions.shape[2]):
                n = min(len(frames), history)
                end = len(frames)
                embedded = model.embed_actions(blocks[end - n:end]).unsqueeze(0)
                step = model.predict(torch.stack(frames[-n:]).unsqueeze(0), embedded)
                frames.append(step[0, -1])
            out.append(torch.stack(frames[latents.shape[1]:]))
    return torch.stack(out).view(*actions.shape[:3], -1)


@pytest.mark.parametrize('context', [1, 2, 3, 4])
@pytest.mark.parametrize('history, depth', [(3, 1), (3, 2), (1, 2), (2, 3)])
def test_rollout_equals_the_naive_loop(small_model_with, context, history, depth):
    model = stir(small_model_with(history=history, predictor_depth=depth))
    model.set_action_statistics([0.1, 0.0], [0.3, 0.2])
    latents, past = seeded(2, context, 8), 0.3 * seeded(2, context - 1, 3, 2)
    actions = 0.3 * seeded(2, 4, 5, 3, 2, seed=5)
    got = model.rollout(latents, past, actions)
    assert got.shape == (2, 4, 5, 8)
    assert torch.allclose(got, naive_rollout(model, latents, past, actions), atol=1e-4)


def test_rollout_lets_gradients_through_to_the_actions(small_model):
    model, actions = stir(small_model), seeded(1, 2, 4, 3, 2).requires_grad_()
    model.rollout(seeded(1, 2, 8), seeded(1, 1, 3, 2), actions)[..., -1, :].sum().backward()
    assert (actions.grad.abs().amax(dim=(0, 1, 3, 4)) > 0).all()


def test_rollout_runs_under_bfloat16_autocast(small_model):
    model = stir(small_model)
    arguments = seeded(1, 2, 8), seeded(1, 1, 3, 2), seeded(1, 4, 5, 3, 2)
    with torch.inference_mode():
        plain = model.rollout(*arguments)
        with torch.autocast('cpu', torch.bfloat16):
            mixed = model.rollout(*arguments)
    assert mixed.dtype == torch.float32 and torch.allclose(plain, mixed, atol=0.1)


@pytest.mark.parametrize('tokens', [1, 5, 257])
def test_short_attention_in_bfloat16_is_the_kernels_to_its_rounding(tokens):
    """Plain products, because they are faster there; the values and the gradients stay."""
    torch.manual_seed(0)
    exact = [torch.randn(2, 3, tokens, 16, requires_grad=True) for _ in range(3)]
    short = [part.detach().bfloat16().requires_grad_() for part in exact]
    ahead = torch.randn(2, 3, tokens, 16)
    for parts in (exact, short):
        _attention(*parts).backward(ahead.to(parts[0].dtype))
    torch.testing.assert_close(_attention(*short).float(), _attention(*exact), rtol=0, atol=0.03)
    for one, other in zip(exact, short):
        torch.testing.assert_close(other.grad.float(), one.grad, rtol=0, atol=0.06)
