"""A program: a plan that is loaded, and the short way from Python into it.

Comes in: a `Plan`; at each call buffers and numbers. Goes out: fresh buffers with the results.
Guaranteed: everything that does not change between calls was written into native tables before;
calls from several threads run side by side, each with tables and an arena of its own; a call whose
check fails raises and leaves its inputs as they were.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns

from avalon import dtype
from avalon.errors import IndexOutOfRange
from avalon.runtime import driver, library, memory, report, threads
from avalon.runtime.buffer import Buffer
from avalon.runtime.plan import Argument, Kernel, Launch, Plan
from avalon.settings import settings

_CHUNKS_PER_THREAD = 6
_CHUNK_NANOSECONDS = 2_000  # a smaller chunk costs more to claim than it gains
# What a core does in a nanosecond, for first guesses only; then calls are timed.
_FLOPS_PER_NANOSECOND = 40
_BYTES_PER_NANOSECOND = 8
_LAUNCH_NANOSECONDS = 100

_WORD = 8
_SLOT_FORMATS = {
    "bool": "?7x", "float16": "e6x", "float32": "f4x", "float64": "d",
    "uint32": "Q", "uint64": "Q", "bfloat16": "H6x",
}  # fmt: skip


class Program:
    """A loaded plan.

    Attributes:
        plan: what was loaded.
        arena_bytes: memory for temporaries that a call takes from the pool, scratch not counted.
        compile_seconds: what compiling took, building and loading the kernels included.
        built: how many kernels had to be built, not found in a cache.
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
        self._driver = threads.load_driver()
        self.built = self._library.built
        self.compile_seconds = self._library.seconds
        self._arena = memory.plan_arena(plan)
        self.arena_bytes = self._arena.nbytes
        self._donations = memory.safe_donations(plan)
        self._groups = memory.group_launches(plan, self._arena, self._donations)
        self._constants = {
            number: Buffer.from_bytes(spec.data)
            for number, spec in enumerate(plan.buffers)
            if spec.role == "constant"
        }
        self._values = _Values(plan)
        self._copies = list(_copied_outputs(plan))
        self._output_bytes = [plan.buffers[number].nbytes for number in plan.outputs]
        self._input_bytes = [
            (position, plan.buffers[spec.buffer].nbytes)
            for position, spec in enumerate(plan.inputs)
            if not spec.scalar
        ]
        self._scalars = [i for i, spec in enumerate(plan.inputs) if spec.scalar]
        self._frames: list[_Frame] = []
        self._nanoseconds = self._before = sum(map(_estimate, plan.launches))

    def run(self, inputs: Sequence[Buffer | float], donated: Collection[int] = ()) -> list[Buffer]:
        """Run the program and return its outputs.

        Args:
            inputs: a buffer for each tensor input, a Python number for each scalar one.
            donated: positions of inputs that nobody else holds; an output that the plan allows may
                take over such a buffer, which then is the returned object.

        Raises:
            IndexOutOfRange: if a check of the program fails; no input has changed then.
            ValueError: if a buffer is smaller than its input, or the number of inputs is wrong.
        """
        frames = self._frames
        frame = frames.pop() if frames else _Frame(self)
        if frame.threads != settings.threads or frame.flush is not settings.flush_denormals:
            frame = _Frame(self)
        arena = Buffer(frame.arena_bytes)
        if donated and self._donations:
            outputs = self._outputs_over(inputs, donated)
        else:
            outputs = [Buffer(nbytes) for nbytes in self._output_bytes]
        try:
            for position in self._scalars:
                if isinstance(inputs[position], Buffer):
                    raise TypeError("a buffer in a scalar's place")
            for position, nbytes in self._input_bytes:
                if inputs[position].nbytes < nbytes:  # type: ignore[union-attr]
                    raise ValueError(self._too_small(position, inputs[position]))
            frame.pack(
                frame.values,
                0,
                arena.address,
                *[x.address if isinstance(x, Buffer) else x for x in inputs],
                *[x.address for x in outputs],
            )
        except (struct.error, OverflowError, AttributeError, IndexError, TypeError):
            self._values.write_carefully(frame.values, arena, inputs, outputs)
        estimate = self._nanoseconds
        started = perf_counter_ns()
        if estimate < threads.SHARE_NANOSECONDS or frame.threads == 1:
            failed = self._driver.run_alone[estimate > threads.RELEASE_NANOSECONDS](frame.address)
            elapsed = perf_counter_ns() - started
        else:
            failed, parts = self._run_shared(frame, estimate)
            elapsed = (perf_counter_ns() - started) * parts
        # The lesser of two calls in a row: one that was interrupted does not count.
        self._nanoseconds = min(elapsed, self._before)
        self._before = elapsed
        if failed:
            raise self._failure(frame, failed)
        frames.append(frame)
        for position, source in self._copies:
            self._copy(position, source, inputs, outputs)
        return outputs

    @property
    def kernels(self) -> Mapping[str, KernelView]:
        """The kernels by symbol; each can be read as `text`, `assembly` and `loops`."""
        return {
            symbol: KernelView(kernel, self.machine) for symbol, kernel in self.plan.kernels.items()
        }

    @property
    def groups(self) -> Sequence[int]:
        """The group of each launch: a barrier lies between groups, none inside."""
        return tuple(self._groups)

    def __str__(self) -> str:
        return report.describe(
            self.plan, self._groups, self.arena_bytes, self.built, self.compile_seconds
        )

    def __repr__(self) -> str:
        plan = self.plan
        return f"<Program {plan.name}: {len(plan.launches)} launches, tier {plan.tier}>"

    def _run_shared(self, frame: _Frame, estimate: int) -> tuple[int, int]:
        """Run with the workers' help; return the status and how many threads there were."""
        workers = threads.workers()
        release = estimate > threads.RELEASE_NANOSECONDS
        if not workers.lock.acquire(blocking=False):
            # another call has the workers; waiting for it would take longer than going alone
            return self._driver.run_alone[release](frame.address), 1
        try:
            run = self._driver.run_shared[release]
            return run(workers.address, frame.address), frame.threads
        finally:
            workers.lock.release()

    def _outputs_over(
        self, inputs: Sequence[Buffer | float], donated: Collection[int]
    ) -> list[Buffer]:
        """Output buffers, where allowed those of donated inputs."""
        held = [inputs[position] for position, _ in self._input_bytes]
        once = len(set(map(id, held))) == len(held)
        taken: dict[int, Buffer] = {}
        for output, position in self._donations:
            given = inputs[position]
            if (
                once
                and position in donated
                and isinstance(given, Buffer)
                and not given.pinned
                and given.nbytes == self._output_bytes[output]
            ):
                taken[output] = given
        return [taken.get(i) or Buffer(nbytes) for i, nbytes in enumerate(self._output_bytes)]

    def _copy(
        self,
        position: int,
        source: tuple[str, int],
        inputs: Sequence[Buffer | float],
        outputs: list[Buffer],
    ) -> None:
        kind, number = source
        origin: Buffer | float
        if kind == "input":
            origin = inputs[number]
        else:
            origin = outputs[number] if kind == "output" else self._constants[number]
        assert isinstance(origin, Buffer)
        ctypes.memmove(outputs[position].address, origin.address, self._output_bytes[position])

    def _failure(self, frame: _Frame, failed: int) -> IndexOutOfRange:
        number, value = failed - 1, frame.failed_value()
        self._frames.append(frame)
        check = self.plan.checks[number]
        where = f" (recorded at {check.source})" if check.source else ""
        error = IndexOutOfRange(check.message.format(value=value) + where)
        error.check, error.value = number, value
        return error

    def _too_small(self, position: int, given: object) -> str:
        spec = self.plan.inputs[position]
        return (
            f"[program] input {position} of {self.plan.name} is {spec.shape} of {spec.dtype} and "
            f"needs {self.plan.buffers[spec.buffer].nbytes} bytes, got {given!r}"
        )


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


