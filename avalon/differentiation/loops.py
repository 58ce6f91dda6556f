"""The gradients of loops and branches: a loop in the other direction, a branch of gradients.

Comes in: cotangents of a loop's results, its operands, its body. Goes out: the cotangents of the
operands. Guaranteed: the body's values that the way back reads are stacked on the way there, or, if
they would take too much memory, computed again from the carried ones; products of something that
changes in every round and sums over it, which make the gradients of weights and biases, leave the
loop as one contraction or one sum over all rounds, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from avalon import ops
from avalon.differentiation.accumulate import Parts, accumulate
from avalon.differentiation.joint import Joint, Keeping, depending, joint_of
from avalon.graph.body import Body
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Constant, Node

STACKED_BYTES = 1 << 30  # what the stacks of one loop may take
_CAPACITY = 500
_SUMMED_BYTES = 1 << 28  # what is stacked only to be summed over all rounds


@dataclass(frozen=True, eq=False)
class Sum:
    """A part of an operand's gradient that is computed after the loop, from stacks.

    `factors` are the nodes whose stacks are contracted (two) or summed (one), each with the
    movements that lead from it to the operand of `call`; `movements` lead from the result to the
    gradient.
    """

    call: Call
    factors: tuple[tuple[Node, tuple[Call, ...]], ...]
    movements: tuple[Call, ...]


class Differentiated:
    """A scan whose body has been cut in two.

    Attributes:
        forward: the body, which also puts out what the way back needs.
        kept: the nodes of the joint that it puts out for that.
    """

    def __init__(
        self, joint: Joint, carries: int, sequences: int, length: int, wanted: Sequence[bool]
    ) -> None:
        self.joint = joint
        self.carries = carries
        self.sequences = sequences
        self.length = length
        graph = joint.graph
        count = len(wanted)
        self.inputs = list(graph.inputs[:count])
        self.varying = depending(
            graph, [*self.inputs[: carries + sequences], *graph.inputs[count:]]
        )
        self.late = depending(graph, graph.inputs[count:])
        self.carried = [k for k in range(carries) if joint.seeds[k] is not None]
        self.stacked = [
            k for k in range(carries, carries + sequences) if wanted[k] and joint.gradients[k]
        ]
        self.sums: dict[int, list[Sum]] = {}
        self.summed: dict[int, Node] = {}  # gradients that are summed round by round
        for k in range(carries + sequences, count):
            if wanted[k]:
                self._take_apart(k, length)
        self.keeping = Keeping(self.inputs[carries:], sparing=False)
        self.kept = self._kept()
        if length * sum(prod(n.shape) * n.dtype.itemsize for n in self.kept) > STACKED_BYTES:
            self.keeping = Keeping(self.inputs[carries:], sparing=True)
            self.kept = self._kept()
        self.forward = self._forward()
        self._backward: dict[tuple[bool, ...], tuple[Body, list[Node], list[Node]]] = {}

    def _take_apart(self, k: int, length: int) -> None:
        """Split the gradient of what is the same in every round into sums over all rounds."""
        waiting = [self.joint.gradients[k]]
        while waiting:
            term = waiting.pop()
            if term is None:
                continue
            if isinstance(term, Call) and term.primitive is ops.add and term in self.late:
                waiting.extend(reversed(term.operands))
                continue
            found = self._sum_of(term, length)
            if found is not None:
                self.sums.setdefault(k, []).append(found)
            else:
                before = self.summed.get(k)
                if before is not None:
                    term = self.joint.graph.append(ops.add, before, term)
                    self.late.add(term)
                self.summed[k] = term

    def _sum_of(self, term: Node, length: int) -> Sum | None:
        call, movements = _moved(term)
        if not isinstance(call, Call) or call not in self.late:
            return None
        if call.primitive is ops.contract:
            factors = tuple(_moved(x) for x in call.operands)
            if all(base in self.varying for base, _ in factors):
                return Sum(call, factors, movements)
        if call.primitive is ops.reduce_sum:
            base, path = _moved(call.operands[0])
            nbytes = length * prod(base.shape) * base.dtype.itemsize
            if base in self.varying and nbytes <= _SUMMED_BYTES:
                return Sum(call, ((base, path),), movements)
        return None

    def _roots(self) -> list[Node]:
        """What the backward round computes."""
        made = [self.joint.gradients[k] for k in self.carried]
        made += [self.joint.gradients[k] for k in self.stacked]
        made += [self.summed[k] for k in self.summed]
        made += [base for sums in self.sums.values() for one in sums for base, _ in one.factors]
        return [node for node in made if node is not None]

    def _kept(self) -> list[Node]:
        """The values of the forward round that the backward round starts from."""
        found: dict[Node, None] = {}
        seen: set[Node] = set()
        waiting = self._roots()
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            if node not in self.late:
                found.update(dict.fromkeys(self._ordered(self.keeping.leaves(node))))
            elif isinstance(node, Call):
                waiting.extend(node.operands)
        return self._ordered(found)

    def _ordered(self, nodes: Any) -> list[Node]:
        return sorted(nodes, key=lambda node: node.order)

    def _forward(self) -> Body:
        count = len(self.inputs)
        graph = Graph("forward")
        copies: dict[Node, Node] = {}
        for node in self.inputs:
            copies[node] = graph.input(node.shape, node.dtype, node.name)
        _copy_into(graph, [*self.joint.outputs, *self.kept], copies)
        graph.outputs = [copies[node] for node in (*self.joint.outputs, *self.kept)]
        assert len(graph.inputs) == count
        return Body(graph)

    def backward_body(self, present: tuple[bool, ...]) -> tuple[Body, list[Node], list[Node]]:
        """The body of the way back, the nodes whose elements it takes, and those whose elements it
        puts out. `present` says which stacked results have a cotangent.
        """
        found = self._backward.get(present)
        if found is None:
            found = self._backward[present] = self._make_backward(present)
        return found

    def _make_backward(self, present: tuple[bool, ...]) -> tuple[Body, list[Node], list[Node]]:
        joint, carries = self.joint, self.carries
        graph = Graph("backward")
        copies: dict[Node, Node] = {}
        for k in self.carried:
            seed = joint.seeds[k]
            assert seed is not None
            copies[seed] = graph.input(seed.shape, seed.dtype, f"g{k}")
        totals = {
            k: graph.input(node.shape, node.dtype, f"total{k}") for k, node in self.summed.items()
        }
        for seed, there in zip(joint.seeds[carries:], present, strict=True):
            if seed is not None and there:
                copies[seed] = graph.input(seed.shape, seed.dtype, "g")
        roots = self._roots()
        taken = [*self.inputs[carries : carries + self.sequences], *self.kept]
        for node in taken:
            copies[node] = graph.input(node.shape, node.dtype)
        for node in self.inputs[carries + self.sequences :]:
            copies[node] = graph.input(node.shape, node.dtype, node.name)
        for seed in joint.seeds:
            if seed is not None and seed not in copies:
                copies[seed] = graph.constant(0, seed.shape, seed.dtype)
        _copy_into(graph, roots, copies)
        outputs = []
        for k in self.carried:
            made, seed = joint.gradients[k], joint.seeds[k]
            assert seed is not None
            outputs.append(
                graph.constant(0, seed.shape, seed.dtype) if made is None else copies[made]
            )
        outputs += [ops.add(totals[k], copies[node]) for k, node in self.summed.items()]
        stacks = [joint.gradients[k] for k in self.stacked]
        stacks += [
            base
            for sums in self.sums.values()
            for one in sums
            for base, _ in one.factors
            if base not in taken
        ]
        put_out = [node for node in dict.fromkeys(stacks) if node is not None]
        graph.outputs = [*outputs, *(copies[node] for node in put_out)]
        return Body(graph), taken, put_out

    def back(
        self, g: Sequence[Any], operands: Sequence[Any], kept: Sequence[Any], reverse: bool
    ) -> list[Any]:
        """The cotangents of a scan's operands, from those of its results (None: none) and from the
        stacks of what the forward body put out for this.
        """
        length = self.length
        carries = self.carries
        if not self._roots():
            return [None] * len(operands)
        like = operands[0]
        present = tuple(one is not None for one in g[carries:])
        body, taken, put_out = self.backward_body(present)
        known: dict[Node, Any] = dict(zip(self.inputs[carries:], operands[carries:], strict=True))
        known.update(zip(self.kept, kept, strict=True))
        starts = []
        for k in self.carried:
            seed = self.joint.seeds[k]
            assert seed is not None
            starts.append(like.constant(0, seed.shape, seed.dtype) if g[k] is None else g[k])
        for node in self.summed.values():
            starts.append(like.constant(0, node.shape, node.dtype))
        walked = [
            one
            for one, seed in zip(g[carries:], self.joint.seeds[carries:], strict=True)
            if one is not None and seed is not None
        ]
        walked += [known[node] for node in taken]
        rest = operands[carries + self.sequences :]
        made = ops.scan(
            *starts, *walked, *rest, body=body, carries=len(starts), sequences=len(walked),
            length=None if walked else length, reverse=not reverse,
        )  # fmt: skip
        found: list[Any] = [None] * len(operands)
        for place, k in enumerate(self.carried):
            found[k] = made[place]
        known.update(zip(put_out, made[len(starts) :], strict=True))
        for k in self.stacked:
            stacked = self.joint.gradients[k]
            assert stacked is not None
            found[k] = known[stacked]
        for k, sums in self.sums.items():
            for one in sums:
                found[k] = accumulate(found[k], self._over_all_rounds(one, known, length))
        for place, k in enumerate(self.summed, len(self.carried)):
            found[k] = accumulate(found[k], made[place])
        return found

    def _over_all_rounds(self, one: Sum, known: dict[Node, Any], length: int) -> Any:
        factors = []
        for base, path in one.factors:
            stack = known[base]
            for movement in path:
                stack = _lifted(movement, stack, length)
            factors.append(stack)
        if one.call.primitive is ops.contract:
            a, b = factors
            _, batches, rows, inner = a.shape
            columns = b.shape[3]
            a = ops.reshape(
                ops.transpose(a, permutation=(1, 2, 0, 3)), shape=(batches, rows, length * inner)
            )
            b = ops.reshape(
                ops.transpose(b, permutation=(1, 0, 2, 3)), shape=(batches, length * inner, columns)
            )
            total = ops.contract(a, b)
        else:
            axes = (0, *(axis + 1 for axis in one.call.parameters["axes"]))
            total = ops.reduce_sum(factors[0], axes=axes)
        for movement in one.movements:
            total = movement.primitive(total, **movement.parameters)
        return total


def _moved(node: Node) -> tuple[Node, tuple[Call, ...]]:
    """What a value is a rearrangement of, and the movements from there to it."""
    path: list[Call] = []
    while isinstance(node, Call) and node.primitive in (ops.reshape, ops.transpose):
        path.append(node)
        node = node.operands[0]
    return node, tuple(reversed(path))


def _lifted(movement: Call, stack: Any, length: int) -> Any:
    """A movement of every element of a stack."""
    if movement.primitive is ops.reshape:
        return ops.reshape(stack, shape=(length, *movement.shape))
    order = movement.parameters["permutation"]
    return ops.transpose(stack, permutation=(0, *(axis + 1 for axis in order)))


def _copy_into(graph: Graph, wanted: Sequence[Node], copies: dict[Node, Node]) -> None:
    """Append what `wanted` needs to a graph; `copies` says what is there, and learns the rest."""
    needed: set[Node] = set()
    waiting = list(wanted)
    while waiting:
        node = waiting.pop()
        if node in needed or node in copies:
            continue
        needed.add(node)
        if isinstance(node, Call):
            waiting.extend(node.operands)
    for node in sorted(needed, key=lambda node: node.order):
        graph.note, graph.source = node.note, node.source
        if isinstance(node, Constant):
            copies[node] = graph.constant(node.value, node.shape, node.dtype)
        elif isinstance(node, Call):
            operands = [copies[operand] for operand in node.operands]
            copies[node] = graph.call(node.primitive, operands, node.parameters)


def _length(operands: Sequence[Any], parameters: dict[str, Any]) -> int:
    if parameters["sequences"]:
        return int(operands[parameters["carries"]].shape[0])
    return int(parameters["length"])


_differentiated: dict[Any, Differentiated] = {}


def differentiated(
    body: Body, operands: Sequence[Any], parameters: dict[str, Any], wanted: tuple[bool, ...]
) -> Differentiated:
    """The two halves of a scan, of which the operands that are `wanted` get a cotangent."""
    carries, sequences = parameters["carries"], parameters["sequences"]
    length = _length(operands, parameters)
    key = body, carries, sequences, length, wanted
    found = _differentiated.get(key)
    if found is None:
        found = Differentiated(joint_of(body), carries, sequences, length, wanted)
        if len(_differentiated) >= _CAPACITY:
            _differentiated.clear()
        _differentiated[key] = found
    return found


def scan_gradient(g: Parts, y: Any, *operands: Any, **parameters: Any) -> tuple[Any, ...]:
    """The gradient rule of `scan`: the loop again, with stacks, then the loop back."""
    body = parameters["body"]
    wanted = tuple(operand.dtype.is_floating_point for operand in operands)
    halves = differentiated(body, operands, parameters, wanted)
    results = len(body.outputs)
    made = ops.scan(*operands, **(parameters | {"body": halves.forward}))
    cotangents = [g.get(index) for index in range(results)]
    reverse = parameters.get("reverse", False)
    return tuple(halves.back(cotangents, operands, made[results:], reverse))


def branch_gradient(
    g: Parts, y: Any, predicate: Any, *operands: Any, then: Body, otherwise: Body
) -> tuple[Any, ...]:
    """The gradient rule of `branch`: a branch of the two gradients."""
    places = [k for k, operand in enumerate(operands) if operand.dtype.is_floating_point]
    bodies = [_gradient_body(body, sorted(g), places) for body in (then, otherwise)]
    given = [g[index] for index in sorted(g)]
    found: list[Any] = [None] * len(operands)
    if places:
        made = ops.branch(predicate, *operands, *given, then=bodies[0], otherwise=bodies[1])
        for place, one in zip(places, made, strict=True):
            found[place] = one
    return (None, *found)


def _gradient_body(body: Body, given: Sequence[int], places: Sequence[int]) -> Body:
    """The gradients of a body's inputs at `places`, 0 where there is none, from the cotangents of
    its outputs `given`.
    """
    joint = joint_of(body)
    graph = Graph(f"gradient of {body.graph.name}")
    inputs = joint.graph.inputs[: len(body.inputs)]
    copies: dict[Node, Node] = {
        node: graph.input(node.shape, node.dtype, node.name) for node in inputs
    }
    for index, seed in enumerate(joint.seeds):
        if seed is not None and index in given:
            copies[seed] = graph.input(seed.shape, seed.dtype, f"g{index}")
        elif seed is not None:
            copies[seed] = graph.constant(0, seed.shape, seed.dtype)
    wanted = [joint.gradients[k] for k in places]
    _copy_into(graph, [node for node in wanted if node is not None], copies)
    graph.outputs = [
        graph.constant(0, inputs[k].shape, inputs[k].dtype) if node is None else copies[node]
        for k, node in zip(places, wanted, strict=True)
    ]
    return Body(graph)


ops.differentiate_loops_by(scan=scan_gradient, branch=branch_gradient)
