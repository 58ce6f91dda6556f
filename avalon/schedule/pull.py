"""From graph nodes to expressions: the value of a node at given coordinates.

Comes in: nodes, and which of them lie in buffers. Goes out: expressions over loop axes. Guaranteed:
movements become index arithmetic, elementwise calls become `Apply`, small reductions a tree, larger
ones a `Reduce`; what is asked for twice at the same coordinates is one expression; nothing outside a buffer
is read (guards where an index may lie outside, clamps where it is data).

Each rule answers for one primitive, by the name of its lowering:
(puller, call, coordinates, guards) -> expression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from avalon import dtype as dtypes
from avalon.dtype import DType
from avalon.graph.node import Call, Constant, Input, Node
from avalon.graph.primitive import Elementwise, Primitive, Reduction
from avalon.schedule import order
from avalon.schedule.index import (
    ZERO,
    Affine,
    Axis,
    Dynamic,
    address,
    constant,
    divide,
    reshape,
    variable,
)  # fmt: skip
from avalon.schedule.loops import (
    Apply,
    Coordinate,
    Expression,
    Extreme,
    Inside,
    Load,
    Number,
    Reduce,
    Scalar,
)  # fmt: skip
from avalon.schedule.steps import Temporary
from avalon.shape import size_of

Coordinates = tuple[Affine, ...]
Guards = tuple[Inside, ...]
Rule = Callable[["Puller", Call, Coordinates, Guards], Expression]

RULES: dict[str, Rule] = {}
SMALL_REDUCTION = 16  # elements up to which a reduction is written out as a tree
SMALL_WINDOW = 36  # taps up to which an overlap is written out


def rule(name: str) -> Callable[[Rule], Rule]:
    """Register the rule of the primitives whose lowering is called `name`."""

    def register(function: Rule) -> Rule:
        RULES[name] = function
        return function

    return register


def storage(dtype: DType) -> tuple[DType, int]:
    """The type that kernels move for `dtype`, and how many make an element: complex numbers are only
    moved, as integers of the same bits.
    """
    if dtype is dtypes.complex64:
        return dtypes.int64, 1
    if dtype is dtypes.complex128:
        return dtypes.int64, 2
    return dtype, 1


class Puller:
    """Builds the expressions of one nest.

    Attributes:
        stored: answers whether a node is to be read from a buffer.
        keys: what each kernel argument is: a node, ("scalar", input) or ("status", None).
        part: which half of complex128 elements is being moved.
        split: whether axes may be cut to keep index forms linear (raises SplitAxis).
        small: elements up to which reductions are written out.
    """

    def __init__(
        self, stored: Callable[[Node], bool], split: bool = True, small: int = SMALL_REDUCTION
    ) -> None:
        self.stored = stored
        self.keys: list[Any] = []
        self.kinds: list[tuple[str, DType]] = []
        self.part = 0
        self.split = split
        self.small = small
        self._axes = 0
        self._positions: dict[Any, int] = {}
        self._memo: dict[Any, Expression] = {}
        self.narrow: Mapping[Node, DType] = {}  # nodes that lie in buffers of another type

    # Axes and arguments

    def axis(self, extent: int) -> Axis:
        """A new loop axis."""
        self._axes += 1
        return Axis(self._axes - 1, extent)

    def argument(self, key: Any, kind: str, dtype: DType) -> int:
        """The position of a kernel argument, appended when first asked for."""
        position = self._positions.get(key)
        if position is None:
            position = self._positions[key] = len(self.keys)
            self.keys.append(key)
            self.kinds.append((kind, dtype))
        return position

    def buffer(self, node: Node | Temporary) -> int:
        return self.argument(node, "buffer", self.type_of(node))

    def type_of(self, node: Node | Temporary) -> DType:
        """The type of the elements of a buffer."""
        narrow = self.narrow.get(node) if isinstance(node, Node) else None
        return narrow or storage(node.dtype)[0]

    def element(self, node: Node | Temporary, coordinates: Sequence[Affine]) -> Affine:
        """The number of the element at `coordinates` in the buffer of `node`."""
        index = address(coordinates, node.shape)
        if storage(node.dtype)[1] == 2:
            return index.times(2).plus(self.part)
        return index

    # Values

    def value(self, node: Node, coordinates: Coordinates, guards: Guards = ()) -> Expression:
        """The value of `node` at `coordinates`."""
        key = (node, coordinates, guards)
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self._value(node, coordinates, guards)
        return found

    def _value(self, node: Node, coordinates: Coordinates, guards: Guards) -> Expression:
        if isinstance(node, Constant):
            return self.number(node)
        if isinstance(node, Input) and node.scalar:
            return Scalar(self.argument(("scalar", node), "scalar", node.dtype), node.dtype)
        if self.stored(node):
            if 0 in node.shape:
                return Number(0, storage(node.dtype)[0])
            return self.flat(node, address(coordinates, node.shape), guards)
        assert isinstance(node, Call), node
        return self.compute(node, coordinates, guards)

    def flat(self, node: Node, element: Affine, guards: Guards) -> Expression:
        """An element of a stored node by its number in row-major order: needs no coordinates."""
        narrow = self.narrow.get(node)
        if narrow is not None:
            return self.cast(Load(self.buffer(node), narrow, element, guards), node.dtype)
        dtype, count = storage(node.dtype)
        index = element if count == 1 else element.times(2).plus(self.part)
        return Load(self.buffer(node), dtype, index, guards)

    def compute(self, node: Call, coordinates: Coordinates, guards: Guards = ()) -> Expression:
        """The value of a call at `coordinates`, computed here even if the node has a buffer."""
        if node.primitive.kind is Elementwise:
            operands = [self.value(operand, coordinates, guards) for operand in node.operands]
            if node.primitive.name in _COMPARISONS:
                operands = _narrow_operands(operands)
            return Apply(node.primitive.name, node.dtype, operands, node.parameters)
        return RULES[lowering_of(node.primitive)](self, node, coordinates, guards)

    def number(self, node: Constant) -> Number:
        if node.dtype.is_complex:
            bits = node.dtype.reference.type(node.value).tobytes()
            part = bits[8 * self.part : 8 * self.part + 8]
            return Number(int.from_bytes(part, "little", signed=True), dtypes.int64)
        return Number(node.value, node.dtype)

    # Helpers of the rules

    def apply(self, name: str, *operands: Expression, dtype: DType | None = None) -> Expression:
        return Apply(name, dtype or operands[-1].dtype, operands, {})

    def cast(self, value: Expression, dtype: DType) -> Expression:
        if value.dtype is dtype:
            return value
        if isinstance(value, Number) and isinstance(value.value, int) and dtype.is_integer:
            return Number(value.value, dtype)
        inner = _widened(value)
        if inner is not None and dtype.is_integer:
            return self.cast(inner, dtype)  # through a wider integer and back is the same
        return Apply("cast", dtype, (value,), {"dtype": dtype})

    def counted(self, form: Affine, dtype: DType) -> Expression:
        """The value of an index form as a number of `dtype`."""
        if not form.terms and dtype.is_integer:
            return Number(form.offset, dtype)
        return self.cast(Coordinate(form), dtype)

    def cast_stored(self, value: Expression, dtype: DType) -> Expression:
        """As `cast`, where complex numbers stay the integers that they are moved as."""
        return value if dtype.is_complex else self.cast(value, dtype)

    def inside(self, form: Affine, low: int, high: int) -> Inside | bool:
        """The guard low <= form < high, or what it is known to be."""
        if form.low >= low and form.high < high:
            return True
        if form.high < low or form.low >= high:
            return False
        return Inside(form, low, high)

    def choose(
        self, guards: Sequence[Inside], value: Expression, otherwise: Expression
    ) -> Expression:
        """`value` where all guards hold, else `otherwise`."""
        if not guards:
            return value
        is_zero = isinstance(otherwise, Number) and str(otherwise.value) in ("0", "0.0", "False")
        if is_zero and isinstance(value, Load) and set(guards) <= set(value.guards):
            return value  # a load is 0 where its guards fail
        condition: Expression = guards[0]
        for guard in guards[1:]:
            condition = self.apply("bit_and", condition, guard)
        return Apply("where", value.dtype, (condition, value, otherwise), {})

    def dynamic(self, index: Expression, extent: int) -> Affine:
        """An index form that is data, kept inside [0, extent)."""
        if isinstance(index, Number):
            return constant(min(max(int(index.value), 0), extent - 1))
        return variable(Dynamic(self.cast(index, dtypes.int64), extent - 1))

    def lattice(self, form: Affine, step: int) -> tuple[Affine, Affine]:
        """Which point of a lattice of `step` the form is, and how far behind it."""
        return divide(form, step, self.split, phases=True)


_COMPARISONS = frozenset(("equal", "not_equal", "less", "less_equal"))


def _widened(value: Expression) -> Expression | None:
    """The signed integer that a wider one was made of."""
    if isinstance(value, Apply) and value.name == "cast" and value.dtype is dtypes.int64:
        (inner,) = value.operands
        if inner.dtype.kind == "signed":
            return inner
    return None


def _narrow_operands(operands: list[Expression]) -> list[Expression]:
    """The operands of a comparison of positions with a number, in a type of fewer bytes."""
    for place, value in enumerate(operands):
        inner, other = _widened(value), operands[1 - place]
        if inner is not None and isinstance(other, Number) and abs(other.value) <= 127:
            number = Number(other.value, inner.dtype)
            return [number, inner] if place else [inner, number]
    return operands


@cache
def lowering_of(primitive: Primitive) -> str:
    """The name of a primitive's loops: the one it declares, or for reductions its own."""
    if primitive.kind in (Elementwise, Reduction):
        return primitive.name
    return str(primitive.rules["lower"]())


