"""How movements are read through: their rules turn coordinates of a result into those of an
operand.

Comes in: a call, the coordinates wanted, the guards that hold there. Goes out: the expression.
Linear movements cost nothing; those with an inside and an outside (padding, assigned parts,
overlapping windows) add guards and choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalon.graph.node import Call, Node
from avalon.schedule import order
from avalon.schedule.index import ZERO, Affine, address, constant, reshape, variable
from avalon.schedule.loops import Expression, Inside, Number, Reduce
from avalon.schedule.pull import Coordinates, Guards, Puller, rule, storage
from avalon.shape import size_of

SMALL_WINDOW = 36  # taps up to which an overlap is written out


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
