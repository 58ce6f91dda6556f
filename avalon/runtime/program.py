"""A program: a plan that is loaded, and the short way from Python into it.

Comes in: a `Plan`; at each call buffers and numbers. Goes out: fresh buffers with the results.
Guaranteed: everything that does not change between calls was written into native tables before;
calls from several threads run side by side, each with tables and an arena of its own; a call may
be left to the workers, and ended later; one whose check fails raises and leaves its inputs as they
were.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns

from avalon.errors import IndexOutOfRange
from avalon.runtime import interrupts, library, memory, report, threads
from avalon.runtime.buffer import Buffer
from avalon.runtime.driver_tables import PAUSED
from avalon.runtime.frame import Frame, Parts
from avalon.runtime.plan import Kernel, Plan, check
from avalon.runtime.profile import Profile, limits_here, time_launches, trace_launches
from avalon.runtime.series import Series
from avalon.runtime.shares import estimate_all
from avalon.runtime.values import Values
from avalon.settings import settings

_MANY = 256  # calls of a series of which some are made to see how they go faster
_TRIED = 4


class Program:
    """A loaded plan.

    Attributes:
        plan: what was loaded.
        arena_bytes: memory for temporaries that a call takes from the pool, scratch not counted.
        compile_seconds: what compiling took, building and loading the kernels included.
        built: how many kernels had to be built, not found in a cache.
        donations: pairs (output, input) that may share memory if the input is donated.
        output_bytes: the size of each output.
        driver: runs its frames.
        values: the order of what a call is given.
        written_late: the outputs that are written after all checks have passed.
        copies: outputs that no launch writes, and what is copied there after the launches.
    """

    def __init__(
        self,
        plan: Plan,
        machine: library.Machine | None = None,
        started: float | None = None,
    ) -> None:
        """Load `plan` with kernels built for `machine` (this one by default). `started` says, by
        `time.perf_counter`, when the compiler began with it.

        Raises:
            ValueError: if the plan contradicts itself, or LLVM rejects a kernel.
        """
        check(plan)
        self.plan = plan
        self.machine: library.Machine = machine or library.host()
        self._library = library.load(plan.kernels.values(), self.machine, plan.name, started)
        self.built = self._library.built
        self.compile_seconds = self._library.seconds
        arena = memory.plan_arena(plan)
        self.arena_bytes = arena.nbytes
        self.donations = memory.safe_donations(plan)
        groups = memory.group_launches(plan, arena, self.donations)
        self.written_late = memory.written_after_checks(plan, groups)
        self._parts = Parts(
            plan,
            self._library.addresses,
            arena,
            groups,
            _constants(plan),
            Values(plan),
            self.written_late | {output for output, _ in self.donations},
        )
        self.values = self._parts.values
        self.copies = list(_copied_outputs(plan))
        self.output_bytes = [plan.buffers[number].nbytes for number in plan.outputs]
        self.driver = threads.load_driver()
        self._frames: list[Frame] = []
        self._nanoseconds = self._before = estimate_all(plan)
        self._ended = -(10**15)  # when the last call did
        self._pace = 0  # nanoseconds of a call in the last series

    def run(
        self,
        inputs: Sequence[Buffer | float],
        donated: Collection[int] = (),
        spare: Mapping[int, Buffer] | None = None,
    ) -> list[Buffer]:
        """Run the program and return its outputs.

        Args:
            inputs: a buffer for each tensor input, a Python number for each scalar one.
            donated: positions of inputs that nobody else holds; an output that the plan allows may
                take over such a buffer, which then is the returned object.
            spare: by output, memory of its size that nobody needs any more once all checks have
                passed; where the output is written later, it lies there.

        Raises:
            IndexOutOfRange: if a check of the program fails; no input has changed then.
            ValueError: if a buffer is smaller than its input, or the number of inputs is wrong.
            TypeError: for a number in a buffer's place, or the reverse.
        """
        frame, _arena, outputs = self._lay_out(inputs, donated, spare)
        failed = self.launch(frame)
        try:
            return self._completed(frame, failed, inputs, outputs)
        except BaseException as interruption:  # what was donated is written over: no way back
            if failed:
                raise
            interrupts.late.append(interruption)
            return self._completed(frame, failed, inputs, outputs)

    def begin(
        self, inputs: Sequence[Buffer | float], donated: Collection[int] = ()
    ) -> tuple[list[Buffer], Callable[[], object] | None]:
        """As `run`, but leave the work to the workers if that is worth it: then what the outputs
        hold is there when the function that is returned with them was called, which may raise what
        `run` raises. Who is interrupted there may call it again.
        """
        frame, arena, outputs = self._lay_out(inputs, donated, None)
        flight = None
        cost = self._nanoseconds
        endless = any(loop.limit >= 0 for loop in self.plan.loops)  # it would run on at the exit
        if frame.threads > 1 and cost > threads.WORTHWHILE_LEAVING_NANOSECONDS and not endless:
            held = frame, arena, inputs, outputs
            release = cost > threads.RELEASE_NANOSECONDS
            flight = threads.Flight.begin(threads.workers(), frame.address, release, held)
        if flight is None:
            return self._completed(frame, self.launch(frame), inputs, outputs), None
        land = flight.land
        return outputs, lambda: self._completed(frame, land(), inputs, outputs)

    def _lay_out(
        self,
        inputs: Sequence[Buffer | float],
        donated: Collection[int],
        spare: Mapping[int, Buffer] | None,
    ) -> tuple[Frame, Buffer, list[Buffer]]:
        """A frame whose table is filled in for a call, and the arena and the outputs in it."""
        frames, values = self._frames, self.values
        try:
            frame = frames.pop()
        except IndexError:
            frame = self.new_frame()
        if frame.threads != settings.threads or frame.flush is not settings.flush_denormals:
            frame = self.new_frame()
        frame.write_over(bool(spare or donated))
        arena = Buffer.arena(frame.arena_bytes)
        try:
            # All of this is done once a call for each input and output: no function, no branch.
            held = [inputs[i] for i in values.buffers] if values.scalars else inputs
            addresses = [buffer.address for buffer in held]  # type: ignore[union-attr]
            if [buffer.nbytes for buffer in held] != values.sizes:  # type: ignore[union-attr]
                raise TypeError
            if spare or (donated and self.donations):
                outputs = self._lay_outputs(self.output_bytes, inputs, addresses, donated, spare)
            else:
                outputs = [Buffer(nbytes) for nbytes in self.output_bytes]
            values.pack(
                frame.table,
                0,
                arena.address,
                *addresses,
                *[inputs[i] for i in values.scalars],
                *[buffer.address for buffer in outputs],
            )
        except (struct.error, OverflowError, AttributeError, IndexError, TypeError):
            outputs = [Buffer(nbytes) for nbytes in self.output_bytes]
            values.write_carefully(frame.table, arena, inputs, outputs)
        return frame, arena, outputs

    def _completed(
        self, frame: Frame, failed: int, inputs: Sequence[Buffer | float], outputs: list[Buffer]
    ) -> list[Buffer]:
        """What a call gives whose launches ended with this status."""
        if failed:
            raise self.failure(frame, failed)
        for position, origin in self.copies:
            self._copy(position, origin, inputs, outputs)
        if frame not in self._frames:  # as it is if somebody was interrupted here, and asks again
            self._frames.append(frame)
        return outputs

    def profile(self, inputs: Sequence[Buffer | float], repeat: int = 5) -> Profile:
        """Time each launch by itself on one thread, and a call on all; print the result to see
        where time goes, or write its `trace`.

        Raises:
            IndexOutOfRange: if a check of the program fails for these inputs.
        """
        frame = self.new_frame()
        arena = Buffer.arena(frame.arena_bytes)
        outputs = [Buffer(nbytes) for nbytes in self.output_bytes]
        self.values.write_carefully(frame.table, arena, inputs, outputs)
        failed = self._run_alone(frame, release=True)
        if failed:
            raise self.failure(frame, failed)
        timings = time_launches(self.plan, frame, arena.address, repeat)
        spans = trace_launches(self.plan, frame, arena.address)
        return Profile(
            self.plan.name,
            timings,
            self._seconds(inputs, repeat),
            frame.threads,
            limits_here(),
            spans,
        )

    def _seconds(self, inputs: Sequence[Buffer | float], repeat: int) -> float:
        """What a call takes, the fastest of some."""
        best = float("inf")
        for _ in range(repeat):
            started = perf_counter_ns()
            self.run(inputs)
            best = min(best, (perf_counter_ns() - started) / 1e9)
        return best

    @property
    def kernels(self) -> Mapping[str, KernelView]:
        """The kernels by symbol; each can be read as `text`, `assembly` and `loops`."""
        return {
            symbol: KernelView(kernel, self.machine) for symbol, kernel in self.plan.kernels.items()
        }

    @property
    def groups(self) -> Sequence[int]:
        """The group of each launch: a barrier lies between groups, none inside."""
        return tuple(self._parts.groups)

    def __str__(self) -> str:
        return report.describe(
            self.plan, self.groups, self.arena_bytes, self.built, self.compile_seconds
        )

    def __repr__(self) -> str:
        plan = self.plan
        return f"<Program {plan.name}: {len(plan.launches)} launches, tier {plan.tier}>"

    def launch(self, frame: Frame) -> int:
        """Run with a frame whose table is filled in; the number of the failed check, or 0."""
        if interrupts.late:  # the last call's results were asked for by nobody who raises it
            interrupts.raise_late()
        cost = self._nanoseconds  # of a lone thread
        started = perf_counter_ns()
        gain = 0.0
        if not self._gain(frame, started - self._ended < threads.CLOSE_NANOSECONDS):
            failed = self._run_alone(frame, cost > threads.RELEASE_NANOSECONDS)
        else:
            failed, gain = self._run_shared(frame, cost)
        try:
            self._ended = perf_counter_ns()
            self._note_time(int((self._ended - started) / (1 - gain)))
        except BaseException as interruption:  # the run has ended
            interrupts.late.append(interruption)
        return failed

    def launch_series(self, frame: Frame, series: Series) -> int:
        """Make the calls of a series with a frame whose table is filled in but for their words; the
        number of the failed check, or 0.
        """
        workers = threads.workers() if frame.gain > 0 else None
        if workers is not None:
            workers.land()
        if workers is None or not workers.lock.acquire(blocking=False):
            return self._go_on(frame, series, series.count, 0)
        try:
            return self._choose_and_go_on(frame, series, workers.address)
        finally:
            workers.lock.release()

    def _choose_and_go_on(self, frame: Frame, series: Series, pool: int) -> int:
        """Make the calls of a series alone or with the workers of `pool`. Where there are many, the
        first ones are made both ways, to see which is faster.
        """
        shares = self._gain(frame, close=True) > 0
        if series.count >= _MANY:
            paces = []
            for way in (0, pool):
                for _ in range(2):  # those that wake the workers do not count
                    failed = self._go_on(frame, series, series.done + _TRIED, way)
                    if failed:
                        return failed
                paces.append(self._pace)
            shares = paces[1] < paces[0]
        return self._go_on(frame, series, series.count, pool if shares else 0)

    def _go_on(self, frame: Frame, series: Series, stop: int, pool: int) -> int:
        """Make the calls of a series before number `stop`, with the workers of `pool` if it is not
        0; the number of the failed check, or 0.
        """
        before = series.done
        series.stop = stop
        release = (stop - before) * self._nanoseconds > threads.RELEASE_NANOSECONDS
        started = perf_counter_ns()
        run = self.driver.run_series[release]
        try:
            failed = run(pool, frame.address, series.address)
            while failed == PAUSED:
                failed = run(pool, frame.address, series.address)
        except BaseException as interruption:
            failed = self.interrupted(frame, interruption, pool)
        self._ended = perf_counter_ns()
        self._pace = (self._ended - started) // max(series.done - before, 1)
        if not pool:
            self._note_time(self._pace)
        return failed

    def _gain(self, frame: Frame, close: bool) -> float:
        """The share of its time that a call saves if the workers help, or 0 if that does not pay.
        `close`: whether it follows closely on another one.
        """
        worthwhile = (
            threads.WORTHWHILE_AWAKE_NANOSECONDS if close else threads.WORTHWHILE_NANOSECONDS
        )
        gain = frame.gain
        return gain if gain > 0 and self._nanoseconds * gain >= worthwhile else 0.0

    def _note_time(self, elapsed: int) -> None:
        """Note what a lone thread takes for a call, about."""
        # The lesser of two in a row: one that was interrupted does not count.
        self._nanoseconds = min(elapsed, self._before)
        self._before = elapsed

    def is_short(self, frame: Frame) -> bool:
        """Whether calls take so little time that no help is ever asked for, and no GIL released."""
        cost = self._nanoseconds
        saved = cost * frame.gain
        return (
            cost < threads.RELEASE_NANOSECONDS // 4
            and saved < threads.WORTHWHILE_AWAKE_NANOSECONDS // 2
        )

    def nanoseconds(self, frame: Frame) -> int:
        """What a call takes, about, if the workers help where it pays."""
        if self._pace:
            return min(self._pace, self._nanoseconds)
        return int(self._nanoseconds * (1 - self._gain(frame, close=True)))

    def new_frame(self) -> Frame:
        """Tables for one more call at the same time, with the present settings."""
        return Frame(self._parts, settings.threads, settings.flush_denormals)

    def _run_shared(self, frame: Frame, cost: int) -> tuple[int, float]:
        """Run with the workers' help; return the status and the share of time that saved."""
        workers = threads.workers()
        workers.land()
        release = cost > threads.RELEASE_NANOSECONDS
        if not workers.lock.acquire(blocking=False):
            # another call has the workers; waiting for it would take longer than going alone
            return self._run_alone(frame, release), 0.0
        address = workers.address
        try:
            status = self.driver.run_shared[release](address, frame.address)
            while status == PAUSED:
                status = self.driver.finish[True](address, frame.address)
        except BaseException as interruption:
            status = self.interrupted(frame, interruption, address)
        finally:
            try:
                workers.lock.release()
            except BaseException as interruption:  # of a handler that ran as the call returned
                interrupts.late.append(interruption)
        return status, frame.gain

    def _run_alone(self, frame: Frame, release: bool) -> int:
        """Run on this thread; the status."""
        try:
            status = self.driver.run_alone[release](frame.address)
            while status == PAUSED:
                status = self.driver.walk_alone(frame.address)
        except BaseException as interruption:
            status = self.interrupted(frame, interruption)
        return status

    def go_on(self, frame: Frame) -> int:
        """Go on, on this thread, with a run that has paused; the status."""
        try:
            status = PAUSED
            while status == PAUSED:
                status = self.driver.walk_alone(frame.address)
        except BaseException as interruption:
            status = self.interrupted(frame, interruption)
        return status

    def interrupted(self, frame: Frame, interruption: BaseException, pool: int = 0) -> int:
        """What to do with an exception that a signal's handler raised as a native call returned: if
        that has only paused, the run is given up; else it has ended, and this returns its status
        and keeps the exception for later. `pool`: of the workers that run it too.
        """
        if not frame.is_paused:
            interrupts.late.append(interruption)
            return frame.status
        if pool:
            frame.stop()
            while self.driver.finish[True](pool, frame.address) == PAUSED:
                pass
        frame.forget_pause()
        raise interruption

    def _lay_outputs(
        self,
        sizes: Sequence[int],
        inputs: Sequence[Buffer | float],
        addresses: Sequence[int],
        donated: Collection[int],
        spare: Mapping[int, Buffer] | None,
    ) -> list[Buffer]:
        """Output buffers of these sizes, where allowed donated inputs and spare memory."""
        if not spare and not (donated and self.donations):
            return [Buffer(nbytes) for nbytes in sizes]
        known = set(addresses)
        taken: dict[int, Buffer] = {}
        for output, buffer in (spare or {}).items():
            if (
                output in self.written_late
                and buffer.nbytes == sizes[output]
                and buffer.address not in known
                and not buffer.pinned
            ):
                taken[output] = buffer
        if len(known) == len(addresses):
            for output, position in self.donations:
                given = inputs[position]
                if position in donated and isinstance(given, Buffer) and not given.pinned:
                    taken[output] = given
        return [
            taken[output] if output in taken else Buffer(nbytes)
            for output, nbytes in enumerate(sizes)
        ]

    def _copy(
        self,
        position: int,
        origin: tuple[str, int],
        inputs: Sequence[Buffer | float],
        outputs: list[Buffer],
    ) -> None:
        kind, number = origin
        if kind == "constant":
            source: Buffer | float = self._parts.constants[number]
        else:
            source = inputs[number] if kind == "input" else outputs[number]
        assert isinstance(source, Buffer)
        ctypes.memmove(outputs[position].address, source.address, outputs[position].nbytes)

    def failure(self, frame: Frame, failed: int) -> IndexOutOfRange:
        """The error of the check that failed when `frame` ran."""
        number, value = failed - 1, frame.failed_value
        spec = self.plan.checks[number]
        return index_error(spec.message, spec.source, number, value)


