"""Composite functions: one entry each, with the values and gradients of the function itself."""

import numpy as np
import pytest

import avalon as av
import avalon.nn.functional as F
from avalon import nn, ops
from avalon.functions.loss import mse_loss
from avalon.graph.node import Call
from avalon.tensor import composite as module
from avalon.tensor.composite import composite
from avalon.tracing.values import recorder


@pytest.fixture(autouse=True)
def nothing_pending():
    av.synchronize()
    yield
    av.synchronize()


def names():
    """What is recorded, but for inputs."""
    return [operation.name for operation, *_ in recorder().recorded.entries() if operation.name]


RANDOM = np.random.default_rng(0)


def leaf(*shape):
    numbers = RANDOM.standard_normal(shape).astype("float32")
    return av.tensor(numbers, requires_grad=True)


CASES = {
    "linear": (F.linear, lambda: (leaf(5, 3), leaf(4, 3), leaf(4))),
    "matmul": (av.matmul, lambda: (leaf(2, 5, 3), leaf(2, 3, 4))),
    "relu": (F.relu, lambda: (leaf(4, 5),)),
    "gelu": (F.gelu, lambda: (leaf(4, 5),)),
    "mish": (F.mish, lambda: (leaf(4, 5),)),
    "hardtanh": (F.hardtanh, lambda: (leaf(4, 5),)),
    "softmax": (lambda x: F.softmax(x, dim=-1), lambda: (leaf(4, 5),)),
    "log_softmax": (lambda x: F.log_softmax(x, dim=1), lambda: (leaf(4, 5),)),
    "conv2d": (
        lambda x, w, b: F.conv2d(x, w, b, padding=1),
        lambda: (leaf(2, 3, 5, 5), leaf(4, 3, 3, 3), leaf(4)),
    ),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), lambda: (leaf(2, 3, 4, 4),)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), lambda: (leaf(2, 3, 4, 4),)),
    "layer_norm": (
        lambda x, w, b: F.layer_norm(x, (5,), w, b), lambda: (leaf(4, 5), leaf(5), leaf(5))
    ),
    "batch_norm": (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        lambda: (leaf(6, 3), leaf(3), leaf(3)),
    ),
    "mse_loss": (F.mse_loss, lambda: (leaf(4, 5), leaf(4, 5))),
    "binary_cross_entropy": (
        lambda x, y: F.binary_cross_entropy(x.sigmoid(), y.sigmoid()),
        lambda: (leaf(4, 5), leaf(4, 5)),
    ),
    "attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        lambda: (leaf(2, 4, 3), leaf(2, 4, 3), leaf(2, 4, 3)),
    ),
}  # fmt: skip


