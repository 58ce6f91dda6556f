"""Convolution is closed under its gradients, and is PyTorch's where PyTorch has it."""

import numpy as np
import pytest
import torch

from avalon import dtype as dtypes, ops
from avalon.differentiation import gradients
from avalon.errors import ShapeError
from avalon.graph.graph import Graph
from avalon.graph.interpret import interpret


def random_case(rng):
    """Shapes and parameters whose output is not empty; small whole numbers, so sums are exact."""
    space = int(rng.integers(1, 3))
    groups, batch, channels_in, channels_out = rng.integers(1, 3, 4).tolist()

    def draw(low, high):
        return tuple(rng.integers(low, high, space).tolist())

    while True:
        parameters = {
            "stride": draw(1, 4),
            "input_dilation": draw(1, 4),
            "kernel_dilation": draw(1, 4),
            "low": draw(-3, 4),
            "high": draw(-3, 4),
            "flip": bool(rng.random() < 0.5),
        }
        x = rng.integers(-4, 5, (groups, batch, channels_in, *draw(1, 7))).astype(float)
        w = rng.integers(-4, 5, (groups, channels_out, channels_in, *draw(1, 4))).astype(float)
        graph = Graph()
        inputs = [graph.input(x.shape, dtypes.float64), graph.input(w.shape, dtypes.float64)]
        try:
            call = ops.convolve(*inputs, **parameters)
        except ShapeError:
            continue
        return graph, inputs, call, [x, w]


def test_gradients_are_adjoints():
    """<g, convolve(x, w)> = <gradient of x, x> = <gradient of w, w>, for it is linear in both; and
    the gradients of the gradients, convolutions again, obey the same.
    """
    rng = np.random.default_rng(0)
    for _ in range(600):
        graph, (x, w), call, values = random_case(rng)
        g = graph.input(call.shape, dtypes.float64)
        by_x, by_w = gradients(graph, [call], [x, w], [g])
        h = graph.input(w.shape, dtypes.float64)
        second_g, second_x = gradients(graph, [by_w], [g, x], [h])
        graph.outputs = [call, by_x, by_w, second_g, second_x]
        seed = rng.integers(-3, 4, call.shape).astype(float)
        other = rng.integers(-3, 4, w.shape).astype(float)
        y, dx, dw, gg, gx = interpret(graph, [*values, seed, other])
        expected = np.vdot(seed, y)
        assert np.vdot(dx, values[0]) == expected, call.parameters
        assert np.vdot(dw, values[1]) == expected, call.parameters
        assert np.vdot(gg, seed) == np.vdot(gx, values[0]) == np.vdot(dw, other)


@pytest.mark.parametrize("seed", range(30))
def test_torch_agrees(seed):
    rng = np.random.default_rng(seed)
    groups, stride, padding, dilation = rng.integers(1, 4, 4).tolist()
    x = rng.normal(size=(2, groups * 2, 9))
    w = rng.normal(size=(groups * 3, 2, 3))
    expected = torch.conv1d(
        torch.tensor(x), torch.tensor(w), None, stride, padding, dilation, groups
    )
    found = ops.convolve.reference(
        x.reshape(2, groups, 2, 9).swapaxes(0, 1),
        w.reshape(groups, 3, 2, 3),
        stride=(stride,),
        input_dilation=(1,),
        kernel_dilation=(dilation,),
        low=(padding,),
        high=(padding,),
        flip=False,
    )
    found = found.swapaxes(0, 1).reshape(expected.shape)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("x", "w", "change", "message"),
    [
        ((1, 2, 3, 5), (1, 4, 2, 3), {}, "do not fit"),
        ((1, 2, 3, 5), (1, 4, 3, 7), {}, "larger than the padded input"),
        ((1, 2, 3, 5), (1, 4, 3, 3), {"stride": (0,)}, "stride .* at least 1"),
        ((1, 2, 3, 5), (1, 4, 3, 3), {"low": (0, 0)}, "low .* one entry for each of 1"),
    ],
)
def test_errors_teach(x, w, change, message):
    one, none = (1,), (0,)
    parameters = {"stride": one, "input_dilation": one, "kernel_dilation": one}
    parameters |= {"low": none, "high": none, "flip": False, **change}
    graph = Graph()
    with pytest.raises(ShapeError, match=rf"\[convolve\].*{message}"):
        ops.convolve(graph.input(x, dtypes.float32), graph.input(w, dtypes.float32), **parameters)
