"""From what was recorded to buffers: the cache of programs and the choice of tier.

Comes in: what was recorded, what feeds its inputs, and which positions are wanted. Goes out: one
buffer for each of those. Guaranteed: a structure that comes back runs the program that was built
for it, and builds no graph; which values are alive is not part of the key: a program that puts
out a superset of what is wanted serves, and a new one puts out the union, so a structure is built
at most a few times. Structures that differ in sizes only are a family: its second size is built
with symbols for what differs, and serves the sizes that come after it.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from avalon.compiler import compile_graph
from avalon.errors import ShapeError
from avalon.runtime.buffer import Buffer
from avalon.settings import settings
from avalon.switches import off
from avalon.tracing.families import BoundProgram, Column, NoSymbols, Template
from avalon.tracing.parts import restrict
from avalon.tracing.patterns import outline
from avalon.tracing.recorded import Recorded

# Structures are remembered by what they weigh: a key's entries, and the launches of its programs.
_CAPACITY = 400_000
_ENTRIES_PER_LAUNCH = 20
_FAMILIES = 512
_TEMPLATES = 8  # of a family and tier; then each size is built by itself
_HOT_SIZES = 4  # sizes that a family without a template builds hot; the others stay cold
_OWN_SIZES = 6  # sizes that are built by themselves because a shared program would be slow
_spent = [0.0]  # seconds in which programs were built
_builds: Counter[str] = Counter()  # programs built, by tier

Build = tuple[Any, ...]


class _Program:
    """Which positions a program puts out, which of the recorded inputs it reads, why it was
    made.
    """

    def __init__(
        self, runnable: Any, inputs: Sequence[int], outputs: dict[int, int], build: Build,
        reason: str, where: str, seconds: float, template: Template | None = None,
    ) -> None:  # fmt: skip
        self.runnable = runnable
        self.inputs = inputs
        self.outputs = outputs
        self._places = {position: place for place, position in enumerate(inputs)}
        self._order = list(outputs)
        self.build = build
        self.tier: str = build[0]
        self.reason = reason
        self.where = where
        self.seconds = seconds
        self.template = template  # that it was made from, for its size
        self.weight = 0 if template else _ENTRIES_PER_LAUNCH * len(runnable.plan.launches)

    def run(
        self,
        feeds: list[Any],
        wanted: Sequence[int],
        donated: Collection[int],
        spare: Mapping[int, Buffer] | None = None,
    ) -> list[Buffer]:
        if spare:
            spare = {self.outputs[position]: buffer for position, buffer in spare.items()}
        made: list[Buffer] = self.runnable.run(*self._given(feeds, donated), spare)
        if wanted == self._order:
            return made
        return [made[self.outputs[position]] for position in wanted]

    def begin(
        self, feeds: list[Any], wanted: Sequence[int], donated: Collection[int]
    ) -> tuple[list[Buffer], Callable[[], object] | None]:
        made, land = self.runnable.begin(*self._given(feeds, donated))
        return [made[self.outputs[position]] for position in wanted], land

    def _given(
        self, feeds: list[Any], donated: Collection[int]
    ) -> tuple[list[Any], Collection[int]]:
        """What the program reads, and which of that is donated."""
        given = [feeds[position] for position in self.inputs]
        if not donated:
            return given, ()
        places = self._places
        return given, {places[position] for position in donated if position in places}

    def puts_out(self, wanted: Iterable[int]) -> bool:
        return all(position in self.outputs for position in wanted)


class _Family:
    """Structures of one outline.

    Attributes:
        built: for each kind of build, a column for which a program of its own was built.
        templates: by kind of build, the programs with symbols and what to say about them.
        hot_sizes: how many sizes were built hot by themselves.
    """

    def __init__(self) -> None:
        self.built: dict[Build, Column] = {}
        self.templates: dict[Build, list[tuple[Template, tuple[str, float]]]] = {}
        self.hot_sizes = 0
        self._tried: Counter[Build] = Counter()

    def find(
        self, column: Column, build: Build, wanted: Sequence[int], lasting: bool = False
    ) -> _Program | None:
        """A program with symbols that exists and serves a column; see `Template.bind`."""
        for template, origin in reversed(self.templates.get(build, ())):
            symbols = template.symbols_for(column)
            if symbols is not None and all(position in template.outputs for position in wanted):
                bound = template.bind(column, symbols, lasting)
                reason = "sizes that differ are symbols"
                return _Program(
                    bound, template.inputs, template.outputs, build, reason, *origin, template
                )
        return None

    def generalize(
        self, recorded: Recorded, column: Column, build: Build, wanted: Sequence[int]
    ) -> _Program | None:
        """Build a program with symbols for what differs between a column and the one that was built
        before; None if there was none, or nothing comes of it.
        """
        earlier = self.built.get(build)
        if earlier is None or earlier == column or build[0] == "plain":
            return None
        if self._tried[build] >= _TEMPLATES:
            return None
        self._tried[build] += 1
        known = self.templates.setdefault(build, [])
        positions = set(wanted).union(*[template.outputs for template, _ in known])
        start = time.perf_counter()
        shares_always = build[0] == "cold" or self.hot_sizes >= _OWN_SIZES
        try:
            made = Template(recorded, column, earlier, build[0], sorted(positions), shares_always)
        except (NoSymbols, ShapeError):
            return None  # one array seen as two shapes: a relation that symbols do not know
        except Exception as failure:
            warnings.warn(
                f"[sizes] building one program for many sizes failed ({failure!r}), so each size "
                "gets its own, with the same results. Please report it.",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        known.append((made, (_where(recorded), _count(build, start))))
        return self.find(column, build, wanted, build[0] == "hot")


class _Structure:
    """What is known of one recorded structure: how often it was seen and the programs for it."""

    def __init__(self, family: _Family, column: Column, entries: int) -> None:
        self.seen = 0
        self.programs: list[_Program] = []
        self.weight = entries
        self._family = family
        self._column = column
        self._last: tuple[Any, Sequence[int], _Program] | None = None  # what was asked for, and got

    def serve(self, recorded: Recorded, wanted: Sequence[int], tier: str | None) -> _Program:
        self.seen += 1
        asked, last = (tier, settings.tier, settings.target, off()), self._last
        if last is not None and last[0] == asked and last[1] == wanted:
            return last[2]
        found = self._serve(recorded, wanted, tier)
        # what is not hot may become so, and a size that comes back gets tables of its own
        self._last = (asked, wanted, found) if found.tier == "hot" and self.seen > 2 else None
        return found

    def _serve(self, recorded: Recorded, wanted: Sequence[int], tier: str | None) -> _Program:
        around = (settings.target, off())
        reason = "a compiled step, grad or fit"
        if settings.tier != "auto":
            tier, reason = settings.tier, "settings.tier"
        elif tier is None:
            tier, reason = self._tier(around, wanted)
        build = (tier, *around)
        # A size that comes back gets tables of its own, which are filled in once.
        lasting = tier == "hot" and (self.seen > 1 or reason != "first sight")
        for program in self.programs:
            if program.build == build and program.puts_out(wanted):
                if lasting and self.seen == 2 and isinstance(program.runnable, BoundProgram):
                    break
                return program
        made = self._family.find(self._column, build, wanted, lasting) or self._family.generalize(
            recorded, self._column, build, wanted
        )
        if made is None:
            made = self._build(recorded, build, wanted, reason)
        self._replace(made)
        return made

    def _replace(self, made: _Program) -> None:
        """Keep a new program, and no longer those whose place it takes: of its own build, and the
        cold one once there is a hot one.
        """
        gone = {made.build}
        if made.tier == "hot":
            gone.add(("cold", *made.build[1:]))
        self.weight += made.weight - sum(p.weight for p in self.programs if p.build in gone)
        self.programs = [program for program in self.programs if program.build not in gone]
        self.programs.append(made)

    def _tier(self, around: Build, wanted: Sequence[int]) -> tuple[str, str]:
        """The tier of work that nobody asked to compile: hot if it came back, or costs no build."""
        if self.seen == 1:
            known = self._family.find(self._column, ("hot", *around), wanted)
            return ("hot" if known else "cold"), "first sight"
        if self._family.hot_sizes >= _HOT_SIZES and not any(p.tier == "hot" for p in self.programs):
            known = self._family.find(self._column, ("hot", *around), wanted)
            return ("hot" if known else "cold"), "too many sizes"
        return "hot", "came back"

    def _build(
        self, recorded: Recorded, build: Build, wanted: Sequence[int], reason: str
    ) -> _Program:
        """A program for just this structure."""
        earlier = {position for program in self.programs for position in program.outputs}
        positions = sorted(earlier.union(wanted))
        if any(program.build == build for program in self.programs):
            reason = f"{len(positions) - len(earlier)} more of its values were held"
        elif build[0] == "hot":
            self._family.hot_sizes += 1
        self._family.built[build] = self._column
        graph, nodes = recorded.build()
        inputs = restrict(graph, [nodes[position] for position in positions])
        start = time.perf_counter()
        runnable = compile_graph(graph, build[0])
        seconds = _count(build, start)
        outputs = {position: place for place, position in enumerate(positions)}
        return _Program(runnable, inputs, outputs, build, reason, _where(recorded), seconds)


def _count(build: Build, start: float) -> float:
    """Note a build that began at `start`; the seconds that it took."""
    seconds = time.perf_counter() - start
    _spent[0] += seconds
    _builds[build[0]] += 1
    return seconds


def _where(recorded: Recorded) -> str:
    last = recorded.last_source()
    return f"up to {last[0]}:{last[1]}" if last else "of the library's own"


_structures: OrderedDict[Any, _Structure] = OrderedDict()
_families: OrderedDict[Any, _Family] = OrderedDict()
_weight = [0]  # of all structures


def run(
    recorded: Recorded,
    feeds: list[Any],
    wanted: Sequence[int],
    donated: Collection[int],
    tier: str | None = None,
    spare: Mapping[int, Buffer] | None = None,
) -> list[Buffer]:
    """Run what was recorded and return the buffers of the positions `wanted`. `spare`: memory, by
    position, that may be written once all checks have passed (see `Program.run`).
    """
    return program_for(recorded, wanted, tier).run(feeds, wanted, donated, spare)


def begin(
    recorded: Recorded, feeds: list[Any], wanted: Sequence[int], donated: Collection[int]
) -> tuple[list[Buffer], Callable[[], object] | None]:
    """As `run`, but the work may go on when this returns: see `Program.begin`."""
    return program_for(recorded, wanted).begin(feeds, wanted, donated)


def program_for(recorded: Recorded, wanted: Sequence[int], tier: str | None = None) -> _Program:
    """The program that puts out at least `wanted`, built if need be. Without a `tier`, a structure
    gets the cold one at first sight and the hot one from the second.
    """
    structure = _structure_of(recorded)
    before = structure.weight
    found = structure.serve(recorded, wanted, tier)
    if structure.weight != before:
        _weigh(structure.weight - before)
    return found


def _structure_of(recorded: Recorded) -> _Structure:
    whole = tuple(recorded.key)
    found = _structures.get(whole)
    if found is None:
        shape, column = outline(recorded)
        family = _families.get(shape)
        if family is None:
            family = _families[shape] = _Family()
            if len(_families) > _FAMILIES:
                _families.popitem(last=False)
        else:
            _families.move_to_end(shape)
        found = _structures[whole] = _Structure(family, column, len(whole))
        _weigh(found.weight)
    else:
        _structures.move_to_end(whole)
    return found


def _weigh(more: int) -> None:
    """Count what was added, and forget the structures that were not seen for the longest time."""
    _weight[0] += more
    while _weight[0] > _CAPACITY and len(_structures) > 1:
        _, oldest = _structures.popitem(last=False)
        _weight[0] -= oldest.weight


def report() -> list[str]:
    """One line for each program: its tier and reason, how often its structure was seen, its
    cost.
    """
    lines = []
    sized: Counter[Template] = Counter()
    for structure in _structures.values():
        for program in structure.programs:
            if program.template is not None:
                sized[program.template] += structure.seen
            else:
                lines.append(_line(program, f"seen {structure.seen} times"))
    for family in _families.values():
        for build, templates in family.templates.items():
            for template, (where, seconds) in templates:
                program = _Program(
                    template.program, (), {}, build, "sizes that differ are symbols", where, seconds
                )
                lines.append(_line(program, f"seen {sized[template]} times"))
    return lines


def _line(program: _Program, seen: str) -> str:
    return (
        f"{program.tier}: {program.reason}; {len(program.runnable.plan.launches)} launches "
        f"{program.where}; {seen}; built in {1e3 * program.seconds:.0f} ms"
    )


def builds() -> dict[str, int]:
    """How many programs were built in this process, by tier."""
    return dict(_builds)


def build_seconds() -> float:
    """How long this process has spent on building programs, passes and scheduling included."""
    return _spent[0]


def clear() -> None:
    """Forget all programs."""
    _structures.clear()
    _families.clear()
    _weight[0] = 0
