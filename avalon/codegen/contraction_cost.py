"""Which schedule a contraction gets: estimated cycles of all that fit, the cheapest one wins.

Comes in: a `Problem`, a target, a dtype. Goes out: a `Schedule`; where sizes are not known, one
that serves all and is chosen for their samples. Guaranteed: the choice depends on nothing else, and
no choice changes a bit of the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from itertools import islice, product
from math import ceil, gcd, lcm, prod

from avalon.codegen.contraction_hot import Schedule, groups_of
from avalon.codegen.contraction_padding import can_skip, useful
from avalon.codegen.contraction_problem import Problem, known
from avalon.codegen.contraction_sides import runs
from avalon.codegen.contraction_tile import QUARTER, lanes_of, summed_in
from avalon.codegen.contraction_window import Box
from avalon.codegen.target import Target
from avalon.dtype import DType
from avalon.size import is_open

_COPY, _TURN, _GATHER = 2.0, 4.0, 18.0  # cycles to pack a vector
_SEEN, _ROW = 5.0, 12.0  # cycles to copy a vector of x, and more for each row of it
_STRIP, _STRIPS = 3.0, 8.0  # cycles to turn four positions of an image, and more for all images
_AFAR = 2.0  # times as long it takes to pack weights between copies of x as it takes by itself
_LISTED = 1.04  # times as long as otherwise takes a step that a list names
_AGAIN = 0.3  # of the cost of packing a vector, to read it again
_STORE = 6.0  # cycles to hand a vector to the epilogue
_TILE = 20.0  # cycles to begin a tile and to keep its sums
_UNIT, _BLOCK = 300.0, 100.0  # cycles to begin a unit of work, and a block in it
_COPIES = 200.0  # cycles more to begin a block that copies x
_UNIT_FLOPS = 1 << 20  # a unit of work should have as many, if there are units enough
_UNIT_BYTES = 128 << 10  # or read so much
_SUPPOSED = 48  # rows or columns that a matrix product has at least if nobody knows how many
_FEWER_ROWS = 8  # of a tile then, for rows that do not fill one are taken one by one
_FEW_ROWS = 6  # so many share lanes that are turned on their way
_MOST_UNITS = 32  # that many are enough
_FEW_UNITS = 8  # fewer than so many leave threads without work, more only wait for the last one
_SUMS = 160 << 10  # bytes of sums that a unit keeps, so that they stay in the second cache
_NEAR = 32 << 10  # bytes of sums that stay in the first cache
_COPIED = 256 << 10  # bytes of x that a unit copies, likewise
_MOST_BOXES = 6  # sizes of units that are tried for a tile
_RESIDENT = 576 << 10  # bytes of packed lanes that may stay in the second cache
_LINE = 64  # bytes that come from memory together
_FAR = 12 << 20  # bytes of an operand that come from memory, not from a cache
_ACROSS = 4.0  # cycles to fetch a vector from there that lies in two lines, by the way
_FIRST = 3.0  # cycles that a vector costs more which is read in place for the first time
_PLACES, _WAYS = 64 << 10, 16  # bytes after which places in the second cache recur, and how many
_PAGE = 4096  # rows that lie a multiple of it apart share their places in the first cache

Grain = tuple[int, ...]  # one number for each of the three axes of positions


@lru_cache(maxsize=1024)
def choose(
    target: Target, dtype: DType, problem: Problem, spatial: bool, grain: Grain = (1, 1, 1)
) -> Schedule:
    """The cheapest schedule. `spatial` tells convolutions from matrix products; boxes of positions
    begin at multiples of `grain`.
    """
    possible = [
        found
        for found in candidates(target, dtype, problem, spatial, grain)
        if not problem.formulas or _serves_many(problem, found[1])
    ]
    return min(possible, key=lambda found: found[0])[1]


def _serves_many(problem: Problem, schedule: Schedule) -> bool:
    """Whether a schedule is right for other sizes than those that it was made for: whatever number
    of rows and columns, and of blocks.
    """
    return not schedule.turn_lanes and not (schedule.resident and is_open(known(problem.per_span)))


def candidates(
    target: Target, dtype: DType, problem: Problem, spatial: bool, grain: Grain = (1, 1, 1)
) -> Iterator[tuple[float, Schedule]]:
    """Schedules that may be the cheapest, each with its estimated cycles."""
    model = _Model(target, dtype, problem, spatial, grain)
    for cost, schedule in model.windows() if spatial else model.products():
        yield model.balanced(cost, schedule), schedule


def _supposed(problem: Problem, spatial: bool) -> Problem:
    """The problem for the sizes that a schedule is made for. A matrix product that began with few
    rows or columns may get many: then a schedule for few loses more than the reverse.
    """
    sampled = problem.sampled()
    if spatial or sampled is problem:
        return sampled
    images, channels = (
        max(known(number), _SUPPOSED) if is_open(given) else number
        for number, given in (
            (sampled.images, problem.images), (sampled.channels, problem.channels)
        )
    )  # fmt: skip
    return replace(sampled, images=images, channels=channels)


def beginning(target: Target, dtype: DType, problem: Problem, schedule: Schedule) -> int:
    """The arithmetic that packing the lanes that stay takes as long as: every chunk of units that a
    thread begins does so.
    """
    if not schedule.resident or problem.formulas:
        return 0
    unit = schedule.x_unit if schedule.x_in_lanes else schedule.w_unit
    model = _Model(target, dtype, problem, schedule.box is not None, (1, 1, 1))
    vectors = ceil(unit / model.width) * model.blocks.per_span * model.blocks.longest
    # Two fused multiply-adds a cycle.
    return int(vectors * model.packing(schedule.x_in_lanes) * 4 * model.width)


class _Model:
    def __init__(
        self, target: Target, dtype: DType, given: Problem, spatial: bool, grain: Grain
    ) -> None:
        self.target, self.dtype, self.grain = target, dtype, grain
        self.given, self.problem = given, _supposed(given, spatial)
        problem = self.problem
        self.width = lanes_of(target, dtype)
        self.size = summed_in(dtype).itemsize
        self.blocks = problem.blocks
        self.summed = problem.summed
        self.groups = known(problem.groups)
        self.images, self.channels = known(problem.images), known(problem.channels)
        self.outputs = [known(extent) for extent in problem.outputs]
        self.stride = [known(stride) for stride in problem.stride]
        self.lengths = [known(length) for length in problem.lengths]
        self.reach = [
            (max(taps, 1) - 1) * known(dilation)
            for taps, dilation in zip(self.lengths[1:], problem.dilation, strict=True)
        ]
        self.packing = cache(self._packing)

    def step(self, rows: int, vectors: int, table: int) -> float:
        """Cycles to add one product to every sum of a tile of packed lanes: two fused
        multiply-adds and two loads a cycle, four cycles until a sum can be added to again, and
        some for vectors that come out of the second cache.
        """
        sums = rows * vectors
        scalars = _scalars(rows, vectors)
        busy = max(sums / 2, (scalars + vectors + table) / 2, 2.0 * vectors)
        return 1.05 * max(busy, 4.0 if sums < 8 else 0.0) + 0.15 * vectors

    def skipping_step(self, rows: int, vectors: int) -> float:
        """The same for several images at one position, whose scalars are neighbours; a list says
        which step is next, and once a panel its lanes are looked at.
        """
        scalars = _scalars(rows, vectors)
        sums, tiles = rows * vectors, prod(self.outputs) * ceil(self.images / rows)
        busy = max(sums / 2, (scalars + vectors + 2) / 2, 2.0 * vectors, 4.0 if sums < 8 else 0.0)
        return 1.13 * busy + 0.75 * vectors * max(0.25, 4 / tiles)

    def window_step(self, rows: int, vectors: int) -> float:
        """The same for lanes in a copy of x, which is near, but where vectors straddle two cache
        lines and count twice.
        """
        sums = rows * vectors
        busy = max(sums / 2, (rows + 2 * vectors + 1) / 2, 4.0 if sums < 8 else 0.0)
        return 1.06 * busy + 0.4

    def balanced(self, cost: float, schedule: Schedule) -> float:
        """The cost of one group's sums as that of all, with what it takes to begin units, and what
        threads lose that wait for the last one.
        """
        cost *= self.groups
        x_groups, w_groups = groups_of(self.problem, schedule)
        count = max(1, self.groups * self.blocks.spans * w_groups * prod(x_groups))
        block = _BLOCK if schedule.box is None else _BLOCK + _COPIES
        cost += count * (_UNIT + block * ceil(self.blocks.total / self.blocks.spans))
        if self.problem.flops < 2 * _UNIT_FLOPS:
            return cost
        return cost * (1 + max(1 / count, _FEW_UNITS / count**2))

    def tiles(self, rows: int) -> Iterator[tuple[int, int]]:
        """Tiles that fit the registers, with at most `rows` rows."""
        for vectors in range(1, 9):
            # Vectors of one operand, one of the other unless it is read within the instruction.
            spread = 0 if vectors == 1 and self.target.name == "avx512" else 1
            room = self.target.registers - vectors - spread - (0 if self.target.has_fma else 1)
            for count in range(1, min(rows, room // vectors) + 1):
                yield count, vectors

    def _packing(self, is_x: bool) -> float:
        """Cycles to pack a vector of an operand with one axis of parts."""
        problem = self.problem
        strides = problem.x_strides if is_x else problem.w_strides
        part, *summed = map(known, strides[1:])
        if part == 1:
            return _COPY
        inner_length, inner_stride = runs(self.lengths, summed)[-1]
        if abs(inner_stride) != 1 or inner_length < QUARTER:
            return _GATHER
        return _TURN * ceil(inner_length / QUARTER) * QUARTER / inner_length + 16 / inner_length

    # Matrix products

    def products(self) -> Iterator[tuple[float, Schedule]]:
        """Schedules of a matrix product, with their costs."""
        for x_in_lanes in (False, True):
            lanes = self.images if x_in_lanes else self.channels
            rows = self.channels if x_in_lanes else self.images
            best: tuple[float, int, int] | None = None
            open_rows = is_open(known(self.given.channels if x_in_lanes else self.given.images))
            few = open_rows or self._collides(not x_in_lanes)
            for count, vectors in self.tiles(min(rows, _FEWER_ROWS) if few else rows):
                panel = vectors * self.width
                tiles = ceil(lanes / panel) * ceil(rows / count)
                cycles = self.step(count, vectors, 0) * self.summed
                cost = tiles * (cycles + _TILE * max(1, self.blocks.total))
                if best is None or cost < best[0]:
                    best = (cost, count, vectors)
            if best is None:
                continue
            for schedule in self._placed(x_in_lanes, best[1], best[2]):
                yield best[0] + self._product_extra(schedule), schedule
            part, summed = self._strides(x_in_lanes)
            same = summed_in(self.dtype) is self.dtype
            if same and rows <= _FEW_ROWS and summed == 1 and part != 1:
                # Two vectors hide the latency of one row's chain; their many streams must not
                # share their places in the first cache.
                vectors = 2 if rows <= 2 and not self._collides(x_in_lanes) else 1
                schedule = self._units(Schedule(
                    x_in_lanes, rows, vectors, 0, pack_lanes=False, turn_lanes=True
                ))  # fmt: skip
                cost = self.summed * ceil(lanes / self.width) * (_TURN - 1 + rows / 2)
                yield cost + rows * ceil(lanes / self.width) * _STORE, schedule

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

    def _crowds(self, pitch: int) -> bool:
        """Whether a block of lanes, rows of it `pitch` bytes apart, has too few places in the
        second cache.
        """
        apart = _PLACES // gcd(max(1, pitch), _PLACES) if pitch % _LINE == 0 else _PLACES // _LINE
        return self.blocks.longest > _WAYS * apart

    def _units(self, schedule: Schedule) -> Schedule:
        """Cut a matrix product into units."""
        panel = schedule.vectors * self.width
        lanes = self.images if schedule.x_in_lanes else self.channels
        rows = self.channels if schedule.x_in_lanes else self.images
        widest = 128
        if schedule.pack_lanes:
            # Few enough that their whole sum stays, if that leaves a panel.
            most = _RESIDENT // max(1, self._span_length() * self.size)
            widest = min(widest, most) if most >= panel else widest
        lane_groups = ceil(lanes / max(panel, widest // panel * panel))
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
        x_unit, w_unit = (lane_unit, row_unit) if schedule.x_in_lanes else (row_unit, lane_unit)
        stays = ceil(rows / row_unit) > 1 and lane_unit * self._span_length() * self.size
        return replace(
            schedule, x_unit=x_unit, w_unit=w_unit,
            resident=schedule.pack_lanes and 0 < stays <= _RESIDENT,
        )  # fmt: skip

    def wanted_units(self) -> int:
        """How many units of work there should be: by arithmetic, or by what is read."""
        read = (self.images * self.outputs[2] + self.channels) * self.summed * self.size
        wanted = max(self.problem.flops // _UNIT_FLOPS, self.groups * read // _UNIT_BYTES)
        return max(1, min(_MOST_UNITS, wanted))

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
            repeats = 1 + _AGAIN * row_groups if schedule.resident else row_groups
            cost += vectors * self.packing(x_in_lanes) * repeats
        else:
            # What is read in place misses the caches at first, and again if its rows fight for
            # places in the second one.
            pitch = self._strides(x_in_lanes)[1] * self.size
            more = ceil(rows / schedule.rows) - 1
            again = 0.5 * more
            if not self._crowds(pitch):
                again = min(again, _FIRST) + 0.05 * more
            cost += vectors * again
            if pitch % _LINE and self.groups * self.summed * lanes * self.size > _FAR:
                cost += vectors * _ACROSS
        if schedule.pack_rows:
            vectors = self.summed * ceil(rows / schedule.rows) * ceil(schedule.rows / self.width)
            cost += vectors * self.packing(not x_in_lanes) * lane_groups
        return cost

    # Convolutions

    def windows(self) -> Iterator[tuple[float, Schedule]]:
        """Schedules of a convolution, with their costs."""
        yield from self._positions_as_rows("")
        if can_skip(self.problem):
            yield from self._positions_as_rows("images")
            if useful(self.problem, 2) < 1:
                yield from self._positions_as_rows("lines")
        if summed_in(self.dtype) is self.dtype or self.packing(False) < _GATHER:
            yield from self._positions_as_lanes()

    def _positions_as_rows(self, skips: str) -> Iterator[tuple[float, Schedule]]:
        """Tiles of positions, or of images at one position, or of positions of one line, that leave
        out taps outside x.
        """
        most = ceil(self.channels / self.width)
        told = {"": 0, "images": 3, "lines": 2}[skips]
        summed = self.summed * (useful(self.problem, told) if told else 1)
        best: tuple[float, int, Box] | None = None
        # One vector a step takes less time than finding the step in a list.
        for vectors in range(2 if skips == "lines" else 1, min(4, most) + 1):
            room = max((rows for rows, v in self.tiles(64) if v == vectors), default=0)
            for tile in self._tiles(skips, room):
                rows = prod(tile)
                tiles = prod(
                    ceil(n / t) for n, t in zip((self.images, *self.outputs), tile, strict=True)
                )
                step = self.step(rows, vectors, 1)
                if skips == "images":
                    step = self.skipping_step(rows, vectors)
                elif skips:
                    step *= _LISTED
                cost = (
                    tiles
                    * ceil(self.channels / (vectors * self.width))
                    * (step * summed + _TILE * max(1, self.blocks.total))
                )
                if best is None or cost < best[0]:
                    best = (cost, vectors, tile)
        if best is None:
            return
        cost, vectors, tile = best
        panel = vectors * self.width
        for panels in (1, 2, 4):
            if panels > 1 and (panels - 1) * panel >= self.channels:
                break
            for box in self._unit_boxes(tile, panels * panel):
                schedule = Schedule(
                    False, prod(tile), vectors, panels * panel, box=box, tile=tile,
                    skips=bool(skips),
                )  # fmt: skip
                yield self._rows_cost(cost, schedule, box)

    def _rows_cost(self, cost: float, schedule: Schedule, box: Box) -> tuple[float, Schedule]:
        """The cost of the sums with that of packing, copying, turning and storing."""
        x_groups, w_groups = groups_of(self.problem, schedule)
        # The last unit along an axis sums what lies past the end, too.
        assert schedule.tile is not None
        extents = (self.images, *self.outputs)
        for n, t, size, groups in zip(extents, schedule.tile, box, x_groups, strict=True):
            cost *= groups * size / (ceil(n / t) * t)
        packed = schedule.w_unit * self._span_length() * self.size
        resident = prod(x_groups) > 1 and packed <= _RESIDENT
        # Packed lanes that stay are read again from the second cache by every unit.
        repeats = 1 + _AGAIN * prod(x_groups) if resident else prod(x_groups)
        positions = self.images * prod(self.outputs)
        turning = self._turning if schedule.skips and schedule.tile[0] > 1 else self._copying
        cost += turning(box, x_groups) * w_groups
        cost += self._storing(box, prod(box) * schedule.w_unit)
        cost += self.channels * positions / self.width * _TURN
        cost += _AFAR * repeats * self.summed * self.channels / self.width * self.packing(False)
        return cost, replace(schedule, resident=resident)

    def _positions_as_lanes(self) -> Iterator[tuple[float, Schedule]]:
        can_flatten = self.stride[1:] == [1, 1] and self.outputs[1] > 1
        largest: dict[int, int] = {}
        for rows, vectors in self.tiles(min(self.channels, 16)):
            largest[vectors] = rows
        tiles = [
            (rows, vectors)
            for vectors, most in largest.items()
            if vectors <= 4 or self.channels < 4
            for rows in islice(_cuts(self.channels, most), 3)
        ]
        for rows, vectors in tiles:
            for strips in (1, 2, 4):
                if strips > 1 and (strips - 1) * rows >= self.channels:
                    break
                for box in self._unit_boxes((1, 1, 1, 1), strips * rows):
                    yield self._lanes_cost(rows, vectors, strips * rows, box, False)
                    if can_flatten and box[2] > 1 and box[3] >= self.outputs[2]:
                        yield self._lanes_cost(rows, vectors, strips * rows, box, True)

    def _lanes_cost(
        self, rows: int, vectors: int, w_unit: int, box: Box, is_flat: bool
    ) -> tuple[float, Schedule]:
        x_groups = [
            ceil(n / size) for n, size in zip((self.images, *self.outputs), box, strict=True)
        ]
        line = box[3] + (box[2] - 1) * self._extent(2, box[3]) if is_flat else box[3]
        lines = prod(x_groups) * box[0] * box[1] * (1 if is_flat else box[2])
        tiles = lines * ceil(line / (vectors * self.width)) * ceil(self.channels / rows)
        cycles = self.window_step(rows, vectors) * self.summed
        cost = tiles * (cycles + _TILE * max(1, self.blocks.total))
        # The last unit must have a tile's rows, and 16-bit floats are widened by packing.
        rest = self.channels % w_unit
        pack = summed_in(self.dtype) is not self.dtype or 0 < rest < rows
        schedule = Schedule(
            True, rows, vectors, w_unit, box=box, is_flat=is_flat, pack_rows=pack,
            pack_lanes=False,
        )  # fmt: skip
        cost += self._copying(box, x_groups, self.stride[2]) * ceil(self.channels / w_unit)
        # The copy and the sums of a unit share the first cache.
        cost += self._storing(box, prod(box) * (w_unit + self.lengths[0]))
        if pack:
            strips = ceil(self.channels / rows)
            cost += prod(x_groups) * self.summed * self.packing(False) * strips
        return cost, schedule

    def _extent(self, axis: int, positions: int) -> int:
        """How far along an axis of x a block sees for so many positions."""
        return (positions - 1) * self.stride[axis] + self.reach[axis] + 1

    def _copying(self, box: Box, x_groups: Sequence[int], split: int = 1) -> float:
        """Cycles to copy what the units see of x."""
        rows = prod(self._extent(axis, box[1 + axis]) for axis in (0, 1))
        pitch = ceil(self._extent(2, box[3]) / split)
        channels = self.lengths[0]
        source = known(self.problem.x_strides[5])
        vector = _SEEN if source * split == 1 else _GATHER
        vectors = ceil(pitch / self.width) * split * vector + _ROW
        size = box[0] * channels * rows * pitch * split * self.size
        if size > _COPIED:
            vectors *= 4
        return prod(x_groups) * self.blocks.total * box[0] * channels * rows * vectors

    def _turning(self, box: Box, x_groups: Sequence[int]) -> float:
        """The same, with images and positions exchanged."""
        rows = prod(self._extent(axis, box[1 + axis]) for axis in (0, 1))
        strips = self.lengths[0] * rows * ceil(self._extent(2, box[3]) / QUARTER)
        # Channels that lie a multiple of a page apart push each other out of the first cache.
        page = known(self.problem.x_strides[2]) * self.dtype.itemsize % _PAGE == 0
        strip = 2 * _STRIP if page else _STRIP
        return prod(x_groups) * self.blocks.total * strips * (strip * box[0] + _STRIPS)

    def _storing(self, box: Box, sums: int) -> float:
        """Cycles to hand over all of y, from units of a box with so many sums: in runs of the last
        axis, and of those before it where the unit has all of y's last axes.
        """
        store = _STORE if sums * self.size <= _NEAR else 2 * _STORE
        extents = (self.images, *self.outputs)
        strides = (self.problem.y_strides[1], *self.problem.y_strides[3:])
        run, distance, axis = min(box[3], extents[3]), known(strides[3]) * extents[3], 3
        while axis > 0 and box[axis] == extents[axis]:
            axis -= 1
            if extents[axis] > 1 and known(strides[axis]) != distance:
                break
            run *= min(box[axis], extents[axis])
            distance *= extents[axis]
        lines = self.channels * prod(extents) / run
        return lines * (ceil(run / self.width) * store + 2)

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

    def _tiles(self, skips: str, room: int) -> Iterator[Box]:
        """Boxes of a tile's positions."""
        if skips == "images":
            return ((n, 1, 1, 1) for n in _cuts(self.images, room) if n > 1)
        if skips == "lines":
            return ((1, 1, 1, n) for n in _cuts(self.outputs[2], room))
        return self._boxes(room)

    def _unit_boxes(self, tile: Box, w_unit: int) -> Iterator[Box]:
        """Boxes of a unit: as large as its sums may be, and smaller."""
        most = _SUMS // (self.size * w_unit)
        seen: set[Box] = set()
        while True:
            box = self._box(tile, most)
            if box not in seen:
                seen.add(box)
                yield box
            if most <= prod(tile) or len(seen) == _MOST_BOXES:
                return
            most //= 2

    def _box(self, tile: Box, most: int) -> Box:
        """A box of tiles with at most so many positions, inner axes first."""
        box = list(tile)
        extents = (self.images, *self.outputs)
        for axis in (3, 2, 1, 0):
            largest = max(1, most // prod(box))
            tiles = ceil(extents[axis] / tile[axis])
            groups = ceil(tiles / largest)
            if groups > 1:
                # Some more units may leave less over.
                more = range(groups, min(groups + 3, tiles + 1))
                groups = min(more, key=lambda n: ceil(tiles / n) * n)
            box[axis] = ceil(tiles / groups) * tile[axis]
            if groups > 1:
                break
        for axis, grain in enumerate(self.grain, 1):
            if box[axis] < extents[axis]:
                size = lcm(tile[axis], grain)
                box[axis] = ceil(box[axis] / size) * size
        return (box[0], box[1], box[2], box[3])


def _scalars(rows: int, vectors: int) -> float:
    """Loads of a tile's scalars: one that is used once is read within the instruction, which costs
    more.
    """
    return 1.3 * rows if vectors == 1 else rows


def _cuts(extent: int, room: int) -> Iterator[int]:
    """Sizes up to `room` that cut `extent` evenly, largest first."""
    seen = 0
    for most in range(min(extent, room), 0, -1):
        size = ceil(extent / ceil(extent / most))
        if size != seen:
            seen = size
            yield size
