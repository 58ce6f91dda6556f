"""From a schedule to a plan: kernels built or found, buffers numbered, arguments in order.

Comes in: a graph, its `Schedule`, a target. Goes out: a `Plan` for the runtime. Guaranteed: equal
nests share one kernel, across programs too; a donation is offered only where the kernel reads each
element of the input before it writes the same element of the output.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from math import prod

from avalon.codegen import loops
from avalon.codegen.assemble_loops import add_loop, stays
from avalon.codegen.libraries import library_kernels
from avalon.codegen.target import Target
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Node
from avalon.runtime.memory import delay_updates
from avalon.runtime.plan import Argument, BufferSpec, CheckSpec, InputSpec, Kernel, Launch, Plan
from avalon.schedule.arrange import generic
from avalon.schedule.donation import donated_pairs
from avalon.schedule.loops import Nest
from avalon.schedule.steps import (
    AnyStep,
    LibraryStep,
    LoopStep,
    Schedule,
    Step,
    Temporary,
    Value,
)

_KEPT_KERNELS = 4096
_LOOKED_AT = 100  # nodes of a kernel that are asked where they come from
_ORIGINS = 6  # places that are named
_kernels: OrderedDict[tuple[str, str], Kernel] = OrderedDict()


def assemble(graph: Graph, schedule: Schedule, tier: str, target: Target) -> Plan:
    """The plan of a schedule."""
    assembler = Assembler(graph, schedule, Plan(graph.name, tier), target)
    assembler.add_steps(schedule.steps)
    return assembler.finish()


def kernel_of(nest: Nest, target: Target) -> Kernel:
    """The kernel of a nest."""
    key = (nest.text, target.name)
    kernel = _kernels.get(key)
    if kernel is None:
        kernel = _kernels[key] = loops.build(nest, target)
        if len(_kernels) > _KEPT_KERNELS:
            _kernels.popitem(last=False)
    return kernel


class Assembler:
    """Builds one plan, step by step."""

    def __init__(self, graph: Graph, schedule: Schedule, plan: Plan, target: Target) -> None:
        self.graph = graph
        self.schedule = schedule
        self.plan = plan
        self.target = target
        self.numbers: dict[Value, int] = {}
        self.depth = 0  # of the loops around what is being added
        self.left = -1  # where the loop begins that launches may leave, if there is one
        self.positions = {node: position for position, node in enumerate(graph.inputs)}
        for position, node in enumerate(graph.inputs):
            if node.scalar:
                plan.inputs.append(InputSpec(node.shape, node.dtype.name, True))
            else:
                number = self.append(node, "input", position)
                plan.inputs.append(InputSpec(node.shape, node.dtype.name, False, number))
        self.output_values = [self.resolve(node) for node in graph.outputs]
        for position, value in enumerate(self.output_values):
            if value not in self.numbers:
                self.append(value, "output", position)
        plan.outputs.extend(self.numbers[value] for value in self.output_values)

    def resolve(self, value: Value) -> Value:
        """The node or temporary whose buffer a value lies in."""
        aliases = self.schedule.aliases
        while isinstance(value, Node) and value in aliases:
            value = aliases[value]
        return value

    def append(self, value: Value, role: str, position: int = -1) -> int:
        dtype = value.dtype
        if isinstance(value, Node):
            dtype = self.schedule.narrow.get(value, dtype)
        nbytes = prod(value.shape) * dtype.itemsize
        number = self.numbers[value] = len(self.plan.buffers)
        self.plan.buffers.append(BufferSpec(nbytes, dtype.name, value.shape, role, position))
        return number

    def number(self, value: Value) -> int:
        """The number of a value's buffer."""
        value = self.resolve(value)
        found = self.numbers.get(value)
        return self.append(value, "temporary") if found is None else found

    def add_steps(self, steps: Iterable[AnyStep]) -> None:
        """The launches of steps, one after the other."""
        for step in steps:
            if isinstance(step, Step):
                self.add_nest(step)
            elif isinstance(step, LibraryStep):
                self.add_library(step)
            else:
                add_loop(self, step)

    def add_nest(self, step: Step) -> None:
        plan, nest, numbers = self.plan, step.nest, step.numbers or []
        if step.check is not None:
            for store in nest.stages[0].stores:
                if store.check is not None:
                    store.check = (len(plan.checks), store.check[1])
            plan.checks.append(CheckSpec(*step.check))
            nest, numbers = generic(nest)  # the number of the check is an argument
        kernel = kernel_of(nest, self.target)
        plan.kernels[kernel.symbol] = kernel
        arguments = self.arguments(step)
        nbytes = sum(plan.buffers[a.value].nbytes for a in arguments if a.kind == "buffer")
        arguments.extend(Argument("integer", number) for number in numbers)
        plan.launches.append(
            Launch(
                kernel.symbol, tuple(arguments), step.work, step.cost, nbytes,
                note_of(step.nodes), source_of(step.nodes), self.origins(step.nodes), step.window,
            )
        )  # fmt: skip

    def arguments(self, step: Step, absent: int = -1) -> list[Argument]:
        """What the slots of a nest hold; the buffer of argument `absent` is left out."""
        found = []
        for place, key in enumerate(step.keys):
            if place == absent:
                found.append(Argument("integer", 0))
            elif not isinstance(key, tuple):
                found.append(Argument("buffer", self.number(key), place in step.written))
            elif key[0] == "scalar":
                found.append(Argument("scalar", self.positions[key[1]]))
            else:
                found.append(Argument("status", 0))
        return found

    def add_library(self, step: LibraryStep) -> None:
        kernels, launches = library_kernels(step, self, self.target)
        for kernel in kernels:
            self.plan.kernels[kernel.symbol] = kernel
        nodes = (step.call, *(step.epilogue.step.nodes if step.epilogue else ()))
        note, source, origins = note_of(nodes), source_of(nodes), self.origins(nodes)
        for launch in launches:
            self.plan.launches.append(replace(launch, note=note, source=source, origins=origins))

    def origins(self, nodes: Iterable[Node]) -> str:
        """Where what a launch computes was recorded: the nodes, and what is computed inside it."""
        found: dict[str, None] = {}
        waiting, seen = list(nodes), set(nodes)
        while waiting and len(seen) < _LOOKED_AT:
            node = waiting.pop(0)
            found.setdefault(origin_of(node))
            for operand in node.operands if isinstance(node, Call) else ():
                inside = isinstance(operand, Call) and self.resolve(operand) not in self.numbers
                if inside and operand not in seen:
                    seen.add(operand)
                    waiting.append(operand)
        found.pop("", None)
        more = ", ..." if len(found) > _ORIGINS else ""
        return ", ".join(list(found)[:_ORIGINS]) + more

    def temporary(self, nbytes: int) -> int:
        """A new buffer that no node has."""
        self.plan.buffers.append(BufferSpec(nbytes, "uint8", (nbytes,), "temporary"))
        return len(self.plan.buffers) - 1

    def stays(self, number: int) -> bool:
        """Whether a buffer is the same in all rounds of the loop that is being added."""
        return stays(self, number)

    def finish(self) -> Plan:
        """Offer the donations and hand over the plan."""
        inputs: dict[Value, int] = {
            node: position for node, position in self.positions.items() if not node.scalar
        }
        outputs: dict[Value, int] = {}
        for position, value in enumerate(self.output_values):
            outputs.setdefault(value, position)
        writers: dict[Value, int] = {}
        for step in self.schedule.steps:
            for value in written_by(step):
                writers[self.resolve(value)] = writers.get(self.resolve(value), 0) + 1
        candidates: dict[int, list[int]] = {}  # input position -> output positions
        for step in self.schedule.steps:
            if not isinstance(step, Step):
                continue
            for written, read in donated_pairs(step):
                target, source = self.resolve(written), self.resolve(read)
                if target in outputs and source in inputs and writers[target] == 1:
                    candidates.setdefault(inputs[source], []).append(outputs[target])
        self.plan.donations.extend(match_donations(candidates))
        delay_updates(self.plan)
        return self.plan


