"""`check`: one step computed in every way there is, and where the ways part.

Comes in: a function or compiled step, and arguments. Goes out: a `Report`. Compared are the
primitives' meanings in NumPy, the plain tier (one kernel a call), the cold and the hot tier on one
thread and on all, algorithms that shapes choose with the usual ones, and, for functions with one
number as their value, gradients with finite differences. Guaranteed: models, gradients, optimizers
and random generators stay as they were; of a difference the first call is named at which it shows,
and the rewrites, fusions or algorithms without which it is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np

from avalon import struct
from avalon.diagnosis.bisect import find_culprits
from avalon.diagnosis.comparison import Difference, bits_differ, sums_differ, values_differ
from avalon.diagnosis.finite_differences import wrong_slopes
from avalon.diagnosis.recorded_step import Array, RecordedStep, record
from avalon.dtype import several
from avalon.graph.interpret import evaluate
from avalon.graph.node import Call, Constant, Input, Node
from avalon.replay.step import CompiledStep
from avalon.settings import settings
from avalon.switches import switches, without
from avalon.transforms import grad

_THREADS = "several threads"
_STORED = "the program on disk (`avalon cache clear` removes it)"


@dataclass(frozen=True)
class Finding:
    """Where two ways of computing part.

    Attributes:
        judge, judged: the two, such as "plain" and "hot".
        what: the call, tensor or gradient at which it shows first.
        source: the user's file and line, or "".
        difference: the values, or the error that one of the two raised.
        culprits: rewrites and fusions without which they agree; empty if none is known.
    """

    judge: str
    judged: str
    what: str
    source: str
    difference: Any
    culprits: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f" ({self.source})" if self.source else ""
        lines = [f"{self.judged} parts from {self.judge} at {self.what}{where}: {self.difference}"]
        if self.culprits:
            lines.append(f"  it is gone without {' and '.join(map(repr, self.culprits))}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """What `check` found; true if all ways agree.

    Attributes:
        compared: the ways that were compared.
        findings: where they part.
    """

    compared: tuple[str, ...]
    findings: tuple[Finding, ...] = field(default=())

    def __bool__(self) -> bool:
        return not self.findings

    def __repr__(self) -> str:
        if self:
            return f"all agree: {', '.join(self.compared)}"
        return "\n".join(map(str, self.findings))


def check(function: Callable[..., Any], *arguments: Any, **named: Any) -> Report:
    """Compute a step in every way there is and say where they part.

    The NumPy meaning of each primitive judges the plain tier within rounding; the plain tier judges
    the cold and the hot one bit for bit; finite differences judge the gradients of a function whose
    value is one number, and those that a step leaves in `.grad`. NumPy is slow: a small batch will
    do.

    Args:
        function: what you would give to `av.compile`, compiled or not; it asks for no value.
        arguments: of one call. Nothing of them changes.

    Returns:
        A report that is true if all agree; print it to read what was found.

    Raises:
        TraceError: the function asks for the value of a tensor.

    >>> import avalon as av
    >>> net = av.nn.Linear(3, 1)
    >>> av.check(lambda x: av.nn.functional.softplus(net(x)).sum(), av.ones(2, 3))
    all agree: reference, plain, cold, hot, 1 thread, finite differences
    """
    recorded = record("check", function, arguments, named)
    compared = ["reference", "plain", "cold", "hot", "1 thread"]
    calls = [node for node in recorded.graph.nodes if _has_value(node)]
    plain: dict[Node, Array] = dict(zip(calls, recorded.run(calls, "plain"), strict=True))
    findings = [*_against_reference(recorded, plain), *_against_plain(recorded, plain)]
    for algorithm, unlike in _against_algorithms(function, arguments, named, recorded, plain):
        compared.append(f"without {algorithm}")
        findings.extend(unlike)
    slopes = _against_differences(function, arguments, named, recorded, plain)
    if slopes is not None:
        compared.append("finite differences")
        findings.extend(slopes)
    return Report(tuple(compared), tuple(findings))


# --- the plain tier -----------------------------------------------------------------------------


def _against_reference(recorded: RecordedStep, plain: dict[Node, Array]) -> Iterator[Finding]:
    """The first call whose plain kernel does not compute its meaning, of the kernel's operands."""
    values = dict(plain)
    for given, array in zip(recorded.graph.inputs, recorded.arrays(), strict=True):
        values[given] = np.asarray(array, given.dtype.reference)
    for node in recorded.graph.nodes:
        if isinstance(node, Constant):
            one = np.asarray(node.value).astype(node.dtype.reference)
            values[node] = np.broadcast_to(one, node.shape)
        elif isinstance(node, Call):
            operands = [values[x] for x in node.operands]
            if not _has_value(node):
                values[node] = evaluate(node.primitive, operands, node.parameters, node.dtype)
                continue
            difference = values_differ(node, operands, plain[node])
            if difference is not None:
                yield Finding("reference", "plain", _called(node), _line(node), difference)
                return