# --- movements that are linear ------------------------------------------------------------------


@rule("reshape")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    if 0 in node.shape:
        return Number(0, storage(node.dtype)[0])
    x = node.operands[0]
    while not pull.stored(x) and isinstance(x, Call) and x.primitive is node.primitive:
        x = x.operands[0]
    if pull.stored(x):
        return pull.flat(x, address(coordinates, node.shape), guards)
    return pull.value(x, reshape(coordinates, node.shape, x.shape, pull.split), guards)


@rule("transpose")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    (x,) = node.operands
    source = [ZERO] * len(coordinates)
    for position, axis in enumerate(node.parameters["permutation"]):
        source[axis] = coordinates[position]
    return pull.value(x, tuple(source), guards)


@rule("broadcast")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    (x,) = node.operands
    kept = coordinates[len(coordinates) - x.ndim :]
    source = tuple(ZERO if n == 1 else c for n, c in zip(x.shape, kept, strict=True))
    return pull.value(x, source, guards)


@rule("reverse")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    (x,) = node.operands
    axes = node.parameters["axes"]
    source = tuple(
        c.times(-1).plus(x.shape[axis] - 1) if axis in axes else c
        for axis, c in enumerate(coordinates)
    )
    return pull.value(x, source, guards)


def _starts(
    pull: Puller, shape: Sequence[int], dynamic: Sequence[Node], sizes: Sequence[int],
    parameters: dict[str, Any], guards: Guards,
) -> list[Affine]:  # fmt: skip
    """Where a slice starts on each axis."""
    given = iter(dynamic)
    starts = []
    for axis, start in enumerate(parameters["starts"]):
        if start is None:
            last = shape[axis] - (sizes[axis] - 1) * parameters["steps"][axis] - 1
            starts.append(pull.dynamic(pull.value(next(given), (), guards), last + 1))
        else:
            starts.append(constant(start))
    return starts


