"""Structures as trees: paths, what is trained, copies of the same form."""

import gc
import threading
import weakref
from collections import namedtuple
from dataclasses import dataclass

import numpy as np

from avalon import dtype, struct
from avalon.tensor import Tensor, tensor


def ones(*shape, **options):
    return tensor(np.ones(shape, np.float32), **options)


@dataclass
class Layer:
    weight: Tensor
    bias: Tensor | None = None
    name: str = "layer"


class Slotted:
    __slots__ = ("left", "right")

    def __init__(self):
        self.left, self.right = ones(1), ones(2)


Pair = namedtuple("Pair", "first second")


def test_paths_through_every_kind_of_container():
    layer = Layer(ones(2), ones(1))
    model = {"layers": [layer, Layer(ones(3))], "pair": Pair(ones(1), (ones(2),)), 3: Slotted()}
    assert list(struct.leaves(model)) == [
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
        "pair.0",
        "pair.1.0",
        "3.left",
        "3.right",
    ]


def test_a_tensor_is_a_structure():
    x = ones(2)
    assert struct.leaves(x) == {"": x}
    assert struct.trained(x) == {"": x}
    assert struct.trained(tensor([1, 2])) == {}
    assert struct.map_leaves(lambda t: t.shape, x) == (2,)


def test_cycles_end_and_shared_tensors_are_trained_once():
    layer = Layer(ones(2))
    layer.bias = layer.weight
    layer.itself = layer
    assert list(struct.leaves(layer)) == ["weight", "bias"]
    assert list(struct.trained(layer)) == ["weight"]


def test_what_is_trained_is_decided_object_by_object():
    plain = Layer(ones(2), tensor([1, 2]))
    plain.mean = struct.buffer(ones(2))
    declared = Layer(ones(2, requires_grad=True), ones(1))
    model = [plain, declared]
    assert list(struct.trained(model)) == ["0.weight", "1.weight"]


def test_modules_have_the_paths_of_their_state_dict():
    class Module:
        def __init__(self):
            self.__dict__["_parameters"] = {"weight": ones(2, requires_grad=True), "bias": None}
            self.__dict__["_buffers"] = {"mean": ones(2)}
            self.__dict__["_modules"] = {}
            self.constant = ones(1)

    outer, inner = Module(), Module()
    outer._modules["inner"] = inner
    model = Layer(outer)
    assert list(struct.leaves(model)) == [
        "weight.weight",
        "weight.mean",
        "weight.inner.weight",
        "weight.inner.mean",
        "weight.inner.constant",
        "weight.constant",
    ]
    assert list(struct.trained(model)) == ["weight.weight", "weight.inner.weight"]
    copy = struct.map_leaves(lambda t: t.shape, model)
    assert copy.weight._modules["inner"]._parameters == {"weight": (2,), "bias": None}


def test_mapping_keeps_the_form():
    model = {"a": Layer(ones(2)), "b": Pair(ones(1), [ones(3), "text"]), "c": Slotted()}
    shapes = struct.map_leaves(lambda t: t.shape, model)
    assert shapes["a"] == Layer((2,))
    assert shapes["b"] == Pair((1,), [(3,), "text"])
    assert (shapes["c"].left, shapes["c"].right) == ((1,), (2,))
    assert isinstance(model["a"].weight, Tensor)


def test_mapping_follows_cycles():
    layer = Layer(ones(2))
    layer.itself = layer
    copy = struct.map_leaves(lambda t: t.shape, layer)
    assert copy.itself is copy


def test_a_copy_ends_with_its_last_name():
    model = {"layers": [Layer(ones(2)), (ones(3),)]}
    gc.disable()
    try:
        copy = struct.map_leaves(Tensor.detach, model)
        copied = weakref.ref(copy["layers"][0])
        del copy
        assert copied() is None
    finally:
        gc.enable()


def test_what_python_did_not_write_is_neither_entered_nor_copied():
    layer = Layer(ones(1))
    layer.names, layer.data, layer.lock = {"a"}, np.zeros(3), threading.Lock()
    copy = struct.map_leaves(lambda t: t.shape, layer)
    assert (copy.weight, copy.names) == ((1,), {"a"})
    assert copy.data is layer.data
    assert copy.lock is layer.lock
    assert list(struct.leaves([{1, 2}, layer, open, iter([ones(1)])])) == ["1.weight"]


def test_a_thousand_levels():
    chain = None
    for _ in range(5000):
        chain = {"value": ones(1), "next": chain}
    assert len(struct.leaves(chain)) == 5000


def test_floats_of_every_width_are_trained():
    fields = {t.name: ones(1).to(t) for t in dtype.FLOATS}
    assert list(struct.trained(fields)) == [t.name for t in dtype.FLOATS]
