"""Operations: what one recorded entry does, kept once for all entries that do the same.

Comes in: a primitive with operands, or the steps of a composite function that was traced. Goes out:
an `Operation`, whose shapes were checked when it was made. Guaranteed: equal operations are one
object, so that a sequence of them is compared and hashed by identity; recording a known operation
infers, builds and allocates nothing but the values it puts out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any, NamedTuple

from avalon.dtype import DType, checked, several
from avalon.graph.primitive import Movement, Primitive, lookup
from avalon.shape import Shape
from avalon.size import hint, is_open

_CAPACITY = 50_000
_add = lookup("add")


class Step(NamedTuple):
    """One call of a primitive, or a constant (`primitive` is None, `value` says which).

    `places` are slots: the operation's operands come first, then its steps.
    """

    primitive: Primitive | None
    places: tuple[int, ...]
    parameters: dict[str, Any]
    shape: Shape
    dtype: DType
    value: Any = None


class Operation:
    """Steps on some operands, and the slots of what they put out.

    Attributes:
        name: of the primitive or of the composite function; "" for an input.
        inputs: how many operands it has.
        outputs: slots of the results.
        results: their shapes and dtypes.
        scalar: for an input, whether it is a number; None for everything else.
        calls, nbytes: how many calls of primitives, and how much memory their results would take.
        backwards: its gradients, by the operands that need one.
        pattern: see `patterns`.
    """

    __slots__ = (
        "backwards", "calls", "inputs", "name", "nbytes", "outputs", "pattern", "results", "scalar",
        "steps",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        inputs: int,
        steps: Sequence[Step],
        outputs: Sequence[int],
        results: Sequence[tuple[Shape, DType]] | None = None,
        scalar: bool | None = None,
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.steps = tuple(steps)
        self.outputs = tuple(outputs)
        self.scalar = scalar
        self.results = tuple(
            [(steps[slot - inputs].shape, steps[slot - inputs].dtype) for slot in outputs]
            if results is None
            else results
        )
        self.calls = len([step for step in steps if step.primitive is not None])
        self.nbytes: int = hint(self.result_bytes())
        self.backwards: dict[tuple[bool, ...], Any] = {}
        self.pattern: Any = None

    def __repr__(self) -> str:
        return f"<operation {self.name or 'input'}: {len(self.steps)} steps>"

    def result_bytes(self) -> Any:
        """How much memory the results of its calls take; a formula if a size is one."""
        return sum([
            prod(step.shape) * step.dtype.itemsize
            for step in self.steps
            if step.primitive is not None and step.primitive.kind is not Movement
        ])  # fmt: skip

    def apply(self, operands: Sequence[Any]) -> list[Any]:
        """Do the steps one by one on tensors or nodes; the value of every slot."""
        known = list(operands)
        like = known[0]
        for primitive, places, parameters, shape, dtype, value in self.steps:
            if primitive is None:
                known.append(like.constant(value, shape, dtype))
            else:
                arguments = tuple([known[place] for place in places])
                known.append(like.apply(primitive, arguments, parameters))
        return known


class LateOperation(Operation):
    """An operation like another one, whose steps are spelled out when somebody asks for them: a
    program that exists is run without.
    """

    __slots__ = ("_spell", "_spelled")

    _spell: Callable[[], tuple[Step, ...]]
    _spelled: tuple[Step, ...] | None

    @classmethod
    def of(
        cls,
        like: Operation,
        symbols: tuple[int, ...],
        pattern: Any,
        results: Sequence[tuple[Shape, DType]],
        nbytes: int,
        spell: Callable[[], tuple[Step, ...]],
    ) -> Operation:
        """The operation that `like` is for these values of its symbols, with its pattern (see
        `patterns`) and results.
        """
        key = (like, *symbols)
        found = _known.get(key)
        if found is None:
            made = object.__new__(cls)
            made.name, made.inputs, made.outputs = like.name, like.inputs, like.outputs
            made.scalar, made.calls, made.nbytes = like.scalar, like.calls, nbytes
            made.results = tuple(results)
            made.backwards = {}
            made.pattern = pattern
            made._spell = spell
            made._spelled = None
            found = _kept(key, made)
        return found

    @property
    def steps(self) -> tuple[Step, ...]:  # type: ignore[override]
        if self._spelled is None:
            self._spelled = self._spell()
        return self._spelled


_known: dict[Any, Operation] = {}


def _kept(key: Any, made: Operation) -> Operation:
    if len(_known) >= _CAPACITY:
        _known.clear()
    return _known.setdefault(key, made)


def call_of(primitive: Primitive, operands: Sequence[Any], parameters: dict[str, Any]) -> Operation:
    """The operation of one primitive on operands of these shapes and dtypes.

    Raises:
        ShapeError, DTypeError: the operands do not fit, by the primitive's rule.
        TypeError: what was asked for is no dtype.
    """
    key: Any
    if len(operands) == 1:
        key = (primitive, operands[0].shape, operands[0].dtype, *parameters.items())
    else:
        key = (
            primitive,
            *[operand.shape for operand in operands],
            *[operand.dtype for operand in operands],
            *parameters.items(),
        )
    try:
        found = _known.get(key)
    except TypeError:  # a parameter that has no hash
        key = repr(key)
        found = _known.get(key)
    if found is None:
        shape, dtype = primitive.infer(operands, parameters)
        count = len(operands)
        step = Step(primitive, tuple(range(count)), parameters, shape, checked(dtype))
        found = _kept(key, Operation(primitive.name, count, [step], [count]))
    return found


def several_of(
    primitive: Primitive, operands: Sequence[Any], parameters: dict[str, Any]
) -> Operation:
    """The operation of a primitive of several results, which puts out all of them."""
    kinds = [(operand.shape, operand.dtype) for operand in operands]
    count = len(kinds)
    made = primitive.rules["results"](*operands, **parameters)
    steps = [Step(primitive, tuple(range(count)), parameters, (), several)]
    project = lookup("result")
    steps += [
        Step(project, (count,), {"index": index}, shape, dtype)
        for index, (shape, dtype) in enumerate(made)
    ]
    return composite_of(primitive.name, kinds, steps, range(count + 1, count + 1 + len(made)))


def constant_of(value: Any, shape: Shape, dtype: DType) -> Operation:
    """The operation that gives `value` in every element."""
    key = ("constant", _exactly(value), shape, dtype)
    found = _known.get(key)
    if found is None:
        step = Step(None, (), {}, shape, checked(dtype), value)
        found = _kept(key, Operation("constant", 0, [step], [0]))
    return found


def _exactly(value: Any) -> Any:
    """A constant's value such that equal means the same bits; a formula, whose text may be that of
    another one over other symbols, is itself.
    """
    return value if is_open(value) else repr(value)


def input_of(shape: Shape, dtype: DType, scalar: bool) -> Operation:
    """The entry of a value that comes from outside."""
    key = ("input", shape, dtype, scalar)
    found = _known.get(key)
    if found is None:
        found = _kept(key, Operation("", 0, (), (), [(shape, dtype)], scalar))
    return found


def composite_of(
    name: str,
    operands: Sequence[tuple[Shape, DType]],
    steps: Sequence[Step],
    outputs: Iterable[int],
) -> Operation:
    """The operation of several steps; the same object for the same steps."""
    outputs = tuple(outputs)
    key: Any = (
        name,
        tuple(operands),
        outputs,
        *[
            (s.primitive, s.places, s.shape, s.dtype, _exactly(s.value), *s.parameters.items())
            for s in steps
        ],
    )
    try:
        found = _known.get(key)
    except TypeError:
        key = repr(key)
        found = _known.get(key)
    return found or _kept(key, Operation(name, len(operands), steps, outputs))


def chain_of(links: tuple[Operation, ...]) -> Operation:
    """The operation that does some of one result one after the other: each on the result of the one
    before, as its first operand. Their other operands follow the first one's in that order.
    """
    key = ("chain", *links)
    found = _known.get(key)
    if found is None:
        inputs = 1 + sum(link.inputs - 1 for link in links)
        steps: list[Step] = []
        current, given = 0, 1
        for link in links:
            slots = [current, *range(given, given + link.inputs - 1)]
            given += link.inputs - 1
            current = spell_out(link, slots, steps, inputs)[0]
        found = _kept(key, Operation(links[-1].name, inputs, steps, [current]))
    return found


def on_moved(operation: Operation, links: tuple[tuple[Operation, ...], ...]) -> Operation:
    """The operation that does another one on what chains lead to: `links` has one for each of its
    first operands, as `chain_of` takes them. Their further operands follow those of `operation`.
    """
    key = ("on moved", operation, links)
    found = _known.get(key)
    if found is None:
        inputs = given = operation.inputs
        inputs += sum([link.inputs - 1 for chain in links for link in chain])
        steps: list[Step] = []
        slots = list(range(operation.inputs))
        for place, chain in enumerate(links):
            for link in chain:
                own = [slots[place], *range(given, given + link.inputs - 1)]
                given += link.inputs - 1
                slots[place] = spell_out(link, own, steps, inputs)[0]
        outputs = spell_out(operation, slots, steps, inputs)
        found = _kept(key, Operation(operation.name, inputs, steps, outputs))
    return found


def sum_of(count: int, shape: Shape, dtype: DType) -> Operation:
    """The operation that adds values of one kind, from left to right."""
    key = ("sum", count, shape, dtype)
    found = _known.get(key)
    if found is None:
        steps = [
            Step(_add, (count + number - 1 if number else 0, number + 1), {}, shape, dtype)
            for number in range(count - 1)
        ]
        found = _kept(key, Operation("add", count, steps, [2 * count - 2]))
    return found


def spell_out(
    operation: Operation, operands: Sequence[int], steps: list[Step], inputs: int
) -> list[int]:
    """Append an operation's steps to those of one with so many `inputs`, on operands in its slots;
    the slots of the results.
    """
    slots = list(operands)
    for step in operation.steps:
        slots.append(inputs + len(steps))
        steps.append(step._replace(places=tuple([slots[place] for place in step.places])))
    return [slots[slot] for slot in operation.outputs]


def needed_slots(steps: Sequence[Step], inputs: int, wanted: Iterable[int]) -> set[int]:
    """The slots that some slots are computed from, themselves included."""
    needed = set(wanted)
    for slot in range(inputs + len(steps) - 1, inputs - 1, -1):
        if slot in needed:
            needed.update(steps[slot - inputs].places)
    return needed
