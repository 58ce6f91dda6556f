"""Loops and branches that are recorded once and run natively: `scan`, `cond`, `while_loop`.

Comes in: functions of tensors or of structures of tensors. Goes out: structures of results.
Guaranteed: a body is recorded and compiled once, whatever the number of rounds; tensors that it
reads from outside are found and, but for `while_loop`, get their gradients; whatever does not fit
is refused with the name of the leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from avalon import dtype as dtypes, ops, struct
from avalon.errors import AutogradError, ShapeError, TraceError
from avalon.functions.loops import draws, in_order, run_scan, trace_body
from avalon.graph.body import Body
from avalon.tensor import History, Tensor, as_tensor, is_grad_enabled, wrap


class _Tree:
    """A structure as a list of tensors with names, and the way back."""

    def __init__(self, root: str, structure: Any) -> None:
        self.root = root
        marked: dict[int, Tensor] = {}

        def mark(tensor: Tensor) -> Tensor:
            token: Tensor = tensor._alias()  # a tensor that is there twice is two leaves
            marked[id(token)] = tensor
            return token

        self._template = struct.map_leaves(mark, _with_tensors(structure))
        leaves = struct.leaves(self._template)
        self.paths = list(leaves)
        self._tokens = list(leaves.values())
        self.tensors = [marked[id(token)] for token in self._tokens]

    def build(self, tensors: Sequence[Tensor]) -> Any:
        """A structure of this form with other tensors."""
        known = {id(token): t for token, t in zip(self._tokens, tensors, strict=True)}
        return struct.map_leaves(lambda token: known[id(token)], self._template)

    def name(self, place: int) -> str:
        """A leaf's name, as the user would write it."""
        path = self.paths[place]
        return f"{self.root}.{path}" if path else self.root

    def listed(self) -> str:
        """The names of all leaves."""
        return ", ".join(self.name(place) for place in range(len(self.paths))) or "nothing"


def _with_tensors(structure: Any) -> Any:
    """The structure with tensors in place of the numbers in its containers."""
    if isinstance(structure, (bool, int, float)):
        return as_tensor(structure)
    if type(structure) in (tuple, list):
        return type(structure)(_with_tensors(one) for one in structure)
    if type(structure) is dict:
        return {key: _with_tensors(one) for key, one in structure.items()}
    return structure


def _must_agree(name: str, what: str, before: _Tree, after: _Tree) -> None:
    """Raise unless two structures have the same leaves, of the same shapes and dtypes."""
    if before.paths != after.paths:
        raise ShapeError(
            f"[{name}] {what} has the leaves {after.listed()}; expected {before.listed()}: give "
            "back the structure that came in"
        )
    for place, (old, new) in enumerate(zip(before.tensors, after.tensors, strict=True)):
        if old.shape != new.shape or old.dtype is not new.dtype:
            raise ShapeError(
                f"[{name}] {before.name(place)} is {old.dtype.name} {tuple(old.shape)} and {what} "
                f"has {new.dtype.name} {tuple(new.shape)} for it; both must be of one shape and "
                "dtype: convert the first with .to(...), or reshape the second"
            )