def check(plan: Plan) -> None:
    """Raise ValueError if the plan contradicts itself, say by an output that nobody writes."""
    written = {a.value for x in plan.launches for a in x.arguments if a.written}
    for launch in plan.launches:
        if launch.kernel not in plan.kernels:
            raise ValueError(f"[program] {plan.name} launches {launch.kernel}, which it lacks")
        for argument in launch.arguments:
            if argument.kind == "buffer" and not 0 <= argument.value < len(plan.buffers):
                raise ValueError(f"[program] {launch.kernel} names buffer {argument.value}")
            if argument.kind == "scalar" and not plan.inputs[argument.value].scalar:
                raise ValueError(f"[program] {launch.kernel}: input {argument.value} is no scalar")
            if argument.kind == "status" and not plan.checks:
                raise ValueError(f"[program] {launch.kernel} has a status but no check")
    for number in plan.outputs:
        role = plan.buffers[number].role
        if role == "temporary":
            raise ValueError(f"[program] output buffer {number} is declared a temporary")
        if role == "output" and number not in written and plan.buffers[number].nbytes:
            raise ValueError(f"[program] no launch writes output buffer {number}")
    for number, spec in enumerate(plan.buffers):
        if spec.role == "constant" and len(spec.data) != spec.nbytes:
            raise ValueError(f"[program] constant {number} holds {len(spec.data)} bytes")
        if spec.role == "output" and number not in plan.outputs:
            raise ValueError(f"[program] buffer {number} is declared an output and is none")


