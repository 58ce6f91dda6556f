"""Layers whose inputs change size all the time, drawn at random: programs that serve many sizes
give PyTorch's values and gradients, and the bits of programs for one size.
"""

import random
import zlib

import numpy as np
import pytest
import torch

import avalon as av
from avalon.settings import settings
from avalon.tracing import execute

# What is called, and how many axes its input has; "rows" are vectors of 3 along two axes.
LAYERS = {
    "Conv2d, stride": (lambda lib: lib.nn.Conv2d(3, 6, 3, stride=2, padding=1), 4),
    "Conv2d, dilation": (lambda lib: lib.nn.Conv2d(3, 6, 3, dilation=2, padding=2), 4),
    "Conv2d, groups": (lambda lib: lib.nn.Conv2d(3, 6, 3, padding=1, groups=3), 4),
    "Conv2d, large": (lambda lib: lib.nn.Conv2d(3, 5, 5), 4),
    "Conv1d": (lambda lib: lib.nn.Conv1d(3, 6, 3, stride=2, padding=1), 3),
    "Conv3d": (lambda lib: lib.nn.Conv3d(3, 4, 3, stride=2, padding=1), 5),
    "ConvTranspose2d": (lambda lib: lib.nn.ConvTranspose2d(3, 6, 4, stride=2, padding=1), 4),
    "ConvTranspose1d": (
        lambda lib: lib.nn.ConvTranspose1d(3, 6, 3, stride=3, output_padding=1),
        3,
    ),
    "MaxPool2d": (lambda lib: lib.nn.MaxPool2d(3, stride=2, padding=1), 4),
    "AvgPool2d": (lambda lib: lib.nn.AvgPool2d(2, stride=2), 4),
    "AdaptiveAvgPool2d": (lambda lib: lib.nn.AdaptiveAvgPool2d(2), 4),
    "BatchNorm2d": (lambda lib: lib.nn.BatchNorm2d(3), 4),
    "GroupNorm": (lambda lib: lib.nn.GroupNorm(1, 3), 4),
    "InstanceNorm2d": (lambda lib: lib.nn.InstanceNorm2d(3), 4),
    "LayerNorm": (lambda lib: lib.nn.LayerNorm(3), "rows"),
    "Linear": (lambda lib: lib.nn.Linear(3, 40), "rows"),
    "LSTM": (lambda lib: _first(lib.nn.LSTM(3, 4)), "rows"),
    "GRU": (lambda lib: _first(lib.nn.GRU(3, 4, batch_first=True)), "rows"),
    "softmax of channels": (lambda lib: lib.nn.Softmax(dim=1), 4),
    "softmax of rows": (lambda lib: lib.nn.Softmax(dim=-1), 3),
    "running sum of rows": (lambda lib: lambda x: x.cumsum(-1), 3),
    "running sum of batches": (lambda lib: lambda x: x.cumsum(0), 3),
    "sort": (lambda lib: lambda x: x.sort(-1)[0], 3),
    "flip": (lambda lib: lambda x: x.flip(1), 3),
    "mean": (lambda lib: lambda x: x.mean((0, 2)), 4),
    "variance": (lambda lib: lambda x: x.var(-1), 4),
    "maximum": (lambda lib: lambda x: x.max(-1)[0], 3),
    "cat": (lambda lib: lambda x: lib.cat([x, x * 2], 1), 3),
    "ReflectionPad2d": (lambda lib: lib.nn.ReflectionPad2d(1), 4),
    "interpolate": (
        lambda lib: lambda x: lib.nn.functional.interpolate(x, scale_factor=2, mode="bilinear"),
        4,
    ),
    "permute": (lambda lib: lambda x: x.permute(2, 0, 1).contiguous(), 3),
    "products of rows": (lambda lib: lambda x: lib.matmul(x, x.transpose(1, 2)), 3),
    "unfold": (lambda lib: lambda x: lib.nn.functional.unfold(x, 3, padding=1), 4),
    "product": (lambda lib: lambda x: x.prod(-1), 3),
    "logsumexp": (lambda lib: lambda x: x.logsumexp(1), 4),
    "roll": (lambda lib: lambda x: x.roll(1, -1), 3),
    "tril": (lambda lib: lambda x: x.tril(), 3),
    "norm": (lambda lib: lambda x: x.norm(dim=-1), 3),
    "deviation": (lambda lib: lambda x: x.std(), 3),
}
SIZES = 5


