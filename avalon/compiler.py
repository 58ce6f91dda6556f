"""The compiler on one page: the ordered, named passes from a Graph to a Program.

Comes in: a graph and a tier. Goes out: a loaded `Program`. Guaranteed: every tier gives the same
bits; `show` prints what each named pass made of it, and `skip` leaves passes out that change speed
only.

- "plain": one kernel a call, no passes. Slow, simple, and the judge of the others.
- "cold": one kernel a call, which serves every shape and is built once; movements are read through.
- "hot": simplified and fused, with all sizes known to the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from time import perf_counter

from avalon.codegen.assemble import assemble
from avalon.codegen.target import Target, named
from avalon.graph.body import every_node, map_bodies
from avalon.graph.graph import Graph
from avalon.graph.node import Call
from avalon.rewrite import (
    RULES,
    apply_rules,
    merge_common_subexpressions,
    remove_dead_code,
)
from avalon.runtime import stored
from avalon.runtime.plan import Plan
from avalon.runtime.program import Program
from avalon.runtime.sized import SizedProgram
from avalon.schedule.calls import schedule_calls
from avalon.schedule.hot import HotScheduler, schedule_hot
from avalon.settings import settings
from avalon.size import Sizes
from avalon.switches import declare, off

Show = Callable[[str, object], None]


def simplify(graph: Graph) -> None:
    """Apply the library's rules, none of which changes a bit."""
    apply_rules(graph, RULES, disabled=off())


# The rewriting passes of the hot tier, in order. Each changes the graph in place, and no bits; its
# name is a switch.
PASSES: tuple[tuple[str, Callable[[Graph], object]], ...] = (
    ("simplify", simplify),
    ("common subexpressions", merge_common_subexpressions),
    ("dead code", remove_dead_code),
)

for _name, _pass in PASSES:
    declare(_name, "pass", (_pass.__doc__ or "").partition("\n")[0])

_OURS = (PASSES, RULES)
_WORTH_KEEPING_SECONDS = 0.02


def compile_graph(
    graph: Graph, tier: str = "hot", show: Show | None = None, skip: Collection[str] = ()
) -> Program:
    """Compile a graph.

    Args:
        graph: its `outputs` say what comes out; it stays as it is.
        tier: "plain", "cold" or "hot".
        show: called with the name of each pass and what it made.
        skip: names of rewriting passes to leave out.
    """
    started = perf_counter()
    target = named(settings.target)
    keeps = show is None and not skip and not off() and _all_ours(graph)
    key = stored.key_of(_identity(graph), tier, target) if keeps else ""
    plan = stored.read(key) if keeps else None
    if plan is None:
        plan = plan_graph(graph, tier, target, show, skip)
        # A small cold plan is made as fast as it is read, and a program whose shapes change in
        # every step makes thousands of them.
        if keeps and (tier == "hot" or perf_counter() - started > _WORTH_KEEPING_SECONDS):
            stored.write(key, plan)
    return Program(plan, target, started)


def compile_sized(
    graph: Graph, sizes: Sizes, tier: str = "hot", show: Show | None = None
) -> SizedProgram:
    """As `compile_graph`, for a graph whose extents are formulas over the symbols of `sizes`. The
    bodies of its loops, which know their sizes, are fused in the cold tier too: a graph with
    symbols is one that came back. `show` is called in the hot tier.
    """
    started = perf_counter()
    target = named(settings.target)
    if tier == "cold":
        for name, rewriting in PASSES:
            if name not in off():
                map_bodies(graph, rewriting)
        schedule = schedule_calls(graph, tier, HotScheduler)
        plan = assemble(graph, schedule, tier, target)
    else:
        plan = plan_graph(graph, tier, target, show)
    plan.sizes = sizes
    return SizedProgram(plan, target, started)


def _identity(graph: Graph) -> str:
    """The graph's structure, and the lines it came from: a stored plan names them in its errors."""
    sources = "\n".join(f"{node.note} {node.source}" for node in every_node(graph))
    return f"{graph.name}\n{graph.signature().digest()}\n{sources}"


def _all_ours(graph: Graph) -> bool:
    """Whether an equal graph compiles to an equal plan in other processes too: rules of primitives
    from outside may change behind an equal name, and so may passes.
    """
    return _OURS == (PASSES, RULES) and all(
        node.primitive.reference.__module__.startswith("avalon.")
        for node in every_node(graph)
        if isinstance(node, Call)
    )


def plan_graph(
    graph: Graph, tier: str, target: Target, show: Show | None = None, skip: Collection[str] = ()
) -> Plan:
    """As `compile_graph`, up to the plan: what a program is made of, before it is loaded."""
    tell = show or (lambda name, made: None)
    tell("graph", graph)
    if tier == "hot":
        graph = graph.copy()
        for name, rewriting in PASSES:
            if name not in skip and name not in off():
                map_bodies(graph, rewriting)
                rewriting(graph)
                tell(name, graph)
    schedule = schedule_hot(graph) if tier == "hot" else schedule_calls(graph, tier)
    tell("schedule", schedule)
    plan = assemble(graph, schedule, tier, target)
    tell("plan", plan)
    return plan