def derivatives(function, operands):
    """The value, gradients, and gradients of the squares of the gradients."""
    y = function(*operands)
    first = av.autograd.grad((y * y * y).sum(), operands, create_graph=True)
    total = sum((g * g).sum() for g in first)
    second = av.autograd.grad(total, operands, allow_unused=True)
    return [y, *first, *[g for g in second if g is not None]]


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_function_run_call_by_call(name, monkeypatch):
    function, make = CASES[name]
    operands = make()
    traced = [x.tolist() for x in derivatives(function, operands)]
    monkeypatch.setattr(module.Trace, "of", lambda *_: None)
    monkeypatch.setattr(module, "get_default_dtype", lambda: "no trace is known by this key")
    plain = [x.tolist() for x in derivatives(function, operands)]
    assert len(traced) == len(plain)
    with av.eager():
        eager = [x.tolist() for x in derivatives(function, operands)]
    for one, other, another in zip(traced, plain, eager, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(one, another, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_plain_gradient_has_the_bits_of_the_one_that_can_be_differentiated(name):
    function, make = CASES[name]
    operands = make()
    function(*operands).sum().backward()
    found = av.autograd.grad(function(*operands).sum(), operands, create_graph=True)
    for operand, gradient in zip(operands, found, strict=True):
        assert operand.grad.tolist() == gradient.tolist()


def test_a_call_is_one_entry_and_so_is_its_gradient():
    x, weight, bias = leaf(5, 3), leaf(4, 3), leaf(4)
    y = F.gelu(F.linear(x, weight, bias))
    assert names() == ["linear", "gelu"]
    y.backward(av.ones(5, 4))
    assert names()[-2:] == ["gradient of gelu", "gradient of linear"]


def test_movements_of_what_was_just_made_belong_to_their_first_reader():
    x, weight = leaf(5, 6), leaf(4, 3)
    mask = av.tensor([0, 2, 1])

    def attended(grad):
        with av.set_grad_enabled(grad):
            y = (x * 2).view(5, 2, 3)
            view = y.transpose(0, 1)[:, 1:]
            first = F.linear(view, weight)
            second = F.softmax(view, dim=-1)
            copied = y.transpose(0, 1).reshape(3, 10)
            third = F.softmax(copied.t()[:, mask - 0], dim=0)
            return [part.detach().tolist() for part in (first, second, third)]

    expected = attended(True)
    with av.no_grad():
        y = F.gelu(x)
        view = y.t()[1:]
        F.softmax(view, dim=0)
        assert names() == ["gelu", "softmax"]
        F.gelu(view)
        F.gelu(view)
        assert names()[2:] == ["slice", "gelu", "gelu"]
        y.t().reshape(30)
        assert names()[5:] == ["reshape"]
    assert attended(False) == expected


def test_layers_in_a_row_keep_their_names_behind_the_movements_of_what_they_read():
    net, x = nn.Sequential(nn.GELU(), nn.LayerNorm(5)), leaf(5, 6)
    expected = net((x * 2).transpose(0, 1)).tolist()
    with av.no_grad():
        y = net((x * 2).transpose(0, 1))
        graph, _ = recorder().recorded.build()
        assert y.tolist() == expected
    calls = [node for node in graph.nodes if isinstance(node, Call)]
    notes = [call.note for call in calls]
    first = notes.index("GELU")
    assert calls[first - 1].primitive is ops.transpose
    assert set(notes[:first]) == {""}
    assert set(notes[first:]) == {"GELU", "LayerNorm"}


def test_a_view_of_what_was_written_meanwhile_moves_the_new_value():
    with av.no_grad():
        x = av.ones(2, 3) * 1
        view = x.t()
        before = F.softmax(view, dim=0)
        x *= av.tensor([0.0, 1.0, 2.0])
        after = F.softmax(view, dim=0)
    assert before.tolist() == F.softmax(av.ones(3, 2), dim=0).tolist()
    expected = F.softmax(av.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), dim=0)
    assert after.tolist() == expected.tolist()


def test_a_value_asked_for_before_backward_is_not_computed_again():
    x, weight, target = leaf(5, 3), leaf(4, 3), leaf(4, 5).detach().t()
    loss = F.mse_loss(F.softmax(F.linear(x, weight), dim=1), target)
    loss.item()
    loss.backward()
    assert all(name.startswith(("gradient of", "constant")) for name in names()), names()
    kept = weight.grad.tolist()
    weight.grad = None
    F.mse_loss(F.softmax(F.linear(x, weight), dim=1), target).backward()
    assert weight.grad.tolist() == kept


def test_a_second_walk_is_refused():
    y = F.softmax(leaf(3, 4), dim=1).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_without_gradients_nothing_is_kept():
    with av.no_grad():
        y = F.gelu(leaf(3, 4))
    assert len(recorder().values) == 1
    assert not y.requires_grad


def test_errors_and_warnings_come_every_time():
    x, weight = av.ones(2, 3), av.ones(4, 5)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"\[linear\]"):
            F.linear(x, weight)
        with pytest.warns(UserWarning, match="broadcast"):
            mse_loss(av.ones(2, 3), av.ones(2, 1))


def test_other_numbers_are_the_same_operation():
    x = av.ones(3)
    for slope in (0.1, 0.2):
        F.leaky_relu(x, slope)
    first, second = [op for op, *_ in recorder().recorded.entries() if op.name == "leaky_relu"]
    assert first is second
    assert F.leaky_relu(-x, 0.1).tolist() != F.leaky_relu(-x, 0.2).tolist()


def test_what_cannot_be_traced_runs_as_it_is():
    calls = []

    @composite
    def clipped(x):
        calls.append(1)
        return x / x.abs().max().item()

    @composite
    def itself(x):
        calls.append(1)
        return x

    x = av.tensor([1.0, -4.0])
    assert clipped(x).tolist() == [0.25, -1.0]
    assert clipped(x * 2).tolist() == [0.25, -1.0]
    assert itself(x) is x
    assert len(calls) == 5  # two tries at tracing


def test_dtypes_shapes_and_gradients_are_traced_apart():
    calls = []

    @composite
    def square(x, times=1):
        if all(isinstance(extent, int) for extent in x.shape):  # not a trace for many sizes
            calls.append((x.shape, x.dtype))
        return x * x * times

    for x in (av.ones(2), av.ones(3), av.ones(2, dtype=av.float64), leaf(2), av.ones(2)):
        square(x)
        square(x, 2)
        square(x, 2.0)
        square(x, times=2)
    assert len(calls) == 16
    assert square(leaf(2), 2.0).grad_fn.name == "square"
