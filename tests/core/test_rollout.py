"""Imagining ahead: which action leaves which frame, and the quick way against the naive one."""

import pytest
import torch

from lewm_core.model import LatentDynamics
from tests.core.model_toys import seeded, stir


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
