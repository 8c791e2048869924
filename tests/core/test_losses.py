"""SIGReg against its formula, and what the two losses look at."""

import math

import numpy as np
import pytest
import torch

from lewm_core.losses import epps_pulley, prediction_losses, sigreg


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def directly(latents, directions, knots):
    """SIGReg in float64, one direction and one knot after the other, straight from the formula."""
    latents, total = np.asarray(latents, np.float64), 0.0
    step = 3.0 / (knots - 1)
    for u in np.asarray(directions, np.float64).T:
        x = latents @ (u / math.sqrt(u @ u))
        for k in range(knots):
            t = k * step
            phi = math.exp(-t * t / 2)
            gap = (np.cos(t * x).mean() - phi) ** 2 + np.sin(t * x).mean() ** 2
            area = 2 * step * (0.5 if k in (0, knots - 1) else 1.0)
            total += len(x) * gap * phi * area
    return total / directions.shape[1]


@pytest.mark.parametrize('latents', [normal(64, 8), 0.01 * normal(64, 8), 3 + 2 * normal(64, 8)])
@pytest.mark.parametrize('knots', [5, 17])
def test_sigreg_equals_a_direct_float64_evaluation(latents, knots):
    got = sigreg(latents, 32, knots, torch.Generator().manual_seed(7))
    expected = directly(latents, normal(8, 32, seed=7), knots)
    assert got.dtype == torch.float32 and got.item() == pytest.approx(expected, rel=1e-4)


def test_time_steps_are_measured_one_by_one_and_averaged():
    latents = torch.stack([normal(64, 8), 5 + normal(64, 8, seed=1)])
    got = sigreg(latents, 32, 17, torch.Generator().manual_seed(7))
    each = [sigreg(z, 32, 17, torch.Generator().manual_seed(7)) for z in latents]
    assert got.item() == pytest.approx(sum(each).item() / 2, rel=1e-5)


def uniform(n, d):
    return torch.rand(n, d, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize('name, latents', [
    ('collapsed to a point', torch.zeros(512, 16)),
    ('collapsed to a line', normal(512, 1) * torch.ones(16)),
    ('nearly collapsed', 0.05 * normal(512, 16)),
    ('shifted', 1 + normal(512, 16)),
    ('scaled', 2 * normal(512, 16)),
    ('uniform', uniform(512, 16)),
])
def test_sigreg_is_low_on_a_standard_normal_and_high_on(name, latents):
    low = sigreg(normal(512, 16), 256, 17, torch.Generator().manual_seed(1))
    high = sigreg(latents, 256, 17, torch.Generator().manual_seed(1))
    assert low < 1.5 and high > 8 * low, (name, low, high)


def test_the_statistic_tells_a_uniform_of_the_same_mean_and_variance_from_a_normal():
    same_moments = (uniform(4096, 1) - 0.5) * math.sqrt(12)
    assert epps_pulley(same_moments) > 8 * epps_pulley(normal(4096, 1))


def test_the_gradient_of_sigreg_is_that_of_the_formula():
    latents = normal(12, 3).double().requires_grad_()
    directions = normal(3, 4, seed=7).double()
    directions = directions / directions.norm(dim=0)
    assert torch.autograd.gradcheck(lambda z: epps_pulley(z @ directions, 9), latents)


def test_following_its_gradient_spreads_collapsed_latents():
    latents = (0.1 * normal(256, 4)).requires_grad_()
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam([latents], lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        sigreg(latents, 64, 17, generator).backward()
        optimiser.step()
    assert (latents.std(dim=0) > 0.8).all()


def test_sigreg_stays_float32_under_bfloat16_autocast():
    latents = normal(128, 16)
    plain = sigreg(latents, 64, 17, torch.Generator().manual_seed(2))
    with torch.autocast('cpu', torch.bfloat16):
        mixed = sigreg(latents, 64, 17, torch.Generator().manual_seed(2))
    assert mixed.dtype == torch.float32 and torch.equal(plain, mixed)


def test_directions_are_new_at_each_call_and_repeat_with_the_seed():
    latents, generator = normal(64, 8) + 1, torch.Generator().manual_seed(5)
    first, second = (sigreg(latents, 16, 17, generator) for _ in range(2))
    again = sigreg(latents, 16, 17, torch.Generator().manual_seed(5))
    assert first != second and torch.equal(first, again)


def batch(model, windows=4):
    size, config = model.config.image_size, model.config
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (windows, config.history + 1, size, size, 3),
                           generator=generator, dtype=torch.uint8)
    actions = 0.2 * torch.randn(windows, config.history, config.frameskip, 2, generator=generator)
    return pixels, actions


def test_the_total_is_the_prediction_and_the_weighted_regulariser(small_model):
    losses = prediction_losses(small_model, *batch(small_model))
    weight = small_model.config.sigreg_weight
    assert torch.isclose(losses.total, losses.prediction + weight * losses.sigreg)
    assert losses.latents.shape == (4, 4, small_model.config.latent_dim)


def test_a_last_action_that_leaves_the_window_is_not_looked_at(small_model):
    small_model.eval()
    pixels, actions = batch(small_model)
    nan = torch.full_like(actions[:, :1], torch.nan)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    short = prediction_losses(small_model, pixels, actions, generators[0])
    long = prediction_losses(small_model, pixels, torch.cat([actions, nan], 1), generators[1])
    assert torch.equal(short.total, long.total)


def test_the_targets_are_not_detached(small_model):
    small_model.eval()
    pixels, actions = batch(small_model)
    losses = prediction_losses(small_model, pixels, actions)
    gradient, = torch.autograd.grad(losses.prediction, losses.latents)
    assert gradient[:, -1].abs().max() > 0


def test_without_a_weight_sigreg_is_measured_and_moves_nothing(small_model_with):
    model = small_model_with(sigreg_weight=0.0)
    losses = prediction_losses(model, *batch(model))
    assert losses.sigreg > 0 and not losses.sigreg.requires_grad
    assert torch.equal(losses.total, losses.prediction)