# --- the other tiers ----------------------------------------------------------------------------


def _against_plain(recorded: RecordedStep, plain: dict[Node, Array]) -> Iterator[Finding]:
    for tier in ("cold", "hot"):
        finding = _parting(recorded, plain, tier, tier)
        if finding is None and tier == "hot":
            finding = _parting(recorded, plain, tier, "hot on 1 thread", _one_thread)
        if finding is not None:
            yield finding


def _parting(
    recorded: RecordedStep, plain: dict[Node, Array], tier: str, name: str,
    within: Callable[[], Any] | None = None,
) -> Finding | None:  # fmt: skip
    graph = recorded.graph
    wanted = [node for node in graph.outputs if isinstance(node, Call)]

    def wrong(nodes: Sequence[Call], names: Sequence[str] = ()) -> dict[Call, Any]:
        """The nodes that differ in a program that puts them out, without some of the switches."""
        with ExitStack() as stack:
            if within is not None or _THREADS in names:
                stack.enter_context(_one_thread())
            stack.enter_context(without(*(n for n in names if n not in (_THREADS, _STORED))))
            try:
                found = recorded.run(nodes, tier, stored=_STORED not in names)
            except Exception as error:  # whatever a fault leads to is what is looked for
                return dict.fromkeys(nodes, f"{type(error).__name__}: {error}")
        pairs = zip(nodes, found, strict=True)
        parts = {node: bits_differ(plain[node], value, node.dtype) for node, value in pairs}
        return {node: difference for node, difference in parts.items() if difference is not None}

    spoiled = wrong(wanted)
    if not spoiled:
        return None
    bad = next(node for node in wanted if node in spoiled)
    first, difference = _first_wrong(bad, wanted, wrong) or (bad, spoiled[bad])
    latest = switches()[::-1]
    latest.sort(key=lambda switch: not switch.within)  # the narrower ones in front
    suspects = [_STORED, _THREADS, *(switch.name for switch in latest)]
    culprits = find_culprits(suspects, lambda names: not wrong(wanted, names))
    return Finding("plain", name, _called(first), _line(first), difference, tuple(culprits or ()))


def _first_wrong(
    bad: Call, outputs: Sequence[Call], wrong: Callable[..., dict[Call, Any]]
) -> tuple[Call, Difference] | None:
    """The first of the calls before `bad` that is wrong when it is put out besides the outputs."""
    chain = [node for node in _before(bad) if _has_value(node)]
    right, far = -1, len(chain) - 1
    found = None
    while far - right > 1:
        middle = (right + far) // 2
        node = chain[middle]
        spoiled = wrong(list(dict.fromkeys([*outputs, node])))
        if node in spoiled:
            far, found = middle, (node, spoiled[node])
        else:
            right = middle
    return found


def _has_value(node: Node) -> TypeGuard[Call]:
    """Whether a node is a call, and not a loop, whose results are calls of their own."""
    return isinstance(node, Call) and node.dtype is not several


def _before(node: Node) -> list[Node]:
    """What a node is computed from and itself, in the order of the graph."""
    needed = {node}
    for other in reversed(node.graph.nodes):
        if other in needed and isinstance(other, Call):
            needed.update(other.operands)
    return [other for other in node.graph.nodes if other in needed]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads, settings.threads = settings.threads, 1
    try:
        yield
    finally:
        settings.threads = threads


# --- algorithms ---------------------------------------------------------------------------------


def _against_algorithms(
    function: Callable[..., Any], arguments: Sequence[Any], named: dict[str, Any],
    recorded: RecordedStep, plain: dict[Node, Array],
) -> Iterator[tuple[str, list[Finding]]]:  # fmt: skip
    """Each algorithm that the step takes for its shapes, and the first result that is another one
    without it.
    """
    for name in [switch.name for switch in switches() if switch.kind == "algorithm" and switch.on]:
        with without(name):
            other = record("check", function, arguments, named)
        if other.graph.signature() == recorded.graph.signature():
            continue
        found = dict(zip(other.outputs, other.run(other.graph.outputs, "plain"), strict=True))
        pairs = zip(recorded.outputs, recorded.graph.outputs, strict=True)
        parts = [
            Finding(f"plain without {name!r}", "plain", path, _line(node), difference, (name,))
            for path, node in pairs
            if isinstance(node, Call) and path in found
            and (difference := sums_differ(found[path], plain[node], node.dtype))
        ]  # fmt: skip
        yield name, parts[:1]


