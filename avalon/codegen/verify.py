"""The last look at a kernel's text: leave out what is never read, refuse what the target lacks.

Comes in: a kernel's text. Goes out: the text, or an error. Guaranteed: a kernel that passes imports
no symbol, and LLVM, which aborts the process on what it cannot select, can select it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from avalon.codegen.target import Target

_INTRINSICS = frozenset(
    {
        "fabs", "sqrt", "copysign", "smax", "smin", "umax", "umin",
        "masked.load", "masked.store", "masked.gather", "masked.scatter", "prefetch",
    }
)  # fmt: skip
SCALING = "x86.avx512.mask.scalef"  # and the type: ps.512, ...
LOOKUPS = {8: "x86.avx2.permps", 16: "x86.avx512.permvar.sf.512"}  # by lanes
_CALLED = re.compile(r"\bcall\b[^@\n]*@([\w.$]+)\(")
_TYPE = re.compile(r"(v\d+)?[if]\d+|(v\d+)?p0")
_NAME = re.compile(r"%v\d+")


def without_unread(lines: Sequence[str]) -> list[str]:
    """The lines of a function without values that nothing reads. Stores and jumps define none."""
    mentions = Counter(_NAME.findall("\n".join(lines)))
    kept = []
    for line in reversed(lines):
        if line.startswith("%v") and mentions[line[: line.index(" ")]] == 1:
            mentions.subtract(_NAME.findall(line))
        else:
            kept.append(line)
    kept.reverse()
    return kept


def allowed_intrinsics(target: Target) -> frozenset[str]:
    """Names (between "llvm." and the type) that become plain instructions on `target`."""
    allowed = set(_INTRINSICS)
    if target.has_fma:
        allowed.add("fma")
    if target.has_rounding:
        allowed.update(("floor", "ceil", "trunc", "roundeven"))
    if target.has_streams:
        allowed.add("x86.sse.sfence")
    if target.has_scaling:
        allowed.update(f"{SCALING}.p{kind}.{bits}" for kind in "sd" for bits in (128, 256, 512))
    if target.has_lookup:
        allowed.update(LOOKUPS.values())
    return frozenset(allowed)


def verify_text(text: str, target: Target) -> None:
    """Refuse a kernel that would import a symbol or that LLVM cannot select; LLVM would abort.

    Raises:
        ValueError: naming the first function called that is not on the target's list.
    """
    allowed = allowed_intrinsics(target)
    for name in sorted(set(_CALLED.findall(text))):
        parts = name.removeprefix("llvm.").split(".")
        stem = ".".join(part for part in parts if not _TYPE.fullmatch(part))
        if not name.startswith("llvm.") or stem not in allowed:
            raise ValueError(f"[emit] kernels for {target.name} may not call {name}")
