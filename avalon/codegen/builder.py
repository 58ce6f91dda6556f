"""One LLVM function, written instruction by instruction: values, memory, loops, branches.

Comes in: calls that name an instruction and its operands. Goes out: the function's text.
Guaranteed: an instruction that was already written for the same operands is written once; one
without side effects stands in front of the loops that do not change its operands. LLVM's own
passes have nothing left to do, and are not run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from avalon import dtype as dtypes
from avalon.codegen.regions import Loop, Region, WhileLoop
from avalon.codegen.target import Target
from avalon.codegen.values import (
    Index,
    Number,
    Pointer,
    Value,
    memory_type,
    number_text,
    only_lane,
    suffix,
    type_text,
    wrap,
)
from avalon.codegen.verify import verify_text, without_unread
from avalon.dtype import DType

_LINE = 64  # bytes of a line of the cache


class Builder:
    """Writes `void symbol(ptr slots, i64 begin, i64 end, ptr scratch)`.

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

    # Memory

    def offset(self, pointer: Pointer, index: Index, dtype: DType = dtypes.uint8) -> Pointer:
        """The address `index` elements of `dtype` further on.

        Known bytes are added last: addresses that differ by a constant share all the rest.
        """
        base, size = pointer.origin or (pointer, 0)
        index = self.index(index)
        variable, factor, constant = index.linear or (index, 1, 0)
        if index.number is not None:
            constant = int(index.number)
        elif factor != 1:
            text = f"mul i64 {variable.name}, {factor}"
            variable = self.pure(dtypes.int64, 1, text, variable)
        if index.number is None:
            base = self._address(memory_type(dtype), base, variable)
        size += constant * dtype.itemsize
        if size == 0:
            return base
        return replace(self._address("i8", base, self.index(size)), origin=(base, size))

    def _address(self, element: str, pointer: Pointer, index: Value) -> Pointer:
        text = f"getelementptr {element}, ptr {pointer.name}, i64 {index.name}"
        depth = self._home((pointer, index))
        known = self._known(text, depth)
        if isinstance(known, Pointer):
            return known
        self._counter += 1
        found = Pointer(f"%v{self._counter}", depth)
        self._regions[depth].body.append(f"{found.name} = {text}")
        self._regions[depth].seen[text] = found
        return found

    def load(
        self,
        pointer: Pointer,
        index: Index,
        dtype: DType,
        lanes: int = 1,
        mask: Value | None = None,
        align: int = 0,
    ) -> Value:
        """Read `lanes` neighbouring elements from `index` on; lanes off in `mask` read as 0."""
        address = self.offset(pointer, index, dtype)
        memory = memory_type(dtype, lanes)
        held = dtypes.uint8 if dtype is dtypes.bool_ else dtype
        align = align or dtype.itemsize
        if mask is None:
            value = self._effect(held, lanes, f"load {memory}, ptr {address.name}, align {align}")
        elif lanes == 1:
            with self.if_(mask, carried=(self.constant(0, dtype),)) as branch:
                branch.next(self.load(pointer, index, dtype, align=align))
            return branch.results[0]
        else:
            name = f"llvm.masked.load.{suffix(held, lanes)}.p0"
            self._declared.add(f"declare {memory} @{name}(ptr, i32, {mask.type}, {memory})")
            value = self._effect(
                held, lanes,
                f"call {memory} @{name}(ptr {address.name}, i32 {align}, {mask.type} {mask.name}, "
                f"{memory} zeroinitializer)",
            )  # fmt: skip
        return self._from_byte(value) if dtype is dtypes.bool_ else value

    def store(
        self,
        pointer: Pointer,
        index: Index,
        value: Value,
        mask: Value | None = None,
        align: int = 0,
        streams: bool = False,
    ) -> None:
        """Write the lanes of `value` from element `index` on, but for those off in `mask`. What
        `streams` is aligned to whole vectors, and goes past the caches where the target can.
        """
        streams = streams and self.target.has_streams
        self._streams = self._streams or streams
        size = value.dtype.itemsize
        align = min(_LINE, size * value.lanes) if streams else align or size
        address = self.offset(pointer, index, value.dtype)
        if value.dtype is dtypes.bool_:
            value = self._to_byte(value)
        memory = value.type
        if mask is None:
            past = ", !nontemporal !0" if streams else ""
            self.write(f"store {memory} {value.name}, ptr {address.name}, align {align}{past}")
        elif value.lanes == 1:
            with self.if_(mask):
                self.write(f"store {memory} {value.name}, ptr {address.name}, align {align}")
        elif (lane := only_lane(mask)) is not None:
            # Written by itself: of a masked store of narrowed lanes LLVM makes a store of the wide
            # lane, which spoils what follows.
            one, place = self.extract(value, lane), self.offset(address, lane, value.dtype)
            self.write(f"store {one.type} {one.name}, ptr {place.name}, align {size}")
        else:
            name = f"llvm.masked.store.{suffix(value.dtype, value.lanes)}.p0"
            self._declared.add(f"declare void @{name}({memory}, ptr, i32, {mask.type})")
            self.write(
                f"call void @{name}({memory} {value.name}, ptr {address.name}, i32 {align}, "
                f"{mask.type} {mask.name})"
            )

    def gather(
        self, pointer: Pointer, index: Value, dtype: DType, mask: Value | None = None
    ) -> Value:
        """Read the elements at the int64 (or int32) positions in the lanes of `index`."""
        lanes = index.lanes
        if lanes == 1:
            return self.load(pointer, index, dtype, mask=mask)
        addresses = self._addresses(pointer, index, dtype)
        held = dtypes.uint8 if dtype is dtypes.bool_ else dtype
        memory = memory_type(dtype, lanes)
        mask = mask if mask is not None else self.constant(True, dtypes.bool_, lanes)
        name = f"llvm.masked.gather.{suffix(held, lanes)}.v{lanes}p0"
        pointers = f"<{lanes} x ptr>"
        self._declared.add(f"declare {memory} @{name}({pointers}, i32, {mask.type}, {memory})")
        value = self._effect(
            held, lanes,
            f"call {memory} @{name}({pointers} {addresses}, i32 {dtype.itemsize}, "
            f"{mask.type} {mask.name}, {memory} zeroinitializer)",
        )  # fmt: skip
        return self._from_byte(value) if dtype is dtypes.bool_ else value

    def scatter(
        self, pointer: Pointer, index: Value, value: Value, mask: Value | None = None
    ) -> None:
        """Write each lane to its position; of lanes with one position the last one stays."""
        lanes = index.lanes
        if lanes == 1:
            self.store(pointer, index, value, mask)
            return
        addresses = self._addresses(pointer, index, value.dtype)
        itemsize = value.dtype.itemsize
        if value.dtype is dtypes.bool_:
            value = self._to_byte(value)
        mask = mask if mask is not None else self.constant(True, dtypes.bool_, lanes)
        name = f"llvm.masked.scatter.{suffix(value.dtype, lanes)}.v{lanes}p0"
        pointers = f"<{lanes} x ptr>"
        self._declared.add(f"declare void @{name}({value.type}, {pointers}, i32, {mask.type})")
        self.write(
            f"call void @{name}({value.type} {value.name}, {pointers} {addresses}, i32 {itemsize}, "
            f"{mask.type} {mask.name})"
        )

    def _addresses(self, pointer: Pointer, index: Value, dtype: DType) -> str:
        text = f"getelementptr {memory_type(dtype)}, ptr {pointer.name}, {index.type} {index.name}"
        return self.pure(dtypes.int64, index.lanes, text, pointer, index).name

    def _from_byte(self, value: Value) -> Value:
        zero = "0" if value.lanes == 1 else "zeroinitializer"
        return self.pure(
            dtypes.bool_, value.lanes, f"icmp ne {value.type} {value.name}, {zero}", value
        )

    def _to_byte(self, value: Value) -> Value:
        byte = type_text(dtypes.uint8, value.lanes)
        return self.pure(
            dtypes.uint8, value.lanes, f"zext {value.type} {value.name} to {byte}", value
        )

    def prefetch(self, pointer: Pointer, index: Index, dtype: DType) -> None:
        """Ask for the cache line of an element that will be read soon."""
        address = self.offset(pointer, index, dtype)
        self._declared.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        self.write(f"call void @llvm.prefetch.p0(ptr {address.name}, i32 0, i32 3, i32 1)")

    # Control flow

    def _open(self, is_loop: bool) -> Region:
        body: list[str] = []
        self._sequence.append(body)
        region = Region(is_loop, body)
        self._regions.append(region)
        return region

    def _close(self, label: str, phis: Sequence[str]) -> None:
        """Leave the innermost region; its parent goes on at `label`."""
        self._regions.pop()
        body = [f"{label}:", *phis]
        self._sequence.append(body)
        self._regions[-1].body = body
        self._block = label

    def _phi(self, value: Value, depth: int) -> tuple[Value, str]:
        self._counter += 1
        name = f"%v{self._counter}"
        return Value(name, value.dtype, value.lanes, None, depth), f"{name} = phi {value.type}"

    def _merge(self, *ways: tuple[Sequence[Value], str]) -> tuple[list[Value], list[str]]:
        """The values that control brings along, where each way comes with its own from its block;
        they belong to the region around the innermost one.
        """
        merged, lines = [], []
        for values in zip(*(values for values, _ in ways), strict=True):
            value, head = self._phi(values[0], self.depth - 1)
            merged.append(value)
            sources = zip(values, (block for _, block in ways), strict=True)
            coming = ", ".join(f"[{one.name}, %{block}]" for one, block in sources)
            lines.append(f"{head} {coming}")
        return merged, lines

    def _opaque(self, value: Value) -> Value:
        """The same number, of which LLVM knows nothing. Its loop strength reduction would take half
        the time of building a kernel to find addresses that are good already.
        """
        return self._effect(value.dtype, 1, f'call i64 asm "", "=r,0"(i64 {value.name})')

    @contextmanager
    def loop(
        self,
        start: Index,
        stop: Index,
        step: int = 1,
        carried: Sequence[Value] = (),
        nonempty: bool = False,
    ) -> Iterator[Loop]:
        """Count from `start` up to, without, `stop`. `nonempty` promises at least one round. A
        single round known beforehand is written without a loop.

        >>> from avalon.codegen.emit import Emit
        >>> from avalon.codegen.target import host
        >>> from avalon.dtype import float32
        >>> emit = Emit("total", host())
        >>> zero = emit.constant(0, float32)
        >>> with emit.loop(0, emit.integer(1), carried=(zero,)) as loop:
        ...     x = emit.load(emit.pointer(0), loop.index, float32)
        ...     loop.next(emit.add(loop.values[0], x))
        >>> emit.store(emit.pointer(2), 0, loop.results[0])
        >>> "fadd float" in emit.finish()
        True
        """
        start, stop, carried = self.index(start), self.index(stop), tuple(carried)
        rounds = _rounds(start, stop, step)
        if rounds == 1:
            yield Loop(start, carried)
            return
        head, after, outside = self.label("loop"), self.label("after"), self._block
        guarded = not (nonempty or (rounds is not None and rounds > 0))
        if guarded:
            enter = self.pure(
                dtypes.bool_, 1, f"icmp slt i64 {start.name}, {stop.name}", start, stop
            )
            jump = f"br i1 {enter.name}, label %{head}, label %{after}"
        else:
            jump = f"br label %{head}"
        top = [jump, f"{head}:"]
        self._sequence.append(top)
        self._open(is_loop=True)
        self._block = head
        counter, counter_phi = self._phi(start, self.depth)
        phis = [self._phi(value, self.depth) for value in carried]
        index = self._opaque(counter)
        loop = Loop(index, tuple(value for value, _ in phis))
        yield loop
        latch, results = self._block, loop.results
        following, again = self.label("%next"), self.label("%again")
        self.write(f"{following} = add nsw i64 {index.name}, {step}")
        self.write(f"{again} = icmp slt i64 {following}, {stop.name}")
        self.write(f"br i1 {again}, label %{head}, label %{after}")
        top.append(f"{counter_phi} [{start.name}, %{outside}], [{following}, %{latch}]")
        for (_, phi), first, result in zip(phis, carried, results, strict=True):
            top.append(f"{phi} [{first.name}, %{outside}], [{result.name}, %{latch}]")
        around = [(carried, outside)] if guarded else []
        merged, lines = self._merge(*around, (results, latch))
        loop.results = tuple(merged)
        self._close(after, lines)

    @contextmanager
    def while_(self, carried: Sequence[Value]) -> Iterator[WhileLoop]:
        """Repeat while a condition holds. The body calls `loop.check(condition)` once, before all
        that must not run in the last, incomplete round; `results` are then the carried values.

        >>> from avalon.codegen.emit import Emit
        >>> from avalon.codegen.target import host
        >>> emit = Emit("doubled", host())
        >>> with emit.while_((emit.integer(0), emit.integer(1))) as loop:
        ...     low, high = loop.values
        ...     loop.check(emit.less(low, high))
        ...     loop.next(emit.add(low, low), high)
        >>> emit.store(emit.pointer(2), 0, loop.results[0])
        >>> "br i1" in emit.finish()
        True
        """
        head, outside, carried = self.label("while"), self._block, tuple(carried)
        top = [f"br label %{head}", f"{head}:"]
        self._sequence.append(top)
        self._open(is_loop=True)
        self._block = head
        phis = [self._phi(value, self.depth) for value in carried]
        values = tuple(value for value, _ in phis)
        leave = self.label("exit")
        loop = WhileLoop(
            self.constant(0, dtypes.int64), values, lambda kept: self._leave_unless(kept, leave)
        )
        yield loop
        for (_, phi), first, result in zip(phis, carried, loop.results, strict=True):
            top.append(f"{phi} [{first.name}, %{outside}], [{result.name}, %{self._block}]")
        self.write(f"br label %{head}")
        outer = self.depth - 1
        loop.results = tuple(Value(v.name, v.dtype, v.lanes, None, outer) for v in values)
        self._close(leave, [])

    def _leave_unless(self, condition: Value, exit_label: str) -> None:
        """Jump to `exit_label` unless the scalar `condition` holds."""
        body = self.label("body")
        self.write(f"br i1 {condition.name}, label %{body}, label %{exit_label}")
        self.write(f"{body}:")
        self._block = body

    @contextmanager
    def if_(self, condition: Value, carried: Sequence[Value] = ()) -> Iterator[Loop]:
        """Run the body only if the scalar `condition` holds. `next` hands over what `results` are
        then; without it, or where the condition fails, they are `carried`.
        """
        then, after, outside = self.label("then"), self.label("after"), self._block
        self.write(f"br i1 {condition.name}, label %{then}, label %{after}")
        self._sequence.append([f"{then}:"])
        self._open(is_loop=False)
        self._block = then
        branch = Loop(self.constant(0, dtypes.int64), tuple(carried))
        yield branch
        self.write(f"br label %{after}")
        merged, lines = self._merge((carried, outside), (branch.results, self._block))
        branch.results = tuple(merged)
        self._close(after, lines)

    def finish(self) -> str:
        """The function's text, with the declarations it needs.

        Raises:
            ValueError: if it calls what the target lacks.
        """
        if self.depth:
            raise ValueError(f"[emit] {self.symbol} ends inside an open loop or branch")
        if self._streams:
            self._declared.update(("declare void @llvm.x86.sse.sfence()", "!0 = !{i32 1}"))
            self.write("call void @llvm.x86.sse.sfence()")  # so that others see what streams
        self.write("ret void")
        declared = "\n".join(sorted(self._declared))
        lines = "\n".join(without_unread([line for part in self._sequence for line in part]))
        tables = "".join(f"{name} = {definition}\n" for definition, name in self._tables.items())
        head = (
            f"define void @{self.symbol}(ptr %slots, i64 %begin, i64 %end, ptr %scratch) nounwind"
        )
        text = f"{tables}{head} {{\nentry:\n{lines}\n}}\n{declared}\n"
        verify_text(text, self.target)
        return text


def _rounds(start: Value, stop: Value, step: int) -> int | None:
    """How often a loop runs, if it is known; at most 0 for not at all."""
    if isinstance(start.number, int) and isinstance(stop.number, int):
        return -(-(stop.number - start.number) // step)
    return None