# --- gradients ----------------------------------------------------------------------------------


def _against_differences(
    function: Callable[..., Any], arguments: Sequence[Any], named: dict[str, Any],
    recorded: RecordedStep, plain: dict[Node, Array],
) -> list[Finding] | None:  # fmt: skip
    """What finite differences say of the gradients; None if there are none to compare."""
    value: Node | None = _loss(recorded)
    if value is None:
        return None
    gradients = _left_gradients(recorded, plain)
    names = dict(zip(recorded.graph.inputs, recorded.inputs, strict=True))
    if not gradients:
        found = _own_gradients(function, arguments, named, recorded)
        if found is None:
            return None
        recorded, value, gradients, names = found
    slopes = wrong_slopes(recorded.graph, value, gradients, names, recorded.arrays())
    return [
        Finding(
            "finite differences", "the gradient", slope.name, "",
            f"{slope}; a detach() or a custom gradient would explain it",
        )
        for slope in slopes
    ]  # fmt: skip


def _loss(recorded: RecordedStep) -> Call | None:
    """The result, or the first item of it, if it is one floating number."""
    for name, node in zip(recorded.outputs, recorded.graph.outputs, strict=True):
        if name in ("result", "result[0]") and isinstance(node, Call):
            single = all(extent == 1 for extent in node.shape)
            return node if single and node.dtype.is_floating_point else None
    return None


def _left_gradients(recorded: RecordedStep, plain: dict[Node, Array]) -> dict[Input, Array]:
    """The gradients that a step left in `.grad`, where nothing was before."""
    found = {}
    by_name = dict(zip(recorded.inputs, recorded.graph.inputs, strict=True))
    for name, node in zip(recorded.outputs, recorded.graph.outputs, strict=True):
        owner = by_name.get(name.removesuffix(".grad"))
        if not name.endswith(".grad") or owner is None or not isinstance(node, Call):
            continue
        earlier = by_name.get(name)
        if earlier is None or earlier not in _before(node):
            found[owner] = plain[node]
    return found


def _own_gradients(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    named: dict[str, Any],
    plain: RecordedStep,
) -> tuple[RecordedStep, Node, dict[Input, Array], dict[Input, str]] | None:
    """Record the gradients of a function that takes none itself, for all that it can see."""
    inner = function.function if isinstance(function, CompiledStep) else function
    seen = plain.recording
    if seen.rebound or seen.gradients or seen.fields:
        return None
    trained = {
        id(tensor): tensor
        for one in (*arguments, *named.values())
        for tensor in struct.trained(one).values()
    }
    trained |= {id(tensor): tensor for tensor in seen.tensors if tensor.requires_grad}
    paths = {id(t): path for t, path in zip(seen.tensors, seen.paths, strict=True)}
    tensors = list(trained.values())
    if not tensors:
        return None

    def with_gradients(*given: Any, **others: Any) -> Any:
        return grad(lambda *_: inner(*given, **others), *tensors)

    recorded = record("check", with_gradients, arguments, named)
    values = dict(zip(recorded.graph.outputs, recorded.run(recorded.graph.outputs, "plain"),
                      strict=True))  # fmt: skip
    by_name = dict(zip(recorded.outputs, recorded.graph.outputs, strict=True))
    gradients, names = {}, {}
    for place, tensor in enumerate(tensors):
        node, of = recorded.input_of(tensor), by_name.get(f"result[1][{place}]")
        if node is not None and of is not None:
            gradients[node] = values[of]
            names[node] = paths.get(id(tensor), "an argument")
    value = by_name.get("result[0]") or by_name.get("result[0][0]")
    return (recorded, value, gradients, names) if value is not None and gradients else None


# --- words --------------------------------------------------------------------------------------


def _called(node: Call) -> str:
    note = f", {node.note}" if node.note else ""
    return f"{node.primitive.name} {node.dtype.name} {list(node.shape)}{note}"


def _line(node: Node) -> str:
    return f"{node.source[0]}:{node.source[1]}" if node.source else ""
