"""Training steps of stable-worldmodel's LeWM, for an interpreter that has it: one a line of input.

    PYTHON reference_step.py BATCH THREADS DEVICE PRECISION
Model, loss, clipping and optimiser as its authors train it. Prints `ready`, then, for each line
read, the seconds of one step. The frames are normalised beforehand, as their loader's workers do.
"""

from __future__ import annotations

import sys
import time


def main(batch: int, threads: int, device: str, precision: str) -> None:
    import torch
    from stable_worldmodel.wm.lewm import LeWM
    from stable_worldmodel.wm.lewm.module import MLP, Embedder, Predictor
    from stable_worldmodel.wm.loss import SIGReg
    from transformers import ViTConfig, ViTModel

    if threads:
        torch.set_num_threads(threads)
    vit = ViTConfig(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, patch_size=14,
                    intermediate_size=768, image_size=224)
    model = LeWM(ViTModel(vit, add_pooling_layer=False, use_mask_token=False),
                 Predictor(num_frames=3, depth=6, heads=16, mlp_dim=2048, input_dim=192,
                           hidden_dim=192, output_dim=192, dim_head=64, dropout=0.1),
                 Embedder(input_dim=10, emb_dim=192),
                 *(MLP(192, 2048, 192, norm_fn=torch.nn.BatchNorm1d) for _ in range(2)))
    model.to(device).train()
    spread = SIGReg().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=1e-3)
    pixels = torch.randn(batch, 4, 3, 224, 224, device=device)
    actions = torch.randn(batch, 4, 10, device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=precision == 'bf16'):
            out = model.encode({'pixels': pixels, 'action': actions})
            predicted = model.predict(out['emb'][:, :3], out['act_emb'][:, :3])
            loss = (predicted - out['emb'][:, 1:]).pow(2).mean()
            loss = loss + 0.09 * spread(out['emb'].transpose(0, 1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    print('ready', flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        step()
        print(time.perf_counter() - begun, flush=True)


if __name__ == '__main__':
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
