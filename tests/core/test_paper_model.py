"""The paper's model: its parameters, names, shapes, norms, and bfloat16."""

import dataclasses

import pytest
import torch

from lewm_core.config import ModelConfig
from lewm_core.losses import prediction_losses
from lewm_core.model import WorldModel
from tests.core.model_toys import seeded


@pytest.fixture(scope='module')
def paper(robot):
    camera = dataclasses.replace(robot.camera, width=224, height=224)
    torch.manual_seed(0)
    return WorldModel(ModelConfig(), dataclasses.replace(robot, cameras=(camera,)))


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
