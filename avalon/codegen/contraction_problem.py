"""The one form that every contraction takes, and the order in which its products are added.

Comes in: shapes, views and parameters of `contract` and `convolve`. Goes out: `Problem`s,

    y[g, n, o, p] = sum over c, t of x[g, n, c, p * stride + t * dilation - low] * w[g, o, c, t]

where p are the output positions and t the taps, each with three axes (axes that are missing have
extent 1). x is 0 outside its sizes. A matrix product is the case without positions: n counts the
rows of the first matrix, o the columns of the second, c is summed over. Nothing here is specific to
a machine.

The order of the sum (every kernel keeps it, so that all give equal bits): the taps that fall into
the holes of a dilated input are left out; the products that remain are numbered with c outermost,
then the three tap axes. `reduction_blocks` cuts that sequence by its extents alone. Inside a block
one chain of fused multiply-adds runs from +0 in the order of the numbers; the sums of a span's
blocks are added from left to right, again from +0, then the spans' sums from left to right; a
result that comes in parts, because its input has holes, has one span. Taps outside x count as
products with +0: they leave a finite sum alone (a zero never ends up as -0, whatever its sign was
in between), and meet an infinite or NaN weight as 0 * inf does in IEEE arithmetic. 16-bit floats
are summed in float32 and rounded once; integers wrap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import ceil, gcd, prod
from typing import Any

from avalon.codegen.emit import Emit, Index, Value
from avalon.shape import contiguous_strides
from avalon.size import Size, few, hint, is_open, later, same

LONGEST_BLOCK = 384
SPANS = 16  # at most; a span is what one thread may sum while others sum the rest
_FEW_OUTPUTS = 1 << 14
_MANY_BLOCKS = 8
_ONE_SPAN = (_MANY_BLOCKS - 1) * LONGEST_BLOCK  # products of a matrix product in so few blocks

Triple = tuple[Index, Index, Index]


@dataclass(frozen=True)
class View:
    """Where an operand's elements are: element `offset` and one stride per axis, in elements, may
    be 0 or negative.

    `slot` is the position of the buffer among a kernel's arguments (hot) or its number (cold).
    """

    slot: int
    strides: tuple[int, ...]
    offset: int = 0

    @staticmethod
    def contiguous(slot: int, shape: Sequence[int]) -> View:
        """The view of a whole row-major array."""
        return View(slot, contiguous_strides(shape))


@dataclass(frozen=True)
class Blocks:
    """How a sum is cut: a block is a box of `lengths` (channels, taps), `counts` says how many
    follow one another along each axis, a span is `per_span` consecutive blocks.
    """

    lengths: tuple[int, int, int, int]
    counts: tuple[int, int, int, int]
    per_span: int

    @property
    def total(self) -> int:
        return prod(self.counts)

    @property
    def spans(self) -> int:
        if same(self.per_span, self.total):
            return 1
        return later(_spans, self.total, self.per_span)

    @property
    def longest(self) -> int:
        return prod(self.lengths)


def reduction_blocks(extents: tuple[int, int, int, int], outputs: int) -> Blocks:
    """Cut the sum over `extents` (channels and three tap axes) of a result with `outputs` elements.

    Trailing axes stay whole as long as a block has at most `LONGEST_BLOCK` products; the axis in
    front of them is cut evenly; axes further out advance one by one. So the weight gradient of a
    convolution is summed image by image, and a matrix product in runs of its inner axis. Few
    outputs with many blocks are cut in `SPANS` spans.

    >>> reduction_blocks((512, 1, 1, 1), 1 << 18).lengths
    (256, 1, 1, 1)
    >>> reduction_blocks((100, 1, 14, 14), 4608)
    Blocks(lengths=(1, 1, 14, 14), counts=(100, 1, 1, 1), per_span=7)
    """
    lengths = list(extents)
    inside = 1
    for axis in (3, 2, 1, 0):
        if inside * extents[axis] <= LONGEST_BLOCK:
            inside *= max(extents[axis], 1)
            continue
        pieces = ceil(extents[axis] / (LONGEST_BLOCK // inside))
        lengths[axis] = ceil(extents[axis] / pieces)
        lengths[:axis] = [min(1, extent) for extent in extents[:axis]]
        break
    counts = [ceil(extent / length) if length else 0
              for extent, length in zip(extents, lengths, strict=True)]  # fmt: skip
    total = prod(counts)
    spans = min(SPANS, total // 2) if total >= _MANY_BLOCKS and outputs <= _FEW_OUTPUTS else 1
    a, b, c, d = lengths
    e, f, g, h = counts
    return Blocks((a, b, c, d), (e, f, g, h), ceil(total / spans))


@dataclass(frozen=True)
class Problem:
    """A contraction in the form above. Extents and strides are numbers, or, inside a kernel that
    serves all shapes, values read from its arguments (`bind`).

    Attributes:
        groups, images, channels, depth: extents of g, n, o, c.
        sizes, taps, outputs: extents of x's positions, of t and of p.
        stride, dilation, low: as in the formula.
        x_strides: of g, n, c and three positions.
        w_strides: of g, o, c and three taps.
        y_strides: of g, n, o and three positions.
        x_offset, w_offset, y_offset: of the first element.
        lengths, counts, per_span: the blocks, see `Blocks`.
        span_stride: distance in y between the sums of two spans.
    """

    groups: Index
    images: Index
    channels: Index
    depth: Index
    sizes: Triple
    taps: Triple
    outputs: Triple
    stride: Triple
    dilation: Triple
    low: Triple
    x_strides: tuple[Index, ...]
    w_strides: tuple[Index, ...]
    y_strides: tuple[Index, ...]
    x_offset: Index = 0
    w_offset: Index = 0
    y_offset: Index = 0
    lengths: tuple[Index, ...] = ()
    counts: tuple[Index, ...] = ()
    per_span: Index = 0
    span_stride: Index = 0

    def numbers(self, spatial: bool) -> list[int]:
        """What `bind` reads: all fields in a row, or those of a matrix product."""
        row: list[int] = []
        for name, used in _fields(spatial):
            value = getattr(self, name)
            row.extend(value[:used] if isinstance(value, tuple) else (value,))
        return row

    def bind(self, emit: Emit, first_slot: int, spatial: bool) -> Problem:
        """The same problem, its numbers read from the slots from `first_slot` on."""
        slot = first_slot
        fields: dict[str, object] = {}
        for name, used in _fields(spatial):
            value = getattr(self, name)
            if isinstance(value, tuple):
                read = [emit.integer(slot + i) for i in range(used)]
                fields[name] = (*read, *value[used:])
                slot += used
            else:
                fields[name] = emit.integer(slot)
                slot += 1
        return replace(self, **fields)  # type: ignore[arg-type]

    @cached_property
    def room(self) -> list[int]:
        """The lengths of the longest block that there may be."""
        channels, *taps = self.lengths
        inside = [known(length) for length in taps]
        if is_number(channels):
            return [known(channels), *inside]
        return [max(1, LONGEST_BLOCK // prod(inside)), *inside]

    @cached_property
    def formulas(self) -> list[Size]:
        """The numbers that are not known yet, each once."""
        numbers: list[Any] = list(self.numbers(True))
        return list(dict.fromkeys(number for number in numbers if isinstance(number, Size)))

    def opened(self, emit: Emit, first_slot: int) -> Problem:
        """The same problem, its `formulas` read from the slots from `first_slot` on."""
        read = {formula: emit.integer(first_slot + i) for i, formula in enumerate(self.formulas)}
        return self._with(lambda number: read[number] if isinstance(number, Size) else number)

    def sampled(self) -> Problem:
        """The same problem for sizes of which a schedule is decided."""
        return self._with(hint)

    def _with(self, change: Callable[[Any], Index]) -> Problem:
        if not self.formulas:
            return self
        fields: dict[str, Any] = {}
        for name, _ in _EVERY:
            value = getattr(self, name)
            several = isinstance(value, tuple)
            fields[name] = tuple(map(change, value)) if several else change(value)
        return replace(self, **fields)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Extents of y: groups, images, channels, three positions."""
        return tuple(map(known, (self.groups, self.images, self.channels, *self.outputs)))

    @cached_property
    def blocks(self) -> Blocks:
        a, b, c, d = map(known, self.lengths)
        e, f, g, h = map(known, self.counts)
        return Blocks((a, b, c, d), (e, f, g, h), known(self.per_span))

    @cached_property
    def positions(self) -> int:
        """Number of output positions of one image."""
        return prod(map(known, self.outputs))

    @cached_property
    def summed(self) -> int:
        """Number of products in one element of y."""
        return known(self.depth) * prod(map(known, self.taps))

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * prod(self.shape) * self.summed

    @property
    def sizes_read(self) -> tuple[int, int]:
        """Elements of one group's x and w."""
        x = known(self.images) * known(self.depth) * prod(map(known, self.sizes))
        return x, known(self.channels) * self.summed

    @property
    def pads(self) -> bool:
        """Whether a tap of some output falls outside x."""
        axes = zip(self.sizes, self.taps, self.outputs, self.stride, self.dilation, self.low,
                   strict=True)  # fmt: skip
        return any(_leaves(*map(known, axis)) for axis in axes)


