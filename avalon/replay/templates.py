"""What a recorded call left behind: what its cells hold, and tensors described by templates.

Comes in: outcomes and templates, which a recording made, and in each replay the cells that its
program made. Goes out: a result like the recorded call's. Guaranteed: a tensor that was built has
the class and the fields of the one that was described, whatever class that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from avalon.tensor.core import Tensor


class Outcome(NamedTuple):
    """What a cell holds after the step: "output" (`place`: position in the graph), "start" (what
    tensor number `place` held at the start) or "host" (`value`).
    """

    kind: str
    place: int
    value: Any


class Template(NamedTuple):
    """A tensor that the step left behind: its class, its fields, and the number of its cell."""

    type: type[Tensor]
    fields: dict[str, Any]
    cell: int


class Reachable(NamedTuple):
    """In a result: the reachable tensor of this number."""

    place: int


def build(template: Template, made: Sequence[Any], tensors: Sequence[Tensor]) -> Tensor:
    """A tensor like the template, on a cell that the step made, or on that of a tensor."""
    kind, fields, number = template
    built = object.__new__(kind)
    if kind is Tensor and len(fields) == 2:  # stored one by one, they need no dict of their own
        built.shape = fields["shape"]
        built.dtype = fields["dtype"]
    else:
        built.__dict__.update(fields)
    built._cell = tensors[number]._cell if number >= 0 else made[-1 - number]
    return built


Builder = Callable[[Template, Sequence[Any], Sequence[Tensor]], Tensor]


def rebuild(
    result: Any, made: Sequence[Any], tensors: Sequence[Tensor], build: Builder = build
) -> Any:
    """A step's result with the tensors that `build` makes in place of templates."""
    if isinstance(result, Template):
        return build(result, made, tensors)
    if isinstance(result, Reachable):
        return tensors[result.place]
    if isinstance(result, (list, tuple)):
        items = [rebuild(item, made, tensors, build) for item in result]
        return type(result)(*items) if hasattr(result, "_fields") else type(result)(items)
    if isinstance(result, dict):
        return {key: rebuild(item, made, tensors, build) for key, item in result.items()}
    return result


def templates(result: Any) -> Iterator[Template | Reachable]:
    """The tensors of a described result."""
    if isinstance(result, (Template, Reachable)):
        yield result
    elif isinstance(result, (list, tuple, dict)):
        for item in result.values() if isinstance(result, dict) else result:
            yield from templates(item)


def gradient_outputs(
    gradients: Sequence[tuple[int, Template | None]], made: Sequence[Outcome]
) -> dict[int, int]:
    """The output that becomes the gradient of a tensor, by the tensor's number."""
    found: dict[int, int] = {}
    for owner, template in gradients:
        if template is not None and template.cell < 0:
            outcome = made[-1 - template.cell]
            if outcome.kind == "output":
                found[owner] = outcome.place
    return found
