"""The compiler on one page: the ordered, named passes from a Graph to a Program.

Comes in: a graph and a tier. Goes out: a loaded `Program`. Guaranteed: every tier gives the same bits;
`show` prints what each named pass made of it, and `skip` leaves passes out that change speed only.

- "plain": one kernel a call, no passes. Slow, simple, and the judge of the others.
- "cold": one kernel a call, which serves every shape and is built once; movements are read through.
- "hot": fused, with all sizes known to the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from avalon.codegen.assemble import assemble
from avalon.codegen.target import Target, named
from avalon.graph.graph import Graph
from avalon.runtime.plan import Plan
from avalon.runtime.program import Program
from avalon.schedule.calls import schedule_calls
from avalon.settings import settings

Show = Callable[[str, object], None]


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
    target = named(settings.target)
    plan = plan_graph(graph, tier, target, show, skip)
    return Program(plan, target)


def plan_graph(
    graph: Graph, tier: str, target: Target, show: Show | None = None, skip: Collection[str] = ()
) -> Plan:
    """As `compile_graph`, up to the plan: what a program is made of, before it is loaded."""
    tell = show or (lambda name, made: None)
    tell("graph", graph)
    schedule = schedule_calls(graph, tier)
    tell("schedule", schedule)
    plan = assemble(graph, schedule, tier, target)
    tell("plan", plan)
    return plan
