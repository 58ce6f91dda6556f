"""How reductions, chosen elements and sources are computed: the other rules of the puller.

Comes in: a call, the coordinates wanted, the guards that hold there. Goes out: the expression.
Small reductions are written out as the tree that `order` fixes; an index that is data is clamped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from avalon import dtype as dtypes
from avalon.dtype import DType
from avalon.graph.node import Call
from avalon.ops.choice import picked_extreme
from avalon.schedule import order
from avalon.schedule.index import ZERO, Affine, address, constant, divide, reshape, variable
from avalon.schedule.loops import Coordinate, Expression, Extreme, Number, Reduce
from avalon.schedule.pull import RULES, Coordinates, Guards, Puller, rule, storage
from avalon.shape import size_of
from avalon.size import few, hint

# --- reductions ---------------------------------------------------------------------------------

_LONG_ROW = 64  # elements from which on the largest is looked for with all lanes

T = TypeVar("T", bound=Any)


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
    small = len(plan.groups) == 1 and few(plan.extents[0], pull.small)
    if small:
        extreme = picked_extreme(node)
        if extreme is not None:
            # The others are zeros: they only make a -0 that was picked a 0.
            picked = pull.cast(_running(pull, extreme, coordinates, guards)[1], wide)
            return pull.cast(pull.apply(name, Number(identity, wide), picked), node.dtype)
        values = []
        for place in range(plan.extents[0]):
            spread(source, plan.groups[0], x.shape, constant(place), False)
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
        spread(source, group, x.shape, variable(axis), False)
    body = pull.cast(pull.value(x, tuple(source), guards), wide)
    total = Reduce(name, identity, plan.form, inner, plan.block, body)
    return pull.cast(total, node.dtype)


def spread(
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
    if few(extent, pull.small):
        return pull.cast(_running(pull, node, coordinates, guards)[0], dtypes.int64)
    along = pull.axis(extent)
    across = size_of(x.shape[axis + 1 :]) == 1 and hint(extent) >= _LONG_ROW
    place = (*coordinates[:axis], variable(along), *coordinates[axis:])
    return Extreme(largest, along, pull.value(x, place, guards), across)


def _running(
    pull: Puller, node: Call, coordinates: Coordinates, guards: Guards
) -> tuple[Expression, Expression]:
    """Where the first extreme of a short row is, and the element there."""
    (x,) = node.operands
    axis, largest = node.parameters["axis"], node.primitive.name == "argmax"

    def at(place: Affine) -> Expression:
        return pull.value(x, (*coordinates[:axis], place, *coordinates[axis:]), guards)

    def run() -> tuple[Expression, Expression]:
        best: Expression = Number(0, dtypes.int32)
        standing = at(ZERO)
        for place in range(1, x.shape[axis]):
            here = at(constant(place))
            better = beats(pull, here, standing, largest)
            best = pull.apply("where", better, Number(place, dtypes.int32), best)
            standing = pull.apply("where", better, here, standing)
        return best, standing

    return pull.once(("extreme", node, coordinates, guards), run)


class Applies(Protocol[T]):
    """What applies primitives: to expressions, or to values in registers."""

    def apply(self, name: str, *operands: T, dtype: DType | None = None) -> T: ...


def beats(pull: Applies[T], here: T, standing: T, largest: bool) -> T:
    """Whether `here` is more extreme than `standing`, which comes before it; NaN is the most
    extreme.
    """
    pair = (standing, here) if largest else (here, standing)
    if here.dtype is dtypes.bool_:
        smaller, larger = pair
        return pull.apply("bit_and", pull.apply("logical_not", smaller), larger)
    if not here.dtype.is_floating_point:
        return pull.apply("less", *pair, dtype=dtypes.bool_)
    # Not at most as extreme: it is more so, or one of the two is NaN, and that is not the first.
    at_most = pull.apply("less_equal", *pair[::-1], dtype=dtypes.bool_)
    ordered = pull.apply("equal", standing, standing, dtype=dtypes.bool_)
    return pull.apply("bit_and", pull.apply("logical_not", at_most), ordered)


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

    if pull.stored(x) or not few(x.shape[axis], pull.small):
        return at(pull.dynamic(index, x.shape[axis]))
    # Few candidates that must be computed anyway: choose among them.
    chosen = at(ZERO)
    for place in range(1, x.shape[axis]):
        reached = pull.apply("less_equal", Number(place, index.dtype), index, dtype=dtypes.bool_)
        chosen = pull.apply("where", reached, at(constant(place)), chosen)
    return chosen


def places_one(node: Call) -> bool:
    """Whether a scatter has one update for each row: every element can tell if it is meant."""
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
    limit = [pull.counted(constant(bound), index.dtype) for bound in (0, last)]
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
    """Philox4x32-10: word `word` of the four that counter offset + block gives under `key`
    (uint64).
    """
    long = dtypes.uint64

    def number(value: int) -> Number:
        return Number(value, long, fixed=True)

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
