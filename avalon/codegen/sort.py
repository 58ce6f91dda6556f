"""Sorting: kernels a type and direction, for every shape.

Comes in: the element type and the direction. Goes out: kernels that write the int64 indices of the
first elements, or of all, in the order of each row along an axis. Guaranteed: equal elements keep
their order; NaN counts as greatest, as in PyTorch. What is found does not depend on the way.

Elements become keys: unsigned numbers in the wanted order. A record is a key and its index, in one
word for keys of 4 bytes, in two for those of 8. Few records are merged from runs of one upward,
without a branch that depends on data; more are dealt out digit by digit, the last one first, and
digits that all records share are left out. Where few of many are wanted, records that come after
the last of the best so far are passed over, a vector at a time.

Slots: x, the indices, memory for twice `capacity` records a row; then the extent of the axis, the
distance of its elements, the number of rows, the number of indices wanted, and the capacity. A unit
is a row.
"""

from __future__ import annotations

from collections.abc import Sequence

from avalon import dtype as dtypes
from avalon.codegen.emit import Emit, Value
from avalon.codegen.target import Target
from avalon.dtype import DType
from avalon.runtime.plan import Kernel

_FEW = 64  # records up to which merging is faster
_DIGIT = 8  # bits
_DIGITS = 1 << _DIGIT
_LANES = 16  # elements that are compared at once
_SELECTED_FROM = 2048  # extents from which passing over elements pays
_SPARE = 256  # records that wait, beside those wanted, until they are put in order


def words_of(dtype: DType) -> int:
    """Words of a record."""
    return 2 if dtype.itemsize == 8 else 1


def capacity_of(extent: int, distance: int, count: int) -> int:
    """Records that a row needs memory for: all, or fewer where the best are selected."""
    capacity = 2 * count + _SPARE + _LANES
    selects = distance == 1 and extent >= _SELECTED_FROM and 2 * capacity <= extent
    return capacity if selects else extent


def argsort_kernel(target: Target, dtype: DType, descending: bool, selects: bool) -> Kernel:
    """The kernel for elements of `dtype`. `selects`: the capacity is less than the extent."""
    direction = "descending" if descending else "ascending"
    name = "argtop" if selects else "argsort"
    sorter = _Sorter(Emit(f"{name}_{dtype.name}_{direction}", target), dtype, descending)
    emit = sorter.emit
    with emit.loop(emit.begin, emit.end) as unit:
        outer = emit.binary("udiv", unit.index, sorter.distance)
        inner = emit.binary("urem", unit.index, sorter.distance)
        row = emit.multiply(emit.multiply(unit.index, sorter.capacity), sorter.words)
        if selects:
            sorter.select(emit.multiply(unit.index, sorter.extent), row)
            final = row
        else:
            base = emit.multiply(emit.multiply(outer, sorter.extent), sorter.distance)
            sorter.read(emit.add(base, inner), row)
            final = sorter.order(row, sorter.extent)
        base = emit.multiply(emit.multiply(outer, sorter.count), sorter.distance)
        sorter.write(final, emit.add(base, inner))
    return Kernel(emit.symbol, emit.finish(), sorter.digits * _DIGITS * 8)


