"""What a primitive is: one block that declares its meaning, shapes, gradient, write and lowering.

Comes in: the decorated functions of `avalon/ops`. Goes out: `Primitive` objects that can be called
on anything that knows `apply` (graph nodes, tensors), and the sealed table of all of them.
Guaranteed: after `seal()`, every primitive has all the rules that its kind asks for; an incomplete
one is an error at import. Arrays are positional operands, everything else is a keyword parameter.

    @primitive(Elementwise, accepts="float", samples=positive)
    def sqrt(x):
        '''Square root of each element.'''
        return np.sqrt(x)                     # the meaning

    @sqrt.gradient
    def _(g, y, x):                           # cotangent, output, operands; parameters by keyword
        return g / (y + y)                    # ordinary operations, so second order is free

    @sqrt.lower
    def _(emit, x):                           # emit comes in: declarations never import codegen
        return emit.sqrt(x)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from avalon import dtype as dtypes
from avalon.dtype import DType
from avalon.errors import DeclarationError, DTypeError, ShapeError
from avalon.shape import Shape

Rule = Callable[..., Any]

ACCEPTS: dict[str, Callable[[DType], bool]] = {
    "float": lambda t: t.is_floating_point,
    "number": lambda t: t.is_floating_point or t.is_integer,
    "real": lambda t: not t.is_complex,  # numbers and bool
    "integer": lambda t: t.is_integer,
    "bits": lambda t: t.is_integer or t is dtypes.bool_,
    "bool": lambda t: t is dtypes.bool_,
    "index": lambda t: t is dtypes.int64,
    "word": lambda t: t is dtypes.uint64,
    "any": lambda t: True,
}


class Kind:
    """A family of primitives: which rules its members must declare, and what they share."""

    name = "kind"
    needs: tuple[str, ...] = ()

    @staticmethod
    def infer(
        primitive: Primitive, operands: Sequence[Any], parameters: dict[str, Any]
    ) -> tuple[Shape, DType]:
        raise DeclarationError(
            f"[{primitive.name}] has no shape rule; write @{primitive.name}.shape"
        )


class Elementwise(Kind):
    """Equal shapes in, the same shape out; lowering maps scalars to a scalar."""

    name = "elementwise"
    needs = ("gradient", "lower")

    @staticmethod
    def infer(
        primitive: Primitive, operands: Sequence[Any], parameters: dict[str, Any]
    ) -> tuple[Shape, DType]:
        first = operands[0]
        for other in operands[1:]:
            if other.shape != first.shape:
                shapes = " and ".join(str(x.shape) for x in operands)
                raise ShapeError(f"[{primitive.name}] shapes {shapes} must be equal")
            if other.dtype is not first.dtype:
                types = " and ".join(x.dtype.name for x in operands)
                raise DTypeError(f"[{primitive.name}] dtypes {types} must be equal")
        return first.shape, primitive.result or first.dtype


class Reduction(Kind):
    """Combines elements along `axes` (kept out of the result's shape)."""

    name = "reduction"
    needs = ("gradient", "lower", "shape")


class Movement(Kind):
    """Moves elements without arithmetic; `write` gives (base, new window, ...) -> new base."""

    name = "movement"
    needs = ("gradient", "lower", "shape", "write")


class Indexing(Kind):
    """Elements chosen by integers that are data."""

    name = "indexing"
    needs = ("gradient", "lower", "shape")


class Contraction(Kind):
    """Sums of products over shared axes."""

    name = "contraction"
    needs = ("gradient", "lower", "shape")


class Source(Kind):
    """Values out of nothing or out of a counter."""

    name = "source"
    needs = ("gradient", "lower", "shape")


class Structure(Kind):
    """Calls that mark, hold or move whole graphs and values."""

    name = "structure"
    needs = ("gradient", "lower", "shape")


class Primitive:
    """One operation. Calling it on operands applies it: appends to a graph, or records on tensors.

    Attributes:
        name: unique; printed graphs and saved files use it.
        kind: its family.
        reference: the meaning, a function of NumPy arrays (bfloat16 comes as float32 and is rounded
            after every call).
        accepts: per-operand requirement, a key of `ACCEPTS`, or one key for all operands. result:
        the result's dtype where it is not the first operand's. samples: function of a NumPy
        Generator and a DType that yields (operands, parameters) pairs for
            the law tests.
        operator: name of the Python operator method that nodes get for it, such as "mul".
    """

    def __init__(
        self,
        kind: type[Kind],
        reference: Rule,
        accepts: str | tuple[str, ...],
        result: DType | None,
        samples: Rule,
        operator: str,
        since: str,
    ) -> None:
        self.kind = kind
        self.name = reference.__name__
        self.__doc__ = reference.__doc__
        self.reference = reference
        self.accepts = accepts
        self.result = result
        self.samples = samples
        self.operator = operator
        self.since = since
        self.rules: dict[str, Rule] = {}
        self.no_gradient_reason = ""
        self.complete = False  # checked once, by `seal` or at the first use

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (lookup, (self.name,))

    def __call__(self, *operands: Any, **parameters: Any) -> Any:
        if "results" in self.rules:
            return operands[0].apply_several(self, operands, parameters)
        return operands[0].apply(self, operands, parameters)

    def infer(self, operands: Sequence[Any], parameters: dict[str, Any]) -> tuple[Shape, DType]:
        """Shape and dtype of the result; raises ShapeError or DTypeError, this name in front."""
        if not self.complete:
            check_complete(self)
        accepts = self.accepts
        if accepts != "any":
            for position, operand in enumerate(operands):
                wanted = (
                    accepts
                    if isinstance(accepts, str)
                    else accepts[min(position, len(accepts) - 1)]
                )
                if not ACCEPTS[wanted](operand.dtype):
                    raise DTypeError(
                        f"[{self.name}] operand {position} has dtype {operand.dtype.name}; "
                        f"expected a {wanted} dtype"
                    )
        rule = self.rules.get("shape")
        if rule is None:
            return self.kind.infer(self, operands, parameters)
        shape, dtype = rule(*operands, **parameters)
        return shape, dtype

    def _set(self, rule: str, function: Rule) -> Rule:
        if rule in self.rules:
            raise DeclarationError(f"[{self.name}] declares its {rule} rule twice")
        # Tracebacks then say `in sqrt.gradient` instead of `in _`.
        function.__code__ = function.__code__.replace(co_name=f"{self.name}.{rule}")
        self.rules[rule] = function
        return function

    def shape(self, function: Rule) -> Rule:
        """Declare the shape rule: operands, parameters -> (shape, dtype)."""
        return self._set("shape", function)

    def results(self, function: Rule) -> Rule:
        """Declare the shape rule of a primitive with several results: operands, parameters -> pairs
        (shape, dtype), one for each. Calling the primitive then gives a tuple of values.
        """

        def shape(*operands: Any, **parameters: Any) -> tuple[Shape, DType]:
            function(*operands, **parameters)
            return (), dtypes.several

        self._set("shape", shape)
        return self._set("results", function)

    def gradient(self, function: Rule) -> Rule:
        """Declare the gradient rule: (cotangent, output, *operands, **parameters) -> one cotangent
        per operand (a tuple, or a single value for one operand); None for an operand that gets
        none.
        """
        return self._set("gradient", function)

    def cotangents(
        self, g: Any, y: Any, operands: Sequence[Any], parameters: dict[str, Any]
    ) -> tuple[Any, ...]:
        """Run the gradient rule: from the output's cotangent to one cotangent (or None) per
        operand.
        """
        found = self.rules["gradient"](g, y, *operands, **parameters)
        return found if isinstance(found, tuple) else (found,)

    def no_gradient(self, reason: str) -> None:
        """Declare that no operand gets a gradient, and why."""
        self.no_gradient_reason = reason
        self._set("gradient", lambda g, y, *operands, **parameters: (None,) * len(operands))

    def write(self, function: Rule) -> Rule:
        """Declare the write of a movement: (base, new, *others, **parameters) -> new base."""
        return self._set("write", function)

    def no_write(self, reason: str) -> None:
        """Declare that the result is never a window that can be written, and why."""

        def refuse(base: Any, new: Any, *operands: Any, **parameters: Any) -> Any:
            raise ShapeError(f"[{self.name}] cannot be written in place: {reason}")

        self._set("write", refuse)

    def lower(self, function: Rule) -> Rule:
        """Declare the lowering; what it receives depends on the kind."""
        return self._set("lower", function)

    def lowering(self, name: str) -> None:
        """Declare that the loop builder knows this primitive's loops by `name`."""
        self._set("lower", lambda *values, **parameters: name)


_TABLE: dict[str, Primitive] = {}


def primitive(
    kind: type[Kind],
    *,
    samples: Rule,
    accepts: str | tuple[str, ...] = "any",
    result: DType | None = None,
    operator: str = "",
    since: str = "0.1",
) -> Callable[[Rule], Primitive]:
    """Declare a primitive; the decorated function is its meaning in NumPy."""

    def declare(reference: Rule) -> Primitive:
        made = Primitive(kind, reference, accepts, result, samples, operator, since)
        if made.name in _TABLE:
            raise DeclarationError(f"[{made.name}] is declared twice")
        if not made.__doc__:
            raise DeclarationError(f"[{made.name}] needs a docstring that says what it means")
        _TABLE[made.name] = made
        return made

    return declare


def check_complete(made: Primitive) -> None:
    """Raise DeclarationError if a rule that the kind asks for is missing."""
    missing = [rule for rule in made.kind.needs if rule not in made.rules]
    if missing:
        listed = ", ".join(f"@{made.name}.{rule}" for rule in missing)
        raise DeclarationError(
            f"[{made.name}] is incomplete: a primitive of kind {made.kind.name} also needs {listed}"
        )
    made.complete = True


def seal() -> None:
    """Check the whole table. Called at the end of `avalon/ops/__init__.py`; a primitive that a user
    declares later is checked when it is first used.
    """
    for made in _TABLE.values():
        check_complete(made)


def install_operators(cls: type) -> None:
    """Give a class the Python operators of the primitives that declare one (`operator="mul"`).

    A Python number on either side becomes a constant like the other operand.
    """
    for made in _TABLE.values():
        if made.operator:
            _install_operator(cls, made)


def _install_operator(cls: type, made: Primitive) -> None:
    def lift(like: Any, value: Any) -> Any:
        return like.constant(value) if isinstance(value, (bool, int, float)) else value

    def forward(self: Any, *other: Any) -> Any:
        return made(self, *(lift(self, value) for value in other))

    def reflected(self: Any, other: Any) -> Any:
        return made(lift(self, other), self)

    setattr(cls, f"__{made.operator}__", forward)
    if made.operator != "neg":
        setattr(cls, f"__r{made.operator}__", reflected)


def lookup(name: str) -> Primitive:
    """The primitive called `name`."""
    try:
        return _TABLE[name]
    except KeyError:
        raise DeclarationError(f"no primitive is called {name!r}") from None


def table() -> dict[str, Primitive]:
    """All primitives by name (a copy)."""
    return dict(_TABLE)
