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