@rule("slice")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    x, *dynamic = node.operands
    starts = _starts(pull, x.shape, dynamic, node.shape, node.parameters, guards)
    source = tuple(
        c.times(step).add(start)
        for c, step, start in zip(coordinates, node.parameters["steps"], starts, strict=True)
    )
    return pull.value(x, source, guards)


@rule("diagonal")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    (x,) = node.operands
    offset = node.parameters["offset"]
    place, rest = coordinates[-1], iter(coordinates[:-1])
    moved = {
        node.parameters["axis1"]: place.plus(max(0, -offset)),
        node.parameters["axis2"]: place.plus(max(0, offset)),
    }
    source = tuple(moved[axis] if axis in moved else next(rest) for axis in range(x.ndim))
    return pull.value(x, source, guards)


@rule("window")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    (x,) = node.operands
    source = list(coordinates[: x.ndim])
    for position, axis in enumerate(node.parameters["axes"]):
        tap = coordinates[x.ndim + position].times(node.parameters["dilations"][position])
        source[axis] = source[axis].times(node.parameters["strides"][position]).add(tap)
    return pull.value(x, tuple(source), guards)


# --- movements with guards ----------------------------------------------------------------------


@rule("pad")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    x, fill = node.operands
    source, added = [], []
    for axis, coordinate in enumerate(coordinates):
        moved = coordinate.plus(-node.parameters["low"][axis])
        guard = pull.inside(moved, 0, x.shape[axis])
        if guard is False:
            return pull.value(fill, (), guards)
        if isinstance(guard, Inside):
            added.append(guard)
        source.append(moved)
    value = pull.value(x, tuple(source), guards + tuple(added))
    return pull.choose(added, value, pull.value(fill, (), guards))


