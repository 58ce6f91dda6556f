"""The kernel of a convolution that adds few products for each of its results, as depthwise ones do.

Comes in: a `Problem`, the slots of x, w and y, and, if asked, an epilogue. Goes out: a kernel, or
word that the problem is none for it. Guaranteed: the same bits as every other kernel gives.

Where an element of x meets few others, a padded copy of x costs as much as the sums. So x is read
where it is: a unit of work is a band of rows of positions of one image and one channel, whose
weights stay in registers. A tile is some rows by some vectors along them, all its products are
written one after another, and a vector of x serves every row of the tile that sees it. Lanes that
see nothing of x at either end of a row are switched off, and rows above or below x are read from a
row of zeros. The number of images may be an argument of the kernel, and how far apart images and
groups lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil

from avalon import dtype as dtypes
from avalon.codegen.contraction_pack import Scratch, parts_left, split
from avalon.codegen.contraction_problem import Problem, is_number, known
from avalon.codegen.contraction_store import Epilogue, Results
from avalon.codegen.contraction_tile import lanes_of, summed_in
from avalon.codegen.emit import Emit, Pointer, Value
from avalon.codegen.target import Target
from avalon.dtype import DType
from avalon.runtime.plan import Kernel

_MOST_PRODUCTS = 64  # of a result: all are written one after another
_FEW_PRODUCTS = 12  # of a result, whose weights stay in registers
_FEW_CHANNELS = 2  # that see the same x: more of them pay for a copy, unless products are few
_MOST_STEP = 2  # of positions along a row: every second element is picked out of two vectors
_MOST_SUMS = 12  # of a tile, in registers
_MOST_WRITTEN = 400  # products of a tile, written one after another
_MOST_ENDS = 4  # tiles of a row that reach past x, each written by itself
_BAND = 16 << 10  # bytes of sums that a unit keeps, in the first cache
_WIDEST = 1 << 14  # elements of a row of zeros

Weights = dict[tuple[int, int, int, int], Value]  # by channel of the sum and tap
Rows = dict[tuple[int, int, int], Pointer]  # by channel, plane of taps and distance from the first


@dataclass(frozen=True)
class Direct:
    """How a convolution is cut.

    Attributes:
        rows, vectors: the tile of sums in registers.
        band: rows of positions in a unit of work.
    """

    rows: int
    vectors: int
    band: int


def direct(target: Target, dtype: DType, problem: Problem) -> Direct | None:
    """How to cut a convolution for this kernel; None if another one serves it better."""
    if not _is_known(problem) or not 0 < problem.summed <= _MOST_PRODUCTS:
        return None
    width = lanes_of(target, dtype)
    planes, height, columns = map(known, problem.outputs)
    step = known(problem.stride[2])
    is_short = problem.summed <= _FEW_PRODUCTS and step == 1 and 2 * columns > width
    fits = (
        problem.blocks.total == 1
        and (known(problem.channels) <= _FEW_CHANNELS or is_short)
        and known(problem.x_strides[5]) == 1
        and step <= _MOST_STEP
        and known(problem.sizes[2]) <= _WIDEST
        and min(planes, height) > 0
        and 5 * columns > width
    )
    if not fits:
        return None
    vectors = 1 if columns <= width else 2
    if len(_ends(problem, vectors * width)) > _MOST_ENDS:
        return None
    most = min(_MOST_SUMS, target.registers // 2) // vectors
    most = max(1, min(most, _MOST_WRITTEN // (problem.summed * vectors)))
    rows = min(range(1, most + 1), key=lambda n: (_cost(problem, n), n))
    bands = ceil(height * columns * summed_in(dtype).itemsize / _BAND)
    band = ceil(ceil(height / bands) / rows) * rows
    return Direct(rows, vectors, band)


def units(problem: Problem, cut: Direct) -> int:
    """Units of work."""
    planes, height, _ = map(known, problem.outputs)
    parts = known(problem.groups) * known(problem.channels) * planes
    return known(problem.images) * parts * ceil(height / cut.band)


def _is_known(problem: Problem) -> bool:
    """Whether every number is known, but for that of the images, and how far they and groups lie
    apart.
    """
    numbers = (
        problem.groups, problem.channels, problem.depth, *problem.sizes, *problem.taps,
        *problem.outputs, *problem.stride, *problem.dilation, *problem.low, *problem.lengths,
        *problem.counts, *problem.x_strides[2:], *problem.w_strides, *problem.y_strides[2:],
    )  # fmt: skip
    return all(map(is_number, numbers))


def _seen(problem: Problem, rows: int) -> list[int]:
    """The rows of x that so many rows of positions see, counted from the first one's first."""
    stride, dilation = known(problem.stride[1]), known(problem.dilation[1])
    taps = known(problem.taps[1])
    return sorted({row * stride + tap * dilation for row, tap in product(range(rows), range(taps))})


