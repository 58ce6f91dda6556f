"""From a nest as written to one that runs well: loops joined, units of work chosen, numbers
abstracted.

Comes in: nests with one loop an axis of the result. Goes out: the same nests with neighbouring
loops joined where every index allows it (so that a contiguous elementwise kernel is one flat loop),
with outer loops made units of work that threads share, and, for the cold tier, with numbers
replaced by slots. Guaranteed: the values that are stored, and the order of reductions, stay the
same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from avalon import dtype as dtypes
from avalon.dtype import DType
from avalon.runtime.values import scalar_bits
from avalon.schedule.index import Affine, Axis, Dynamic, Quotient, Slot, Variable
from avalon.schedule.loops import (
    Apply,
    Coordinate,
    Expression,
    Extreme,
    Inside,
    Load,
    Nest,
    Number,
    Reduce,
    Scalar,
    Stage,
    Store,
)
from avalon.shape import size_of
from avalon.size import few, hint, is_open, same

_UNIT = 16384  # elementary operations of a unit, about
PIECE = 64  # pieces of a loop that is cut are multiples of that
_UNITS = 16  # units that are enough for any number of threads
_STREAMED = 3 << 23  # bytes of a result from which on it is written past the caches
_LINE = 64  # bytes of a cache line
_COLUMNS = 16  # columns that one vector takes
_SMALL_STRIDE = 4  # strides across lanes up to which a shape-generic kernel knows them
_SMALL_DIVISOR = 16  # divisors up to which a shape-generic kernel knows them


class Mapper:
    """Rebuilds a nest with axes, index forms and numbers changed. Subclasses say how."""

    def __init__(self) -> None:
        self._forms: dict[Affine, Affine] = {}
        self._expressions: dict[int, Expression] = {}

    def axis(self, axis: Axis) -> Axis | None:
        """What an axis becomes; None if another one counts for it."""
        return axis

    def number(self, number: Any) -> Any:
        return number

    def factor(self, variable: Variable, number: Any) -> Any:
        return number

    def divisor(self, number: Any) -> Any:
        return number

    def form(self, form: Affine) -> Affine:
        found = self._forms.get(form)
        if found is None:
            terms: dict[Variable, Any] = {}
            for variable, coefficient in form.terms.items():
                mapped = self.variable(variable)
                if mapped is not None:
                    terms[mapped] = self.factor(variable, coefficient)
            offset = self.number(form.offset) if form.offset else 0
            found = self._forms[form] = Affine(terms, offset)
        return found

    def variable(self, variable: Variable) -> Variable | None:
        if isinstance(variable, Axis):
            return self.axis(variable)
        if isinstance(variable, Quotient):
            return Quotient(
                self.form(variable.source), self.divisor(variable.divisor), variable.remainder,
                variable.low, variable.high,
            )  # fmt: skip
        return Dynamic(self.expression(variable.expression), self.number(variable.limit))

    def guards(self, guards: tuple[Inside, ...]) -> tuple[Inside, ...]:
        return tuple([self.guard(guard) for guard in guards])

    def guard(self, guard: Inside) -> Inside:
        mapped = self.expression(guard)
        assert isinstance(mapped, Inside)
        return mapped

    def expression(self, expression: Expression) -> Expression:
        found = self._expressions.get(id(expression))
        if found is None:
            found = self._expressions[id(expression)] = self._expression(expression)
        return found

    def _expression(self, e: Expression) -> Expression:
        if isinstance(e, Load):
            return Load(e.argument, e.dtype, self.form(e.index), self.guards(e.guards), e.pinned)
        if isinstance(e, Apply):
            operands = [self.expression(operand) for operand in e.operands]
            return Apply(e.name, e.dtype, operands, e.parameters)
        if isinstance(e, Number | Scalar):
            return e
        if isinstance(e, Coordinate):
            return Coordinate(self.form(e.form))
        if isinstance(e, Inside):
            low = self.number(e.low) if e.low else 0
            return Inside(self.form(e.form), low, self.number(e.high))
        if isinstance(e, Reduce):
            if e.form == "row":
                self.across(e.axes[-1])
            axes = tuple([self.own(axis) for axis in e.axes])
            block = self.number(e.block)
            return Reduce(e.combine, e.identity, e.form, axes, block, self.expression(e.body))
        assert isinstance(e, Extreme)
        if e.across:
            self.across(e.axis)
        return Extreme(e.largest, self.own(e.axis), self.expression(e.body), e.across)

    def across(self, axis: Axis) -> None:
        """Told of the axis of a reduction that runs across lanes, before its body."""

    def own(self, axis: Axis) -> Axis:
        mapped = self.axis(axis)
        assert mapped is not None
        return mapped

    def stage(self, stage: Stage) -> Stage:
        axes = tuple([a for a in map(self.axis, stage.axes) if a is not None])
        stores = tuple(
            [
                Store(
                    store.argument, self.form(store.index), self.expression(store.value),
                    self.guards(store.guards),
                    store.check and (self.number(store.check[0]), self.number(store.check[1])),
                )
                for store in stage.stores
            ]
        )  # fmt: skip
        return Stage(axes, stores, stage.lanes, stage.abreast, stage.streams)

    def nest(self, nest: Nest) -> Nest:
        units = tuple([a for a in map(self.axis, nest.units) if a is not None])
        cut = self.number(nest.cut) if nest.cut else 0
        stages = tuple([self.stage(stage) for stage in nest.stages])
        return Nest(units, stages, nest.arguments, cut, nest.locals, nest.wide)


class _Forms(Mapper):
    """Collects every index form of a nest, also those inside others."""

    def form(self, form: Affine) -> Affine:
        if form not in self._forms:
            self._forms[form] = form
            for variable in form.terms:
                if not isinstance(variable, Axis):
                    self.variable(variable)
        return form


def forms_of(nest: Nest) -> list[Affine]:
    """All index forms of a nest."""
    collector = _Forms()
    for stage in nest.stages:
        collector.stage(stage)
    return list(collector._forms)


class _Join(Mapper):
    """Replaces axes by joined ones; an axis that was joined into an inner one disappears."""

    def __init__(self, joined: dict[Axis, Axis | None]) -> None:
        super().__init__()
        self.joined = joined

    def axis(self, axis: Axis) -> Axis | None:
        return self.joined.get(axis, axis)


def join_loops(nest: Nest) -> Nest:
    """Drop loops of one round and join neighbours that all forms walk through as if they were one.
    Units and the loops of each stage keep apart.
    """
    joined: dict[Axis, Axis | None] = {}
    forms = forms_of(nest) if len(nest.units) + sum(len(s.axes) for s in nest.stages) > 1 else []
    for axes in (nest.units, *(stage.axes for stage in nest.stages)):
        joined.update(_joined(axes, forms))
    return _Join(joined).nest(nest) if joined else nest


def _joined(axes: Sequence[Axis], forms: list[Affine]) -> dict[Axis, Axis | None]:
    """What each of some nested loops becomes; those that stay are left out."""
    joined: dict[Axis, Axis | None] = {axis: None for axis in axes if axis.extent == 1}
    left = [axis for axis in axes if axis.extent != 1]
    while left:
        inner = left.pop()
        extent = inner.extent
        while left and _joins(forms, left[-1], inner, extent):
            extent *= left[-1].extent
            joined[left.pop()] = None
        if extent != inner.extent:
            joined[inner] = Axis(inner.number, extent)
    return joined


def _joins(forms: list[Affine], outer: Axis, inner: Axis, inner_extent: int) -> bool:
    """Whether every form takes a round of `outer` as going on with `inner`."""
    for form in forms:
        if not same(form.terms.get(outer, 0), form.terms.get(inner, 0) * inner_extent):
            return False
    return True


def choose_units(nest: Nest, cost: int = 1, parallel: int = 99) -> Nest:
    """Make outer loops of a nest of one stage units of work. `cost` is the work of one element, in
    elementary operations; only the first `parallel` loops may run side by side.
    """
    (stage,) = nest.stages
    axes = list(stage.axes)
    parallel = min(parallel, len(axes))
    everything = parallel == len(axes)
    inner = 1
    for axis in axes:
        inner *= hint(axis.extent)
    wanted = max(1, _UNIT // max(hint(cost), 1))
    if inner <= wanted:
        return nest
    units: list[Axis] = []
    count = 1
    if everything and stage.lanes:
        parallel -= 1
    while len(units) < parallel and count < _UNITS and inner > wanted:
        count *= hint(axes[0].extent)
        inner //= hint(axes[0].extent)
        units.append(axes.pop(0))
    cut = 0
    if everything and axes and count < _UNITS:
        cut = cut_of(axes[0].extent, inner, cost)
    return Nest(
        tuple(units), (Stage(tuple(axes), stage.stores, stage.lanes),), nest.arguments, cut,
        nest.locals, nest.wide,
    )  # fmt: skip


def cut_of(extent: int, elements: int, cost: int) -> int:
    """Steps of a piece of a loop over `extent` with `elements` inside; 0 if it stays whole."""
    extent, elements = hint(extent), hint(elements)
    wanted = max(1, _UNIT // max(hint(cost), 1))
    if elements <= 2 * wanted:
        return 0
    per_step = max(1, elements // extent)
    cut = max(PIECE, -(-wanted // per_step) // PIECE * PIECE)
    return cut if cut < extent else 0


def work_of(nest: Nest) -> int:
    """The number of units of a nest."""
    count = 1
    for axis in nest.units:
        count *= axis.extent
    if nest.cut:
        count *= -(-nest.stages[0].axes[0].extent // nest.cut)
    return count


def mark_wide(nest: Nest) -> Nest:
    """Note whether some index needs more than 31 bits."""
    limit = 1 << 31
    nest.wide = any(form.high >= limit or form.low < -limit for form in forms_of(nest))
    return nest


def _sums_columns(value: Expression) -> bool:
    """Whether a value holds a reduction with one result a lane."""
    pending, seen = [value], {id(value)}
    while pending:
        expression = pending.pop()
        if isinstance(expression, Reduce):
            return expression.form in ("column", "chain")
        if isinstance(expression, Apply):
            for operand in expression.operands:
                if id(operand) not in seen:
                    seen.add(id(operand))
                    pending.append(operand)
    return False


def set_abreast(nest: Nest) -> Nest:
    """Let long sums down columns run several vectors side by side: that hides how long one addition
    takes, and reads whole lines of the cache.
    """
    for stage in nest.stages:
        if not (stage.lanes and stage.axes):
            continue
        if any(_sums_columns(store.value) for store in stage.stores):
            vectors = hint(stage.axes[-1].extent) // _COLUMNS
            stage.abreast = 4 if vectors >= 4 else 2 if vectors >= 2 else 1
    return nest


def set_streams(nest: Nest, keys: Sequence[Any]) -> None:
    """Let results that no cache holds be written past them: then their lines need not be read
    before, and what is in the caches stays there. `keys`: what each argument is.
    """
    for stage in nest.stages:
        sizes = [
            size_of(keys[store.argument].shape) * store.value.dtype.itemsize
            for store in stage.stores
            if store.argument >= 0
        ]
        known = bool(sizes) and len(sizes) == len(stage.stores) and not any(map(is_open, sizes))
        stage.streams = (
            stage.lanes and known and all(n >= _STREAMED and n % _LINE == 0 for n in sizes)
        )


class _Generic(Mapper):
    """Replaces numbers by slots, in the order in which they are met."""

    def __init__(self, nest: Nest) -> None:
        super().__init__()
        self.numbers: list[int] = []
        self.first = len(nest.arguments)
        self.lane_axes = {stage.axes[-1] for stage in nest.stages if stage.lanes and stage.axes}
        self._axes: dict[Axis, Axis] = {}

    def _expression(self, e: Expression) -> Expression:
        bits = bits_of(e.value, e.dtype) if isinstance(e, Number) and not e.fixed else None
        if bits is not None:
            return Scalar(self.number(bits).position, e.dtype)
        return super()._expression(e)

    def axis(self, axis: Axis) -> Axis:
        found = self._axes.get(axis)
        if found is None:
            found = self._axes[axis] = Axis(axis.number, self.number(axis.extent))
        return found

    def across(self, axis: Axis) -> None:
        self.lane_axes.add(axis)

    def number(self, number: Any) -> Slot:
        self.numbers.append(number)
        return Slot(self.first + len(self.numbers) - 1)

    def factor(self, variable: Variable, number: Any) -> Any:
        if variable in self.lane_axes and few(number, _SMALL_STRIDE) and number >= -1:
            return number  # neighbours, also backwards or with gaps, are read as rows
        if few(number, 1) and number == 1 and not isinstance(variable, Axis):
            return 1
        return self.number(number)

    def divisor(self, number: Any) -> Any:
        return number if few(number, _SMALL_DIVISOR) else self.number(number)


class _Sized(_Generic):
    """Replaces only the numbers that are not known by slots."""

    def _expression(self, e: Expression) -> Expression:
        return Mapper._expression(self, e)

    def number(self, number: Any) -> Any:
        return super().number(number) if is_open(number) else number

    def factor(self, variable: Variable, number: Any) -> Any:
        return self.number(number)

    def divisor(self, number: Any) -> Any:
        return self.number(number)


def bits_of(value: Any, dtype: DType) -> int | None:
    """The bits with which a constant is handed over to a kernel that serves all constants; None for
    those, few and frequent, that a kernel knows.
    """
    if dtype is dtypes.bool_ or repr(value) in ("0.0", "1.0", "-1.0"):
        return None
    if isinstance(value, int) and -1 <= value <= _SMALL_DIVISOR:
        return None
    bits = scalar_bits(value, dtype.name)
    return bits - (1 << 64) if bits >> 63 else bits


def generic(nest: Nest) -> tuple[Nest, list[int]]:
    """The nest with its numbers as slots behind its arguments, and the numbers."""
    mapper = _Generic(nest)
    return mapper.nest(nest), mapper.numbers


def sized(nest: Nest) -> tuple[Nest, list[int] | None]:
    """As `generic`, for the numbers that are not known; None if all are."""
    mapper = _Sized(nest)
    made = mapper.nest(nest)
    return (made, mapper.numbers) if mapper.numbers else (nest, None)


def axes_of(nest: Nest) -> Iterator[Axis]:
    """The loops of a nest, units first."""
    yield from nest.units
    for stage in nest.stages:
        yield from stage.axes


def cost_of(expression: Expression, costs: Callable[[str], int], seen: set[int]) -> int:
    """About how many elementary operations one element of an expression takes."""
    if id(expression) in seen:
        return 0
    seen.add(id(expression))
    if isinstance(expression, Apply):
        own = costs(expression.name)
        return own + sum(cost_of(operand, costs, seen) for operand in expression.operands)
    if isinstance(expression, Reduce):
        rounds = 1
        for axis in expression.axes:
            rounds *= axis.extent
        return rounds * cost_of(expression.body, costs, seen)
    if isinstance(expression, Extreme):
        extent: int = expression.axis.extent
        return extent * (2 + cost_of(expression.body, costs, seen))
    return 1
