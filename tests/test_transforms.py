"""Gradients of functions of tensors and structures."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch

import avalon as av

Pair = namedtuple("Pair", "left right")


@dataclass
class Layer:
    weight: av.Tensor
    name: str = "layer"


class Net:
    def __init__(self):
        self.layers = [Layer(av.tensor([1.0, 2.0])), Layer(av.tensor([3.0, 4.0]))]
        self.table = {"scale": av.tensor(2.0), "count": av.tensor([7])}
        self.pair = Pair(av.tensor([1.0]), None)
        self.seen = av.buffer(av.tensor([5.0]))
        self.shared = self.layers[0].weight

    def __call__(self, x):
        y = x * self.layers[0].weight * self.layers[1].weight * self.table["scale"]
        return y.sum() + self.pair.left.sum() * self.seen.sum()


def test_gradients_are_shaped_like_the_structure():
    net, x = Net(), av.tensor([1.0, 1.0])
    loss, (g, gx) = av.grad(lambda net, x: net(x), net, x)
    assert loss.item() == 27.0
    assert not loss.requires_grad
    assert type(g) is Net
    assert type(g.layers[0]) is Layer
    assert g.layers[0].weight.tolist() == [6.0, 8.0]
    assert g.layers[0].name == "layer"
    assert g.shared is g.layers[0].weight
    assert g.table["scale"].item() == 11.0
    assert g.table["count"] is None
    assert g.pair.left.tolist() == [5.0]
    assert g.seen is None
    assert gx.tolist() == [6.0, 16.0]
    assert not net.layers[0].weight.requires_grad
    assert net.layers[0].weight.grad is None


def test_requires_grad_says_what_is_trained():
    parameters = {"a": av.tensor(1.0, requires_grad=True), "b": av.tensor(2.0)}
    _, (g,) = av.grad(lambda p: p["a"] * p["b"], parameters)
    assert g["a"].item() == 2.0
    assert g["b"] is None


def test_gradients_of_gradients_through_grad():
    def slope(x):
        _, (g,) = av.grad(lambda x: (x**3).sum(), x)
        return g.sum()

    _, (second,) = av.grad(slope, av.tensor([1.0, 2.0]))
    assert second.tolist() == [6.0, 12.0]


def test_value_and_grad_and_auxiliary_results():
    step = av.value_and_grad(lambda x: ((x * x).sum(), x + 1))
    (loss, after), (g,) = step(av.tensor([1.0, 2.0]))
    assert (loss.item(), after.tolist(), g.tolist()) == (5.0, [2.0, 3.0], [2.0, 4.0])


def test_grad_leaves_grad_alone_and_works_under_no_grad():
    w = av.tensor([1.0], requires_grad=True)
    with av.no_grad():
        _, (g,) = av.grad(lambda w: (w * w).sum(), w)
    assert w.grad is None
    assert g.tolist() == [2.0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x * 2, "reduce it first"),
        (lambda x: 3.0, "must return a tensor"),
        (lambda x: x.detach().sum(), "depends on no tensor"),
    ],
)
def test_errors(function, message):
    with pytest.raises(RuntimeError, match=message):
        av.grad(function, av.tensor([1.0, 2.0]))


def test_custom_gradient():
    @av.custom_gradient
    def product(a, b, factor):
        return a * b * factor, lambda g: (g * 100, None, None)

    a = av.tensor([1.0, 2.0], requires_grad=True)
    b = av.tensor([3.0, 4.0], requires_grad=True)
    product(a, b, 2).sum().backward()
    assert a.grad.tolist() == [100.0, 100.0]
    assert b.grad is None
    with av.no_grad():
        assert not product(a, b, 2).requires_grad


def test_custom_gradient_is_differentiable_itself():
    @av.custom_gradient
    def cube(x):
        return x**3, lambda g: g * 3 * x * x

    x = av.tensor([2.0], requires_grad=True)
    (first,) = av.autograd.grad(cube(x).sum(), x, create_graph=True)
    (second,) = av.autograd.grad(first.sum(), x)
    t = torch.tensor([2.0], requires_grad=True)
    (tfirst,) = torch.autograd.grad((t**3).sum(), t, create_graph=True)
    (tsecond,) = torch.autograd.grad(tfirst.sum(), t)
    assert (first.tolist(), second.tolist()) == (tfirst.tolist(), tsecond.tolist())


def test_vjp():
    y, back = av.vjp(lambda a, b: a * b, av.tensor([1.0, 2.0]), av.tensor([3.0, 4.0]))
    assert y.tolist() == [3.0, 8.0]
    assert [g.tolist() for g in back(av.tensor([1.0, 10.0]))] == [[3.0, 40.0], [1.0, 20.0]]


def test_parts_that_take_no_part_get_none():
    _, g = av.grad(lambda a, b, n: (a * n).sum(), av.ones(2), av.ones(2), 3)
    assert g[0].tolist() == [3.0, 3.0]
    assert g[1] is None
    assert g[2] is None