class _first:
    """A recurrent layer, of whose results only the outputs count."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        return self.layer(x)[0]


def inputs(name, axes):
    """Arrays of changing batch, length or image, one extent or several at a time, each with a seed
    for the cotangent.
    """
    draw = random.Random(zlib.crc32(name.encode()))
    numbers = np.random.default_rng(draw.randrange(1000))
    changing = [
        [1, 2, 3, 5, 8, 17],
        *[[5, 6, 7, 8, 9, 12, 16]] * (1 if axes == "rows" else axes - 2),
    ]
    extents = [draw.choice(choices) for choices in changing]
    for _ in range(SIZES):
        if axes == "rows":
            shape = (*extents[:2], 3)
        else:
            shape = (extents[0], 3, *extents[1:])
        yield numbers.standard_normal(shape).astype("float32"), draw.randrange(1000)
        several = draw.random() < 0.5
        place = draw.randrange(len(extents))
        for axis, choices in enumerate(changing):
            if several or axis == place:
                extents[axis] = draw.choice(choices)


def call(lib, layer, x, seed):
    """The result, the gradient of the input and of each parameter."""
    given = lib.tensor(x).requires_grad_()
    found = layer(given)
    module = getattr(layer, "layer", layer)
    parameters = list(module.parameters()) if hasattr(module, "parameters") else []
    for parameter in parameters:
        parameter.grad = None
    weights = np.random.default_rng(seed).standard_normal(tuple(found.shape)).astype("float32")
    (found * lib.tensor(weights)).sum().backward()
    gradients = [parameter.grad for parameter in parameters]
    return [x.detach().numpy() for x in (found, given.grad, *gradients)]


def in_tier(tier, layer, given):
    """What the layer gives for inputs one after the other."""
    execute.clear()
    standing, settings.tier = settings.tier, tier
    try:
        return [call(av, layer, x, seed) for x, seed in given]
    finally:
        settings.tier = standing


def judge(ours, theirs, given):
    """Check against PyTorch, then that all tiers give the same bits."""
    expected = in_tier("plain", ours, given)
    for (x, seed), found in zip(given, expected, strict=True):
        for one, other in zip(found, call(torch, theirs, x, seed), strict=True):
            assert np.allclose(one, other, rtol=2e-3, atol=2e-3), x.shape
    for tier in ("cold", "hot"):
        for found, wanted, (x, _) in zip(in_tier(tier, ours, given), expected, given, strict=True):
            same = [a.tobytes() == b.tobytes() for a, b in zip(found, wanted, strict=True)]
            assert all(same), (tier, x.shape, same)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_whose_input_changes_size(name):
    make, axes = LAYERS[name]
    theirs, ours = make(torch), make(av)
    module, source = getattr(ours, "layer", ours), getattr(theirs, "layer", theirs)
    if isinstance(source, torch.nn.Module):
        module.load_state_dict({k: av.tensor(v.numpy()) for k, v in source.state_dict().items()})
    judge(ours, theirs, list(inputs(name, axes)))


# Functions that were once wrong for some of these sizes, or crashed, one after the other.
ONCE_WRONG = {
    "running sum of few rows": (
        lambda lib: lambda x: x.cumsum(-1),
        [(2, 4, 3), (3, 4, 3), (1, 4, 3)],
    ),
    "images of running sums": (
        lambda lib: (
            lambda x: lib.nn.functional.interpolate(
                x.unsqueeze(0).expand(3, *x.shape).cumsum(-1), scale_factor=2
            )
        ),
        [(8, 3), (5, 3), (3, 3)],
    ),
    "gradient of what an index picks": (
        lambda lib: lambda x: x.gather(0, x.argmax(0, keepdim=True)),
        [(33,), (8,), (16,), (2,), (1,), (2,), (16,), (8,), (33,), (16,)],
    ),
    "running sums of sums of rows": (
        lambda lib: lambda x: (lambda c: c.unsqueeze(-2) * 2 + c.unsqueeze(-1))(x.cumsum(0)),
        [(3, 33), (3, 40)],
    ),
    "sums of rows that are added by index": (
        lambda lib: lambda x: lib.zeros(3, 33).index_add(0, lib.tensor([0, 2, 0]), x.sum(-1)),
        [(3, 33, 33), (3, 33, 35)],
    ),
}


@pytest.mark.parametrize("name", ONCE_WRONG)
def test_sizes_that_were_once_wrong(name):
    make, shapes = ONCE_WRONG[name]
    numbers = np.random.default_rng(0)
    given = [
        (numbers.standard_normal(shape).astype("float32"), seed)
        for seed, shape in enumerate(shapes)
    ]
    judge(make(av), make(torch), given)
