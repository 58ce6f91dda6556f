"""How a program prints: its kernels, launches, buffers and memory, with the user's lines.

Comes in: a plan and what the runtime decided about it. Goes out: text. Guaranteed: the memory it
states is what a call needs, known before any call.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized

from avalon.runtime.plan import Argument, BufferSpec, InputSpec, Launch, Plan
from avalon.size import hint

_SHOWN_INTEGERS = 6


def describe(
    plan: Plan, groups: Sequence[int], arena_bytes: int, built: int, seconds: float
) -> str:
    """Return the text that `print(program)` shows."""
    roles = dict.fromkeys(("input", "output", "constant", "temporary"), 0)
    for spec in plan.buffers:
        if spec.role != "window":
            roles[spec.role] += hint(spec.nbytes)
    scratch = max((kernel.scratch for kernel in plan.kernels.values()), default=0)
    lines = [
        f"program {plan.name}, tier {plan.tier}: {_count(plan.launches, 'launch', 'launches')} of "
        f"{_count(plan.kernels, 'kernel')}, {_count(set(groups), 'group')}, built {built} in "
        f"{seconds * 1e3:.1f} ms",
        f"memory: inputs {_bytes(roles['input'])}, outputs {_bytes(roles['output'])}, constants "
        f"{_bytes(roles['constant'])}, temporaries {_bytes(roles['temporary'])} in an arena of "
        f"{_bytes(hint(arena_bytes))}, scratch {_bytes(scratch)} a thread",
    ]
    if plan.sizes is not None:
        lines.append("sizes are symbols (s0, s1, ...); bytes and work are those of a sample")
    for number, (launch, group) in enumerate(zip(plan.launches, groups, strict=True)):
        for loop in plan.loops:
            if loop.begin == number < loop.end:
                count = f"{loop.rounds} times" if loop.limit < 0 else f"as #{loop.limit} says"
                lines.append(f"{'loop, ' * (loop.depth + 1)}{count}, up to launch {loop.end - 1}")
        if number == 0 or groups[number - 1] != group:
            lines.append(f"group {group}")
        arguments = _arguments(plan, launch)
        flops, nbytes = hint(launch.flops), hint(launch.bytes)
        effort = f"{flops / 1e6:.3g} MFLOP, {_bytes(nbytes)}" if flops else ""
        lines.append(
            f"  {number:3} {launch.kernel}({arguments}) x {launch.work}  {effort}".rstrip()
        )
        why = ", ".join(part for part in (launch.note, launch.source) if part)
        if why:
            lines.append(f"      # {why}")
    for position, given in enumerate(plan.inputs):
        lines.append(f"input {position}: {_type(given)}")
    for position, number in enumerate(plan.outputs):
        lines.append(f"output {position}: {_type(plan.buffers[number])}")
    for check in plan.checks:
        lines.append(f"check: {check.message}  # {check.source}")
    return "\n".join(lines)


def _arguments(plan: Plan, launch: Launch) -> str:
    """The arguments in order; of many integers (extents and strides) the first few."""
    shown = [_argument(plan, argument) for argument in launch.arguments]
    integers = [i for i, argument in enumerate(launch.arguments) if argument.kind == "integer"]
    hidden = set(integers[_SHOWN_INTEGERS:])
    shown = [text for i, text in enumerate(shown) if i not in hidden]
    return ", ".join(shown) + (f", and {len(hidden)} integers" if hidden else "")


def _argument(plan: Plan, argument: Argument) -> str:
    if argument.kind == "status":
        return "status"
    if argument.kind == "integer":
        return str(argument.value)
    if argument.kind == "scalar":
        return f"input {argument.value}"
    spec = plan.buffers[argument.value]
    return f"{'-> ' * argument.written}{_buffer(spec, argument.value)}"


def _type(spec: BufferSpec | InputSpec) -> str:
    return f"{spec.dtype}[{', '.join(map(str, spec.shape))}]"


def _buffer(spec: BufferSpec, number: int) -> str:
    if spec.role == "window":
        return f"#{spec.base} {spec.mode}"
    position = f" {spec.position}" if spec.position >= 0 else f" #{number}"
    return f"{spec.role}{position}"


def _count(things: Sized, one: str, many: str = "") -> str:
    return f"{len(things)} {one if len(things) == 1 else many or one + 's'}"


def _bytes(count: float) -> str:
    """Return a size in the unit that fits.

    >>> _bytes(512), _bytes(3 << 20)
    ('512 B', '3.0 MB')
    """
    for unit in ("B", "kB", "MB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GB"
