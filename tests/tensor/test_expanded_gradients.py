"""The gradient of a sum is an expanded view, as PyTorch returns it: it takes no memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import avalon as av

ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)
REPEATED: list[Callable[[Any], Any]] = [
    lambda x: x.sum(),
    lambda x: x.sum(1),
    lambda x: x.sum(0, keepdim=True),
]
COMPUTED: list[Callable[[Any], Any]] = [
    lambda x: x.mean(),
    lambda x: (x * 2).sum(),
    lambda x: x.sum() + x.sum(),
    lambda x: x.exp().sum(1),
]


def gradient(lib: Any, function: Callable[[Any], Any]) -> Any:
    x = lib.tensor(ARRAY)
    x.requires_grad_()
    y = function(x)
    seed = lib.tensor(np.random.default_rng(0).random(tuple(y.shape), np.float32))
    return lib.autograd.grad(y, x, seed)[0]


@pytest.mark.parametrize("number", range(len(REPEATED)))
def test_gradients_of_sums_have_pytorchs_strides(number: int) -> None:
    ours, theirs = (gradient(lib, REPEATED[number]) for lib in (av, torch))
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert ours.stride() == theirs.stride()
    with pytest.raises(RuntimeError, match="single memory location"):
        ours.add_(1)


@pytest.mark.parametrize("number", range(len(COMPUTED)))
def test_other_gradients_are_dense(number: int) -> None:
    ours, theirs = (gradient(lib, COMPUTED[number]) for lib in (av, torch))
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6)
    assert 0 not in theirs.stride()
    assert ours.stride() == theirs.stride()
    ours.add_(1)


def test_a_compiled_step_stores_what_is_repeated_once() -> None:
    @av.compile
    def step(seed: av.Tensor, x: av.Tensor) -> av.Tensor:
        return av.autograd.grad(x.sum(1), x, seed)[0]

    x = av.tensor(ARRAY)
    x.requires_grad_()
    for number in range(4):
        seed = np.arange(3, dtype=np.float32) + number
        found = step(av.tensor(seed), x)
        assert found.stride() == (1, 0)
        np.testing.assert_array_equal(found.numpy(), np.repeat(seed[:, None], 4, 1))
    assert "outputs 12 B" in str(step.program)


def test_reading_pending_work_between_keeps_the_gradient() -> None:
    x = av.tensor(ARRAY)
    x.requires_grad_()
    y = x.sum(0)
    seed = av.tensor(np.ones(4, np.float32)) * 3
    before = seed.sum().item()
    (found,) = av.autograd.grad(y, x, seed)
    assert before == 12
    assert (found * 2).sum().item() == 72
    assert found.clone().is_contiguous()
