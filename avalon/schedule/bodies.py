"""The schedules of calls that hold graphs: loops and branches.

Comes in: a call of `scan`, `branch` or `repeat`, and the scheduler that met it. Goes out: one
`LoopStep`. Guaranteed: each output of a body lies in memory of its own, which no input and no other
output shares, so that the program can put it where it belongs: into the next round's memory, or
into a stack; what no one reads of a loop's results is not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from avalon import dtype as dtypes, ops
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Input, Node
from avalon.schedule.index import Affine
from avalon.schedule.loops import Expression, Load, Store
from avalon.schedule.pull import Puller, storage
from avalon.schedule.steps import AnyStep, LibraryStep, LoopStep, Part, Step, Temporary, Value
from avalon.shape import size_of

if TYPE_CHECKING:
    from avalon.schedule.calls import CallScheduler

_ENDLESS = (1 << 62) - 1


def add_loop(scheduler: CallScheduler, call: Call) -> None:
    """Append the step of a call that holds graphs."""
    operands = tuple(scheduler.materialize(scheduler.source(operand)) for operand in call.operands)
    results: dict[int, Node] = {}
    for node in scheduler.graph.users(call):
        index = node.parameters["index"] if isinstance(node, Call) else 0
        first = results.setdefault(index, node)
        if first is not node:
            scheduler.schedule.aliases[node] = first
    step = LoopStep(call, operands, results)
    {"scan": _scan, "branch": _branch, "repeat": _repeat}[call.primitive.name](scheduler, step)
    scheduler.schedule.steps.append(step)


def _scan(scheduler: CallScheduler, step: LoopStep) -> None:
    carries = step.call.parameters["carries"]
    graph = step.call.parameters["body"].graph.copy()
    graph.outputs = [
        node for index, node in enumerate(graph.outputs) if index < carries or index in step.results
    ]
    step.parts["body"] = make_part(scheduler, graph)
    _carry(scheduler, step, carries)


def _branch(scheduler: CallScheduler, step: LoopStep) -> None:
    choice = Graph("choice")
    predicate = choice.input((), dtypes.bool_)
    then = ops.cast(predicate, dtype=dtypes.int64)
    choice.outputs = [then, then.constant(1) - then]
    step.parts["choice"] = make_part(scheduler, choice)
    for name in ("then", "otherwise"):
        graph = step.call.parameters[name].graph.copy()
        graph.outputs = [n for index, n in enumerate(graph.outputs) if index in step.results]
        step.parts[name] = make_part(scheduler, graph)


def _repeat(scheduler: CallScheduler, step: LoopStep) -> None:
    """The body also counts the rounds, and says after each whether another one follows."""
    parameters, carries = step.call.parameters, step.call.parameters["carries"]
    condition, body = parameters["condition"].graph, parameters["body"].graph

    def after(graph: Graph, rounds: Node, values: Sequence[Node]) -> Node:
        (more,) = graph.inline(condition, values)
        endless = graph.constant(_ENDLESS, (), dtypes.int64)
        return graph.append(ops.where, more, endless, rounds)

    first = Graph("first")
    given = [first.input(shape, dtype) for shape, dtype in parameters["body"].inputs]
    first.outputs = [after(first, first.constant(0, (), dtypes.int64), given)]
    step.parts["first"] = make_part(scheduler, first)

    whole = Graph(body.name)
    given = [whole.input(node.shape, node.dtype, node.name) for node in body.inputs[:carries]]
    rounds = whole.input((), dtypes.int64, "rounds")
    rest = [whole.input(node.shape, node.dtype, node.name) for node in body.inputs[carries:]]
    made = whole.inline(body, [*given, *rest])
    counted = whole.append(ops.add, rounds, rounds.constant(1))
    whole.outputs = [*made, counted, after(whole, counted, [*made, *rest])]
    step.parts["body"] = make_part(scheduler, whole)
    _carry(scheduler, step, carries)
    _copy(scheduler, whole.constant(0, (), dtypes.int64), _new(step.initial, rounds), step.before)


def _carry(scheduler: CallScheduler, step: LoopStep, carries: int) -> None:
    """Copies of the first values into the loop's memory, and of the last ones out of it."""
    for operand in step.call.operands[:carries]:
        _copy(scheduler, operand, _new(step.initial, operand), step.before)
    for index in range(carries):
        final = _new(step.final, step.call.operands[index])
        if index in step.results:
            _copy(scheduler, final, step.results[index], step.after)


def _new(temporaries: list[Temporary], like: Node) -> Temporary:
    made = Temporary(like.shape, like.dtype)
    temporaries.append(made)
    return made


