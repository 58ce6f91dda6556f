"""One call of a step as a graph that can be run again and again, apart from the world.

Comes in: a function (compiled or not) and its arguments. Goes out: a `RecordedStep`: the graph,
what feeds its inputs, and names for what comes in and out ("net.conv1.weight", "result").
Guaranteed: nothing of the arguments, models, gradients, optimizers or random generators changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from avalon.compiler import compile_graph
from avalon.errors import TraceError
from avalon.graph.graph import Graph
from avalon.graph.interpret import from_storage
from avalon.graph.node import Input, Node
from avalon.replay.recording import Recording
from avalon.replay.step import CompiledStep, as_tensors
from avalon.replay.templates import Outcome, Template
from avalon.runtime.buffer import Buffer
from avalon.tracing import execute

Array = np.ndarray[Any, Any]


@dataclass
class RecordedStep:
    """A call, recorded.

    Attributes:
        graph: its outputs are what the call leaves behind.
        feeds: a buffer or a number for each input.
        inputs: the name of the tensor behind each input; "" for what has none.
        outputs: the name of each output: "result", the name of a tensor that was written, or that
            of a gradient.
        recording: what else the call did.
    """

    graph: Graph
    feeds: list[Any]
    inputs: list[str]
    outputs: list[str]
    recording: Recording

    def arrays(self) -> list[Any]:
        """What feeds the inputs, as arrays of the reference types; numbers as they are."""
        return [
            feed if node.scalar else from_storage(feed.as_numpy(node.dtype, node.shape), node.dtype)
            for node, feed in zip(self.graph.inputs, self.feeds, strict=True)
        ]

    def input_of(self, tensor: Any) -> Input | None:
        """The input through which a tensor takes part, if it does."""
        for node, name in zip(self.graph.inputs, self.inputs, strict=True):
            found = self.recording.paths.index(name) if name in self.recording.paths else -1
            if found >= 0 and self.recording.tensors[found] is tensor:
                return node
        return None

    def run(
        self,
        outputs: Sequence[Node],
        tier: str,
        within: AbstractContextManager[Any] | None = None,
        stored: bool = True,
    ) -> list[Array]:
        """The values of some nodes, from a program of their own.

        Args:
            within: entered while the program is compiled and run.
            stored: whether a program on disk may serve.
        """
        before, self.graph.outputs = self.graph.outputs, list(outputs)
        try:
            with within or nullcontext():
                show = None if stored else _ignore
                program = compile_graph(self.graph, tier, show)
                # Copies, so that the program may write where a step's own program would.
                given = [x.__copy__() if isinstance(x, Buffer) else x for x in self.feeds]
                made = program.run(given, range(len(given)))
        finally:
            self.graph.outputs = before
        return [
            from_storage(buffer.as_numpy(node.dtype, node.shape), node.dtype)
            for buffer, node in zip(made, outputs, strict=True)
        ]


def record(
    what: str, function: Callable[..., Any], arguments: Sequence[Any], named: dict[str, Any]
) -> RecordedStep:
    """Record a call without its effects; `what` is the name of the tool that errors begin with.

    Raises:
        TraceError: the function asks for a tensor's value.
    """
    if isinstance(function, CompiledStep):
        function = function.function
    arguments = tuple(as_tensors(argument) for argument in arguments)
    named = {name: as_tensors(argument) for name, argument in named.items()}
    try:
        recording = Recording.without_effect(function, arguments, named)
    except TraceError as error:
        raise TraceError(
            f"[{what}] the function asks for the value of a tensor, so it is not one program: "
            f"leave .item(), print and `if` on tensors out of it, and look at what it returns. "
            f"{str(error).partition('this function. ')[2]}".rstrip()
        ) from error
    names: dict[int, str] = {}
    for index, outcome in recording.rebound:
        _name(names, outcome, recording.paths[index])
    for index, template in recording.gradients:
        if template is not None and template.cell < 0:
            _name(names, recording.made[-1 - template.cell], f"{recording.paths[index]}.grad")
    for change, template in recording.fields:
        if template.cell < 0:
            _name(names, recording.made[-1 - template.cell], change.path)
    for path, template in _templates("result", recording.result):
        if template.cell < 0:
            _name(names, recording.made[-1 - template.cell], path)
    positions = sorted(names)
    graph, nodes = recording.pending.recorded.build()
    kept = execute.restrict(graph, [nodes[position] for position in positions])
    origins = [
        recording.paths[origin.place] if origin.kind in ("cell", "window") else ""
        for origin in recording.origins
    ]
    return RecordedStep(
        graph,
        [recording.pending.feeds[place] for place in kept],
        [origins[place] for place in kept],
        [names[position] for position in positions],
        recording,
    )


def _name(names: dict[int, str], outcome: Outcome, path: str) -> None:
    if outcome.kind == "output":
        names[outcome.place] = path


def _templates(path: str, result: Any) -> Sequence[tuple[str, Template]]:
    if isinstance(result, Template):
        return [(path, result)]
    items: Any = ()
    if isinstance(result, (list, tuple)):
        items = enumerate(result)
    elif isinstance(result, dict):
        items = result.items()
    return [found for key, item in items for found in _templates(f"{path}[{key!r}]", item)]


def _ignore(name: str, made: object) -> None:
    """A program that is shown is not kept on disk, nor taken from there."""