class _Values:
    """The order and the formats in which a call's addresses and scalars are handed to the driver:
    the arena, the inputs, the outputs.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        formats = [
            _SLOT_FORMATS.get(spec.dtype, "q") if spec.scalar else "Q" for spec in plan.inputs
        ]
        layout = struct.Struct("<Q" + "".join(formats) + "Q" * len(plan.outputs))
        rounded = any(spec.scalar and spec.dtype == "bfloat16" for spec in plan.inputs)
        self.pack: Callable[..., None] = _refuse if rounded else layout.pack_into
        self.count = 1 + len(plan.inputs) + len(plan.outputs)
        # where a buffer's address stands; of several positions the first
        self.of_buffer: dict[int, int] = {}
        for position, number in enumerate(plan.outputs):
            if plan.buffers[number].role == "output":
                self.of_buffer.setdefault(number, 1 + len(plan.inputs) + position)
        for position, spec in enumerate(plan.inputs):
            if not spec.scalar:
                self.of_buffer.setdefault(spec.buffer, 1 + position)

    def of_scalar(self, position: int) -> int:
        return 1 + position

    def write_carefully(
        self,
        target: ctypes.Array[ctypes.c_char],
        arena: Buffer,
        inputs: Sequence[Buffer | float],
        outputs: Sequence[Buffer],
    ) -> None:
        """Write values that the plain way refuses: numbers beyond their type's range, bfloat16."""
        plan = self._plan
        if len(inputs) != len(plan.inputs):
            raise ValueError(
                f"[program] {plan.name} takes {len(plan.inputs)} inputs, got {len(inputs)}"
            )
        words = [arena.address]
        for position, (spec, given) in enumerate(zip(plan.inputs, inputs, strict=True)):
            if spec.scalar != (not isinstance(given, Buffer)):
                kind = "a number" if spec.scalar else "a buffer"
                raise TypeError(
                    f"[program] input {position} of {plan.name} is {kind}, got {given!r}"
                )
            words.append(
                given.address if isinstance(given, Buffer) else scalar_bits(given, spec.dtype)
            )
        words.extend(output.address for output in outputs)
        struct.pack_into(f"<{len(words)}Q", target, 0, *words)


def _refuse(*_: object) -> None:
    raise struct.error("bfloat16 has no format of its own")


def scalar_bits(number: float, dtype_name: str) -> int:
    """Return the slot word of a Python number: a float's bits at its own width, an integer wrapped
    to its width and sign-extended to 64 bits.
    """
    kind = dtype.by_name(dtype_name)
    if kind is dtype.bool_:
        return int(bool(number))
    if kind.is_floating_point:
        if kind is dtype.bfloat16:
            bits = _bits("f", "I", float(number))
            if number != number:
                return 0x7FC0
            return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        wide, narrow = {2: ("e", "H"), 4: ("f", "I"), 8: ("d", "Q")}[kind.itemsize]
        return _bits(wide, narrow, float(number))
    width = 8 * kind.itemsize
    wrapped = int(number) & ((1 << width) - 1)
    if kind.is_signed and wrapped >> (width - 1):
        wrapped -= 1 << width
    return wrapped & (2**64 - 1)


def _bits(wide: str, narrow: str, number: float) -> int:
    try:
        packed = struct.pack(f"<{wide}", number)
    except OverflowError:  # rounds to infinity
        packed = struct.pack(f"<{wide}", float("inf") if number > 0 else float("-inf"))
    return int(struct.unpack(f"<{narrow}", packed)[0])