@rule("concatenate")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    axis = node.parameters["axis"]
    result: Expression | None = None
    start = node.shape[axis]
    for x in reversed(node.operands):
        start -= x.shape[axis]
        moved = coordinates[axis].plus(-start)
        guard = pull.inside(moved, 0, x.shape[axis])
        if guard is False:
            continue
        source = (*coordinates[:axis], moved, *coordinates[axis + 1 :])
        added = (guard,) if isinstance(guard, Inside) else ()
        value = pull.value(x, source, guards + added)
        result = value if result is None else pull.choose(added, value, result)
    assert result is not None
    return result


@rule("assign_slice")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    base, update, *dynamic = node.operands
    otherwise = pull.value(base, coordinates, guards)
    if 0 in update.shape:
        return otherwise
    starts = _starts(pull, base.shape, dynamic, update.shape, node.parameters, guards)
    source: list[Affine] = []
    added: list[Inside] = []
    for axis, coordinate in enumerate(coordinates):
        place = coordinate.add(starts[axis].times(-1))
        place, rest = pull.lattice(place, node.parameters["steps"][axis])
        for guard in (pull.inside(rest, 0, 1), pull.inside(place, 0, update.shape[axis])):
            if guard is False:
                return otherwise
            if isinstance(guard, Inside):
                added.append(guard)
        source.append(place)
    return pull.choose(added, pull.value(update, tuple(source), guards + tuple(added)), otherwise)


@rule("assign_diagonal")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    base, update = node.operands
    axis1, axis2, offset = (node.parameters[name] for name in ("axis1", "axis2", "offset"))
    otherwise = pull.value(base, coordinates, guards)
    difference = coordinates[axis2].add(coordinates[axis1].times(-1)).plus(-offset)
    place = coordinates[axis1].plus(min(0, offset))
    added = []
    for guard in (
        pull.inside(difference, 0, 1),
        pull.inside(place, 0, update.shape[-1]),
    ):
        if guard is False:
            return otherwise
        if isinstance(guard, Inside):
            added.append(guard)
    rest = tuple(c for axis, c in enumerate(coordinates) if axis not in (axis1, axis2))
    value = pull.value(update, (*rest, place), guards + tuple(added))
    return pull.choose(added, value, otherwise)


