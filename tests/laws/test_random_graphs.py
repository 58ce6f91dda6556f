"""Law: the tiers give equal bits on graphs put together at random, gradients included."""

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.compiler import compile_graph
from avalon.differentiation import gradients
from avalon.graph.graph import Graph
from avalon.graph.interpret import to_storage
from avalon.graph.show import show
from avalon.graph.verify import verify
from avalon.runtime.buffer import Buffer

SHAPES = [(4, 6), (6, 4), (24,), (4, 1), (1, 6), (2, 3, 4)]
UNARY = [ops.negative, ops.absolute, ops.exp, ops.tanh, ops.sin, ops.floor, ops.sqrt]
BINARY = [ops.add, ops.subtract, ops.multiply, ops.divide, ops.maximum, ops.minimum]
CONSTANTS = [0.0, -0.0, 1.0, 2.0, -0.25, 3.0]


class Maker:
    """Appends random calls to a graph of float inputs."""

    def __init__(self, seed, dtype):
        self.rng = np.random.default_rng(seed)
        self.graph = Graph(f"random{seed}")
        self.floats = [self.graph.input(shape, dtype) for shape in SHAPES]
        self.floats.append(self.graph.input((4, 6), dtype))

    def pick(self, choices):
        return choices[int(self.rng.integers(len(choices)))]

    def any(self):
        recent = self.floats[-6:] if self.rng.random() < 0.6 else self.floats
        return self.pick(recent)

    def fit(self, x, shape):
        """x brought to a shape by movements and sums."""
        if x.shape == shape:
            return x
        if np.prod(x.shape) == np.prod(shape):
            return ops.reshape(x, shape=shape)
        x = ops.reduce_sum(x, axes=tuple(range(x.ndim)))
        return ops.broadcast(x, shape=shape)

    def step(self):
        x = self.any()
        made = self.pick(
            [self.unary, self.binary, self.binary, self.choose, self.move, self.reduce, self.part,
             self.multiply_matrices, self.number, self.pool, self.choose_rows, self.along,
             self.convolve, self.diagonal]
        )(x)  # fmt: skip
        if made is not None and np.prod(made.shape) <= 200:
            self.floats.append(made)

    def unary(self, x):
        return self.pick(UNARY)(x)

    def number(self, x):
        return self.pick(BINARY)(x, x.constant(self.pick(CONSTANTS)))

    def binary(self, x):
        return self.pick(BINARY)(x, self.fit(self.any(), x.shape))

    def choose(self, x):
        other = self.fit(self.any(), x.shape)
        return ops.where(ops.less(x, other), other, self.fit(self.any(), x.shape))

    def move(self, x):
        if self.rng.random() < 0.4:
            return ops.reverse(x, axes=(int(self.rng.integers(x.ndim)),)) if x.ndim else x
        if self.rng.random() < 0.5:
            return ops.transpose(x, permutation=tuple(self.rng.permutation(x.ndim).tolist()))
        if 1 in x.shape:
            return ops.broadcast(x, shape=tuple(3 if n == 1 else n for n in x.shape))
        low = tuple(self.rng.integers(-1, 2, x.ndim).tolist())
        high = tuple(self.rng.integers(0, 2, x.ndim).tolist())
        if any(n + a < 0 for n, a in zip(x.shape, low, strict=True)):
            return None
        return ops.pad(x, x.constant(self.pick(CONSTANTS), shape=()), low=low, high=high)

    def reduce(self, x):
        if not x.ndim or 0 in x.shape:
            return None
        axis = int(self.rng.integers(x.ndim))
        if self.rng.random() < 0.2:
            return ops.cumulative_sum(x, axis=axis, reverse=bool(self.rng.random() < 0.5))
        return self.pick([ops.reduce_sum, ops.reduce_max, ops.reduce_min])(x, axes=(axis,))

    def part(self, x):
        if not x.ndim or 0 in x.shape:
            return None
        starts = tuple(int(self.rng.integers(n)) for n in x.shape)
        steps = tuple(self.rng.integers(1, 3, x.ndim).tolist())
        sizes = tuple((n - a + s - 1) // s for n, a, s in zip(x.shape, starts, steps, strict=True))
        taken = ops.slice(x, starts=starts, sizes=sizes, steps=steps)
        if self.rng.random() < 0.5:
            return taken
        if self.rng.random() < 0.5:
            return ops.concatenate(x, taken, axis=0) if sizes[1:] == x.shape[1:] else taken
        return ops.assign_slice(x, ops.exp(taken), starts=starts, steps=steps)

    def multiply_matrices(self, x):
        a = ops.reshape(self.fit(x, (4, 6)), shape=(1, 4, 6))
        b = ops.reshape(self.fit(self.any(), (6, 4)), shape=(1, 6, 4))
        return ops.reshape(ops.contract(a, b), shape=(4, 4))

    def pool(self, x):
        """Windows: their sum, their first maximum, or written back."""
        if not x.ndim or min(x.shape) < 2:
            return None
        axis = int(self.rng.integers(x.ndim))
        stride = int(self.rng.integers(1, 3))
        places = {"axes": (axis,), "sizes": (2,), "strides": (stride,), "dilations": (1,)}
        seen = ops.window(x, **places)
        how = self.rng.integers(4)
        if how == 0:
            return ops.reduce_sum(seen, axes=(x.ndim,))
        if how == 1:
            return ops.fold_window(seen * seen, shape=x.shape, **places)
        if how == 2:
            return ops.assign_window(x, ops.exp(seen), **places)
        best = ops.argmax(seen, axis=x.ndim)
        best = ops.reshape(best, shape=(*best.shape, 1))
        return ops.reshape(ops.gather(seen, best, axis=x.ndim), shape=seen.shape[:-1])

    def indices(self, shape, size):
        """Whole numbers in [0, size) that are computed from a float."""
        raw = ops.absolute(self.fit(self.any(), shape))
        whole = ops.cast(ops.minimum(raw, raw.constant(1000.0)), dtype=dtypes.int64)
        found = ops.remainder(whole, whole.constant(size))
        return ops.check_index(found, size=size, message="index {value}")

    def choose_rows(self, x):
        if not x.ndim or 0 in x.shape:
            return None
        rows = self.indices((3,), x.shape[0])
        taken = ops.take(x, rows)
        how = self.rng.integers(3)
        if how == 0:
            return taken
        primitive = ops.put if how == 1 else ops.put_add
        return primitive(x, rows, ops.tanh(taken))

    def along(self, x):
        if not x.ndim or 0 in x.shape:
            return None
        axis = int(self.rng.integers(x.ndim))
        indices = self.indices(x.shape, x.shape[axis])
        how = self.rng.integers(4)
        if how == 0:
            return ops.gather(x, indices, axis=axis)
        if how == 1:
            return ops.scatter_add(x, indices, ops.sin(x), axis=axis)
        if how == 2:
            return ops.scatter(x, indices, ops.sin(x), axis=axis)
        order = ops.argsort(x, axis=axis, descending=False, count=x.shape[axis])
        return ops.gather(x, order, axis=axis)

    def convolve(self, x):
        image = ops.reshape(self.fit(x, (4, 6)), shape=(1, 1, 1, 4, 6))
        kernel = ops.reshape(self.fit(self.any(), (24,)), shape=(1, 2, 1, 3, 4))
        found = ops.convolve(
            image, kernel, stride=(2, 1), input_dilation=(1, 1), kernel_dilation=(1, 1),
            low=(1, 0), high=(1, 1), flip=False,
        )  # fmt: skip
        return ops.reshape(found, shape=found.shape[2:])

    def diagonal(self, x):
        if x.ndim < 2:
            return None
        place = {"offset": int(self.rng.integers(-1, 2)), "axis1": 0, "axis2": 1}
        taken = ops.diagonal(x, **place)
        if self.rng.random() < 0.5:
            return taken
        return ops.assign_diagonal(x, ops.negative(taken), **place)


def make(seed, dtype, steps=25):
    maker = Maker(seed, dtype)
    while len(maker.floats) < steps:
        maker.step()
    graph = maker.graph
    last = maker.floats[-3:]
    seeds = [node.constant(1.0) for node in last]
    found = gradients(graph, last, graph.inputs, seeds)
    graph.outputs = [*last, *(g for g in found if g is not None), last[0], graph.inputs[0]]
    verify(graph)
    return graph, maker.rng


def run(graph, tier, operands):
    buffers = [Buffer.from_numpy(np.ascontiguousarray(x)) for x in operands]
    outputs = compile_graph(graph, tier).run(buffers)
    return [
        np.array(found.as_numpy(node.dtype, node.shape))
        for found, node in zip(outputs, graph.outputs, strict=True)
    ]


def same_bits(a, b):
    """Equal bits; every NaN is as good as another."""
    if a.dtype.kind == "f":
        both = np.isnan(a) & np.isnan(b)
        a, b = np.where(both, 0, a), np.where(both, 0, b)
    return a.tobytes() == b.tobytes()


@pytest.mark.parametrize("seed", range(24))
def test_tiers_agree(seed):
    dtype = [dtypes.float32, dtypes.float32, dtypes.float64, dtypes.float16][seed % 4]
    graph, rng = make(seed, dtype)
    operands = []
    for node in graph.inputs:
        x = rng.normal(size=node.shape)
        x[rng.random(node.shape) < 0.1] = rng.choice([0.0, -0.0, np.inf, np.nan, 1.0])
        operands.append(to_storage(x.astype(dtype.reference), dtype))
    plain = run(graph, "plain", operands)
    for tier in ("cold", "hot"):
        for number, (a, b) in enumerate(zip(plain, run(graph, tier, operands), strict=True)):
            assert same_bits(a, b), f"{tier}, output {number} of\n{show(graph)}"
