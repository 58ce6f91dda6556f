"""What a program is made of before it is loaded: buffers, kernels, launches, in plain data.

Comes in: the compiler builds a `Plan`. Goes out: the runtime loads it; the cache writes it to disk.
Guaranteed: a plan holds no Python object of the session (numbers, strings and bytes only), so that
it can be stored; launches are in an order in which they can run.

Kernel ABI: `void symbol(ptr slots, i64 begin, i64 end, ptr scratch)`. `slots` points to 8-byte
slots, one per argument of the launch, in order: a buffer's address, a scalar's bits (integers sign-
extended to 64 bits, floats in the low bits at their own width), or an integer. The kernel does the
units [begin, end) of the launch's `work`; the runtime cuts [0, work) into chunks and gives them to
threads. `scratch` is that thread's private memory of `Kernel.scratch` bytes, 64-byte aligned. A
kernel that checks its data (indices, labels) has a `status` argument: the address of two int64
words, the number of the failed check plus one (0 means none) and the offending value. A failed
check ends the program at the next barrier, and the launches after it do not run.

A plan may serve many sizes: then `sizes` has the symbols, and what depends on them (bytes, work,
integers) are formulas, which are evaluated when a call says which sizes it has.

Memory that the runtime made is 64-byte aligned; an input may be foreign and only as aligned as its
elements. Units of one launch run in any order and at the same time, on several threads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from avalon.size import Sizes, hint


@dataclass(frozen=True)
class Kernel:
    """One native function: its symbol, its LLVM text, and the private memory that a thread needs.

    `loops` is what the text was generated from, in readable form, if the compiler wrote it down.
    """

    symbol: str
    text: str
    scratch: int = 0
    loops: str = ""


@dataclass(frozen=True)
class Argument:
    """What a slot holds: kind "buffer" (value: buffer number), "scalar" (value: input position),
    "integer" (value: the number itself), or "status" (value: unused).
    """

    kind: str
    value: int
    written: bool = False


@dataclass(frozen=True)
class Launch:
    """A kernel applied to arguments. `flops` and `bytes` are estimates for cutting and printing;
    `begin` is the arithmetic that beginning a chunk of units takes as long as.
    """

    kernel: str  # symbol
    arguments: tuple[Argument, ...]
    work: int  # number of parallel units; 1 runs on one thread
    flops: int = 0
    bytes: int = 0
    note: str = ""  # what it computes, in the names of the graph
    source: str = ""  # the user's "file:line" it came from
    origins: str = ""  # the layers and lines of all that it computes
    window: bool = False  # writes elements that no other launch of this kind writes
    begin: int = 0


@dataclass(frozen=True)
class BufferSpec:
    """A buffer of a program. `role`: "input" or "output" (position says which), "temporary" (lives
    from its first to its last launch in the arena), "constant" (holds `data`) or "window": a part
    of the buffer `base` that moves on by `stride` bytes with the rounds of the loop at `depth`:
    "forward", "backward" (the last part comes first), or "now" and "next" (the parity of the round,
    and of the one after it).
    """

    nbytes: int
    dtype: str
    shape: tuple[int, ...]
    role: str
    position: int = -1
    data: bytes = b""
    base: int = -1
    mode: str = ""
    stride: int = 0
    depth: int = 0


@dataclass(frozen=True)
class InputSpec:
    """An input of a program: a buffer, or a scalar handed over as a Python number."""

    shape: tuple[int, ...]
    dtype: str
    scalar: bool
    buffer: int = -1  # buffer number, for inputs that are not scalars


@dataclass(frozen=True)
class CheckSpec:
    """A check inside a program: its message (with `{value}`) and the user's line it came from."""

    message: str
    source: str


@dataclass(frozen=True)
class LoopSpec:
    """A loop around the launches from `begin` up to `end`, `depth` loops inside others. The number
    of rounds is `rounds`, or what the int64 in the buffer `limit` says (the launches may change
    it).
    """

    begin: int
    end: int
    depth: int
    rounds: int
    limit: int = -1


@dataclass
class Plan:
    """A whole program."""

    name: str
    tier: str  # "cold", "hot" or "plain"
    inputs: list[InputSpec] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)  # buffer numbers
    buffers: list[BufferSpec] = field(default_factory=list)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)
    checks: list[CheckSpec] = field(default_factory=list)
    # (output position, input position): the output may be computed in the input's memory when the
    # caller holds the only reference to it
    donations: list[tuple[int, int]] = field(default_factory=list)
    loops: list[LoopSpec] = field(default_factory=list)  # the outer ones first
    sizes: Sizes | None = None

    def base(self, buffer: int) -> int:
        """The buffer whose memory a buffer lies in: itself, but for windows."""
        while self.buffers[buffer].role == "window":
            buffer = self.buffers[buffer].base
        return buffer

    def rounds(self) -> list[int]:
        """How often each launch runs, about: what is decided on the way counts once."""
        found = [1] * len(self.launches)
        for loop in self.loops:
            for position in range(loop.begin, loop.end):
                found[position] *= hint(loop.rounds) if loop.limit < 0 else 1
        return found


def check(plan: Plan) -> None:
    """Look for contradictions, such as an output that no launch writes.

    Raises:
        ValueError: naming the first one.
    """
    written = {plan.base(a.value) for x in plan.launches for a in x.arguments if a.written}
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
        if role == "window":
            raise ValueError(f"[program] output buffer {number} is a part of another one")
        if role == "output" and number not in written and plan.buffers[number].nbytes:
            raise ValueError(f"[program] no launch writes output buffer {number}")
    for number, spec in enumerate(plan.buffers):
        if spec.role == "constant" and len(spec.data) != spec.nbytes:
            raise ValueError(f"[program] constant {number} holds {len(spec.data)} bytes")
        if spec.role == "window" and not 0 <= spec.base < number:
            raise ValueError(f"[program] buffer {number} is a part of {spec.base}, made after it")
        if spec.role == "output" and number not in plan.outputs:
            raise ValueError(f"[program] buffer {number} is declared an output and is none")
