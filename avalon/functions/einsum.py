"""Einstein summation: an equation of letters becomes transposes, contractions and sums.

Comes in: "ij,jk->ik" and tensors. Goes out: one tensor. Guaranteed: two operands meet in one
`contract`; more are joined left to right, letters that no one needs any more being summed on the
way.
"""

from __future__ import annotations

from collections.abc import Sequence

from avalon import ops
from avalon.errors import ShapeError
from avalon.functions.support import broadcast, reshape
from avalon.shape import size_of
from avalon.tensor import Tensor

FIRST_HIDDEN = ord("\u03b1")  # the axes of "..." get letters that users do not write


def einsum(equation: str, *operands: Tensor | Sequence[Tensor]) -> Tensor:
    """Sum of products of elements over the letters that the output does not name.

    Repeated letters in one operand take its diagonal; "..." stands for axes that broadcast.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.einsum.html

    Raises:
        ShapeError: a letter stands for two sizes.
        ValueError: the equation does not fit the operands.

    >>> import avalon as av
    >>> av.einsum("ij,kj->ik", av.ones(2, 3), av.ones(4, 3)).shape
    (2, 4)
    """
    tensors = _listed(operands)
    inputs, output = _parse(equation, [x.ndim for x in tensors])
    pairs = [_with_unique_letters(x, letters) for x, letters in zip(tensors, inputs, strict=True)]
    sizes = _sizes(equation, pairs)
    x, letters = _sum_unneeded(*pairs[0], needed={*output, *_all_letters(pairs[1:])})
    for position in range(1, len(pairs)):
        needed = {*output, *_all_letters(pairs[position + 1 :])}
        other, other_letters = _sum_unneeded(*pairs[position], needed=needed | set(letters))
        x, letters = _join(x, letters, other, other_letters, needed, sizes)
    x, letters = _sum_unneeded(x, letters, needed=set(output))
    missing = [letter for letter in output if letter not in letters]
    if missing:
        raise ValueError(f"[einsum] output letters {missing} of {equation!r} appear in no operand")
    x = ops.transpose(x, permutation=tuple(letters.index(letter) for letter in output))
    return broadcast(x, tuple(sizes[letter] for letter in output))


def _listed(operands: tuple[Tensor | Sequence[Tensor], ...]) -> list[Tensor]:
    if len(operands) == 1 and not isinstance(operands[0], Tensor):
        return list(operands[0])
    return [x for x in operands if isinstance(x, Tensor)]


def _parse(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """One string of letters for each operand, and the output's; "..." is spelled out."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    parts = left.split(",")
    if len(parts) != len(ranks):
        raise ValueError(
            f"[einsum] equation {equation!r} names {len(parts)} operands, got {len(ranks)}"
        )
    hidden = [rank - len(part.replace("...", "")) for part, rank in zip(parts, ranks, strict=True)]
    widest = max(
        (count for part, count in zip(parts, hidden, strict=True) if "..." in part), default=0
    )
    inputs = []
    for part, count, rank in zip(parts, hidden, ranks, strict=True):
        letters = part.replace(
            "...", _hidden_letters(widest)[widest - count :] if count > 0 else ""
        )
        if len(letters) != rank or not all(letter.isalpha() for letter in letters):
            raise ValueError(
                f"[einsum] {part!r} in {equation!r} does not describe a tensor of {rank} axes"
            )
        inputs.append(letters)
    if arrow:
        return inputs, right.replace("...", _hidden_letters(widest))
    named = [letter for part in parts for letter in part.replace("...", "")]
    once = sorted(letter for letter in set(named) if named.count(letter) == 1)
    return inputs, _hidden_letters(widest) + "".join(once)


def _hidden_letters(count: int) -> str:
    return "".join(chr(FIRST_HIDDEN + i) for i in range(count))


def _with_unique_letters(x: Tensor, letters: str) -> tuple[Tensor, str]:
    """The diagonal over letters that appear twice."""
    for letter in dict.fromkeys(letters):
        while letters.count(letter) > 1:
            first = letters.index(letter)
            second = letters.index(letter, first + 1)
            if x.shape[first] != x.shape[second]:
                raise ShapeError(
                    f"[einsum] letter {letter!r} stands for sizes {x.shape[first]} and "
                    f"{x.shape[second]} of shape {tuple(x.shape)}"
                )
            x = ops.diagonal(x, offset=0, axis1=first, axis2=second)
            letters = letters[:first] + letters[first + 1 : second] + letters[second + 1 :] + letter
    return x, letters


def _sizes(equation: str, pairs: list[tuple[Tensor, str]]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for x, letters in pairs:
        for letter, extent in zip(letters, x.shape, strict=True):
            known = sizes.get(letter, 1)
            if known != 1 and extent not in (1, known):
                raise ShapeError(
                    f"[einsum] letter {letter!r} of {equation!r} stands for sizes {known} and "
                    f"{extent}; the operands have shapes "
                    f"{', '.join(str(tuple(t.shape)) for t, _ in pairs)}"
                )
            sizes[letter] = extent if known == 1 else known
    return sizes


def _all_letters(pairs: list[tuple[Tensor, str]]) -> set[str]:
    return {letter for _, letters in pairs for letter in letters}


def _sum_unneeded(x: Tensor, letters: str, needed: set[str]) -> tuple[Tensor, str]:
    axes = tuple(axis for axis, letter in enumerate(letters) if letter not in needed)
    if not axes:
        return x, letters
    kept = "".join(letter for letter in letters if letter in needed)
    return ops.reduce_sum(x, axes=axes), kept


def _join(
    a: Tensor, a_letters: str, b: Tensor, b_letters: str, needed: set[str], sizes: dict[str, int]
) -> tuple[Tensor, str]:
    """Product of two operands, summed over what both name and no one needs."""
    shared = [letter for letter in a_letters if letter in b_letters]
    batch = [letter for letter in shared if letter in needed]
    summed = [letter for letter in shared if letter not in needed]
    rows = [letter for letter in a_letters if letter not in shared]
    columns = [letter for letter in b_letters if letter not in shared]

    def arranged(x: Tensor, letters: str, order: list[list[str]]) -> Tensor:
        flat = [letter for group in order for letter in group]
        x = ops.transpose(x, permutation=tuple(letters.index(letter) for letter in flat))
        x = broadcast(x, tuple(sizes[letter] for letter in flat))
        return reshape(x, tuple(size_of([sizes[letter] for letter in group]) for group in order))

    left = arranged(a, a_letters, [batch, rows, summed])
    right = arranged(b, b_letters, [batch, summed, columns])
    product = ops.contract(left, right)
    result = [*batch, *rows, *columns]
    return reshape(product, tuple(sizes[letter] for letter in result)), "".join(result)
