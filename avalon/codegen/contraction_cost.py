"""Which schedule a contraction gets: estimated cycles of all that fit, the cheapest one wins.

Comes in: a `Problem` of known numbers, a target, a dtype. Goes out: a `Schedule`. Guaranteed: the
choice depends on nothing else, and no choice changes a bit of the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import ceil, prod

from avalon.codegen.contraction_hot import Schedule, groups_of, units
from avalon.codegen.contraction_problem import Problem, known
from avalon.codegen.contraction_sides import runs
from avalon.codegen.contraction_tile import QUARTER, lanes_of, summed_in
from avalon.codegen.contraction_window import Box
from avalon.codegen.target import Target
from avalon.dtype import DType

_COPY, _TURN, _GATHER = 2.0, 4.0, 18.0  # cycles to pack a vector
_STORE = 6.0  # cycles to hand a vector to the epilogue
_TILE = 20.0  # cycles to begin a tile and to keep its sums
_UNIT_FLOPS = 2 << 20  # a unit of work should have as many, if there are units enough
_MOST_UNITS = 32  # that many are enough
_SUMS = 48 << 10  # bytes of sums that a unit keeps, so that they stay in the first cache
_RESIDENT = 384 << 10  # bytes of packed lanes that may stay in the second cache
_PAGE = 4096  # rows that lie a multiple of it apart share their places in the first cache


def choose(target: Target, dtype: DType, problem: Problem, spatial: bool) -> Schedule:
    """The cheapest schedule. `spatial` tells convolutions from matrix products."""
    model = _Model(target, dtype, problem)
    candidates = list(model.windows() if spatial else model.products())
    return min(candidates, key=lambda candidate: candidate[0])[1]


class _Model:
    def __init__(self, target: Target, dtype: DType, problem: Problem) -> None:
        self.target, self.dtype, self.problem = target, dtype, problem
        self.width = lanes_of(target, dtype)
        self.size = summed_in(dtype).itemsize
        self.blocks = problem.blocks
        self.summed = problem.summed
        self.groups = known(problem.groups)
        self.images, self.channels = known(problem.images), known(problem.channels)
        self.outputs = [known(extent) for extent in problem.outputs]

    def step(self, rows: int, vectors: int, loads: float) -> float:
        """Cycles to add one product to every sum of a tile: two fused multiply-adds and two loads
        a cycle, four cycles until a sum can be added to again, two for a vector out of the second
        cache.
        """
        sums = rows * vectors
        return max(sums / 2, (rows + loads) / 2, 2.0 * vectors, 4.0 if sums < 8 else 0.0) + 0.25

    def tiles(self, rows: int) -> Iterator[tuple[int, int]]:
        """Tiles that fit the registers, with at most `rows` rows."""
        for vectors in range(1, 9):
            # Vectors of one operand, one of the other unless it is read within the instruction.
            spread = 0 if vectors == 1 and self.target.name == "avx512" else 1
            room = self.target.registers - vectors - spread - (0 if self.target.has_fma else 1)
            for count in range(1, min(rows, room // vectors) + 1):
                yield count, vectors

    def packing(self, is_x: bool) -> float:
        """Cycles to pack a vector of an operand with one axis of parts."""
        problem = self.problem
        strides = problem.x_strides if is_x else problem.w_strides
        part, *summed = map(known, strides[1:])
        if part == 1:
            return _COPY
        lengths = [known(length) for length in problem.lengths]
        inner_length, inner_stride = runs(lengths, summed)[-1]
        return _TURN if inner_stride == 1 and inner_length >= QUARTER else _GATHER

    # Matrix products

    def products(self) -> Iterator[tuple[float, Schedule]]:
        """Schedules of a matrix product, with their costs."""
        for x_in_lanes in (False, True):
            lanes = self.images if x_in_lanes else self.channels
            rows = self.channels if x_in_lanes else self.images
            best: tuple[float, int, int] | None = None
            for count, vectors in self.tiles(8 if self._collides(not x_in_lanes) else rows):
                if count > rows:
                    continue
                panel = vectors * self.width
                tiles = ceil(lanes / panel) * ceil(rows / count)
                cycles = self.step(count, vectors, vectors) * self.summed
                cost = tiles * (cycles + _TILE * max(1, self.blocks.total))
                if best is None or cost < best[0]:
                    best = (cost, count, vectors)
            if best is None:
                continue
            for schedule in self._placed(x_in_lanes, best[1], best[2]):
                yield best[0] + self._product_extra(schedule), schedule

    def _placed(self, x_in_lanes: bool, rows: int, vectors: int) -> Iterator[Schedule]:
        """Units for a tile, and where the operands are read from."""
        part = self._strides(x_in_lanes)[0]
        same = summed_in(self.dtype) is self.dtype
        row_parts = self.channels if x_in_lanes else self.images
        exact = row_parts % rows == 0
        # Turned sums must lie where they belong, and 16-bit floats are widened by packing.
        pack_rows = not same or (x_in_lanes and not exact)
        for pack_lanes in (True, False):
            if not pack_lanes and not (same and part == 1):
                continue
            yield self._units(Schedule(
                x_in_lanes, rows, vectors, 0, pack_rows=pack_rows, pack_lanes=pack_lanes
            ))  # fmt: skip

    def _strides(self, is_x: bool) -> tuple[int, int]:
        """Strides of an operand's parts and of the sum's first axis."""
        strides = self.problem.x_strides if is_x else self.problem.w_strides
        return known(strides[1]), known(strides[2])

    def _collides(self, is_x: bool) -> bool:
        """Whether many rows of a tile would push each other out of the first cache."""
        part, summed = self._strides(is_x)
        return summed == 1 and part * self.dtype.itemsize % _PAGE == 0

    def _units(self, schedule: Schedule) -> Schedule:
        """Cut a matrix product into units."""
        panel = schedule.vectors * self.width
        lanes = self.images if schedule.x_in_lanes else self.channels
        rows = self.channels if schedule.x_in_lanes else self.images
        lane_groups = ceil(lanes / max(panel, 128 // panel * panel))
        row_groups = ceil(rows / (max(1, 128 // schedule.rows) * schedule.rows))
        wanted = self.wanted_units() / (self.groups * self.blocks.spans)
        while lane_groups * row_groups < wanted:
            if lane_groups < ceil(lanes / panel):
                lane_groups = min(lane_groups * 2, ceil(lanes / panel))
            elif row_groups < ceil(rows / (2 * schedule.rows)):
                row_groups = min(row_groups * 2, ceil(rows / (2 * schedule.rows)))
            else:
                break
        lane_unit = ceil(ceil(lanes / panel) / lane_groups) * panel
        row_unit = ceil(ceil(rows / schedule.rows) / row_groups) * schedule.rows
        if not schedule.pack_rows and rows % row_unit and rows % row_unit < schedule.rows:
            # A unit of fewer rows than a tile could not be read in place.
            row_unit = rows if rows < 2 * row_unit else row_unit + schedule.rows
            if rows % row_unit and rows % row_unit < schedule.rows:
                schedule = replace(schedule, pack_rows=True)
        x_unit, w_unit = (
            (lane_unit, row_unit) if schedule.x_in_lanes else (row_unit, lane_unit)
        )
        stays = ceil(rows / row_unit) > 1 and lane_unit * self._span_length() * self.size
        return replace(
            schedule, x_unit=x_unit, w_unit=w_unit,
            resident=schedule.pack_lanes and 0 < stays <= _RESIDENT,
        )  # fmt: skip

    def wanted_units(self) -> int:
        """How many units of work there should be."""
        return max(1, min(_MOST_UNITS, self.problem.flops // _UNIT_FLOPS))

    def _span_length(self) -> int:
        return self.blocks.per_span * self.blocks.longest

    def _product_extra(self, schedule: Schedule) -> float:
        x_in_lanes = schedule.x_in_lanes
        lanes = self.images if x_in_lanes else self.channels
        rows = self.channels if x_in_lanes else self.images
        x_groups, w_groups = groups_of(self.problem, schedule)
        row_groups, lane_groups = (w_groups, x_groups[0]) if x_in_lanes else (x_groups[0], w_groups)
        cost = rows * ceil(lanes / self.width) * _STORE
        if x_in_lanes:
            cost += rows * lanes / self.width * _TURN
        vectors = self.summed * lanes / self.width
        if schedule.pack_lanes:
            repeats = 1 if schedule.resident else row_groups
            cost += vectors * self.packing(x_in_lanes) * repeats
        else:
            # Long strides cost more than the loads that the tile's own count holds.
            cost += vectors * 0.5 * max(0, ceil(rows / schedule.rows) - 1)
        if schedule.pack_rows:
            vectors = self.summed * ceil(rows / schedule.rows) * ceil(schedule.rows / self.width)
            cost += vectors * self.packing(not x_in_lanes) * lane_groups
        return cost

    # Convolutions

    def windows(self) -> Iterator[tuple[float, Schedule]]:
        """Schedules of a convolution, with their costs."""
        yield from self._positions_as_rows()
        if summed_in(self.dtype) is self.dtype or self.packing(False) < _GATHER:
            yield from self._positions_as_lanes()

    def _positions_as_rows(self) -> Iterator[tuple[float, Schedule]]:
        most = 1 if not self.channels else ceil(self.channels / self.width)
        best: tuple[float, int, Box] | None = None
        for vectors in range(1, min(4, most) + 1):
            room = max((rows for rows, v in self.tiles(64) if v == vectors), default=0)
            for tile in self._boxes(room):
                rows = prod(tile)
                tiles = prod(
                    ceil(n / t) for n, t in zip((self.images, *self.outputs), tile, strict=True)
                )
                cycles = self.step(rows, vectors, vectors + 1) * self.summed
                cost = tiles * ceil(self.channels / (vectors * self.width)) * (
                    cycles + _TILE * max(1, self.blocks.total)
                )
                if best is None or cost < best[0]:
                    best = (cost, vectors, tile)
        if best is None:
            return
        cost, vectors, tile = best
        panel = vectors * self.width
        w_unit = min(ceil(self.channels / panel), max(1, 128 // panel)) * panel
        box = self._box(tile, w_unit)
        schedule = Schedule(False, prod(tile), vectors, w_unit, box=box, tile=tile)
        x_groups, w_groups = groups_of(self.problem, schedule)
        resident = prod(x_groups) > 1 and w_unit * self._span_length() * self.size <= _RESIDENT
        schedule = replace(schedule, resident=resident)
        positions = self.images * prod(self.outputs)
        cost += self._copying(box, x_groups, 1) * w_groups
        cost += self._storing() + self.channels * positions / self.width * _TURN
        repeats = 1 if resident else prod(x_groups)
        cost += repeats * self.summed * self.channels / self.width * self.packing(False)
        yield cost, schedule

    def _positions_as_lanes(self) -> Iterator[tuple[float, Schedule]]:
        strides = [known(stride) for stride in self.problem.stride]
        pack_rows = summed_in(self.dtype) is not self.dtype
        for is_flat in (False, True):
            if is_flat and (strides[1:] != [1, 1] or self.outputs[1] == 1):
                continue
            for parts in (1, 2, 3, 4, 8):
                w_unit = min(self.channels, 64)
                box = self._box((1, 1, 1, 1), w_unit * parts)
                box = (box[0], box[1], box[2], self.outputs[2]) if is_flat else box
                line = box[3]
                if is_flat:
                    pitch = self._extent(2, box[3])
                    line += (box[2] - 1) * pitch
                lines = self.images * self.outputs[0] * ceil(self.outputs[1] / box[2])
                lines *= ceil(self.outputs[2] / box[3]) * (1 if is_flat else box[2])
                best: tuple[float, int, int] | None = None
                for rows, vectors in self.tiles(w_unit):
                    tiles = lines * ceil(line / (vectors * self.width))
                    # Vectors that straddle two cache lines count twice.
                    cycles = self.step(rows, vectors, 2 * vectors + 1) * self.summed
                    cost = tiles * ceil(self.channels / rows) * (
                        cycles + _TILE * max(1, self.blocks.total)
                    )
                    if best is None or cost < best[0]:
                        best = (cost, rows, vectors)
                if best is None:
                    continue
                cost, rows, vectors = best
                w_unit = min(ceil(self.channels / rows) * rows, ceil(64 / rows) * rows)
                exact = self.channels % w_unit == 0 or self.channels % w_unit >= rows
                schedule = Schedule(
                    True, rows, vectors, w_unit, box=box, is_flat=is_flat,
                    pack_rows=pack_rows or not exact, pack_lanes=False,
                )  # fmt: skip
                x_groups, w_groups = groups_of(self.problem, schedule)
                cost += self._copying(box, x_groups, strides[2]) * w_groups + self._storing()
                if schedule.pack_rows:
                    cost += prod(x_groups) * self.summed * self.packing(False) * ceil(
                        self.channels / rows
                    )
                yield cost, schedule

    def _extent(self, axis: int, positions: int) -> int:
        """How far along an axis of x a block sees for so many positions."""
        problem = self.problem
        taps = known(problem.lengths[1 + axis])
        reach = (max(taps, 1) - 1) * known(problem.dilation[axis])
        return (positions - 1) * known(problem.stride[axis]) + reach + 1

    def _copying(self, box: Box, x_groups: Sequence[int], split: int) -> float:
        """Cycles to copy what the units see of x."""
        rows = prod(self._extent(axis, box[1 + axis]) for axis in (0, 1))
        pitch = ceil(self._extent(2, box[3]) / split)
        source = known(self.problem.x_strides[5])
        vector = _COPY + 1 if source * split == 1 else _GATHER
        vectors = ceil(pitch / self.width) * split * vector + 4
        return prod(x_groups) * self.blocks.total * box[0] * known(
            self.problem.lengths[0]
        ) * rows * vectors

    def _storing(self) -> float:
        """Cycles to hand over all of y."""
        lines = self.images * self.channels * prod(self.outputs[:2])
        return lines * (ceil(self.outputs[2] / self.width) * _STORE + 2)

    def _boxes(self, room: int) -> Iterator[Box]:
        """Boxes of at most `room` positions that leave little over: an axis is cut once those
        inside it are whole.
        """
        n, a, b, c = self.images, *self.outputs
        for last in _cuts(c, room):
            yield (1, 1, 1, last)
        if c <= room:
            for middle in _cuts(b, room // c):
                yield (1, 1, middle, c)
        for first in _cuts(a, room // max(1, b * c)):
            yield (1, first, b, c)
        for image in range(2, min(n, room // max(1, a * b * c)) + 1):
            yield (image, a, b, c)
        # Several images and one row each.
        for image, middle in product(range(2, 5), range(1, 3)):
            if image <= n and image * middle * c <= room and middle <= b:
                yield (image, 1, middle, c)

    def _box(self, tile: Box, w_unit: int) -> Box:
        """The box of a unit: as large as its sums may be, and as units are wanted."""
        total = self.images * prod(self.outputs)
        outer = self.groups * self.blocks.spans * ceil(self.channels / max(w_unit, 1))
        most = max(_SUMS // (self.size * max(w_unit, 1)), prod(tile))
        if self.blocks.spans == 1:
            most = min(most, ceil(total * outer / self.wanted_units()))
        box = list(tile)
        extents = (self.images, *self.outputs)
        for axis in (3, 2, 1, 0):
            inside = prod(box) // box[axis]
            largest = max(1, most // (inside * tile[axis]))
            tiles = ceil(extents[axis] / tile[axis])
            groups = ceil(tiles / largest)
            box[axis] = ceil(tiles / groups) * tile[axis]
            if groups > 1:
                break
        return (box[0], box[1], box[2], box[3])


def _cuts(extent: int, room: int) -> Iterator[int]:
    """Sizes up to `room` that cut `extent` evenly, largest first."""
    seen = 0
    for pieces in range(1, extent + 1):
        size = ceil(extent / pieces)
        if size <= room and size != seen:
            seen = size
            yield size
        if size == 1:
            break


__all__ = ["choose", "units"]