def _cost(problem: Problem, rows: int) -> float:
    """Halves of a cycle for a vector of all rows, in tiles of so many: two loads or two fused
    multiply-adds a cycle, most loads from two cache lines.
    """
    loads = 2 * len(_seen(problem, rows)) * problem.summed / known(problem.taps[1])
    return ceil(known(problem.outputs[1]) / rows) * max(loads, rows * problem.summed)


def _ends(problem: Problem, panel: int) -> list[int]:
    """The tiles of a row of positions some of whose lanes are outside x, or past the row's end."""
    columns, size = known(problem.outputs[2]), known(problem.sizes[2])
    step, low = known(problem.stride[2]), known(problem.low[2])
    reach = (known(problem.taps[2]) - 1) * known(problem.dilation[2])
    found = []
    for tile in range(ceil(columns / panel)):
        first, last = tile * panel * step - low, ((tile + 1) * panel - 1) * step + reach - low
        # Lanes that are not picked are read, too.
        if first < 0 or last + step > size or (tile + 1) * panel > columns:
            found.append(tile)
    return found


class DirectKernel:
    """Builds the kernel; `build` does it all."""

    def __init__(
        self, symbol: str, target: Target, dtype: DType, problem: Problem, cut: Direct,
        slots: tuple[int, int, int], numbers: int, rank: int, epilogue: Epilogue | None,
        together: int = 1,
    ) -> None:  # fmt: skip
        """`slots` are those of x, w and y, `numbers` the first of the problem's formulas, and
        `together` says how many of y's last axes the epilogue walks as one.
        """
        self.emit = emit = Emit(symbol, target)
        self.given, self.cut, self.dtype, self.together = problem, cut, dtype, together
        self.problem = problem = problem.opened(emit, numbers)
        self.x, self.w = emit.pointer(slots[0]), emit.pointer(slots[1])
        self.held, self.width = summed_in(dtype), lanes_of(target, dtype)
        self.panel = cut.vectors * self.width
        self.planes, self.height, self.columns = map(known, problem.outputs)
        self.taps = [known(taps) for taps in problem.taps]
        self.stride = [known(stride) for stride in problem.stride]
        self.dilation = [known(dilation) for dilation in problem.dilation]
        self.low = [known(low) for low in problem.low]
        self.seen = _seen(problem, cut.rows)
        self.scratch = scratch = Scratch(emit)
        # Lanes that are off stay inside this memory: in front of it there may be none, and what
        # would fault takes long to be left out.
        size = known(problem.sizes[2])
        zeros = scratch.reserve(self.width + size + self.panel, dtype)
        self.zeros = emit.offset(zeros, self.width, dtype)
        self.sums = scratch.reserve(cut.band * self.columns + self.panel, self.held)
        self.results = Results(
            emit, problem, slots[2], self.held, dtype, self.width, rank, epilogue
        )

    def build(self) -> Kernel:
        """Write the kernel."""
        emit, problem, cut = self.emit, self.problem, self.cut
        nothing = emit.constant(0, self.dtype, self.width)
        with emit.loop(0, known(problem.sizes[2]), self.width) as at:
            emit.store(self.zeros, at.index, nothing)
        bands = ceil(self.height / cut.band)
        extents = (known(problem.groups), known(problem.channels), self.planes, bands)
        with emit.loop(emit.begin, emit.end) as unit:
            image, group, channel, plane, band = split(emit, unit.index, *extents)
            weights = self._weights(group, channel)
            first = emit.multiply(band, cut.band)
            count = parts_left(emit, self.height, first, cut.band)
            with emit.loop(0, count, cut.rows, nonempty=True) as row:
                rows = self._rows(image, group, plane, emit.add(first, row.index))
                self._sum_rows(rows, weights, emit.multiply(row.index, self.columns))
            self._hand_over((group, image, channel, plane, first), count)
        return Kernel(emit.symbol, emit.finish(), self.scratch.size)

    def _weights(self, group: Value, channel: Value) -> Weights:
        """The unit's weights, each in all lanes."""
        emit, problem = self.emit, self.problem
        strides = list(map(known, problem.w_strides))
        place = emit.add(emit.index(problem.w_offset), emit.multiply(group, strides[0]))
        place = emit.add(place, emit.multiply(channel, strides[1]))
        found = {}
        for c, *taps in product(range(known(problem.depth)), *map(range, self.taps)):
            moved = sum(i * stride for i, stride in zip((c, *taps), strides[2:], strict=True))
            weight = emit.load(self.w, emit.add(place, moved), self.dtype)
            spread = emit.broadcast(emit.cast(weight, self.held), self.width)
            found[c, taps[0], taps[1], taps[2]] = spread
        return found

    def _rows(self, image: Value, group: Value, plane: Value, first: Value) -> Rows:
        """Where the rows of x are that the rows of positions from `first` on see."""
        emit, problem = self.emit, self.problem
        base = emit.index(problem.x_offset)
        for i, apart in zip((group, image), problem.x_strides, strict=False):
            base = emit.add(base, emit.multiply(i, emit.index(apart)))
        strides = list(map(known, problem.x_strides[2:]))
        start_row = emit.subtract(emit.multiply(first, self.stride[1]), self.low[1])
        found = {}
        for tap in range(self.taps[0]):
            moved = tap * self.dilation[0] - self.low[0]
            at = emit.add(emit.multiply(plane, self.stride[0]), moved)
            start = emit.add(emit.multiply(at, strides[1]), emit.multiply(start_row, strides[2]))
            start = emit.add(base, start)
            is_there = self._is_inside(at, 0)
            for channel, apart in product(range(known(problem.depth)), self.seen):
                there = emit.add(start, channel * strides[0] + apart * strides[2])
                inside = emit.bit_and(is_there, self._is_inside(emit.add(start_row, apart), 1))
                pointer = emit.offset(self.x, there, self.dtype)
                found[channel, tap, apart] = emit.either(inside, pointer, self.zeros)
        return dict(sorted(found.items()))

    def _is_inside(self, at: Value, axis: int) -> Value:
        size = known(self.problem.sizes[axis])
        if at.number is not None:
            return self.emit.constant(0 <= at.number < size, dtypes.bool_)
        return self.emit.compare("ult", at, self.emit.constant(size, dtypes.int64))

    def _sum_rows(self, rows: Rows, weights: Weights, kept: Value) -> None:
        """Sum some rows of positions, tile by tile; they are kept from `kept` on."""
        emit, panel = self.emit, self.panel
        tiles = ceil(self.columns / panel)
        ends = set(_ends(self.given, panel))
        inner = [tile for tile in range(tiles) if tile not in ends]
        for tile in range(tiles):
            if tile in ends:
                self._sum(rows, weights, emit.index(tile * panel), kept)
            elif tile == inner[0]:
                with emit.loop(tile * panel, (inner[-1] + 1) * panel, panel) as column:
                    self._sum(rows, weights, column.index, kept)

    def _sum(self, rows: Rows, weights: Weights, column: Value, kept: Value) -> None:
        """Sum a tile of positions, from `column` of their rows on."""
        emit, width, cut = self.emit, self.width, self.cut
        left = self.columns - column.number if isinstance(column.number, int) else self.panel
        vectors = range(min(cut.vectors, ceil(left / width)))
        zero = emit.constant(0, self.held, width)
        sums = [[zero for _ in vectors] for _ in range(cut.rows)]
        start = emit.subtract(emit.multiply(column, self.stride[2]), self.low[2])
        for (channel, plane, apart), pointer in rows.items():
            seen = [
                (row, tap)
                for row, tap in product(range(cut.rows), range(self.taps[1]))
                if row * self.stride[1] + tap * self.dilation[1] == apart
            ]
            for last, vector in product(range(self.taps[2]), vectors):
                moved = last * self.dilation[2] + vector * width * self.stride[2]
                x = self._load(pointer, emit.add(start, moved))
                for row, tap in seen:
                    weight = weights[channel, plane, tap, last]
                    sums[row][vector] = emit.fma(weight, x, sums[row][vector])
        for row, vector in product(range(cut.rows), vectors):
            # What is stored past a row's end is overwritten by the next row, if that comes later.
            at, rest = row * self.columns + vector * width, left - vector * width
            mask = None
            if rest < width and self.columns > self.panel:
                mask = emit.mask_below(rest, width)
            place = emit.add(emit.add(kept, column), at)
            emit.store(self.sums, place, emit.add(zero, sums[row][vector]), mask)

    def _load(self, row: Pointer, start: Value) -> Value:
        """The elements of a row of x that neighbouring positions see, from `start` on."""
        emit, width, step = self.emit, self.width, self.stride[2]
        size, parts = known(self.problem.sizes[2]), []
        for part in range(0, step * width, width):
            at, mask = emit.add(start, part), None
            if isinstance(at.number, int):
                lanes = [0 <= at.number + lane < size for lane in range(width)]
                if not any(lanes):
                    parts.append(emit.constant(0, self.held, width))
                    continue
                mask = None if all(lanes) else emit.constants(lanes, dtypes.bool_)
            parts.append(emit.cast(emit.load(row, at, self.dtype, width, mask), self.held))
        if step == 1:
            return parts[0]
        return emit.shuffle(parts[0], parts[1], range(0, step * width, step))

    def _hand_over(self, index: tuple[Value, ...], count: Value) -> None:
        """Hand over `count` rows of finished sums."""
        emit, y_strides = self.emit, self.problem.y_strides
        first = index[-1]
        span = zero = emit.constant(0, dtypes.int64)
        is_run = known(y_strides[4]) == self.columns * known(y_strides[5])
        if is_run and (self.results.epilogue is None or self.together > 1):
            count = emit.multiply(count, self.columns)
            self.results.hand_over(span, self.sums, zero, (*index, zero), count)
            return
        columns = emit.index(self.columns)
        with emit.loop(0, count, nonempty=True) as row:
            at = emit.multiply(row.index, self.columns)
            where = (*index[:-1], emit.add(first, row.index), zero)
            self.results.hand_over(span, self.sums, at, where, columns)
