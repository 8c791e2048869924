"""The world model: what it can see, what actions do in it, and who knows of whom."""

import dataclasses

import numpy as np
import pytest
import torch

from lewm_core.config import ModelConfig
from lewm_core.encoders import VisionTransformer, _attention
from lewm_core.model import WorldModel
from lewm_core.types import UserError
from tests.core.model_toys import seeded, stir


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
    ({'conv_channels': (8, 0)}, r'conv_channels=\[8, 0\] are out of range'),
    ({'conv_channels': (-1, 8)}, 'out of range'), ({'conv_channels': (10**30,)}, 'out of range'),
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


def plain_vit(net, pixels):
    """The CLS feature of a ViT as its paper has it: every token through every layer."""
    x = net.embeddings(pixels)
    for layer in net.encoder['layer']:
        h, mix = layer.layernorm_before(x), layer.attention['attention']
        q, k, v = (mix[name](h).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
                   for name in ('query', 'key', 'value'))
        heard = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + layer.attention['output']['dense'](heard.transpose(1, 2).flatten(2))
        h = torch.nn.functional.gelu(layer.intermediate['dense'](layer.layernorm_after(x)))
        x = x + layer.output['dense'](h)
    return net.layernorm(x)[:, 0]


@pytest.mark.parametrize('at_once', [7, 5000])
def test_the_vit_is_the_papers_though_only_its_cls_token_is_carried_to_the_end(
        monkeypatch, at_once):
    """Also image by image, as a CPU takes large batches; features and every gradient."""
    monkeypatch.setattr('lewm_core.encoders._TOKENS', at_once)
    torch.manual_seed(0)
    net = VisionTransformer(ModelConfig(image_size=8, patch_size=4, encoder_width=12,
                                        encoder_depth=3, encoder_heads=3, encoder_mlp=20)).double()
    for parameter in net.parameters():
        parameter.data.normal_(std=0.3)
    pixels, ahead = torch.randn(3, 3, 8, 8).double(), torch.randn(3, 12).double()
    found, expected = ((f, torch.autograd.grad((f * ahead).sum(), list(net.parameters())))
                       for f in (net(pixels), plain_vit(net, pixels)))
    torch.testing.assert_close(found, expected)