@dataclass(frozen=True)
class KernelView:
    """One kernel of a loaded program, for reading."""

    kernel: Kernel
    machine: library.Machine

    @property
    def text(self) -> str:
        """Its LLVM text."""
        return self.kernel.text

    @property
    def assembly(self) -> str:
        """Its assembly, made on each request."""
        return library.assembly(self.kernel.text, self.machine)

    @property
    def loops(self) -> str:
        """The loops it was generated from, if the compiler wrote them down."""
        return self.kernel.loops


def index_error(message: str, source: str, number: int, value: int) -> IndexOutOfRange:
    """The error of check `number`, which met `value`."""
    where = f" (recorded at {source})" if source else ""
    error = IndexOutOfRange(message.format(value=value) + where)
    error.check, error.value = number, value
    return error


def _constants(plan: Plan) -> dict[int, Buffer]:
    return {
        number: Buffer.from_bytes(spec.data)
        for number, spec in enumerate(plan.buffers)
        if spec.role == "constant"
    }


def _copied_outputs(plan: Plan) -> Iterator[tuple[int, tuple[str, int]]]:
    """Outputs that no launch writes: an input or a constant handed out again, or a second time the
    same buffer. They are copied, for outputs belong to the caller alone.
    """
    positions = {spec.buffer: i for i, spec in enumerate(plan.inputs) if not spec.scalar}
    first: dict[int, int] = {}
    for position, number in enumerate(plan.outputs):
        role = plan.buffers[number].role
        if role == "input":
            yield position, ("input", positions[number])
        elif role == "constant":
            yield position, ("constant", number)
        elif first.setdefault(number, position) != position:
            yield position, ("output", first[number])
