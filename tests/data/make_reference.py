"""Makes tests/data/reference/NAME: a small LeWM of stable-worldmodel with noise for weights.

Run by an interpreter that has stable-worldmodel, torch and transformers:
    python tests/data/make_reference.py tests/data/reference/transformers4
What is written: weights.pt, config.json, and expected.npz with what that library makes of random
pictures and actions. Every tensor is seeded noise, BatchNorm's statistics and AdaLN included: in a
new model AdaLN is zero, actions have no effect, and a comparison would prove nothing.
`--full` makes the paper's shape instead (72 MB), for a comparison by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from stable_worldmodel.wm.lewm import LeWM
from stable_worldmodel.wm.lewm.module import MLP, Embedder, Predictor
from transformers import ViTConfig, ViTModel

SMALL = {'width': 8, 'layers': 2, 'heads': 2, 'image': 28, 'depth': 2, 'predictor_heads': 2,
         'head': 4, 'mlp': 16, 'hidden': 16}
FULL = {'width': 192, 'layers': 12, 'heads': 3, 'image': 224, 'depth': 6, 'predictor_heads': 16,
        'head': 64, 'mlp': 2048, 'hidden': 2048}
LIBRARY = 'stable_worldmodel.wm.lewm'


def build(s: dict) -> tuple[LeWM, dict]:
    """The model of shape `s` and its config.json."""
    width = s['width']
    vit = {'hidden_size': width, 'num_hidden_layers': s['layers'], 'image_size': s['image'],
           'num_attention_heads': s['heads'], 'intermediate_size': 4 * width, 'patch_size': 14}
    head = {'input_dim': width, 'output_dim': width, 'hidden_dim': s['hidden']}
    predictor = {'num_frames': 3, 'input_dim': width, 'hidden_dim': width, 'output_dim': width,
                 'depth': s['depth'], 'heads': s['predictor_heads'], 'mlp_dim': s['mlp'],
                 'dim_head': s['head'], 'dropout': 0.1, 'emb_dropout': 0.0}
    action = {'input_dim': 10, 'emb_dim': width}
    model = LeWM(ViTModel(ViTConfig(**vit), add_pooling_layer=False, use_mask_token=False),
                 Predictor(**predictor), Embedder(**action),
                 *(MLP(**head, norm_fn=torch.nn.BatchNorm1d) for _ in range(2)))
    norm = {'norm_fn': {'_target_': 'torch.nn.BatchNorm1d', '_partial_': True}}
    mlp = {'_target_': f'{LIBRARY}.module.MLP', **head, **norm}
    return model, {
        '_target_': f'{LIBRARY}.LeWM',
        'encoder': {'_target_': 'stable_pretraining.backbone.utils.vit_hf', 'size': 'tiny',
                    'pretrained': False, 'use_mask_token': False, **vit},
        'predictor': {'_target_': f'{LIBRARY}.module.Predictor', **predictor},
        'action_encoder': {'_target_': f'{LIBRARY}.module.Embedder', **action},
        'projector': mlp, 'pred_proj': mlp}


@torch.no_grad()
def fill(model: LeWM, generator: torch.Generator) -> None:
    """Noise in every tensor, of a size that lets the signal through."""
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            tensor.fill_(3)
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith('running_var'):
            tensor.copy_(0.5 + noise.abs())
        elif tensor.ndim > 1 and not name.endswith(('token', 'embeddings', 'embedding')):
            tensor.copy_(noise / tensor[0].numel() ** 0.5)
        else:
            tensor.copy_(0.2 * noise + name.endswith('weight'))


@torch.no_grad()
def answers(model: LeWM, image: int, generator: torch.Generator) -> dict[str, np.ndarray]:
    """What the library makes of 2 clips of 3 frames and 3 candidates of 2 + 5 action blocks."""
    pixels = torch.randint(0, 256, (2, 3, image, image, 3), generator=generator,
                           dtype=torch.uint8)
    blocks = torch.randn(2, 3, 2 + 5, 10, generator=generator)  # normalised: what it is fed
    blocks[:, :, :2] = blocks[:, :1, :2]
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    frames = (pixels.permute(0, 1, 4, 2, 3).float() / 255 - mean) / std
    latents = model.encode({'pixels': frames.clone()})['emb']
    one, other = (model.predict(latents, model.action_encoder(blocks[:, c, :3])) for c in (0, 1))
    assert (one - other).abs().max() > 0.01, 'the actions have no effect'
    info = {'pixels': frames.unsqueeze(1).expand(-1, 3, -1, -1, -1, -1)}
    rollout = model.rollout(info, blocks.clone(), history_size=3)['predicted_emb'][:, :, 3:]
    return {'pixels': pixels.numpy(), 'blocks': blocks.numpy(), 'latents': latents.numpy(),
            'prediction': one.numpy(), 'rollout': rollout.numpy()}


def main(folder: Path, shape: dict) -> None:
    generator = torch.Generator().manual_seed(7)
    model, config = build(shape)
    fill(model, generator)
    model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / 'weights.pt')
    (folder / 'config.json').write_text(json.dumps(config, indent=1) + '\n')
    np.savez_compressed(folder / 'expected.npz', **answers(model, shape['image'], generator))
    print(f'{len(model.state_dict())} tensors')


if __name__ == '__main__':
    main(Path(sys.argv[1]), FULL if '--full' in sys.argv else SMALL)
