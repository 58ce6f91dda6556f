"""Sizes that are not known yet: integers as formulas over symbols, with the conditions under which
what was concluded from them holds.

Comes in: symbols, each with a sample value, and the arithmetic that compiling does with extents.
Goes out: formulas that a generated function evaluates for new values, and a test whether new values
may use them. Guaranteed: a question that formulas cannot answer for all values (`n * 4 <= 4096`) is
answered for the sample and becomes a condition, so whatever was built with sizes is right wherever
its conditions hold. A size that must be a number (`range(n)`) fixes it by a condition too.

What differs in the sample counts as different, and a symbol as not 1, without a condition: code for
two extents or many elements serves equal extents and one element as well. Who treats one element by
another rule asks `must_be_long`; recording, which has a rule for each case, is strict. A question
about any other bound, `n * 4 >= 8`, is answered with a condition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Union

Monomial = tuple[int, ...]  # numbers of atoms, ascending; a product of them
Known = Union[int, "Size"]
_ENDLESS = float("inf")
_SYMBOL = "s"


class _Atom(NamedTuple):
    """Something that formulas are made of: a symbol, or what is no sum of products of symbols."""

    text: str
    sample: int
    low: float
    high: float


class Sizes:
    """The symbols of one compilation, and the conditions on them."""

    def __init__(self, strict: bool = False) -> None:
        """With `strict`, what differs in the sample must differ, and a symbol is 2 or more."""
        self.strict = strict
        self.symbols: list[Size] = []
        self.conditions: dict[str, None] = {}
        self._atoms: list[_Atom] = []
        self._numbers: dict[str, int] = {}
        self._functions: dict[str, Any] = {"max": max, "min": min}

    def symbol(self, sample: int, limit: int) -> Size:
        """A new symbol between 1 and `limit`, with a value to decide by where either would do."""
        number = len(self.symbols)
        name = f"{_SYMBOL}{number}"
        least = 2 if self.strict else 1
        made = self._atom(_Atom(name, sample, least, limit))
        self.symbols.append(made)
        self.conditions[f"{least} <= {name} <= {limit}"] = None
        return made

    def call(self, function: Callable[..., int], *arguments: Any) -> Any:
        """`function(*arguments)`, evaluated when the sizes are known; it must not be
        negative. Arguments may be tuples.
        """
        name = f"{function.__module__}.{function.__qualname__}".replace(".", "_")
        self._functions[name] = function
        text = f"{name}({', '.join(map(_source, arguments))})"
        sample = function(*map(_sample, arguments))
        return self._atom(_Atom(text, sample, 0, _ENDLESS))

    def largest(self, sizes: Sequence[Known]) -> Known:
        """The largest of some sizes that are not negative."""
        different = list(dict.fromkeys(sizes))
        if len(different) == 1:
            return different[0]
        texts = ", ".join(map(_source, different))
        return self._atom(_Atom(f"max({texts})", max(map(hint, different)), 0, _ENDLESS))

    def require(self, text: str) -> None:
        """Note a condition, in the names of symbols and atoms."""
        self.conditions[text] = None

    def _atom(self, atom: _Atom) -> Size:
        number = self._numbers.get(atom.text)
        if number is None:
            number = self._numbers[atom.text] = len(self._atoms)
            self._atoms.append(atom)
        return Size(self, {(number,): 1}, 0)

    # --- from formulas to functions --------------------------------------------------------------

    def function(self, sizes: Sequence[Known]) -> Callable[..., tuple[int, ...]]:
        """The function from the symbols' values to the values of `sizes`."""
        tuple_of_all = "".join(f"{_source(size)}, " for size in sizes)
        return self._compile(f"({tuple_of_all})")

    def condition(self) -> Callable[..., bool]:
        """The function from the symbols' values to whether all conditions hold. Where a formula
        divides by a size that is 0 they do not: nothing empty is served.
        """
        evaluate = self._compile(" and ".join(self.conditions) or "True")

        def holds(*values: int) -> bool:
            try:
                return bool(evaluate(*values))
            except ZeroDivisionError:
                return False

        return holds

    def _compile(self, result: str) -> Callable[..., Any]:
        names = ", ".join(f"{_SYMBOL}{number}" for number in range(len(self.symbols)))
        wanted = _names_in(result)
        lines: list[str] = []
        for number in range(len(self._atoms) - 1, -1, -1):
            atom = self._atoms[number]
            if f"a{number}" in wanted:
                wanted |= _names_in(atom.text)
                lines.append(f"    a{number} = {atom.text}")
        body = "\n".join([f"def evaluate({names}):", *reversed(lines), f"    return {result}"])
        space = dict(self._functions)
        exec(compile(body, "<sizes>", "exec"), space)
        made: Callable[..., Any] = space["evaluate"]
        return made


