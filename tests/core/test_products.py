"""Products of weights that no longer change: the same figures, packed or not."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from lewm_core import products
from lewm_core.products import Product


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('gelu', [True, False])
def test_a_product_is_the_linear_layer(dtype, bias, gelu):
    torch.manual_seed(0)
    weight, x = torch.randn(24, 16).to(dtype), torch.randn(3, 5, 16).to(dtype)
    offset = torch.randn(24).to(dtype) if bias else None
    expected = functional.linear(x, weight, offset)
    found = Product(weight, offset)(x, gelu)
    torch.testing.assert_close(found, functional.gelu(expected) if gelu else expected,
                               rtol=0.02, atol=0.02)


def test_a_part_of_the_tokens_gives_a_part_of_the_answer():
    torch.manual_seed(0)
    product = Product(torch.randn(8, 16).bfloat16(), None)
    tokens = torch.randn(4, 5, 16).bfloat16()
    torch.testing.assert_close(product(tokens)[1:3], product(tokens[1:3]))


@pytest.mark.parametrize('fault', [AttributeError, RuntimeError])
def test_without_the_packed_kernel_the_plain_one_serves(fault, monkeypatch):
    def missing(*_):
        raise fault('no such operator')
    monkeypatch.setattr(products, '_fused', missing)
    test_a_product_is_the_linear_layer(torch.bfloat16, True, True)


def test_a_packed_kernel_that_is_wrong_is_not_used(monkeypatch):
    monkeypatch.setattr(products, '_fused', lambda x, packed, *_: x.new_full(
        (*x.shape[:-1], 24), 7.0))
    test_a_product_is_the_linear_layer(torch.bfloat16, True, True)
