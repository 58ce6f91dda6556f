"""Contractions of which some extents are arguments: the bits of the plain tier for all of them."""

import numpy as np
import pytest

import avalon as av
import avalon.nn.functional as F
from avalon.settings import settings
from avalon.tracing import execute

ROWS = [60, 33, 100, 7, 1, 12, 385, 700]
COUNTS = [5, 3, 9, 1, 2, 17]


def linear(x, w):
    return F.relu(x @ w.transpose(0, 1) + w[:, 0])


def back_to_rows(x, w):
    return (x @ w.transpose(0, 1)).sigmoid() @ w


def summed_over_rows(x, w):
    return x.transpose(0, 1) @ (x @ w.transpose(0, 1))


def columns(x, w):
    return w @ x.transpose(0, 1)


def rows_with_rows(x, w):
    return x @ x.transpose(0, 1) * 0.5


def batches(x, w):
    return x.reshape(-1, 1, 23).expand(-1, 4, 23) @ w.transpose(0, 1)


PRODUCTS = [linear, back_to_rows, summed_over_rows, columns, rows_with_rows, batches]


def convolution(x, w):
    return F.relu(F.conv2d(x, w, padding=1))


def narrow(x, w):
    return F.conv2d(x[:, :, :4, :4], w)


def grouped(x, w):
    return F.conv2d(x, w[:, :2], groups=3, stride=2)


def depthwise(x, w):
    return F.relu(F.conv2d(x, w[:6, :1], groups=6, padding=1))


def one_channel(x, w):
    return F.conv2d(x[:, 2:3], w[:, :1], padding=1).tanh()


def transposed(x, w):
    return F.conv_transpose2d(x, w.transpose(0, 1)[:, :5], stride=2)


def weight_gradient(x, w):
    return av.autograd.grad(F.conv2d(x, w).square().sum(), w)[0]


def weight_gradient_of_many_positions(x, w):
    wide = x.repeat(1, 1, 2, 3)
    return av.autograd.grad(F.conv2d(wide, w, padding=1).square().sum(), w)[0]


CONVOLUTIONS = [
    convolution, narrow, grouped, depthwise, one_channel, transposed, weight_gradient,
    weight_gradient_of_many_positions,
]  # fmt: skip


def in_tier(tier, function, arrays, weights):
    execute.clear()
    standing, settings.tier = settings.tier, tier
    try:
        w = av.tensor(weights).requires_grad_()
        return [function(av.tensor(x), w).detach().numpy() for x in arrays]
    finally:
        settings.tier = standing


def compare(function, arrays, weights):
    expected = in_tier("plain", function, arrays, weights)
    found = in_tier("hot", function, arrays, weights)
    for one, other in zip(found, expected, strict=True):
        assert one.tobytes() == other.tobytes(), one.shape
    assert any("symbols" in line for line in execute.report())


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("function", PRODUCTS)
def test_products_of_rows(function, dtype):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((n, 23)).astype(dtype) for n in ROWS]
    weights = rng.standard_normal((50, 23)).astype(dtype)
    compare(function, arrays, weights)


@pytest.mark.parametrize("function", CONVOLUTIONS)
def test_convolutions_of_images(function):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((n, 6, 9, 10)).astype("float32") for n in COUNTS]
    compare(function, arrays, rng.standard_normal((9, 6, 3, 3)).astype("float32"))


@pytest.mark.parametrize("target", ["avx2", "x86"])
@pytest.mark.parametrize("function", [linear, summed_over_rows, convolution, weight_gradient])
def test_other_targets(function, target):
    rng = np.random.default_rng(0)
    standing, settings.target = settings.target, target
    try:
        if function in PRODUCTS:
            arrays = [rng.standard_normal((n, 23)).astype("float32") for n in ROWS[:6]]
            compare(function, arrays, rng.standard_normal((50, 23)).astype("float32"))
        else:
            arrays = [rng.standard_normal((n, 6, 9, 10)).astype("float32") for n in COUNTS]
            compare(function, arrays, rng.standard_normal((9, 6, 3, 3)).astype("float32"))
    finally:
        settings.target = standing