def _leaves(size: int, taps: int, outputs: int, stride: int, dilation: int, low: int) -> bool:
    last = (outputs - 1) * stride + (taps - 1) * dilation - low
    return outputs > 0 and taps > 0 and (low > 0 or last >= size)


_EVERY = (
    ("groups", 1), ("images", 1), ("channels", 1), ("depth", 1), ("sizes", 3), ("taps", 3),
    ("outputs", 3), ("stride", 3), ("dilation", 3), ("low", 3), ("x_strides", 6),
    ("w_strides", 6), ("y_strides", 6), ("x_offset", 1), ("w_offset", 1), ("y_offset", 1),
    ("lengths", 4), ("counts", 4), ("per_span", 1), ("span_stride", 1),
)  # fmt: skip
_OF_PRODUCTS = (
    ("groups", 1), ("images", 1), ("channels", 1), ("depth", 1), ("x_strides", 3),
    ("w_strides", 3), ("y_strides", 3), ("x_offset", 1), ("w_offset", 1), ("y_offset", 1),
    ("lengths", 1), ("counts", 1), ("per_span", 1), ("span_stride", 1),
)  # fmt: skip


def _fields(spatial: bool) -> tuple[tuple[str, int], ...]:
    """The fields that a kernel reads, and how many numbers of each."""
    return _EVERY if spatial else _OF_PRODUCTS


