"""Instructions of one LLVM function, each written once and as far outside as it may stand.

Comes in: calls that name an instruction and its operands: numbers, what is in the slots, lanes of
vectors. Goes out: lines in the innermost open region. Guaranteed: an instruction that was already
written for the same operands is written once; one without side effects stands in front of the loops
that do not change its operands.
"""

from __future__ import annotations

from collections.abc import Sequence

from avalon import dtype as dtypes
from avalon.codegen.regions import Region
from avalon.codegen.target import Target
from avalon.codegen.values import (
    Index,
    Number,
    Pointer,
    Value,
    memory_type,
    number_text,
    suffix,
    type_text,
    wrap,
)
from avalon.dtype import DType


class Instructions:
    """Values in `void symbol(ptr slots, i64 begin, i64 end, ptr scratch)`.

    Attributes:
        begin, end: the units of work to do, int64 scalars.
        scratch: this thread's private memory.
    """

    def __init__(self, symbol: str, target: Target) -> None:
        self.symbol = symbol
        self.target = target
        self.begin = Value("%begin", dtypes.int64)
        self.end = Value("%end", dtypes.int64)
        self.scratch = Pointer("%scratch")
        self._counter = 0
        self._streams = False
        self._declared: set[str] = set()
        self._tables: dict[str, str] = {}  # definition -> name
        self._slots: dict[object, Value | Pointer] = {}
        # The slots are read first, whatever loop is open when a kernel first asks for one.
        self._prologue: list[str] = []
        first: list[str] = []
        self._sequence: list[list[str]] = [self._prologue, first]
        self._regions = [Region(False, first)]
        self._block = "entry"

    # Instructions

    @property
    def depth(self) -> int:
        return len(self._regions) - 1

    def label(self, stem: str) -> str:
        """A new label."""
        self._counter += 1
        return f"{stem}{self._counter}"

    def write(self, line: str) -> None:
        """Append an instruction that must stay where it is."""
        self._regions[-1].body.append(line)

    def pure(self, dtype: DType, lanes: int, text: str, *operands: Value | Pointer) -> Value:
        """An instruction without side effects; reused if it was written before, put in front of the
        loops that leave its operands alone.
        """
        depth = self._home(operands)
        known = self._known(text, depth)
        if isinstance(known, Value) and known.dtype is dtype:
            return known
        self._counter += 1
        value = Value(f"%v{self._counter}", dtype, lanes, None, depth)
        region = self._regions[depth]
        region.body.append(f"%v{self._counter} = {text}")
        region.seen[text] = value
        return value

    def _known(self, text: str, depth: int) -> Value | Pointer | None:
        """What an instruction gave that was written in a region around `depth`."""
        for region in self._regions[: depth + 1]:
            if text in region.seen:
                return region.seen[text]
        return None

    def _home(self, operands: Sequence[Value | Pointer]) -> int:
        """The outermost depth at which an instruction on `operands` may stand."""
        wanted = max([operand.depth for operand in operands], default=0)
        depth = len(self._regions) - 1
        while depth > wanted and self._regions[depth].is_loop:
            depth -= 1
        return depth

    def _effect(self, dtype: DType, lanes: int, text: str) -> Value:
        """An instruction that reads memory: stays in its place, is never reused."""
        self._counter += 1
        self.write(f"%v{self._counter} = {text}")
        return Value(f"%v{self._counter}", dtype, lanes, None, self.depth)

    def intrinsic(
        self, name: str, dtype: DType, lanes: int, *operands: Value, overload: str = ""
    ) -> Value:
        """Call a pure intrinsic whose result and first operand have the same type."""
        full = f"llvm.{name}.{overload or suffix(dtype, lanes)}"
        result = type_text(dtype, lanes)
        types = ", ".join(operand.type for operand in operands)
        self._declared.add(f"declare {result} @{full}({types})")
        arguments = ", ".join(f"{operand.type} {operand.name}" for operand in operands)
        return self.pure(dtype, lanes, f"call {result} @{full}({arguments})", *operands)

    # Constants and function arguments

    def constant(self, value: Number, dtype: DType, lanes: int = 1) -> Value:
        """A known number in every lane."""
        text = number_text(value, dtype)
        if lanes > 1:
            text = f"splat ({type_text(dtype)} {text})"
        if dtype.is_integer:
            value = wrap(int(value), dtype)
        return Value(text, dtype, lanes, value)

    def constants(self, values: Sequence[Number], dtype: DType) -> Value:
        """A vector of known numbers, one a lane."""
        scalar = type_text(dtype)
        text = ", ".join(f"{scalar} {number_text(value, dtype)}" for value in values)
        return Value(f"<{text}>", dtype, len(values))

    def iota(self, lanes: int, dtype: DType = dtypes.int64) -> Value:
        """The vector 0, 1, 2, ..."""
        if lanes == 1:
            return self.constant(0, dtype)
        return self.constants(range(lanes), dtype)

    def table(self, values: Sequence[Number], dtype: DType) -> Pointer:
        """The address of known numbers in read-only memory beside the code."""
        scalar = memory_type(dtype)
        content = ", ".join(f"{scalar} {number_text(value, dtype)}" for value in values)
        text = f"private unnamed_addr constant [{len(values)} x {scalar}] [{content}], align 64"
        name = self._tables.setdefault(text, f"@{self.symbol}.table{len(self._tables)}")
        return Pointer(name)

    def index(self, value: Index) -> Value:
        """An int64 scalar from a Python number or a value."""
        return self.constant(value, dtypes.int64) if isinstance(value, int) else value

    def _slot(self, position: int, type_: str) -> str:
        number = len(self._slots)
        self._prologue.append(f"%slot{number}p = getelementptr i8, ptr %slots, i64 {8 * position}")
        self._prologue.append(f"%slot{number} = load {type_}, ptr %slot{number}p, align 8")
        return f"%slot{number}"

    def pointer(self, slot: int) -> Pointer:
        """The address in a slot."""
        if slot not in self._slots:
            self._slots[slot] = Pointer(self._slot(slot, "ptr"))
        found = self._slots[slot]
        assert isinstance(found, Pointer)
        return found

    def scalar(self, slot: int, dtype: DType) -> Value:
        """The scalar in a slot."""
        key = (slot, dtype.name)
        if key not in self._slots:
            name = self._slot(slot, memory_type(dtype))
            if dtype is dtypes.bool_:
                self._prologue.append(f"{name}b = trunc i8 {name} to i1")
                name += "b"
            self._slots[key] = Value(name, dtype)
        found = self._slots[key]
        assert isinstance(found, Value)
        return found

    def integer(self, slot: int) -> Value:
        """The int64 in a slot."""
        return self.scalar(slot, dtypes.int64)

    # Vectors

    def broadcast(self, value: Value, lanes: int) -> Value:
        """A scalar in every lane."""
        if lanes == value.lanes:
            return value
        if value.lanes != 1:
            raise ValueError(f"[broadcast] {value.lanes} lanes do not spread to {lanes}")
        if value.number is not None:
            return self.constant(value.number, value.dtype, lanes)
        type_ = type_text(value.dtype, lanes)
        one = self.pure(
            value.dtype,
            lanes,
            f"insertelement {type_} poison, {value.type} {value.name}, i64 0",
            value,
        )
        return self.pure(
            value.dtype, lanes,
            f"shufflevector {type_} {one.name}, {type_} poison, <{lanes} x i32> zeroinitializer",
            one,
        )  # fmt: skip

    def extract(self, vector: Value, lane: Index) -> Value:
        """One lane as a scalar."""
        if vector.lanes == 1:
            return vector
        if vector.number is not None:
            return self.constant(vector.number, vector.dtype)
        lane = self.index(lane)
        return self.pure(
            vector.dtype,
            1,
            f"extractelement {vector.type} {vector.name}, i64 {lane.name}",
            vector,
            lane,
        )

    def insert(self, vector: Value, value: Value, lane: Index) -> Value:
        """The vector with one lane replaced."""
        lane = self.index(lane)
        text = f"insertelement {vector.type} {vector.name}, {value.type} {value.name}"
        return self.pure(
            vector.dtype, vector.lanes, f"{text}, i64 {lane.name}", vector, value, lane
        )

    def shuffle(self, first: Value, second: Value | None, lanes: Sequence[int]) -> Value:
        """Lanes picked from `first` and, counted on, from `second`; one lane comes as a scalar."""
        if len(lanes) == 1:
            source = first if lanes[0] < first.lanes or second is None else second
            return self.extract(source, lanes[0] % first.lanes)
        other = f"{first.type} {second.name}" if second is not None else f"{first.type} poison"
        operands = (first,) if second is None else (first, second)
        picked = ", ".join(f"i32 {lane}" for lane in lanes)
        return self.pure(
            first.dtype, len(lanes),
            f"shufflevector {first.type} {first.name}, {other}, <{len(lanes)} x i32> <{picked}>",
            *operands,
        )  # fmt: skip
