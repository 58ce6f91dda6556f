"""Random graphs for the law of equal bits: chains and diamonds of every kind of call."""

from __future__ import annotations

from typing import Any

import numpy as np

from avalon import dtype as dtypes, ops
from avalon.graph.graph import Graph
from avalon.graph.node import Node

UNARY = ("negative", "absolute", "exp", "tanh", "floor", "sin")
BINARY = ("add", "subtract", "multiply", "divide", "maximum", "minimum")
LARGEST = 3000


class Maker:
    """Grows one graph, call by call."""

    def __init__(self, seed: int, dtype: dtypes.DType) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph(f"random_{seed}")
        self.dtype = dtype
        self.floats: list[Node] = []
        for _ in range(self.pick(2, 4)):
            rank = self.pick(0, 4)
            shape = tuple(int(self.rng.choice([1, 2, 3, 4, 5, 8, 17, 33, 70])) for _ in range(rank))
            self.floats.append(self.graph.input(shape, dtype))
        self.floats.append(self.graph.input((), dtype, scalar=True))

    def pick(self, low: int, high: int) -> int:
        """A random number in [low, high)."""
        return int(self.rng.integers(low, max(high, low + 1)))

    def any(self, rank: int = 0) -> Node | None:
        """A random value of at least `rank` axes, recent ones more often."""
        fitting = [x for x in self.floats if x.ndim >= rank and x.dtype is self.dtype]
        if not fitting:
            return None
        return fitting[max(self.pick(0, len(fitting)), self.pick(0, len(fitting)))]

    def grow(self, count: int) -> Graph:
        """Append about `count` calls and choose outputs."""
        kinds = [name for name in dir(self) if name.startswith("make_")]
        for _ in range(count):
            x = getattr(self, str(self.rng.choice(kinds)))()
            if x is not None and np.prod(x.shape) <= LARGEST:
                self.floats.append(x)
        chosen = [x for x in self.floats if self.rng.random() < 0.25]
        self.graph.outputs = [*chosen, self.floats[-1]]
        return self.graph

    def make_unary(self) -> Any:
        return ops_named(str(self.rng.choice(UNARY)))(self.any())

    def make_binary(self) -> Any:
        x, y = self.any(), self.any()
        name = ops_named(str(self.rng.choice(BINARY)))
        if x.shape == y.shape:
            return name(x, y)
        try:
            shape = np.broadcast_shapes(x.shape, y.shape)
        except ValueError:
            return None
        if np.prod(shape) > LARGEST:
            return None
        return name(ops.broadcast(x, shape=shape), ops.broadcast(y, shape=shape))

    make_binary_again = make_binary

    def make_where(self) -> Any:
        x = self.any()
        return ops.where(ops.less(x, x.constant(0.25)), x, ops.negative(x))

    def make_cast(self) -> Any:
        x = self.any()
        half = ops.cast(x, dtype=dtypes.float16)
        return ops.cast(half, dtype=self.dtype) if x.dtype is not dtypes.float16 else None

    def make_reshape(self) -> Any:
        x = self.any()
        size = int(np.prod(x.shape))
        divisors = [d for d in range(1, size + 1) if size % d == 0] if size else []
        if not divisors:
            return None
        first = int(self.rng.choice(divisors))
        rest = [d for d in divisors if (size // first) % d == 0]
        second = int(self.rng.choice(rest))
        return ops.reshape(x, shape=(first, second, size // first // second))

    def make_transpose(self) -> Any:
        x = self.any(2)
        return x and ops.transpose(x, permutation=tuple(map(int, self.rng.permutation(x.ndim))))

    def make_reverse(self) -> Any:
        x = self.any(1)
        return x and ops.reverse(x, axes=(self.pick(0, x.ndim),))

    def make_slice(self) -> Any:
        x = self.any(1)
        if x is None:
            return None
        starts, sizes, steps = [], [], []
        for extent in x.shape:
            start, step = self.pick(0, extent), self.pick(1, 3)
            starts.append(start)
            steps.append(step)
            sizes.append(self.pick(1, (extent - start + step - 1) // step + 1))
        return ops.slice(x, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))

    def make_assign_slice(self) -> Any:
        x = self.any(1)
        if x is None:
            return None
        starts, sizes, steps = [], [], []
        for extent in x.shape:
            start, step = self.pick(0, extent), self.pick(1, 3)
            starts.append(start)
            steps.append(step)
            sizes.append(self.pick(1, (extent - start + step - 1) // step + 1))
        update = ops.exp(
            ops.slice(x, starts=(0,) * x.ndim, sizes=tuple(sizes), steps=(1,) * x.ndim)
        )
        return ops.assign_slice(x, update, starts=tuple(starts), steps=tuple(steps))

    def make_pad(self) -> Any:
        x = self.any(1)
        if x is None:
            return None
        low = tuple(self.pick(-1, 3) if extent > 2 else self.pick(0, 2) for extent in x.shape)
        high = tuple(self.pick(-1, 3) if extent > 2 else self.pick(0, 2) for extent in x.shape)
        return ops.pad(x, x.constant(0.5, shape=()), low=low, high=high)

    def make_concatenate(self) -> Any:
        x = self.any(1)
        return x and ops.concatenate(x, ops.negative(x), x, axis=self.pick(0, x.ndim))

    def make_window(self) -> Any:
        x = self.any(1)
        if x is None:
            return None
        axis = x.ndim - 1
        size, stride, dilation = self.pick(1, 4), self.pick(1, 4), self.pick(1, 3)
        if x.shape[axis] < (size - 1) * dilation + 1:
            return None
        places = {"axes": (axis,), "sizes": (size,), "strides": (stride,), "dilations": (dilation,)}
        cut = ops.window(x, **places)
        kind = self.pick(0, 3)
        if kind == 0:
            return ops.reduce_max(cut, axes=(cut.ndim - 1,))
        if kind == 1:
            return ops.fold_window(ops.tanh(cut), shape=x.shape, **places)
        return cut

    def make_reduction(self) -> Any:
        x = self.any(1)
        if x is None:
            return None
        axes = tuple(axis for axis in range(x.ndim) if self.rng.random() < 0.5) or (x.ndim - 1,)
        name = str(self.rng.choice(["reduce_sum", "reduce_sum", "reduce_max", "reduce_product"]))
        return ops_named(name)(x, axes=axes)

    make_reduction_again = make_reduction

    def make_normalized(self) -> Any:
        x = self.any(1)
        if x is None:
            return None
        axis = self.pick(0, x.ndim)
        kept = tuple(1 if a == axis else n for a, n in enumerate(x.shape))

        def spread(y: Any) -> Any:
            return ops.broadcast(ops.reshape(y, shape=kept), shape=x.shape)

        centered = ops.subtract(x, spread(ops.reduce_max(x, axes=(axis,))))
        raised = ops.exp(centered)
        return ops.divide(raised, spread(ops.reduce_sum(raised, axes=(axis,))))

    def make_argmax(self) -> Any:
        x = self.any(1)
        return x and ops.cast(ops.argmax(x, axis=self.pick(0, x.ndim)), dtype=self.dtype)

    def make_picked(self) -> Any:
        x = self.any(1)
        if x is None:
            return None
        axis = self.pick(0, x.ndim)
        place = ops.argmax(x, axis=axis)
        lone = ops.reshape(place, shape=tuple(1 if a == axis else n for a, n in enumerate(x.shape)))
        found = ops.gather(x, lone, axis=axis)
        if self.rng.random() < 0.5:
            return found
        return ops.scatter_add(ops.exp(x), lone, found, axis=axis)

    def make_cumulative(self) -> Any:
        x = self.any(1)
        reverse = bool(self.pick(0, 2))
        return x and ops.cumulative_sum(x, axis=self.pick(0, x.ndim), reverse=reverse)

    def make_sorted(self) -> Any:
        x = self.any(1)
        if x is None:
            return None
        axis = self.pick(0, x.ndim)
        order = ops.argsort(
                x, axis=axis, descending=bool(self.pick(0, 2)), count=x.shape[axis]
            )
        return ops.gather(x, order, axis=axis)

    def make_taken(self) -> Any:
        x = self.any(1)
        if x is None:
            return None
        flat = ops.reshape(x, shape=(int(np.prod(x.shape)),))
        count = self.graph.call(ops.iota, (), {"shape": (7,), "axis": 0, "dtype": dtypes.int64})
        rows = ops.remainder(ops.multiply(count, count), count.constant(max(flat.shape[0], 1)))
        if self.rng.random() < 0.5:
            return ops.take(flat, rows)
        return ops.put_add(flat, rows, ops.exp(ops.take(flat, rows)))

    def make_contract(self) -> Any:
        x = self.any(2)
        if x is None:
            return None
        rows = int(np.prod(x.shape[:-1]))
        a = ops.reshape(x, shape=(1, rows, x.shape[-1]))
        return ops.contract(a, ops.transpose(a, permutation=(0, 2, 1)))

    def make_convolved(self) -> Any:
        x = self.any(1)
        if x is None:
            return None
        columns = x.shape[-1]
        rows = int(np.prod(x.shape[:-1]))
        if columns < 3 or rows > 40:
            return None
        kernel = ops.reshape(
            ops.slice(
                x, starts=(0,) * x.ndim, sizes=(*(1,) * (x.ndim - 1), 3), steps=(1,) * x.ndim
            ),
            shape=(1, 1, 1, 3),
        )
        image = ops.reshape(x, shape=(1, rows, 1, columns))
        return ops.convolve(
            image, kernel, stride=(self.pick(1, 3),), input_dilation=(1,), kernel_dilation=(1,),
            low=(1,), high=(1,), flip=False,
        )  # fmt: skip


def ops_named(name: str) -> Any:
    """The primitive called `name`."""
    return getattr(ops, name)


def values(graph: Graph, seed: int) -> list[Any]:
    """Values for the inputs of a graph, ties and zeros among them."""
    rng = np.random.default_rng(seed)
    found: list[Any] = []
    for node in graph.inputs:
        if node.scalar:
            found.append(float(rng.integers(-3, 4)) / 2)
        else:
            x = rng.standard_normal(node.shape)
            found.append(np.where(rng.random(node.shape) < 0.3, np.round(x), x))
    return found