def scan(
    body: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Carry a state through the elements of sequences: `carry, y = body(carry, x)` for each.

    Args:
        body: recorded once; takes the carried structure and the element of `xs`, and returns the
            next carried structure, with leaves of the same shapes and dtypes, and what is stacked.
        init: the first carried structure: a tensor, or anything that holds tensors.
        xs: a structure of tensors that are walked along their first axis, all of one length.
        length: the number of rounds, needed if `xs` is None.
        reverse: walk from the last element to the first; results lie in the order of `xs`.

    Returns:
        The last carried structure, and the results of `body`, stacked along a new first axis.

    Raises:
        ShapeError: sequences differ in length, or a leaf of the carried structure changes.
        TraceError: the body asks for a value, or writes to a tensor from outside.

    >>> import avalon as av
    >>> decay = av.tensor(0.5, requires_grad=True)
    >>> last, sums = av.scan(lambda s, x: (s * decay + x, s), av.tensor(0.0), av.ones(4))
    >>> last.item(), sums.tolist()
    (1.875, [0.0, 1.0, 1.5, 1.75])
    >>> last.backward()
    >>> decay.grad
    tensor(2.7500)

    Source: JAX's function of this name,
    https://docs.jax.dev/en/latest/_autosummary/jax.lax.scan.html
    """
    carry, sequence = _Tree("init", init), _Tree("xs", xs)
    count = _length(sequence, length)
    made: list[_Tree] = []

    def step(*tensors: Tensor) -> list[Tensor]:
        cut = len(carry.tensors)
        found = body(carry.build(tensors[:cut]), sequence.build(tensors[cut:]))
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(
                "[scan] the body must return a pair (next carry, what is stacked), not "
                f"{type(found).__name__}; return (carry, None) if nothing is stacked"
            )
        following, results = _Tree("carry", found[0]), _Tree("y", found[1])
        _must_agree("scan", "the next carry", carry, following)
        made.append(results)
        return [*following.tensors, *results.tensors]

    kinds = [(x.shape, x.dtype) for x in carry.tensors]
    kinds += [(x.shape[1:], x.dtype) for x in sequence.tensors]
    traced = trace_body("scan", kinds, step)
    results = run_scan(traced, carry.tensors, sequence.tensors, count, reverse)
    cut = len(carry.tensors)
    return carry.build(results[:cut]), made[0].build(results[cut:])


def _length(sequence: _Tree, length: int | None) -> int:
    """The number of rounds."""
    for place, one in enumerate(sequence.tensors):
        if one.ndim == 0:
            raise ShapeError(
                f"[scan] {sequence.name(place)} has no axis to walk along; a tensor that is the "
                "same in every round needs no argument, the body may just read it"
            )
        if length is None:
            length = int(one.shape[0])
        elif one.shape[0] != length:
            raise ShapeError(
                f"[scan] {sequence.name(place)} has {one.shape[0]} elements along its first axis; "
                f"expected {length}, as {sequence.name(0) if place else 'length'} says"
            )
    if length is None:
        raise ShapeError("[scan] without xs, say how many rounds there are: length=...")
    if length < 0:
        raise ShapeError(f"[scan] length must not be negative, got {length}")
    return int(length)


def cond(
    predicate: Any,
    true_function: Callable[..., Any],
    false_function: Callable[..., Any],
    *operands: Any,
) -> Any:
    """`true_function(*operands)` if a tensor says so, else `false_function(*operands)`.

    Only the chosen function runs; both are recorded, and must give structures of the same leaves.

    Args:
        predicate: a bool tensor with one element, or a Python bool.
        true_function, false_function: functions of the operands; they may read other tensors too.
        operands: structures of tensors.

    Raises:
        ShapeError: the predicate is not one bool, or the functions give different leaves.

    >>> import avalon as av
    >>> x = av.tensor(-2.0, requires_grad=True)
    >>> y = av.cond(x > 0, lambda x: x * 3, lambda x: x * x, x)
    >>> y.backward()
    >>> y.item(), x.grad.item()
    (4.0, -4.0)

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.lax.cond.html
    """
    if isinstance(predicate, bool):
        return true_function(*operands) if predicate else false_function(*operands)
    if not isinstance(predicate, Tensor) or predicate.dtype is not dtypes.bool_:
        what = f"{predicate.dtype.name}" if isinstance(predicate, Tensor) else repr(predicate)
        raise ShapeError(f"[cond] the predicate must be one bool, got {what}; compare it with 0")
    if predicate.numel() != 1:
        raise ShapeError(
            f"[cond] the predicate must be one bool, got shape {tuple(predicate.shape)}; to choose "
            "element by element use av.where"
        )
    given = _Tree("operands", operands)
    trees: list[_Tree] = []

    def recorded(function: Callable[..., Any], root: str) -> Any:
        def call(*tensors: Tensor) -> list[Tensor]:
            trees.append(_Tree(root, function(*given.build(tensors))))
            return trees[-1].tensors

        return trace_body("cond", [(x.shape, x.dtype) for x in given.tensors], call)

    then, otherwise = recorded(true_function, "result"), recorded(false_function, "result")
    _must_agree("cond", "what false_function gives", *trees)
    if not trees[0].tensors:
        return trees[0].build([])
    count = len(given.tensors)
    first = len(then.captured)
    made = ops.branch(
        ops.reshape(predicate, shape=()),
        *given.tensors,
        *then.captured,
        *otherwise.captured,
        then=_widened(then.body, count + first, otherwise.captured),
        otherwise=_widened(otherwise.body, count, then.captured),
    )
    return trees[0].build(made)


def _widened(body: Body, place: int, others: Sequence[Tensor]) -> Body:
    """The body with further inputs at `place`, which it does not read."""
    graph = body.graph.copy()
    inputs = list(graph.inputs)
    more = [graph.input(one.shape, one.dtype) for one in others]
    graph.inputs = [*inputs[:place], *more, *inputs[place:]]
    return Body(in_order(graph))


def while_loop(condition: Callable[[Any], Any], body: Callable[[Any], Any], init: Any) -> Any:
    """Carry a state while a condition holds: `while condition(carry): carry = body(carry)`.

    Args:
        condition: gives a bool tensor with one element; recorded once.
        body: gives the next carried structure, with leaves of the same shapes and dtypes.
        init: the first carried structure.

    Returns:
        The last carried structure. It has no gradient, for the number of rounds is not known
        beforehand: `backward` through it raises. Use `scan` where you know a bound.

    Raises:
        ShapeError: the condition is not one bool, or a leaf of the carried structure changes.

    >>> import avalon as av
    >>> av.while_loop(lambda n: n < 100, lambda n: n * 2, av.tensor(3))
    tensor(192)

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.lax.while_loop.html
    """
    carry = _Tree("init", init)
    kinds = [(x.shape, x.dtype) for x in carry.tensors]

    def holds(*tensors: Tensor) -> list[Tensor]:
        found = condition(carry.build(tensors))
        if not isinstance(found, Tensor) or found.dtype is not dtypes.bool_ or found.numel() != 1:
            what = (
                f"{found.dtype.name} {tuple(found.shape)}"
                if isinstance(found, Tensor)
                else repr(found)
            )
            raise ShapeError(f"[while_loop] the condition must give one bool tensor, not {what}")
        return [ops.reshape(found, shape=())]

    def step(*tensors: Tensor) -> list[Tensor]:
        following = _Tree("carry", body(carry.build(tensors)))
        _must_agree("while_loop", "the next carry", carry, following)
        return following.tensors

    more, following = trace_body("while_loop", kinds, holds), trace_body("while_loop", kinds, step)
    if draws([*more.captured, *following.captured]):
        raise TraceError(
            "[while_loop] random numbers are drawn in it, and nobody knows how many: draw them "
            "before the loop, or use scan, whose rounds are counted"
        )
    count = len(kinds)
    operands = [*carry.tensors, *more.captured, *following.captured]
    made = ops.repeat(
        *operands,
        condition=_widened(more.body, count + len(more.captured), following.captured),
        body=_widened(following.body, count, more.captured),
        carries=count,
    )
    edges = tuple(one._edge() if is_grad_enabled() else None for one in operands)
    if any(edge is not None for edge in edges):
        made = tuple(_without_gradient(one, edges) for one in made)
    return carry.build(made)


def _without_gradient(tensor: Tensor, edges: tuple[Any, ...]) -> Tensor:
    """The tensor with a history that says, if it is walked, why it cannot be."""
    if not tensor.dtype.is_floating_point:
        return tensor

    def refuse(g: Tensor) -> list[Tensor | None]:
        raise AutogradError(
            "[while_loop] has no gradient: the number of rounds is not known beforehand, so "
            "nothing can be kept for the way back. Use av.scan with a fixed length and av.where "
            "for the rounds that should change nothing, or detach the result"
        )

    value = tensor.value()
    return wrap(value, History.of_function("while_loop", edges, value, refuse))