def known(value: Index) -> int:
    """The number of an index that must be known here."""
    number: Any = value.number if isinstance(value, Value) else value
    assert isinstance(number, int | Size)
    return number  # type: ignore[return-value]


def is_number(value: Index) -> bool:
    """Whether an index is a number already."""
    return isinstance(value.number if isinstance(value, Value) else value, int)


def with_blocks(problem: Problem) -> Problem:
    """The problem with its blocks filled in."""
    depth, (t1, t2, t3) = known(problem.depth), map(known, problem.taps)
    outputs = prod(problem.shape)
    row = [later(_number_of_blocks, (depth, t1, t2, t3), outputs, place) for place in range(9)]
    if not any(map(is_open, (t1, t2, t3))):
        # Taps are cut as those of one channel are; many of them leave a block no second channel.
        channels = 1 if is_open(depth) else depth
        cut = reduction_blocks((channels, t1, t2, t3), _FEW_OUTPUTS + 1)
        row[1:4], row[5:8] = cut.lengths[1:], cut.counts[1:]
        if not is_open(depth):
            row[0], row[4] = cut.lengths[0], cut.counts[0]
        elif 2 * t1 * t2 * t3 > LONGEST_BLOCK:
            row[0], row[4] = 1, depth
    total = prod(row[4:8])
    one_span = few(total, _MANY_BLOCKS - 1) or not (is_open(outputs) or outputs <= _FEW_OUTPUTS)
    if one_span or (is_open(depth) and same(t1 * t2 * t3, 1) and depth <= _ONE_SPAN):
        row[8] = total
    return replace(problem, lengths=tuple(row[:4]), counts=tuple(row[4:8]), per_span=row[8])


def _number_of_blocks(extents: tuple[int, int, int, int], outputs: int, place: int) -> int:
    blocks = reduction_blocks(extents, outputs)
    return (*blocks.lengths, *blocks.counts, blocks.per_span)[place]


def _spans(total: int, per_span: int) -> int:
    return max(1, ceil(total / per_span)) if per_span else 1


