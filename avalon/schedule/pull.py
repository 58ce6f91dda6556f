"""From graph nodes to expressions: the value of a node at given coordinates.

Comes in: nodes, and which of them lie in buffers. Goes out: expressions over loop axes. Guaranteed:
movements become index arithmetic, elementwise calls become `Apply`, small reductions a tree, larger
ones a `Reduce`; what is asked for twice at the same coordinates is one expression; nothing outside
a buffer is read (guards where an index may lie outside, clamps where it is data).

Each rule answers for one primitive, by the name of its lowering:
(puller, call, coordinates, guards) -> expression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from avalon import dtype as dtypes
from avalon.dtype import DType
from avalon.graph.node import Call, Constant, Input, Node
from avalon.graph.primitive import Elementwise, Primitive, Reduction
from avalon.schedule.index import Affine, Axis, Dynamic, address, constant, divide, variable
from avalon.schedule.loops import Apply, Coordinate, Expression, Inside, Load, Number, Scalar
from avalon.schedule.steps import Temporary
from avalon.size import is_open

Coordinates = tuple[Affine, ...]
Guards = tuple[Inside, ...]
Rule = Callable[["Puller", Call, Coordinates, Guards], Expression]

T = TypeVar("T")

RULES: dict[str, Rule] = {}
SMALL_REDUCTION = 16  # elements up to which a reduction is written out as a tree


def rule(name: str) -> Callable[[Rule], Rule]:
    """Register the rule of the primitives whose lowering is called `name`."""

    def register(function: Rule) -> Rule:
        RULES[name] = function
        return function

    return register


def storage(dtype: DType) -> tuple[DType, int]:
    """The type that kernels move for `dtype`, and how many make an element: complex numbers are
    only moved, as integers of the same bits.
    """
    if dtype is dtypes.complex64:
        return dtypes.int64, 1
    if dtype is dtypes.complex128:
        return dtypes.int64, 2
    return dtype, 1


class Puller:
    """Builds the expressions of one nest.

    Attributes:
        stored: answers whether a node is to be read from a buffer.
        keys: what each kernel argument is: a node, ("scalar", input) or ("status", None).
        part: which half of complex128 elements is being moved.
        split: whether axes may be cut to keep index forms linear (raises SplitAxis).
        small: elements up to which reductions are written out.
    """

    def __init__(
        self, stored: Callable[[Node], bool], split: bool = True, small: int = SMALL_REDUCTION
    ) -> None:
        self.stored = stored
        self.keys: list[Any] = []
        self.kinds: list[tuple[str, DType]] = []
        self.part = 0
        self.split = split
        self.small = small
        self._axes = 0
        self._positions: dict[Any, int] = {}
        self._memo: dict[Any, Any] = {}
        self.narrow: Mapping[Node, DType] = {}  # nodes that lie in buffers of another type

    # Axes and arguments

    def axis(self, extent: int) -> Axis:
        """A new loop axis."""
        self._axes += 1
        return Axis(self._axes - 1, extent)

    def argument(self, key: Any, kind: str, dtype: DType) -> int:
        """The position of a kernel argument, appended when first asked for."""
        position = self._positions.get(key)
        if position is None:
            position = self._positions[key] = len(self.keys)
            self.keys.append(key)
            self.kinds.append((kind, dtype))
        return position

    def buffer(self, node: Node | Temporary) -> int:
        return self.argument(node, "buffer", self.type_of(node))

    def type_of(self, node: Node | Temporary) -> DType:
        """The type of the elements of a buffer."""
        narrow = self.narrow.get(node) if isinstance(node, Node) else None
        return narrow or storage(node.dtype)[0]

    def element(self, node: Node | Temporary, coordinates: Sequence[Affine]) -> Affine:
        """The number of the element at `coordinates` in the buffer of `node`."""
        index = address(coordinates, node.shape)
        if storage(node.dtype)[1] == 2:
            return index.times(2).plus(self.part)
        return index

    # Values

    def value(self, node: Node, coordinates: Coordinates, guards: Guards = ()) -> Expression:
        """The value of `node` at `coordinates`."""
        return self.once(
            (node, coordinates, guards), lambda: self._value(node, coordinates, guards)
        )

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` makes, made once for a key."""
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = make()
        return found

    def _value(self, node: Node, coordinates: Coordinates, guards: Guards) -> Expression:
        if isinstance(node, Constant):
            return self.number(node)
        if isinstance(node, Input) and node.scalar:
            return Scalar(self.argument(("scalar", node), "scalar", node.dtype), node.dtype)
        if self.stored(node):
            if 0 in node.shape:
                return Number(0, storage(node.dtype)[0])
            return self.flat(node, address(coordinates, node.shape), guards)
        assert isinstance(node, Call), node
        return self.compute(node, coordinates, guards)

    def flat(self, node: Node, element: Affine, guards: Guards) -> Expression:
        """An element of a stored node by its number in row-major order: needs no coordinates."""
        narrow = self.narrow.get(node)
        if narrow is not None:
            return self.cast(Load(self.buffer(node), narrow, element, guards), node.dtype)
        dtype, count = storage(node.dtype)
        index = element if count == 1 else element.times(2).plus(self.part)
        return Load(self.buffer(node), dtype, index, guards)

    def compute(self, node: Call, coordinates: Coordinates, guards: Guards = ()) -> Expression:
        """The value of a call at `coordinates`, computed here even if the node has a buffer."""
        if node.primitive.kind is Elementwise:
            operands = [self.value(operand, coordinates, guards) for operand in node.operands]
            if node.primitive.name in _COMPARISONS:
                operands = _narrow_operands(operands)
            return Apply(node.primitive.name, node.dtype, operands, node.parameters)
        return RULES[lowering_of(node.primitive)](self, node, coordinates, guards)

    def number(self, node: Constant) -> Number:
        if node.dtype.is_complex:
            bits = node.dtype.reference.type(node.value).tobytes()
            part = bits[8 * self.part : 8 * self.part + 8]
            return Number(int.from_bytes(part, "little", signed=True), dtypes.int64)
        return Number(node.value, node.dtype)

    # Helpers of the rules

    def apply(self, name: str, *operands: Expression, dtype: DType | None = None) -> Expression:
        return Apply(name, dtype or operands[-1].dtype, operands, {})

    def cast(self, value: Expression, dtype: DType) -> Expression:
        if value.dtype is dtype:
            return value
        if isinstance(value, Number) and isinstance(value.value, int) and dtype.is_integer:
            return Number(value.value, dtype)
        inner = _widened(value)
        if inner is not None and dtype.is_integer:
            return self.cast(inner, dtype)  # through a wider integer and back is the same
        return Apply("cast", dtype, (value,), {"dtype": dtype})

    def counted(self, form: Affine, dtype: DType) -> Expression:
        """The value of an index form as a number of `dtype`. A formula stays a form: only those are
        handed over to kernels that serve many sizes.
        """
        if not form.terms and dtype.is_integer and not is_open(form.offset):
            return Number(form.offset, dtype)
        return self.cast(Coordinate(form), dtype)

    def cast_stored(self, value: Expression, dtype: DType) -> Expression:
        """As `cast`, where complex numbers stay the integers that they are moved as."""
        return value if dtype.is_complex else self.cast(value, dtype)

    def inside(self, form: Affine, low: int, high: int) -> Inside | bool:
        """The guard low <= form < high, or what it is known to be."""
        if form.low >= low and form.high < high:
            return True
        if form.high < low or form.low >= high:
            return False
        return Inside(form, low, high)

    def choose(
        self, guards: Sequence[Inside], value: Expression, otherwise: Expression
    ) -> Expression:
        """`value` where all guards hold, else `otherwise`."""
        if not guards:
            return value
        is_zero = isinstance(otherwise, Number) and str(otherwise.value) in ("0", "0.0", "False")
        if is_zero and isinstance(value, Load) and set(guards) <= set(value.guards):
            return value  # a load is 0 where its guards fail
        condition: Expression = guards[0]
        for guard in guards[1:]:
            condition = self.apply("bit_and", condition, guard)
        return Apply("where", value.dtype, (condition, value, otherwise), {})

    def dynamic(self, index: Expression, extent: int) -> Affine:
        """An index form that is data, kept inside [0, extent)."""
        if isinstance(index, Number):
            return constant(min(max(int(index.value), 0), extent - 1))
        return variable(Dynamic(self.cast(index, dtypes.int64), extent - 1))

    def lattice(self, form: Affine, step: int) -> tuple[Affine, Affine]:
        """Which point of a lattice of `step` the form is, and how far behind it."""
        return divide(form, step, self.split, phases=True)


_COMPARISONS = frozenset(("equal", "not_equal", "less", "less_equal"))


def _widened(value: Expression) -> Expression | None:
    """The signed integer that a wider one was made of."""
    if isinstance(value, Apply) and value.name == "cast" and value.dtype is dtypes.int64:
        (inner,) = value.operands
        if inner.dtype.kind == "signed":
            return inner
    return None


def _narrow_operands(operands: list[Expression]) -> list[Expression]:
    """The operands of a comparison of positions with a number, in a type of fewer bytes."""
    for place, value in enumerate(operands):
        inner, other = _widened(value), operands[1 - place]
        if inner is not None and isinstance(other, Number) and abs(other.value) <= 127:
            number = Number(other.value, inner.dtype)
            return [number, inner] if place else [inner, number]
    return operands


@cache
def lowering_of(primitive: Primitive) -> str:
    """The name of a primitive's loops: the one it declares, or for reductions its own."""
    if primitive.kind in (Elementwise, Reduction):
        return primitive.name
    return str(primitive.rules["lower"]())