def match_donations(candidates: dict[int, list[int]]) -> list[tuple[int, int]]:
    """Pairs (output, input), each at most once. Inputs that few results depend on choose first: a
    parameter is read by its own update only, a gradient by that of every state.

    >>> match_donations({0: [0], 1: [0, 1], 2: [0, 1]})
    [(0, 0), (1, 1)]
    """
    pairs = []
    taken: set[int] = set()
    for position in sorted(candidates, key=lambda position: (len(candidates[position]), position)):
        free = [output for output in candidates[position] if output not in taken]
        if free:
            taken.add(free[0])
            pairs.append((free[0], position))
    return pairs


def written_by(step: AnyStep) -> Iterable[Value]:
    """The values that a step writes."""
    if isinstance(step, LoopStep):
        return step.results.values()
    if isinstance(step, Step):
        return [step.keys[place] for place in step.written]
    if step.epilogue is None:
        return [step.result.value]
    kept = [step.result.value] if step.epilogue.keeps else []
    return [*kept, *written_by(step.epilogue.step)]


def note_of(nodes: Iterable[Node]) -> str:
    """What a launch computes, in the names of the graph."""
    parts = []
    for node in nodes:
        name = node.primitive.name if isinstance(node, Call) else type(node).__name__.lower()
        parts.append(f"{name} {'x'.join(map(str, node.shape)) or 'scalar'}")
    return ", ".join(parts)


def origin_of(node: Node) -> str:
    """The layer that a node was recorded in, if that is known, and its line."""
    layer = node.note.rpartition(": ")[2]  # a rewrite's note goes in front
    if isinstance(node, Call) and layer == node.primitive.name:
        layer = ""
    file = node.source[0].replace("\\", "/").rpartition("/")[2] if node.source else ""
    line = f"{file}:{node.source[1]}" if node.source else ""
    return f"{layer} ({line})" if layer and line else layer or line


def source_of(nodes: Iterable[Node]) -> str:
    """The user's file and line that a launch came from."""
    for node in nodes:
        if node.source:
            return ":".join(map(str, node.source))
    return ""


__all__ = ["Assembler", "Temporary", "assemble"]
