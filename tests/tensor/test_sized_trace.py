"""Composite functions traced once for many sizes give the traces that each size gives by itself."""

import numpy as np
import pytest

import avalon as av
from avalon.nn import functional as F
from avalon.size import Sizes
from avalon.tensor import composite, sized_trace
from avalon.tracing.operation import Step, composite_of, constant_of
from avalon.tracing.patterns import pattern_of


def floats(*shape):
    made = av.tensor(np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32))
    return made.requires_grad_()


CALLS = {
    "linear": lambda n: F.linear(floats(n, 4), floats(6, 4), floats(6)),
    "both axes": lambda n: F.linear(floats(n, n + 3), floats(6, n + 3), floats(6)),
    "gelu": lambda n: F.gelu(floats(n, 4)),
    "softmax along": lambda n: F.softmax(floats(3, n), dim=-1),
    "softmax across": lambda n: F.softmax(floats(n, 4), dim=0),
    "cross entropy": lambda n: F.cross_entropy(floats(n, 4), av.tensor([1] * n)),
    "squares": lambda n: F.mse_loss(floats(n, 4), floats(n, 4)),
    "layer norm": lambda n: F.layer_norm(floats(n, 4), (4,), floats(4), floats(4)),
    "attention": lambda n: F.scaled_dot_product_attention(
        floats(1, 2, n, 4), floats(1, 2, n, 4), floats(1, 2, n, 4), is_causal=True
    ),
    "variance": lambda n: floats(n, 4).var(),
    "batches of images": lambda n: F.conv2d(floats(n, 3, 8, 8), floats(4, 3, 3, 3), padding=1),
    "images": lambda n: F.conv2d(floats(2, 3, n + 2, n + 2), floats(4, 3, 3, 3), stride=2),
    "pooling": lambda n: F.max_pool2d(floats(n, 3, 8, 8), 2),
    "product": lambda n: floats(n, 4) @ floats(4, 5),
    "stack": lambda n: av.stack([floats(n, 4), floats(n, 4)]),
}


@pytest.fixture
def derived(monkeypatch):
    """Every trace that formulas gave, with the one that tracing gives for the same shapes."""
    found = []
    at = sized_trace.SizedTrace.at

    def both(self, column, shapes, tracer):
        made = at(self, column, shapes, tracer)
        if made is not None:
            found.append((made, tracer(shapes)))
        return made

    monkeypatch.setattr(sized_trace.SizedTrace, "at", both)
    monkeypatch.setattr(sized_trace, "_TEMPLATES", 100)  # other tests may have made some
    monkeypatch.setattr(sized_trace, "_TRIES", 100)
    return found


def steps_of(operation):
    return [
        (s.primitive, s.places, s.parameters, s.shape, s.dtype, repr(s.value))
        for s in operation.steps
    ]


@pytest.mark.parametrize("name", CALLS)
def test_formulas_give_the_trace_of_each_size(name, derived):
    for n in (7, 12, 1, 2, 3, 30, 257):
        CALLS[name](n).sum().backward()
    assert len(derived) >= 3
    for made, traced in derived:
        pairs = [(made.forward, traced.forward)]
        if traced.backward is not None and traced.backward.operation is not None:
            assert made.backward.keep == traced.backward.keep
            pairs.append((made.backward.operation, traced.backward.operation))
        for one, other in pairs:
            assert steps_of(one) == steps_of(other)
            assert one.results == other.results
            assert (one.calls, one.nbytes) == (other.calls, other.nbytes)
            assert one.pattern == pattern_of(other)


def test_sizes_that_change_the_function_are_traced_by_themselves():
    @composite.composite
    def folded(x):
        return x * 2 if x.shape[0] > 100 else x + x.shape[0]

    for n in (7, 12, 30, 101, 99, 1):
        expected = np.full(n, 2.0) if n > 100 else np.full(n, 1.0 + n)
        assert np.array_equal(folded(av.ones(n)).numpy(), expected)


def test_a_function_that_needs_numbers_is_traced_each_time():
    @composite.composite
    def summed(x):
        total = x
        for index in range(x.shape[0]):
            total = total + float(index)
        return total

    for n in (2, 5, 3, 9):
        assert np.array_equal(summed(av.zeros(n)).numpy(), np.full(n, n * (n - 1) / 2))


def test_sizes_that_only_steps_in_between_have_are_told_apart(derived):
    @composite.composite
    def energy(x):
        return (x * x + x).sum()

    for n in (5, 8, 6, 9, 13):
        x = av.ones(n).requires_grad_()
        energy(x).backward()
        assert np.array_equal(x.grad.numpy(), np.full(n, 3.0))
        assert energy(av.ones(n)).item() == 2.0 * n
    for made, traced in derived:
        assert steps_of(made.forward) == steps_of(traced.forward)


def test_gradients_of_gradients_through_a_derived_trace(derived):
    for n in (4, 6, 9):
        x = floats(n, 3)
        (first,) = av.autograd.grad(F.gelu(x).sum(), x, create_graph=True)
        (second,) = av.autograd.grad(first.sum(), x)
        with av.eager():
            y = x.detach().requires_grad_()
            (again,) = av.autograd.grad(F.gelu(y).sum(), y, create_graph=True)
            (expected,) = av.autograd.grad(again.sum(), y)
        np.testing.assert_allclose(second.numpy(), expected.numpy(), rtol=2e-5, atol=2e-6)
    assert derived


def test_strict_sizes_note_what_must_differ():
    sizes = Sizes(strict=True)
    n = sizes.symbol(10, 100)
    assert n != 3
    holds = sizes.condition()
    assert [holds(number) for number in (10, 3, 1)] == [True, False, False]


def test_formulas_of_one_trace_are_no_part_of_another():
    @composite.composite
    def scaled(x):
        return x * x.shape[0]

    @composite.composite
    def shifted(x):
        return x + x.shape[0]

    for n in (5, 8, 6):
        assert np.array_equal(scaled(av.ones(n)).numpy(), np.full(n, n))
        assert np.array_equal(shifted(av.ones(n)).numpy(), np.full(n, n + 1))
    one, other = [Sizes(strict=True).symbol(5, 10) for _ in range(2)]
    assert constant_of(one, (), av.float32) is constant_of(one, (), av.float32)
    assert constant_of(one, (), av.float32) is not constant_of(other, (), av.float32)
    steps = [[Step(None, (), {}, (), av.float32, size)] for size in (one, other)]
    first, second = [composite_of("size", [], step, [0]) for step in steps]
    assert first is not second
