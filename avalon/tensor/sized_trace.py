"""Traces for many sizes: a composite function traced once with symbols for the extents that vary.

Comes in: a composite function, and two calls of it that differ in extents only, with their traces.
Goes out: the trace of any such call, made from formulas. Guaranteed: it is the one that tracing the
function for those sizes gives: the formulas gave both known traces, and what the function asked of
the symbols is a condition that a call's sizes must meet; a function that needs to know its sizes
gets no formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from avalon.shape import Shape
from avalon.size import Size, Sizes
from avalon.tracing.backward import Backward, Differentiate
from avalon.tracing.operation import LateOperation, Operation, Step
from avalon.tracing.patterns import pattern_of
from avalon.tracing.values import Value

Column = tuple[int, ...]  # the extents of all operands
# shapes -> the function's trace on operands of these shapes, or None
Tracer = Callable[[Sequence[Shape]], Any]

_LARGEST = 1 << 40
_TRIES = 4  # pairs of sizes that fail before a function is taken as one that knows its sizes
_TEMPLATES = 8  # at most, of a function that asks much about its sizes


class Form:
    """Calls of a composite function that differ in extents only."""

    def __init__(self) -> None:
        self._templates: list[SizedTrace] = []
        self._known: tuple[Column, Any] | None = None
        self._failed = 0

    def trace(self, shapes: Sequence[Shape], tracer: Tracer) -> Any:
        """The trace for operands of these shapes."""
        column = tuple([extent for shape in shapes for extent in shape])
        for template in self._templates:
            found = template.at(column, shapes, tracer)
            if found is not None:
                return found
        made = tracer(shapes)
        known, self._known = self._known, (column, made)
        if known is not None and made is not None and known[1] is not None:
            pairs = list(zip(column, known[0], strict=True))
            differ = [pair for pair in pairs if pair[0] != pair[1]]
            is_open = self._failed < _TRIES and len(self._templates) < _TEMPLATES
            if differ and min(map(min, differ)) > 1 and is_open:
                more = SizedTrace.of(shapes, pairs, tracer, (made, known[1]))
                if more is None:
                    self._failed += 1
                else:
                    self._templates.append(more)
        return made


class SizedTrace:
    """A trace with symbols for some extents of the operands."""

    def __init__(self, column: Sequence[int | Size], trace: Any, sizes: Sizes) -> None:
        self._trace = trace
        self._places = [_place(symbol, column) for symbol in sizes.symbols]
        self._column = sizes.function(column)
        self._forward = _Pattern(trace.forward, sizes)
        back = trace.backward
        self._back = (
            None if back is None or back.operation is None else _Pattern(back.operation, sizes)
        )
        numbers: list[Any] = list(self._forward.formulas)
        if self._back is not None:
            numbers += self._back.formulas
        self._end = len(self._forward.formulas)
        self._function = sizes.function(
            [number if isinstance(number, int | Size) else 0 for number in numbers]
        )
        self._others = {
            place: number
            for place, number in enumerate(numbers)
            if not isinstance(number, int | Size)
        }
        self._holds = sizes.condition()  # the last, for the formulas above may have asked more

    @staticmethod
    def of(
        shapes: Sequence[Shape],
        pairs: Sequence[tuple[int, int]],
        tracer: Tracer,
        known: Sequence[Any],
    ) -> SizedTrace | None:
        """Trace with a symbol for each pair of extents that differ; None if the function has to
        know its sizes, or the formulas do not give the `known` traces.
        """
        sizes = Sizes(strict=True)
        symbols: dict[tuple[int, int], Size] = {}
        column: list[int | Size] = []
        for pair in pairs:
            if pair[0] != pair[1] and pair not in symbols:
                symbols[pair] = sizes.symbol(pair[0], _LARGEST)
            column.append(symbols.get(pair, pair[0]))
        given = iter(column)
        symbolic: list[Any] = [tuple([next(given) for _ in shape]) for shape in shapes]
        try:
            trace = tracer(symbolic)
            if trace is None or any(strides is not None for strides in trace.strides):
                return None
            made = SizedTrace(column, trace, sizes)
            columns = [tuple([pair[which] for pair in pairs]) for which in range(2)]
            for one, concrete in zip(columns, known, strict=True):
                if not made._gives(one, concrete):
                    return None
        except Exception:  # whatever code says to a size that is no number
            return None
        return made

    def _gives(self, column: Column, concrete: Any) -> bool:
        """Whether the formulas give a trace that is known."""
        numbers = self._numbers(column)
        if numbers is None:
            return False
        back, other = self._trace.backward, concrete.backward
        if (back is None) is not (other is None):
            return False
        same = self._forward.gives(numbers[: self._end], concrete.forward) and _alike(
            self._trace.numbers, concrete.numbers
        )
        if back is None or not same:
            return same
        if (back.keep, back.results, back.releases) != (other.keep, other.results, other.releases):
            return False
        if not _alike(back.numbers, other.numbers):
            return False
        if self._back is None or other.operation is None:
            return self._back is None and other.operation is None
        return self._back.gives(numbers[self._end :], other.operation)

    def _numbers(self, column: Column) -> tuple[Any, ...] | None:
        """The numbers of the operations for a column, or None if it is not served."""
        symbols = [column[place] for place in self._places]
        if not self._holds(*symbols) or self._column(*symbols) != column:
            return None
        numbers = self._function(*symbols)
        if self._others:
            numbers = tuple([self._others.get(p, number) for p, number in enumerate(numbers)])
        return numbers

    def at(self, column: Column, shapes: Sequence[Shape], tracer: Tracer) -> Any:
        """The trace for one column; None if this one does not serve it."""
        numbers = self._numbers(column)
        if numbers is None:
            return None
        own = self._trace
        symbols = tuple([column[place] for place in self._places])
        forward = self._forward.at(numbers[: self._end], symbols)
        back = own.backward
        if back is not None:
            operation = None if self._back is None else self._back.at(numbers[self._end :], symbols)
            back = Backward(
                own.name, back.keep, operation, back.results, back.releases, back.numbers,
                _later(shapes, tracer), forward,
            )  # fmt: skip
        return type(own)(own.name, own.note, forward, own.numbers, back, own.strides, own.several)


class _Pattern:
    """An operation with symbols. `formulas` are its numbers, then the extents of its results, then
    its bytes.
    """

    def __init__(self, operation: Operation, sizes: Sizes) -> None:
        self.operation = operation
        self.pattern, numbers, self.constants = pattern_of(operation)
        self.count = len(numbers)
        extents = [extent for shape, _ in operation.results for extent in shape]
        self.formulas = [*numbers, *extents, operation.result_bytes()]
        self._sizes = list(dict.fromkeys(_sizes_in([tuple(step) for step in operation.steps])))
        self._spell = sizes.function(self._sizes)

    def gives(self, numbers: Sequence[Any], concrete: Operation) -> bool:
        """Whether the numbers make this operation the one that is known."""
        described = self.pattern, tuple(numbers[: self.count]), self.constants
        return described == pattern_of(concrete) and self._results(numbers) == concrete.results

    def _results(self, numbers: Sequence[Any]) -> tuple[tuple[Shape, Any], ...]:
        given = iter(numbers[self.count :])
        return tuple([
            (tuple([next(given) for _ in shape]), dtype) for shape, dtype in self.operation.results
        ])  # fmt: skip

    def at(self, numbers: tuple[Any, ...], symbols: Column) -> Operation:
        """The operation with these numbers, which the symbols give."""

        def spell() -> tuple[Step, ...]:
            known = dict(zip(self._sizes, self._spell(*symbols), strict=True))
            return tuple([Step(*_filled(tuple(step), known)) for step in self.operation.steps])

        described = self.pattern, numbers[: self.count], self.constants
        results = self._results(numbers)
        return LateOperation.of(self.operation, symbols, described, results, numbers[-1], spell)


def _sizes_in(value: Any) -> Iterator[Size]:
    """The formulas in nested lists, tuples and dictionaries."""
    if isinstance(value, Size):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _sizes_in(part)
    elif isinstance(value, dict):
        yield from _sizes_in(list(value.values()))


def _filled(value: Any, known: dict[Size, int]) -> Any:
    """The same with numbers in the place of formulas."""
    if isinstance(value, Size):
        return known[value]
    if isinstance(value, tuple):
        return tuple([_filled(part, known) for part in value])
    if isinstance(value, dict):
        return {name: _filled(part, known) for name, part in value.items()}
    return value


def _place(symbol: Size, column: Sequence[int | Size]) -> int:
    """Where a symbol stands in a column."""
    return next(place for place, extent in enumerate(column) if extent is symbol)


def _alike(some: Sequence[Value], others: Sequence[Value]) -> bool:
    """Whether two rows of Python numbers are the same."""
    return [(repr(v.number), v.dtype) for v in some] == [(repr(v.number), v.dtype) for v in others]


def _later(shapes: Sequence[Shape], tracer: Tracer) -> Differentiate:
    """What `Backward.again` does, by a trace that is made when somebody differentiates twice."""
    traced: list[Differentiate] = []

    def again(
        history: Any, cotangent: Any, values: Sequence[Value], wrap: Callable[..., Any]
    ) -> list[Any]:
        if not traced:
            traced.append(tracer(shapes).backward.again)
        return traced[0](history, cotangent, values, wrap)

    return again