class _Frame:
    """The native tables of one running call; a program has as many as calls that run at once."""

    def __init__(self, program: Program) -> None:
        plan, values = program.plan, program._values
        self.threads = max(1, settings.threads)
        self.flush = settings.flush_denormals
        slots = [len(launch.arguments) for launch in plan.launches]
        groups = [0] * (program._groups[-1] + 1 if program._groups else 0)
        for launch, group in zip(plan.launches, program._groups, strict=True):
            groups[group] += launch.work
        stride = memory.align(max((k.scratch for k in plan.kernels.values()), default=0))
        self.arena_bytes = stride * self.threads + program.arena_bytes
        patches: list[int] = []
        relocations: list[int] = []
        sections = _Sections()
        job = sections.add(driver.JOB_WORDS)
        launches = sections.add(driver.LAUNCH_WORDS * len(plan.launches))
        group_table = sections.add(driver.GROUP_WORDS * len(groups))
        status = sections.add(2)
        value_table = sections.add(values.count)
        slot_table = sections.add(sum(slots))
        patch_table = sections.add(2 * sum(slots))
        relocation_table = sections.add(2 * sum(slots))
        self._memory = Buffer(sections.words * _WORD)
        self.address = base = self._memory.address
        words = (ctypes.c_int64 * sections.words).from_address(base)
        ctypes.memset(base, 0, self._memory.nbytes)

        def address(section: int) -> int:
            return base + section * _WORD

        slot = 0
        for number, launch in enumerate(plan.launches):
            record = launches + number * driver.LAUNCH_WORDS
            words[record + driver.LAUNCH_FUNCTION] = program._library.addresses[launch.kernel]
            words[record + driver.LAUNCH_SLOTS] = address(slot_table + slot)
            words[record + driver.LAUNCH_WORK] = launch.work
            words[record + driver.LAUNCH_CHUNK] = chunk_units(launch, self.threads)
            words[record + driver.LAUNCH_GROUP] = program._groups[number]
            for argument in launch.arguments:
                kind, value = _place(program, argument, stride * self.threads)
                if kind == "value":
                    patches += (slot, value)
                elif kind == "arena":
                    relocations += (slot, value)
                else:
                    fixed = address(status) if kind == "status" else value
                    words[slot_table + slot] = fixed
                slot += 1
        for group, units in enumerate(groups):
            words[group_table + group * driver.GROUP_WORDS + driver.GROUP_TOTAL] = units
        for table, pairs in ((patch_table, patches), (relocation_table, relocations)):
            struct.pack_into(f"<{len(pairs)}q", words, table * _WORD, *pairs)
        header = {
            driver.JOB_LAUNCHES: address(launches),
            driver.JOB_LAUNCH_COUNT: len(plan.launches),
            driver.JOB_PATCHES: address(patch_table),
            driver.JOB_PATCH_COUNT: len(patches) // 2,
            driver.JOB_RELOCATIONS: address(relocation_table),
            driver.JOB_RELOCATION_COUNT: len(relocations) // 2,
            driver.JOB_SLOTS: address(slot_table),
            driver.JOB_VALUES: address(value_table),
            driver.JOB_GROUPS: address(group_table),
            driver.JOB_GROUP_COUNT: len(groups),
            driver.JOB_THREADS: self.threads,
            driver.JOB_SCRATCH_STRIDE: stride,
            driver.JOB_STATUS: address(status),
            driver.JOB_FLUSH: int(self.flush),
        }
        for word, content in header.items():
            words[job + word] = content
        self._words = words
        self._status = status
        self.pack: Callable[..., None] = values.pack
        self.values = (ctypes.c_char * (values.count * _WORD)).from_address(address(value_table))

    def failed_value(self) -> int:
        """The value that the failed check met."""
        return self._words[self._status + 1]


class _Sections:
    """Hands out places in a frame, in words, each on a cache line of its own."""

    def __init__(self) -> None:
        self.words = 0

    def add(self, words: int) -> int:
        start = self.words
        self.words += memory.align(words * _WORD) // _WORD
        return start


def chunk_units(launch: Launch, thread_count: int) -> int:
    """Units that a thread claims at a time: some chunks for each thread, none too small to pay."""
    chunks = thread_count * _CHUNKS_PER_THREAD
    if launch.flops or launch.bytes:
        chunks = min(chunks, max(1, _estimate(launch) // _CHUNK_NANOSECONDS))
    return max(1, -(-launch.work // chunks))


def _estimate(launch: Launch) -> int:
    """Nanoseconds that a launch may take on one thread."""
    arithmetic = launch.flops // _FLOPS_PER_NANOSECOND
    return _LAUNCH_NANOSECONDS + max(arithmetic, launch.bytes // _BYTES_PER_NANOSECOND)


def _place(program: Program, argument: Argument, arena_start: int) -> tuple[str, int]:
    """Where a slot's content comes from: ("value", index), ("arena", offset), ("fixed", word) or
    ("status", 0).
    """
    values = program._values
    if argument.kind == "status":
        return "status", 0
    if argument.kind == "integer":
        return "fixed", argument.value
    if argument.kind == "scalar":
        return "value", values.of_scalar(argument.value)
    if argument.value in values.of_buffer:
        return "value", values.of_buffer[argument.value]
    if argument.value in program._constants:
        return "fixed", program._constants[argument.value].address
    return "arena", arena_start + program._arena.offsets[argument.value]


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
