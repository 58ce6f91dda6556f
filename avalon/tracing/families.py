"""Programs for many sizes: what sequences that differ in extents only are served by.

Comes in: two recorded sequences of one outline (see `patterns`) whose extents differ. Goes out: a
template, a program in which those extents are symbols. Guaranteed: it gives the bits of the
programs that are built for one size alone; what it cannot serve, by its conditions or because
other numbers differ, it refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from operator import itemgetter
from typing import Any

from avalon.compiler import compile_sized
from avalon.errors import IndexOutOfRange
from avalon.runtime.buffer import Buffer
from avalon.runtime.program import Program, index_error
from avalon.runtime.sized import SizedProgram, Symbols
from avalon.schedule.sharing import is_worth_sharing
from avalon.schedule.steps import Schedule
from avalon.size import Size, Sizes, is_open
from avalon.tracing.parts import restrict
from avalon.tracing.patterns import build, places_of
from avalon.tracing.recorded import Recorded

Column = tuple[Any, ...]


_ROOM = 16  # how many times larger than seen an extent may become before it is another program
_LEAST_LIMIT = 4096


class NoSymbols(Exception):
    """Two columns differ in nothing that can be a symbol, or had better not share a program."""


class Template:
    """A program with symbols for the extents in which two columns differ.

    Attributes:
        program: the program; outputs: which of its results each position is.
        inputs: which of the recorded inputs it reads. Constants that differ follow them.
    """

    def __init__(
        self, recorded: Recorded, column: Column, other: Column, tier: str,
        positions: Sequence[int], shares_always: bool,
    ) -> None:  # fmt: skip
        """
        Raises:
            NoSymbols: if no extent differs, or one is 0; unless it `shares_always`, also if the
                program would be much slower than one for a size.
        """
        pairs = zip(column, other, strict=True)
        varying = [place for place, (now, before) in enumerate(pairs) if now != before]
        numbers = _Numbers(column, other, varying, *places_of(recorded))
        self._symbols = _getter(numbers.symbols)
        changes = set(varying)
        self._kept = _getter([place for place in range(len(column)) if place not in changes])
        self._expected = self._kept(column)
        known = [place for place in varying if is_open(numbers.found[place])]
        self._given = _getter(known)
        self._formulas = numbers.sizes.function([numbers.found[place] for place in known])
        self._texts = {column[place]: place for place in varying if place in numbers.texts}
        filled = [numbers.found.get(place, number) for place, number in enumerate(column)]
        graph, nodes, constants = build(recorded, filled)
        own = len(graph.inputs) - len(constants)
        kept = restrict(graph, [nodes[position] for position in positions])
        self.inputs = [place for place in kept if place < own]
        self._constants = _getter([constants[place - own] for place in kept if place >= own])
        self.outputs = {position: place for place, position in enumerate(positions)}
        show = None if shares_always else _refuse_slow
        self.program: SizedProgram = compile_sized(graph, numbers.sizes, tier, show)

    def symbols_for(self, column: Column) -> Symbols | None:
        """The symbols' values for a column, if this program serves it."""
        symbols = self._symbols(column)
        if (
            self._kept(column) == self._expected
            and self._given(column) == self._formulas(*symbols)
            and self.program.serves(*symbols)
        ):
            return symbols
        return None

    def bind(self, column: Column, symbols: Symbols, lasting: bool) -> BoundProgram | Program:
        """The program for one column that it serves; with `lasting` one that takes a moment to be
        made and less to run.
        """
        texts = {text: column[place] for text, place in self._texts.items()}
        constants = self._constants(column)
        if lasting:
            return self.program.at(symbols, constants, texts)
        return BoundProgram(self.program, symbols, constants, texts)


class BoundProgram:
    """A program for many sizes at one of them. It runs like a program of that size, and says what
    that would say: `texts` are the messages of this size for those of the program.
    """

    def __init__(
        self, program: SizedProgram, symbols: Symbols, constants: Column, texts: dict[str, str]
    ) -> None:
        self.sized = program
        self.plan = program.plan
        self._symbols = symbols
        self._constants = constants
        self._texts = texts

    def run(
        self,
        inputs: list[Any],
        donated: Collection[int] = (),
        spare: Mapping[int, Buffer] | None = None,
    ) -> list[Buffer]:
        """As `Program.run`."""
        given = [*inputs, *self._constants]
        try:
            return self.sized.run_sized(self._symbols, given, donated, spare)
        except IndexOutOfRange as failure:
            check = self.plan.checks[failure.check]
            if check.message not in self._texts:
                raise
            said = self._texts[check.message], check.source
            raise index_error(*said, failure.check, failure.value) from None

    def begin(
        self, inputs: list[Any], donated: Collection[int] = ()
    ) -> tuple[list[Buffer], None]:
        """As `Program.begin`; sizes that were seen once are not worth it."""
        return self.run(inputs, donated), None

    def __str__(self) -> str:
        return str(self.sized)


class _Numbers:
    """What the numbers of a column in which another differs become.

    Attributes:
        symbols: the places that symbols take their values from.
        found: for each place that differs, its formula; None for a constant, a message as it is.
        texts: the places of messages.
    """

    def __init__(
        self, column: Column, other: Column, varying: Sequence[int], inputs: set[int],
        constants: set[int],
    ) -> None:  # fmt: skip
        self.sizes = Sizes()
        self.symbols: list[int] = []
        self.found: dict[int, Any] = {}
        self.texts: set[int] = set()
        self._pairs: list[tuple[int, int, Size]] = []  # the values of each symbol, in both
        if constants.issuperset(varying):
            raise NoSymbols("no extent differs")
        # Extents of inputs first: the others are mostly made from them.
        for place in sorted(varying, key=lambda place: place not in inputs):
            now, before = column[place], other[place]
            if isinstance(now, str):
                self.found[place] = now
                self.texts.add(place)
            elif place in constants:
                self.found[place] = None
            elif now < 1 or before < 1:
                raise NoSymbols("an empty extent is another case")
            else:
                self.found[place] = self._formula(now, before, place)

    def _formula(self, now: int, before: int, place: int) -> Any:
        for a, b, symbol in self._pairs:
            if now * b == before * a and now % a == 0:
                return symbol * (now // a)
        for a, b, symbol in self._pairs:
            if now - before == a - b:
                return symbol + (now - a)
        for a, b, symbol in self._pairs:
            for c, d, another in self._pairs:
                if now * b * d == before * a * c and now % (a * c) == 0:
                    return symbol * another * (now // (a * c))
        # With an extent of 1 as the sample nothing could be concluded from it.
        made = self.sizes.symbol(
            now if now > 1 else before, max(_LEAST_LIMIT, _ROOM * max(now, before))
        )
        self._pairs.append((now, before, made))
        self.symbols.append(place)
        return made


def _refuse_slow(name: str, made: object) -> None:
    """Stop a compilation whose program had better not be shared, before kernels are built."""
    if isinstance(made, Schedule) and not is_worth_sharing(made):
        raise NoSymbols("what large contractions or rows need to know differs")


def _getter(places: Sequence[int]) -> Callable[[Column], Column]:
    """The numbers at some places of a column, as a tuple."""
    if not places:
        return lambda column: ()
    if len(places) == 1:
        return lambda column: (column[places[0]],)
    return itemgetter(*places)