def _names_in(text: str) -> set[str]:
    """The atoms' names that a text mentions."""
    found, word = set(), ""
    for character in text + " ":
        if character.isalnum() or character == "_":
            word += character
        else:
            if word[:1] == "a" and word[1:].isdigit():
                found.add(word)
            word = ""
    return found


class Size:
    """offset + a sum of coefficient * product of atoms; it behaves like the integer it will be.

    >>> sizes = Sizes()
    >>> n = sizes.symbol(100, 4096)
    >>> 3 * (n + 1) - n, (n * 12) // 4, (n * 12) % 4, n * 64 <= 10
    (2*s0 + 3, 3*s0, 0, False)
    >>> n * 2 > 50, list(sizes.conditions)
    (True, ['1 <= s0 <= 4096', '2*s0 - 50 > 0'])
    >>> sizes.function([-(-n // 16), n * n])(60)
    (4, 3600)
    """

    __slots__ = ("_hash", "offset", "sizes", "terms")

    def __init__(self, sizes: Sizes, terms: dict[Monomial, int], offset: int) -> None:
        self.sizes = sizes
        self.terms = terms
        self.offset = offset
        self._hash = 0

    def __hash__(self) -> int:
        if not self._hash:
            self._hash = hash((id(self.sizes), frozenset(self.terms.items()), self.offset))
        return self._hash

    def __repr__(self) -> str:
        parts: list[str] = []
        for monomial, coefficient in self.terms.items():
            product = "*".join(self._name(number) for number in monomial)
            sign = "-" if coefficient < 0 else "+" if parts else ""
            count = "" if abs(coefficient) == 1 else f"{abs(coefficient)}*"
            parts.append(f"{sign} {count}{product}" if parts else f"{sign}{count}{product}")
        if self.offset:
            parts.append(f"{'-' if self.offset < 0 else '+'} {abs(self.offset)}")
        return " ".join(parts)

    def _name(self, number: int) -> str:
        text = self.sizes._atoms[number].text
        return text if text[0] == _SYMBOL and text[1:].isdigit() else f"a{number}"

    @property
    def sample(self) -> int:
        """The value for the symbols' samples."""
        total = self.offset
        for monomial, coefficient in self.terms.items():
            for number in monomial:
                coefficient *= self.sizes._atoms[number].sample
            total += coefficient
        return total

    def _bounds(self) -> tuple[float, float]:
        low = high = float(self.offset)
        for monomial, coefficient in self.terms.items():
            least, most = 1.0, 1.0
            for number in monomial:
                atom = self.sizes._atoms[number]
                if atom.low < 0:
                    if len(monomial) > 1:
                        return -_ENDLESS, _ENDLESS
                    least, most = atom.low, atom.high
                    break
                least *= atom.low
                most *= atom.high
            ends = (coefficient * least, coefficient * most)
            low += min(ends)
            high += max(ends)
        return low, high

    def must_be_positive(self) -> None:
        """Note that a size of 0 would be another case, unless this formula never gives 0."""
        atoms = [number for monomial in self.terms for number in monomial]
        grows = all(coefficient > 0 for coefficient in self.terms.values())
        if not grows or self.offset < 0 or any(self.sizes._atoms[n].low < 1 for n in atoms):
            self.sizes.require(f"{self!r} >= 1")

    def _is_about_one(self) -> bool:
        """Whether this is the difference between a product of symbols and 1, or a multiple of it:
        positive where the product counts as not 1.
        """
        ((monomial, coefficient),) = self.terms.items() if len(self.terms) == 1 else [((), 0)]
        return self.offset == -coefficient != 0 and all(
            self.sizes._atoms[number].low >= 1 for number in monomial
        )

    # --- arithmetic ------------------------------------------------------------------------------

    def _made(self, terms: dict[Monomial, int], offset: int) -> Any:
        return Size(self.sizes, terms, offset) if terms else offset

    def __add__(self, other: Any) -> Any:
        if isinstance(other, Size):
            terms = dict(self.terms)
            for monomial, coefficient in other.terms.items():
                total = terms.get(monomial, 0) + coefficient
                if total:
                    terms[monomial] = total
                else:
                    del terms[monomial]
            return self._made(terms, self.offset + other.offset)
        if not isinstance(other, int):
            return NotImplemented
        return Size(self.sizes, self.terms, self.offset + other)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Size):
            terms: dict[Monomial, int] = {}
            for left, a in [*self.terms.items(), ((), self.offset)]:
                for right, b in [*other.terms.items(), ((), other.offset)]:
                    if a and b:
                        monomial = tuple(sorted(left + right))
                        terms[monomial] = terms.get(monomial, 0) + a * b
            offset = terms.pop((), 0)
            return self._made({m: c for m, c in terms.items() if c}, offset)
        if not isinstance(other, int):
            return NotImplemented
        if not other:
            return 0
        return Size(self.sizes, {m: c * other for m, c in self.terms.items()}, self.offset * other)

    __rmul__ = __mul__

    def __neg__(self) -> Any:
        return self * -1

    def __sub__(self, other: Any) -> Any:
        return self + -other

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __abs__(self) -> Any:
        return self if self >= 0 else -self

    def __floordiv__(self, other: Any) -> Any:
        return _divided(self, other)[0]

    def __rfloordiv__(self, other: Any) -> Any:
        return _divided(other, self)[0]

    def __mod__(self, other: Any) -> Any:
        return self - other * (self // other)

    def __rmod__(self, other: Any) -> Any:
        return other - self * (other // self)

    def __index__(self) -> int:
        sample = self.sample
        self.sizes.require(f"{self!r} == {sample}")
        return sample

    # --- questions -------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        return self != 0

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, Size) and other.sizes is not self.sizes:
            return False  # the symbols of another compilation
        if not isinstance(other, int | Size):
            return NotImplemented
        return _ask(self - other, "==")

    def __ne__(self, other: object) -> bool:
        if not isinstance(other, int | Size):
            return NotImplemented
        return not self == other

    def __lt__(self, other: Known) -> bool:
        return _ask(other - self, ">")

    def __gt__(self, other: Known) -> bool:
        return _ask(self - other, ">")

    def __le__(self, other: Known) -> bool:
        return not _ask(self - other, ">")

    def __ge__(self, other: Known) -> bool:
        return not _ask(other - self, ">")


def _ask(difference: Known, relation: str) -> bool:
    """Whether `difference` is 0, or positive: for all sizes, or for the sample, on condition."""
    positive = relation == ">"
    if not isinstance(difference, Size):
        return difference > 0 if positive else difference == 0
    low, high = difference._bounds()
    if low > 0:
        return positive
    if high < 0 or (positive and high <= 0):
        return False
    if difference._is_about_one():
        return positive and difference.offset < 0
    sample = difference.sample
    answer = sample > 0 if positive else sample == 0
    if answer or positive:
        difference.sizes.require(f"{difference!r} {relation if answer else '<='} 0")
    elif difference.sizes.strict:
        difference.sizes.require(f"{difference!r} != 0")
    return answer


def _divided(number: Known, by: Known) -> tuple[Any, Any]:
    """Quotient and remainder, rounding down, of which one is a `Size`."""
    sizes = number.sizes if isinstance(number, Size) else by.sizes  # type: ignore[union-attr]
    terms = dict(number.terms) if isinstance(number, Size) else {}
    offset = number.offset if isinstance(number, Size) else number
    if isinstance(by, Size):
        if number == by:  # on condition, or the same formula
            return 1, 0
        if len(by.terms) == 1 and not by.offset:
            ((divisor, count),) = by.terms.items()
        else:
            divisor, count = (), 0
    else:
        divisor, count = (), by
    whole: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    for monomial, coefficient in terms.items():
        left = _without(monomial, divisor)
        if count and left is not None and coefficient % count == 0:
            whole[left] = whole.get(left, 0) + coefficient // count
        else:
            rest[monomial] = coefficient
    steps = whole.pop((), 0)
    if not divisor and count:
        steps += offset // count
        offset %= count
    quotient: Any = Size(sizes, whole, steps) if whole else steps
    remainder: Any = Size(sizes, rest, offset) if rest else offset
    if isinstance(remainder, int) and not isinstance(by, Size):
        return quotient, remainder
    if isinstance(remainder, int) and remainder == 0:
        return quotient, 0
    low = remainder._bounds()[0] if isinstance(remainder, Size) else remainder
    gap = by - remainder
    if low >= 0 and (gap._bounds()[0] if isinstance(gap, Size) else gap) > 0:
        return quotient, remainder
    negative = remainder if isinstance(remainder, int) else remainder._bounds()[1]
    raised = by + remainder
    if negative < 0 and (raised._bounds()[0] if isinstance(raised, Size) else raised) >= 0:
        return quotient - 1, raised
    text = f"({_source(remainder)}) // ({_source(by)})"
    low, high = -_ENDLESS, _ENDLESS
    if isinstance(by, int) and by > 0 and isinstance(remainder, Size):
        least, most = remainder._bounds()
        low = least // by if least > -_ENDLESS else least
        high = most // by if most < _ENDLESS else most
    atom = sizes._atom(_Atom(text, hint(remainder) // hint(by), low, high))
    return quotient + atom, remainder - by * atom


def _without(monomial: Monomial, divisor: Monomial) -> Monomial | None:
    """The product without the atoms of another, None if it lacks one."""
    left = list(monomial)
    for number in divisor:
        if number not in left:
            return None
        left.remove(number)
    return tuple(left)


def _source(value: Any) -> str:
    """A value as Python text of a generated function."""
    if isinstance(value, tuple):
        return f"({''.join(f'{_source(part)}, ' for part in value)})"
    return repr(value)


def _sample(value: Any) -> Any:
    return tuple(map(_sample, value)) if isinstance(value, tuple) else hint(value)


def hint(value: Any) -> Any:
    """The number, for decisions where either way is right: no condition is noted."""
    return value.sample if isinstance(value, Size) else value


def few(extent: Any, bound: int) -> bool:
    """Whether an extent is known and at most `bound`."""
    return not isinstance(extent, Size) and extent <= bound


def is_open(number: Any) -> bool:
    """Whether a number is not known yet."""
    return isinstance(number, Size)


def same(one: Any, other: Any) -> bool:
    """Whether two numbers are equal whatever the sizes are: no condition is noted."""
    difference = one - other
    return not isinstance(difference, Size) and difference == 0


def later(function: Callable[..., int], *arguments: Any) -> Any:
    """`function(*arguments)`, or its formula if a size among the arguments is not known."""
    sizes = _sizes_of(arguments)
    return function(*arguments) if sizes is None else sizes.call(function, *arguments)


def must_be_long(extent: Any) -> None:
    """Note, of an extent that is not known, that one element would be another case."""
    if isinstance(extent, Size):
        extent.sizes.require(f"{extent!r} != 1")


def _sizes_of(arguments: Sequence[Any]) -> Sizes | None:
    for argument in arguments:
        if isinstance(argument, Size):
            return argument.sizes
        found = _sizes_of(argument) if isinstance(argument, tuple) else None
        if found is not None:
            return found
    return None
