"""One LLVM function, written instruction by instruction: values, memory, loops, branches.

Comes in: calls that name an instruction and its operands. Goes out: the function's text.
Guaranteed: what stands in memory is read and written where the calls say, while instructions
without side effects are written once, in front of the loops that leave their operands alone.
LLVM's own passes have nothing left to do, and are not run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from avalon import dtype as dtypes
from avalon.codegen.instructions import Instructions
from avalon.codegen.regions import Loop, Region, WhileLoop
from avalon.codegen.values import Index, Pointer, Value, memory_type, only_lane, suffix, type_text
from avalon.codegen.verify import verify_text, without_unread
from avalon.dtype import DType

_LINE = 64  # bytes of a line of the cache


class Builder(Instructions):
    """Writes `void symbol(ptr slots, i64 begin, i64 end, ptr scratch)`."""

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