# --- overlapping windows ------------------------------------------------------------------------


def _covering(
    pull: Puller, node: Call, coordinates: Coordinates, positions: Sequence[int],
    taps: Sequence[Affine],
) -> tuple[Coordinates, tuple[Inside, ...]] | None:  # fmt: skip
    """The window whose tap `taps` lies at `coordinates`, and when there is one."""
    source, added = list(coordinates), []
    parameters = node.parameters
    for number, axis in enumerate(parameters["axes"]):
        start = coordinates[axis].add(taps[number].times(-parameters["dilations"][number]))
        place, rest = pull.lattice(start, parameters["strides"][number])
        for guard in (pull.inside(rest, 0, 1), pull.inside(place, 0, positions[axis])):
            if guard is False:
                return None
            if isinstance(guard, Inside):
                added.append(guard)
        source[axis] = place
    return (*source, *taps), tuple(added)


def _taps(sizes: Sequence[int]) -> list[tuple[Affine, ...]]:
    """All taps of a window, the last first: that is ascending positions of the windows."""
    taps: list[tuple[Affine, ...]] = [()]
    for size in sizes:
        taps = [(*tap, constant(k)) for tap in taps for k in range(size - 1, -1, -1)]
    return taps


@rule("fold_window")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    (g,) = node.operands
    sizes = node.parameters["sizes"]
    wide = order.accumulator(node.dtype, "add")
    zero = Number(0, node.dtype)
    if 0 in g.shape:
        return zero
    if size_of(sizes) > SMALL_WINDOW:
        axes = tuple(pull.axis(size) for size in sizes)
        tap = tuple(
            variable(axis).times(-1).plus(size - 1) for axis, size in zip(axes, sizes, strict=True)
        )
        covering = _covering(pull, node, coordinates, g.shape, tap)
        if covering is None:
            return zero
        place, added = covering
        value = pull.choose(added, pull.value(g, place, guards + added), zero)
        reduced = tuple(axis for axis in axes if axis.extent != 1)
        total: Expression = Reduce("add", 0, "chain", reduced, 0, pull.cast(value, wide))
        return pull.cast(total, node.dtype)
    total = Number(0, wide)
    for tap in _taps(sizes):
        covering = _covering(pull, node, coordinates, g.shape, tap)
        if covering is not None:
            place, added = covering
            value = pull.choose(added, pull.value(g, place, guards + added), zero)
            total = pull.apply("add", total, pull.cast(value, wide))
    return pull.cast(total, node.dtype)


@rule("assign_window")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    base, update = node.operands
    result = pull.value(base, coordinates, guards)
    if 0 in update.shape:
        return result
    for tap in _taps(node.parameters["sizes"]):
        covering = _covering(pull, node, coordinates, update.shape, tap)
        if covering is not None:
            place, added = covering
            result = pull.choose(added, pull.value(update, place, guards + added), result)
    return result


# --- reductions ---------------------------------------------------------------------------------


