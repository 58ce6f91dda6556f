"""Loop nests: what one kernel computes, as expressions over loop axes, stored under index forms.

Comes in: what `pull` and `nests` build from graph nodes. Goes out: `Nest`s, which `codegen.loops`
turns into LLVM text and `str` into readable loops. Guaranteed: expressions are directed acyclic
graphs without side effects (a shared part is computed once); `bits` says which axes a value depends
on, so that everything is computed in the outermost loop that knows its axes; a `Load` carries the
guards under which it may read, and gives 0 where they fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from avalon import dtype as dtypes
from avalon.dtype import DType
from avalon.schedule.index import Affine, Axis, Dynamic
from avalon.size import is_open


class Expression:
    """A value at each point of the axes it depends on."""

    __slots__ = ("bits", "dtype")
    bits: int
    dtype: DType


class Number(Expression):
    """A constant; `fixed`: part of an algorithm, so that no kernel has to serve other values."""

    __slots__ = ("fixed", "value")

    def __init__(self, value: Any, dtype: DType, fixed: bool = False) -> None:
        assert not is_open(value), "a kernel would know the sample of a formula"
        self.value = value
        self.fixed = fixed
        self.dtype = dtype
        self.bits = 0


class Scalar(Expression):
    """A number handed over at run time, argument `argument` of the kernel."""

    __slots__ = ("argument",)

    def __init__(self, argument: int, dtype: DType) -> None:
        self.argument = argument
        self.dtype = dtype
        self.bits = 0


class Coordinate(Expression):
    """The value of an index form, as int64."""

    __slots__ = ("form",)

    def __init__(self, form: Affine) -> None:
        self.form = form
        self.dtype = dtypes.int64
        self.bits = form.bits


class Inside(Expression):
    """Whether low <= form < high."""

    __slots__ = ("form", "high", "low")

    def __init__(self, form: Affine, low: Any, high: Any) -> None:
        self.form = form
        self.low = low
        self.high = high
        self.dtype = dtypes.bool_
        self.bits = form.bits

    def __hash__(self) -> int:
        return hash((self.form, self.low, self.high))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Inside)
            and self.low == other.low
            and self.high == other.high
            and self.form == other.form
        )


class Load(Expression):
    """Element `index` of the buffer that is argument `argument`; 0 where a guard fails. `pinned`
    are the bits of loops that write what it reads, so that it must stay inside them.
    """

    __slots__ = ("argument", "guards", "index", "pinned")

    def __init__(
        self,
        argument: int,
        dtype: DType,
        index: Affine,
        guards: tuple[Inside, ...],
        pinned: int = 0,
    ) -> None:
        self.argument = argument
        self.dtype = dtype
        self.index = index
        self.guards = guards
        self.pinned = pinned
        bits = index.bits | pinned
        for guard in guards:
            bits |= guard.bits
        self.bits = bits


class Apply(Expression):
    """An elementwise function: the method `name` of the emitter, or a primitive's lowering."""

    __slots__ = ("name", "operands", "parameters")

    def __init__(
        self, name: str, dtype: DType, operands: Sequence[Expression], parameters: dict[str, Any]
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.operands = tuple(operands)
        self.parameters = parameters
        bits = 0
        for operand in operands:
            bits |= operand.bits
        self.bits = bits


class Reduce(Expression):
    """A reduction of `body` by the emitter's method `combine`, in the order that `order` defines.

    `form` is "row" (virtual lanes over the innermost axis, then a tree), "column" (one chain) or
    "chain" (one chain without blocks). `axes` are the reduced axes, the innermost last; `block` its
    block.
    """

    __slots__ = ("axes", "block", "body", "combine", "form", "identity")

    def __init__(
        self, combine: str, identity: Any, form: str, axes: tuple[Axis, ...], block: Any,
        body: Expression,
    ) -> None:  # fmt: skip
        self.combine = combine
        self.identity = identity
        self.form = form
        self.axes = axes
        self.block = block
        self.body = body
        self.dtype = body.dtype
        bits = body.bits
        for axis in axes:
            bits &= ~axis.bits
        self.bits = bits


class Extreme(Expression):
    """The position (int64) of the first largest or smallest element of `body` along `axis`;
    `across` lanes where that axis is the innermost and long.
    """

    __slots__ = ("across", "axis", "body", "largest")

    def __init__(self, largest: bool, axis: Axis, body: Expression, across: bool) -> None:
        self.across = across
        self.largest = largest
        self.axis = axis
        self.body = body
        self.dtype = dtypes.int64
        self.bits = body.bits & ~axis.bits


def loads_of(values: Iterable[Expression]) -> Iterator[Load]:
    """The loads of expressions, but for those inside reductions."""
    pending, seen = list(values), set()
    while pending:
        expression = pending.pop()
        if id(expression) in seen:
            continue
        seen.add(id(expression))
        if isinstance(expression, Load):
            yield expression
        elif isinstance(expression, Apply):
            pending.extend(expression.operands)


@dataclass
class Store:
    """Write `value` to element `index` of argument `argument`, where all guards hold. With `check`,
    the number of a check and the exclusive bound of its values, a value outside fails the program.
    """

    argument: int
    index: Affine
    value: Expression
    guards: tuple[Inside, ...] = ()
    check: tuple[Any, Any] | None = None


@dataclass
class Stage:
    """Loops over `axes`, outermost first, around stores; with `lanes` the last is vectorised, with
    vectors that are `abreast` times as wide as usual. What `streams` is too large for the caches,
    and is written past them.
    """

    axes: tuple[Axis, ...]
    stores: tuple[Store, ...]
    lanes: bool = True
    abreast: int = 1
    streams: bool = False


@dataclass
class Nest:
    """One kernel: for each unit of work (a point of `units`), all stages in order.

    With `cut`, the first axis of every stage is cut in pieces of that many steps, and the piece is
    the innermost unit. `arguments` describe the slots: ("buffer" | "scalar" | "status", dtype); the
    numbers of a shape-generic nest follow them. `locals` are the element types and sizes of buffers
    private to a unit, which loads and stores name by negative arguments -1, -2, ...
    """

    units: tuple[Axis, ...]
    stages: tuple[Stage, ...]
    arguments: list[tuple[str, DType]]
    cut: Any = 0
    locals: list[tuple[DType, int]] = field(default_factory=list)
    wide: bool = False  # some index needs more than 31 bits

    @cached_property
    def text(self) -> str:
        """The loops, readable; equal nests have equal texts."""
        return Printer(self).text()

    def __str__(self) -> str:
        return self.text


class Printer:
    """Writes a nest as readable loops: one line a shared value, in the loop that computes it."""

    def __init__(self, nest: Nest) -> None:
        self.nest = nest
        self.lines: list[str] = []
        self.names: dict[int, str] = {}
        self.indent = 0

    def text(self) -> str:
        nest = self.nest
        for number, (kind, dtype) in enumerate(nest.arguments):
            self.line(f"{kind} a{number}: {dtype.name}")
        for number, (dtype, size) in enumerate(nest.locals):
            self.line(f"private b{number + 1}: {dtype.name}[{size}]")
        for axis in nest.units:
            self.line(f"unit {axis} < {axis.extent}:")
            self.indent += 1
        for stage in nest.stages:
            before = self.indent
            for position, axis in enumerate(stage.axes):
                kind = "lanes" if stage.lanes and position == len(stage.axes) - 1 else "for"
                if kind == "lanes" and stage.abreast > 1:
                    kind = f"lanes x {stage.abreast}"
                if kind.startswith("lanes") and stage.streams:
                    kind += " past the caches"
                cut = f" by {nest.cut}" if nest.cut and position == 0 else ""
                self.line(f"{kind} {axis} < {axis.extent}{cut}:")
                self.indent += 1
            known = dict(self.names)
            for store in stage.stores:
                guards = self.guards(store.guards)
                check = f" check < {store.check[1]} as {store.check[0]}" if store.check else ""
                value = self.expression(store.value)
                place = f"{self.buffer(store.argument)}[{self.form(store.index)}]"
                self.line(f"{place} = {value}{guards}{check}")
            self.names = known
            self.indent = before
        return "\n".join(self.lines) + ("\nwide\n" if nest.wide else "\n")

    def line(self, text: str) -> None:
        self.lines.append("  " * self.indent + text)

    def buffer(self, argument: int) -> str:
        return f"a{argument}" if argument >= 0 else f"b{-argument}"

    def form(self, form: Affine) -> str:
        parts = []
        for variable, coefficient in form.terms.items():
            if isinstance(variable, Axis):
                named = f"i{variable.number}"
            elif isinstance(variable, Dynamic):
                named = f"clamp({self.expression(variable.expression)}, {variable.limit})"
            else:
                kind = "mod" if variable.remainder else "div"
                named = f"({self.form(variable.source)} {kind} {variable.divisor})"
            parts.append(named if coefficient == 1 else f"{coefficient}*{named}")
        if form.offset != 0 or not parts:
            parts.append(f"{form.offset}")
        return " + ".join(parts)

    def guards(self, guards: tuple[Inside, ...]) -> str:
        return "".join(f" if {g.low} <= {self.form(g.form)} < {g.high}" for g in guards)

    def expression(self, expression: Expression) -> str:
        name = self.names.get(id(expression))
        if name is not None:
            return name
        if isinstance(expression, Number):
            return f"{expression.dtype.name}({expression.value!r})"
        if isinstance(expression, Scalar):
            return f"a{expression.argument}"
        if isinstance(expression, Coordinate):
            return f"[{self.form(expression.form)}]"
        if isinstance(expression, Inside):
            return f"({expression.low} <= {self.form(expression.form)} < {expression.high})"
        if isinstance(expression, Load):
            text = (
                f"{expression.dtype.name} {self.buffer(expression.argument)}"
                f"[{self.form(expression.index)}]{self.guards(expression.guards)}"
            )
        elif isinstance(expression, Apply):
            operands = ", ".join([self.expression(operand) for operand in expression.operands])
            listed = "".join(f", {k}={v!r}" for k, v in expression.parameters.items())
            text = f"{expression.dtype.name} {expression.name}({operands}{listed})"
        elif isinstance(expression, Reduce):
            axes = ", ".join(f"{axis} < {axis.extent}" for axis in expression.axes)
            kind = f"{expression.combine} from {expression.identity!r} as {expression.form}"
            self.line(f"{kind} over {axes} in blocks of {expression.block}:")
            text = self._nested(expression.body, "reduced")
        else:
            assert isinstance(expression, Extreme)
            kind = "largest" if expression.largest else "smallest"
            kind += " across" if expression.across else ""
            self.line(f"{kind} over {expression.axis} < {expression.axis.extent}:")
            text = self._nested(expression.body, "position")
        name = f"v{len(self.names)}"
        self.line(f"{name} = {text}")
        self.names[id(expression)] = name
        return name

    def _nested(self, body: Expression, what: str) -> str:
        known = dict(self.names)
        self.indent += 1
        inner = self.expression(body)
        self.indent -= 1
        self.names = known
        return f"{what} {inner}"