def _copy(scheduler: CallScheduler, source: Value, target: Value, steps: list[Step]) -> None:
    """Put steps that copy a value at the end of `steps`."""
    if 0 in target.shape:
        return
    before = len(scheduler.schedule.steps)

    def value(pull: Puller, coordinates: tuple[Affine, ...]) -> Expression:
        if isinstance(source, Node):
            return pull.value(source, coordinates)
        argument = pull.buffer(source)
        return Load(argument, storage(source.dtype)[0], pull.element(source, coordinates), ())

    node = source if isinstance(source, Node) else target
    assert isinstance(node, Node)
    scheduler.add(node, target, target.shape, value)
    made = scheduler.schedule.steps[before:]
    del scheduler.schedule.steps[before:]
    steps.extend(step for step in made if isinstance(step, Step))


def make_part(scheduler: CallScheduler, graph: Graph) -> Part:
    """Schedule a body's graph by the scheduler's own rules."""
    inner = scheduler.fresh(graph)
    schedule = inner.run()
    outputs: list[Value] = []
    for node in graph.outputs:
        value: Value = node
        while isinstance(value, Node) and value in schedule.aliases:
            value = schedule.aliases[value]
        if isinstance(value, Input) or value in outputs or value in schedule.narrow:
            copy = Temporary(value.shape, node.dtype)
            if 0 not in value.shape and not _store_too(schedule.steps, value, copy):
                extra: list[Step] = []
                assert isinstance(value, Node)
                _copy(inner, value, copy, extra)
                schedule.steps.extend(extra)
            value = copy
        outputs.append(value)
    scheduler.schedule.aliases.update(schedule.aliases)
    scheduler.schedule.narrow.update(schedule.narrow)
    return Part(graph, schedule.steps, outputs)


def _store_too(steps: Sequence[AnyStep], value: Value, copy: Temporary) -> bool:
    """Let a nest that is there store a value once more: the one that computes it or, for an input,
    one that walks through as many elements. False if there is none.
    """
    find = _copies_of_input if isinstance(value, Input) else _copies_of_result
    if value.dtype.is_complex or (isinstance(value, Input) and value.scalar):
        return False
    # What several steps write part by part, or again, none of them has as a whole.
    if sum(value in _written_by(step) for step in steps) > 1:
        return False
    for step in steps:
        if not isinstance(step, Step) or step.numbers is not None or step.check is not None:
            continue
        keys = [*step.keys, copy]
        copies = find(step, value, keys)
        if not copies:
            continue
        stages = tuple(
            replace(stage, stores=(*stage.stores, *copies.get(place, ())))
            for place, stage in enumerate(step.nest.stages)
        )
        written = step.written | {len(step.keys)}
        kinds = [*step.nest.arguments, *(("buffer", key.dtype) for key in keys[len(step.keys) :])]
        step.nest = replace(step.nest, stages=stages, arguments=kinds)
        step.keys, step.written = keys, written
        return True
    return False


def _written_by(step: AnyStep) -> list[Value]:
    if isinstance(step, Step):
        return [step.keys[place] for place in step.written]
    return [step.result.value] if isinstance(step, LibraryStep) else list(step.results.values())


def _copies_of_result(step: Step, value: Value, keys: list[Any]) -> dict[int, list[Store]]:
    """For each stage, the stores that write what it stores of `value` once more, as the last of
    `keys`.
    """
    found: dict[int, list[Store]] = {}
    for place, stage in enumerate(step.nest.stages):
        for store in stage.stores:
            if store.argument in step.written and keys[store.argument] is value:
                again = replace(store, argument=len(keys) - 1)
                found.setdefault(place, []).append(again)
    return found


def _copies_of_input(step: Step, value: Value, keys: list[Any]) -> dict[int, list[Store]]:
    """A store of an input as the last of `keys`, in the stage that stores a value of its size
    element by element; the input follows if the nest does not read it.
    """
    target, size = len(keys) - 1, size_of(value.shape)
    for place, stage in enumerate(step.nest.stages):
        walked = size_of([axis.extent for axis in (*step.nest.units, *stage.axes)])
        for store in stage.stores:
            whole = store.argument >= 0 and size_of(keys[store.argument].shape) == size == walked
            if not whole or store.guards or keys[store.argument].dtype.is_complex:
                continue
            if value not in keys:
                keys.append(value)
            dtype = storage(value.dtype)[0]
            load = Load(keys.index(value), dtype, store.index, ())
            return {place: [Store(target, store.index, load)]}
    return {}


def result_of_loop(scheduler: CallScheduler, call: Call) -> None:
    """Nothing: the step of the loop stores its results."""


LOOPS: dict[str, Callable[[CallScheduler, Call], None]] = {
    "scan": add_loop,
    "branch": add_loop,
    "repeat": add_loop,
    "result": result_of_loop,
}