def _reduce(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    (x,) = node.operands
    axes = node.parameters["axes"]
    identity, name = order.identity_and_combine(node.primitive, node.dtype)
    wide = order.accumulator(node.dtype, name)
    if 0 in x.shape:
        return Number(identity, node.dtype)
    plan = order.order_of(x.shape, axes)
    kept = iter(coordinates)
    source = [ZERO if axis in axes else next(kept) for axis in range(x.ndim)]
    if not plan.groups:
        value = pull.cast(pull.value(x, tuple(source), guards), wide)
        total = pull.apply(name, Number(identity, wide), value)
        return pull.cast(total, node.dtype)
    small = len(plan.groups) == 1 and plan.extents[0] <= pull.small
    if small:
        values = []
        for place in range(plan.extents[0]):
            _spread(source, plan.groups[0], x.shape, constant(place), False)
            values.append(pull.cast(pull.value(x, tuple(source), guards), wide))
        if plan.form == "row":
            value = order.tree(values, lambda a, b: pull.apply(name, a, b))
            return pull.cast(pull.apply(name, Number(identity, wide), value), node.dtype)
        total = Number(identity, wide)
        for value in values:
            total = pull.apply(name, total, value)
        return pull.cast(total, node.dtype)
    inner = tuple(pull.axis(extent) for extent in plan.extents)
    for axis, group in zip(inner, plan.groups, strict=True):
        _spread(source, group, x.shape, variable(axis), False)
    body = pull.cast(pull.value(x, tuple(source), guards), wide)
    total = Reduce(name, identity, plan.form, inner, plan.block, body)
    return pull.cast(total, node.dtype)


def _spread(
    source: list[Affine], group: Sequence[int], shape: Sequence[int], form: Affine, split: bool
) -> None:
    """Set the coordinates of the axes of `group`, of which `form` counts the elements."""
    extents = tuple(shape[axis] for axis in group)
    spread = reshape((form,), (size_of(extents),), extents, split)
    for axis, coordinate in zip(group, spread, strict=True):
        source[axis] = coordinate


for _name in ("reduce_sum", "reduce_product", "reduce_max", "reduce_min"):
    RULES[_name] = _reduce


def _extreme(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    (x,) = node.operands
    axis, largest = node.parameters["axis"], node.primitive.name == "argmax"
    extent = x.shape[axis]

    def at(place: Affine) -> Expression:
        return pull.value(x, (*coordinates[:axis], place, *coordinates[axis:]), guards)

    if extent > pull.small:
        along = pull.axis(extent)
        return Extreme(largest, along, at(variable(along)))
    best: Expression = Number(0, dtypes.int32)
    standing = at(ZERO)
    for place in range(1, extent):
        here = at(constant(place))
        better = beats(pull, here, standing, largest)
        best = pull.apply("where", better, Number(place, dtypes.int32), best)
        if place + 1 < extent:
            standing = pull.apply("where", better, here, standing)
    return pull.cast(best, dtypes.int64)


def beats(pull: Puller, here: Expression, standing: Expression, largest: bool) -> Expression:
    """Whether `here` is more extreme than `standing`, which comes before it; NaN is the most extreme."""
    pair = (standing, here) if largest else (here, standing)
    if here.dtype is dtypes.bool_:
        smaller, larger = pair
        return pull.apply("bit_and", pull.apply("logical_not", smaller), larger)
    better = pull.apply("less", *pair, dtype=dtypes.bool_)
    if not here.dtype.is_floating_point:
        return better
    is_nan = pull.apply("not_equal", here, here, dtype=dtypes.bool_)
    ordered = pull.apply("equal", standing, standing, dtype=dtypes.bool_)
    return pull.apply("bit_or", better, pull.apply("bit_and", is_nan, ordered))


RULES["argmax"] = RULES["argmin"] = _extreme

# --- elements chosen by data --------------------------------------------------------------------


@rule("take")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    x, indices = node.operands
    if 0 in x.shape:
        return Number(0, storage(node.dtype)[0])
    index = pull.value(indices, coordinates[: indices.ndim], guards)
    chosen = pull.dynamic(index, x.shape[0])
    return pull.value(x, (chosen, *coordinates[indices.ndim :]), guards)


@rule("gather")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    x, indices = node.operands
    axis = node.parameters["axis"]
    if 0 in x.shape:
        return Number(0, storage(node.dtype)[0])
    index = pull.value(indices, coordinates, guards)

    def at(place: Affine) -> Expression:
        return pull.value(x, (*coordinates[:axis], place, *coordinates[axis + 1 :]), guards)

    if pull.stored(x) or x.shape[axis] > pull.small:
        return at(pull.dynamic(index, x.shape[axis]))
    # Few candidates that must be computed anyway: choose among them.
    chosen = at(ZERO)
    for place in range(1, x.shape[axis]):
        reached = pull.apply("less_equal", Number(place, index.dtype), index, dtype=dtypes.bool_)
        chosen = pull.apply("where", reached, at(constant(place)), chosen)
    return chosen


def places_one(node: Call) -> bool:
    """Whether a scatter has one update for each row, so that every element can tell if it is meant."""
    _, indices, updates = node.operands
    return (
        0 not in updates.shape
        and indices.shape[node.parameters["axis"]] == 1
        and all(
            extent == other
            for axis, (extent, other) in enumerate(zip(node.shape, indices.shape, strict=True))
            if axis != node.parameters["axis"]
        )
    )


@rule("scatter")
@rule("scatter_add")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    base, indices, updates = node.operands
    axis = node.parameters["axis"]
    row = (*coordinates[:axis], ZERO, *coordinates[axis + 1 :])
    index = pull.value(indices, row, guards)
    old, new = pull.value(base, coordinates, guards), pull.value(updates, row, guards)
    if node.primitive.name == "scatter_add":
        wide = order.accumulator(node.dtype, "add")
        new = pull.cast(pull.apply("add", pull.cast(old, wide), pull.cast(new, wide)), node.dtype)
    last = node.shape[axis] - 1
    limit = [Number(bound, index.dtype) for bound in (0, last)]
    index = pull.apply("minimum", pull.apply("maximum", index, limit[0]), limit[1])
    here = pull.counted(coordinates[axis], index.dtype)
    return pull.apply("where", pull.apply("equal", index, here, dtype=dtypes.bool_), new, old)


# --- values out of nothing, and marks -----------------------------------------------------------


@rule("iota")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    return pull.counted(coordinates[node.parameters["axis"]], node.dtype)


@rule("random_bits")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    key, offset = (pull.value(operand, (), guards) for operand in node.operands)
    block, word = divide(address(coordinates, node.shape), 4, False)
    return philox(pull, key, offset, Coordinate(block), Coordinate(word))


_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox(
    pull: Puller, key: Expression, offset: Expression, block: Expression, word: Expression
) -> Expression:
    """Philox4x32-10: word `word` of the four that counter offset + block gives under `key` (uint64)."""
    long = dtypes.uint64

    def number(value: int) -> Number:
        return Number(value, long)

    def low(value: Expression) -> Expression:
        return pull.apply("bit_and", value, number(0xFFFFFFFF))

    def high(value: Expression) -> Expression:
        return pull.apply("shift_right", value, number(32))

    counter = pull.apply("add", offset, pull.cast(block, long))
    words: list[Expression] = [low(counter), high(counter), number(0), number(0)]
    keys = [low(key), high(key)]
    for round_number in range(10):
        if round_number:
            keys = [
                low(pull.apply("add", k, number(step)))
                for k, step in zip(keys, _KEY_STEPS, strict=True)
            ]
        first = pull.apply("multiply", words[0], number(_MULTIPLIERS[0]))
        second = pull.apply("multiply", words[2], number(_MULTIPLIERS[1]))
        words = [
            pull.apply("bit_xor", pull.apply("bit_xor", high(second), words[1]), keys[0]),
            low(second),
            pull.apply("bit_xor", pull.apply("bit_xor", high(first), words[3]), keys[1]),
            low(first),
        ]
    chosen = words[3]
    for place in (2, 1, 0):
        here = pull.apply("equal", word, Number(place, dtypes.int64), dtype=dtypes.bool_)
        chosen = pull.apply("where", here, words[place], chosen)
    return pull.cast(chosen, dtypes.uint32)


@rule("copy")
@rule("transfer")
@rule("check_index")
def _(pull: Puller, node: Call, coordinates: Coordinates, guards: Guards) -> Expression:
    return pull.value(node.operands[0], coordinates, guards)


__all__ = ["RULES", "Coordinates", "Puller", "lowering_of", "storage"]