class _Sorter:
    """Writes the parts of a kernel. Places of records are numbers of words in the memory."""

    def __init__(self, emit: Emit, dtype: DType, descending: bool) -> None:
        self.emit = emit
        self.dtype = dtype
        self.descending = descending
        self.words = words_of(dtype)
        self.key_type = dtypes.uint64 if self.words == 2 else dtypes.uint32
        self.digits = self.key_type.itemsize
        self.x, self.result, self.memory = (emit.pointer(slot) for slot in range(3))
        numbers = [emit.integer(slot) for slot in range(3, 8)]
        self.extent, self.distance, self.rows, self.count, self.capacity = numbers
        self.half = emit.multiply(emit.multiply(self.capacity, self.rows), self.words)

    # Records

    def key(self, x: Value) -> Value:
        """Unsigned numbers in the wanted order: equal for equal elements, and for all NaN."""
        emit, unsigned = self.emit, self.key_type
        top = 1 << (8 * unsigned.itemsize - 1)
        if x.dtype.is_floating_point:
            x = emit.cast(x, dtypes.float64 if self.words == 2 else dtypes.float32)
            is_nan, is_zero = (
                emit.not_equal(x, x),
                emit.equal(x, emit.constant(0, x.dtype, x.lanes)),
            )
            bits = emit.bitcast(x, unsigned)
            negative = emit.not_equal(emit.bit_and(bits, top), 0)
            key = emit.where(negative, emit.bit_not(bits), emit.bit_or(bits, top))
            key = emit.where(is_zero, emit.constant(top, unsigned, x.lanes), key)
            key = emit.where(is_nan, emit.bit_not(emit.constant(0, unsigned, x.lanes)), key)
        elif x.dtype.kind == "signed":
            wide = emit.cast(x, dtypes.int64 if self.words == 2 else dtypes.int32)
            key = emit.bit_xor(emit.bitcast(wide, unsigned), top)
        else:
            key = emit.cast(x, unsigned)
        return emit.bit_not(key) if self.descending else key

    def record(self, key: Value, index: Value) -> list[Value]:
        """The words of a record."""
        emit = self.emit
        index = emit.cast(index, dtypes.uint64)
        if self.words == 2:
            return [key, index]
        return [emit.bit_or(emit.shift_left(emit.cast(key, dtypes.uint64), 32), index)]

    def load(self, place: Value) -> list[Value]:
        return [
            self.emit.load(self.memory, self.emit.add(place, word), dtypes.uint64)
            for word in range(self.words)
        ]

    def store(self, place: Value, record: Sequence[Value]) -> None:
        for word, value in enumerate(record):
            self.emit.store(self.memory, self.emit.add(place, word), value)

    def place(self, row: Value, number: Value) -> Value:
        return self.emit.add(row, self.emit.multiply(number, self.words))

    def read(self, base: Value, row: Value) -> None:
        """The records of a row of x."""
        emit = self.emit
        with emit.loop(0, self.extent) as number:
            at = emit.add(base, emit.multiply(number.index, self.distance))
            key = self.key(emit.load(self.x, at, self.dtype))
            self.store(self.place(row, number.index), self.record(key, number.index))

    def write(self, row: Value, base: Value) -> None:
        """The indices of the first records."""
        emit = self.emit
        with emit.loop(0, self.count) as number:
            index = self.load(self.place(row, number.index))[-1]
            if self.words == 1:
                index = emit.bit_and(index, (1 << 32) - 1)
            at = emit.add(base, emit.multiply(number.index, self.distance))
            emit.store(self.result, at, emit.cast(index, dtypes.int64))

    # Order

    def order(self, row: Value, count: Value) -> Value:
        """Put `count` records in order; returns where they are then, there or one half further."""
        emit = self.emit
        few = emit.less(count, _FEW)
        with emit.if_(few, carried=(row,)) as branch:
            branch.next(self.merge(row, count))
        with emit.if_(emit.logical_not(few), carried=branch.results) as branch:
            branch.next(self.deal(row, count))
        return branch.results[0]

    def merge(self, row: Value, count: Value) -> Value:
        """Merge runs of one record, of two, of four, ..."""
        emit = self.emit
        one, zero = emit.index(1), emit.index(0)
        with emit.while_((one, row, emit.add(row, self.half))) as level:
            width, source, target = level.values
            level.check(emit.less(width, count))
            pair = emit.multiply(width, 2)
            runs = emit.binary("udiv", emit.subtract(emit.add(count, pair), 1), pair)
            with emit.loop(0, runs) as run:
                low = emit.multiply(run.index, pair)
                middle = emit.minimum(emit.add(low, width), count)
                high = emit.minimum(emit.add(low, pair), count)
                with emit.loop(low, high, carried=(low, middle)) as number:
                    left, right = number.values
                    first, second = (
                        self.load(self.place(source, emit.minimum(here, emit.subtract(end, 1))))
                        for here, end in ((left, middle), (right, high))
                    )
                    before = emit.less(second[0], first[0])
                    takes_right = emit.bit_and(
                        emit.less(right, high),
                        emit.bit_or(emit.less_equal(middle, left), before),
                    )
                    taken = [
                        emit.where(takes_right, b, a) for a, b in zip(first, second, strict=True)
                    ]
                    self.store(self.place(target, number.index), taken)
                    number.next(
                        emit.add(left, emit.where(takes_right, zero, one)),
                        emit.add(right, emit.where(takes_right, one, zero)),
                    )
            level.next(pair, target, source)
        return level.results[1]

    def deal(self, row: Value, count: Value) -> Value:
        """Deal the records out by each digit of the key, the lowest first."""
        emit = self.emit
        self.count_digits(row, count)
        with emit.loop(0, self.digits, carried=(row, emit.add(row, self.half))) as digit:
            source, target = digit.values
            counts = emit.multiply(digit.index, _DIGITS)
            shift = emit.add(emit.multiply(digit.index, _DIGIT), 64 - 8 * self.digits)
            first = self.counter(counts, shift, self.load(source)[0])
            shared = emit.equal(emit.load(emit.scratch, first, dtypes.int64), count)
            with emit.if_(emit.logical_not(shared), carried=digit.values) as branch:
                with emit.loop(0, _DIGITS, carried=(emit.index(0),)) as value:
                    at = emit.add(counts, value.index)
                    found = emit.load(emit.scratch, at, dtypes.int64)
                    emit.store(emit.scratch, at, value.values[0])
                    value.next(emit.add(value.values[0], found))
                with emit.loop(0, count) as number:
                    record = self.load(self.place(source, number.index))
                    at = self.counter(counts, shift, record[0])
                    to = emit.load(emit.scratch, at, dtypes.int64)
                    emit.store(emit.scratch, at, emit.add(to, 1))
                    self.store(self.place(target, to), record)
                branch.next(target, source)
            digit.next(*branch.results)
        return digit.results[0]

    def counter(self, counts: Value, shift: Value, word: Value) -> Value:
        """The place of the counter of a record's digit."""
        emit = self.emit
        moved = emit.binary("lshr", word, emit.bitcast(shift, dtypes.uint64))
        digit = emit.bit_and(emit.bitcast(moved, dtypes.int64), _DIGITS - 1)
        return emit.add(counts, digit)

    def count_digits(self, row: Value, count: Value) -> None:
        """How many records have each value of each digit."""
        emit = self.emit
        with emit.loop(0, self.digits * _DIGITS, 8) as place:
            emit.store(emit.scratch, place.index, emit.constant(0, dtypes.int64, 8))
        with emit.loop(0, count) as number:
            word = self.load(self.place(row, number.index))[0]
            for digit in range(self.digits):
                shift = emit.index(digit * _DIGIT + 64 - 8 * self.digits)
                at = self.counter(emit.index(digit * _DIGITS), shift, word)
                found = emit.load(emit.scratch, at, dtypes.int64)
                emit.store(emit.scratch, at, emit.add(found, 1))

    # Selection

    def select(self, base: Value, row: Value) -> None:
        """Leave the first `count` records of a row of x at `row`, in order."""
        emit = self.emit
        limit = emit.subtract(self.capacity, _LANES)
        nothing, everything = emit.index(0), emit.constant(True, dtypes.bool_)
        bound = emit.constant(0, self.key_type)
        with emit.while_((nothing, nothing, bound, everything)) as turn:
            place, kept, bound, takes_all = turn.values
            turn.check(emit.less(place, self.extent))
            with emit.while_((place, kept)) as strip:
                place, filled = strip.values
                strip.check(
                    emit.bit_and(emit.less(place, self.extent), emit.less_equal(filled, limit))
                )
                filled = self.take(base, row, place, filled, bound, takes_all)
                strip.next(emit.add(place, _LANES), filled)
            place, filled = strip.results
            final = self.order(row, filled)
            kept = emit.minimum(filled, self.count)
            with emit.loop(0, kept) as number:
                record = self.load(self.place(final, number.index))
                self.store(self.place(row, number.index), record)
            last = self.load(self.place(row, emit.subtract(kept, 1)))[0]
            if self.words == 1:
                last = emit.cast(emit.shift_right(last, 32), self.key_type)
            turn.next(place, kept, last, emit.less(kept, self.count))

    def take(
        self, base: Value, row: Value, place: Value, filled: Value, bound: Value, takes_all: Value
    ) -> Value:
        """Append the records of a strip that come before `bound`; returns how many there are."""
        emit = self.emit
        exists = emit.mask_below(emit.subtract(self.extent, place), _LANES)
        strip = emit.load(self.x, emit.add(base, place), self.dtype, _LANES, exists)
        keys = self.key(strip)
        # One that equals the bound comes later than it, and so is not among the first.
        better = emit.less(keys, emit.broadcast(bound, _LANES))
        better = emit.bit_and(exists, emit.bit_or(better, emit.broadcast(takes_all, _LANES)))
        with emit.if_(emit.any_lane(better), carried=(filled,)) as branch:
            for lane in range(_LANES):
                index = emit.add(place, lane)
                record = self.record(emit.extract(keys, lane), index)
                self.store(self.place(row, filled), record)
                filled = emit.add(filled, emit.cast(emit.extract(better, lane), dtypes.int64))
            branch.next(filled)
        return branch.results[0]
