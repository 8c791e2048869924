"""Tensors and models that the tests of the world model share."""

import torch


def seeded(*shape, seed=0):
    """Standard normal numbers of that shape, the same at each call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stir(model):
    """Makes the zero-initialised modulation count, as training does."""
    generator = torch.Generator().manual_seed(1)
    for layer in model.predictor.transformer.layers:
        for p in layer.adaLN_modulation.parameters():
            p.data += 0.05 * torch.randn(p.shape, generator=generator)
    return model.eval()


def rollout_inputs(model, context, batch=2, count=7, horizon=6, seed=2):
    """Latents, past and actions for `rollout`: `context` frames, `count` candidates a problem."""
    draw = torch.Generator().manual_seed(seed)
    skip, latent = model.config.frameskip, model.config.latent_dim
    return (torch.randn(batch, context, latent, generator=draw),
            0.3 * torch.randn(batch, context - 1, skip, 2, generator=draw),
            0.3 * torch.randn(batch, count, horizon, skip, 2, generator=draw))
