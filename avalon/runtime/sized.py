"""A program for many sizes: the numbers that depend on them are worked out at each call.

Comes in: a `Plan` whose bytes, work and integers are formulas over symbols; at each call the
symbols' values, buffers and numbers. Goes out: fresh buffers with the results. Guaranteed: the bits
of the program that is compiled for those sizes alone; values that the plan's conditions exclude are
told apart by `serves`, before anything runs.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from avalon.runtime import library
from avalon.runtime.buffer import Buffer
from avalon.runtime.frame import Frame
from avalon.runtime.plan import Argument, CheckSpec, Plan
from avalon.runtime.program import Program
from avalon.runtime.values import scalar_bits
from avalon.settings import settings
from avalon.size import Known, Size, hint

_REMEMBERED = 64  # calls' sizes whose numbers are kept

Symbols = tuple[int, ...]


class SizedProgram(Program):
    """A loaded plan with symbols. `serves` tells whether values of the symbols are possible."""

    serves: Callable[..., bool]

    def __init__(
        self,
        plan: Plan,
        machine: library.Machine | None = None,
        started: float | None = None,
    ) -> None:
        super().__init__(plan, machine, started)
        assert plan.sizes is not None
        self._sizes = plan.sizes
        self._input_bytes: list[Known] = list(self.values.sizes)
        self._load: Known = sum(launch.flops + 5 * launch.bytes + 4000 for launch in plan.launches)
        self._evaluators: dict[int, Callable[..., Symbols]] = {}
        self._evaluated: OrderedDict[tuple[int, Symbols], Symbols] = OrderedDict()
        self._latest_load: int = max(hint(self._load), 1)
        self._formulas: list[Size] = []
        self._plan_evaluator: Callable[..., Symbols] | None = None
        self.serves = plan.sizes.condition()

    def at(self, symbols: Symbols, constants: Sequence[float], texts: Mapping[str, str]) -> Program:
        """The program for one choice of sizes, of the same kernels. `constants` are the values of
        the last inputs, `texts` what its checks say instead of the plan's messages.
        """
        return Program(
            fixed(self.plan, self._plan_numbers(symbols), constants, texts), self.machine
        )

    def _plan_numbers(self, symbols: Symbols) -> dict[Size, int]:
        """The value of each formula in the plan."""
        if self._plan_evaluator is None:
            self._formulas = list(dict.fromkeys(_formulas_of(self.plan)))
            self._plan_evaluator = self._sizes.function(self._formulas)
        return dict(zip(self._formulas, self._plan_evaluator(*symbols), strict=True))

    def run_sized(
        self,
        symbols: Symbols,
        inputs: Sequence[Buffer | float],
        donated: Collection[int] = (),
        spare: Mapping[int, Buffer] | None = None,
    ) -> list[Buffer]:
        """As `Program.run`, for sizes that it serves."""
        values = self.values
        try:
            frame = self._frames.pop()
        except IndexError:
            frame = self.new_frame()
        if frame.threads != settings.threads or frame.flush is not settings.flush_denormals:
            frame = self.new_frame()
        frame.write_over(bool(spare or donated))
        evaluated = self._evaluated.get((frame.threads, symbols))
        if evaluated is None:
            evaluated = self._evaluate(frame, symbols)
        first, last = (
            2 + len(self._input_bytes),
            2 + len(self._input_bytes) + len(self.output_bytes),
        )
        arena = Buffer(evaluated[0])
        try:
            held = [inputs[i] for i in values.buffers] if values.scalars else inputs
            addresses = [buffer.address for buffer in held]  # type: ignore[union-attr]
            if (*[buffer.nbytes for buffer in held],) != evaluated[2:first]:  # type: ignore[union-attr]
                raise TypeError
            outputs = self._lay_outputs(evaluated[first:last], inputs, addresses, donated, spare)
            values.pack(
                frame.table, 0, arena.address, *addresses, *[inputs[i] for i in values.scalars],
                *[buffer.address for buffer in outputs],
            )  # fmt: skip
        except (struct.error, OverflowError, AttributeError, IndexError, TypeError):
            outputs = [Buffer(nbytes) for nbytes in evaluated[first:last]]
            values.write_carefully(frame.table, arena, inputs, outputs, evaluated[2:first])
        words = evaluated[last:]
        struct.pack_into(f"<{len(words)}q", frame.table, 8 * values.count, *words)
        self._expect(evaluated[1])
        failed = self.launch(frame)
        if failed:
            raise self.failure(frame, failed)
        self._frames.append(frame)
        for position, origin in self.copies:
            self._copy(position, origin, inputs, outputs)
        return outputs

    def _expect(self, load: int) -> None:
        """Scale the times of the calls before to what this one has to do, which may be nothing."""
        load = max(load, 1)
        factor = load / self._latest_load
        self._latest_load = load
        self._nanoseconds = int(self._nanoseconds * factor)
        self._before = int(self._before * factor)

    def _evaluate(self, frame: Frame, symbols: Symbols) -> Symbols:
        """Bytes of the arena, load, bytes of the inputs and outputs, and the words of the table."""
        evaluator = self._evaluators.get(frame.threads)
        if evaluator is None:
            wanted = [frame.arena_bytes, self._load, *self._input_bytes, *self.output_bytes]
            evaluator = self._sizes.function([*wanted, *frame.formulas])
            self._evaluators[frame.threads] = evaluator
        found = self._evaluated[frame.threads, symbols] = evaluator(*symbols)
        if len(self._evaluated) > _REMEMBERED:
            self._evaluated.popitem(last=False)
        return found


def _formulas_of(plan: Plan) -> Iterator[Size]:
    numbers: list[Any] = []
    for launch in plan.launches:
        numbers += (launch.work, launch.flops, launch.bytes)
        numbers += [argument.value for argument in launch.arguments]
    for spec in plan.buffers:
        numbers += (spec.nbytes, spec.stride, *spec.shape)
    numbers += [loop.rounds for loop in plan.loops]
    for given in plan.inputs:
        numbers += given.shape
    return (number for number in numbers if isinstance(number, Size))


def fixed(
    plan: Plan, numbers: Mapping[Size, int], constants: Sequence[float], texts: Mapping[str, str]
) -> Plan:
    """The plan with numbers in the place of formulas, and without the last inputs, which have the
    values `constants`.
    """

    def known(number: Any) -> Any:
        return numbers[number] if isinstance(number, Size) else number

    kept = len(plan.inputs) - len(constants)

    def settled(argument: Argument) -> Argument:
        if argument.kind == "scalar" and argument.value >= kept:
            bits = scalar_bits(constants[argument.value - kept], plan.inputs[argument.value].dtype)
            return Argument("integer", bits - (1 << 64) if bits >> 63 else bits)
        return replace(argument, value=known(argument.value))

    return replace(
        plan,
        inputs=[replace(spec, shape=tuple(map(known, spec.shape))) for spec in plan.inputs[:kept]],
        buffers=[
            replace(
                spec,
                nbytes=known(spec.nbytes),
                stride=known(spec.stride),
                shape=tuple(map(known, spec.shape)),
            )
            for spec in plan.buffers
        ],
        loops=[replace(loop, rounds=known(loop.rounds)) for loop in plan.loops],
        launches=[
            replace(
                launch,
                arguments=tuple(map(settled, launch.arguments)),
                work=known(launch.work),
                flops=known(launch.flops),
                bytes=known(launch.bytes),
            )
            for launch in plan.launches
        ],
        checks=[
            CheckSpec(texts.get(check.message, check.message), check.source)
            for check in plan.checks
        ],
        sizes=None,
    )