def contract_problem(shape: tuple[int, int, int, int], a: View, b: View, y: View) -> Problem:
    """a [B, M, K] times b [B, K, N], for `shape` = (B, M, K, N); y is [B, M, N]."""
    batch, rows, summed, columns = shape
    one, zero = (1, 1, 1), (0, 0, 0)
    return with_blocks(Problem(
        batch, rows, columns, summed, one, one, one, one, one, zero,
        (*a.strides, *zero), (b.strides[0], b.strides[2], b.strides[1], *zero), (*y.strides, *zero),
        a.offset, b.offset, y.offset,
    ))  # fmt: skip


def convolve_problems(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    y_shape: tuple[int, ...],
    x: View,
    w: View,
    y: View,
    *,
    stride: Sequence[int],
    input_dilation: Sequence[int],
    kernel_dilation: Sequence[int],
    low: Sequence[int],
    flip: bool,
) -> list[Problem]:
    """x [G, N, C, *S] with w [G, O, C, *T] to y [G, N, O, *P] (one to three position axes).

    A dilated input has holes; the outputs that see the same taps between the holes form a phase,
    and each phase is one problem on a part of w's taps and of y's positions.
    """
    axes = range(len(x_shape) - 3)
    phases = [
        list(_phases(y_shape[3 + i], w_shape[3 + i], stride[i], input_dilation[i],
                     kernel_dilation[i], low[i], flip))
        for i in axes
    ]  # fmt: skip
    problems: list[Problem] = []
    for chosen in product(*phases):

        def fill(values: Sequence[int], missing: int) -> tuple[int, ...]:
            return (missing,) * (3 - len(values)) + tuple(values)

        y_strides = [y.strides[3 + i] * chosen[i].output_step for i in axes]
        w_strides = [w.strides[3 + i] * chosen[i].tap_step for i in axes]
        problem = Problem(
            x_shape[0], x_shape[1], w_shape[1], x_shape[2],
            fill(x_shape[3:], 1),  # type: ignore[arg-type]
            fill([phase.taps for phase in chosen], 1),  # type: ignore[arg-type]
            fill([phase.outputs for phase in chosen], 1),  # type: ignore[arg-type]
            fill([phase.stride for phase in chosen], 1),  # type: ignore[arg-type]
            fill([phase.dilation for phase in chosen], 1),  # type: ignore[arg-type]
            fill([phase.low for phase in chosen], 0),  # type: ignore[arg-type]
            (*x.strides[:3], *fill(x.strides[3:], 0)),
            (*w.strides[:3], *fill(w_strides, 0)),
            (*y.strides[:3], *fill(y_strides, 0)),
            x.offset,
            w.offset + sum(w.strides[3 + i] * chosen[i].first_tap for i in axes),
            y.offset + sum(y.strides[3 + i] * chosen[i].first_output for i in axes),
        )  # fmt: skip
        problem = with_blocks(problem)
        if prod(map(len, phases)) > 1:
            # The parts of y that phases write are not contiguous, so one span does all blocks.
            problem = replace(problem, per_span=problem.blocks.total)
        problems.append(problem)
    return problems


@dataclass(frozen=True)
class _Phase:
    """Outputs first, first + step, ... of one axis, and the taps that they see between holes."""

    first_output: int
    output_step: int
    outputs: int
    first_tap: int
    tap_step: int  # negative where w is flipped
    taps: int
    stride: int
    dilation: int
    low: int


def _phases(
    outputs: int, taps: int, stride: int, holes: int, dilation: int, low: int, flip: bool
) -> Iterator[_Phase]:
    """Split one axis by o * stride + t * dilation - low = 0 modulo `holes` (the input dilation)."""
    output_step = holes // gcd(stride, holes)
    tap_step = holes // gcd(dilation, holes)
    for first in range(min(output_step, max(outputs, 1))):
        start = first * stride - low
        reached = [t for t in range(min(taps, tap_step)) if (start + t * dilation) % holes == 0]
        tap = reached[0] if reached else 0
        yield _Phase(
            first, output_step, -(-max(outputs - first, 0) // output_step),
            taps - 1 - tap if flip else tap, -tap_step if flip else tap_step,
            -((tap - taps) // tap_step) if reached else 0,
            output_step * stride // holes, tap_step * dilation // holes,
            -((start + tap * dilation) // holes),
        )  # fmt: skip
