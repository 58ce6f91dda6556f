"""What kernels may call: only what becomes plain instructions on their target.

Comes in: a kernel's text. Goes out: nothing, or an error. Guaranteed: a kernel that passes imports
no symbol, and LLVM, which aborts the process on what it cannot select, can select it.
"""

from __future__ import annotations

import re

from avalon.codegen.target import Target

_INTRINSICS = frozenset(
    {
        "fabs", "sqrt", "copysign", "abs", "smax", "smin", "umax", "umin",
        "masked.load", "masked.store", "masked.gather", "masked.scatter", "prefetch",
    }
)  # fmt: skip
_CALLED = re.compile(r"@([A-Za-z_.$][\w.$]*)\(")


def allowed_intrinsics(target: Target) -> frozenset[str]:
    """Names (between "llvm." and the type) that become plain instructions on `target`."""
    allowed = set(_INTRINSICS)
    if target.has_fma:
        allowed.add("fma")
    if target.has_rounding:
        allowed.update(("floor", "ceil", "trunc", "roundeven"))
    return frozenset(allowed)


def verify_text(text: str, target: Target) -> None:
    """Refuse a kernel that would import a symbol or that LLVM cannot select; LLVM would abort.

    Raises:
        ValueError: naming the first function called that is not on the target's list.
    """
    allowed = allowed_intrinsics(target)
    for line in text.splitlines():
        if " call " not in line and not line.lstrip().startswith("call "):
            continue
        for name in _CALLED.findall(line):
            parts = name.removeprefix("llvm.").split(".")
            stem = ".".join(p for p in parts if not re.fullmatch(r"(v\d+)?[if]\d+|v\d+p0|p0", p))
            if not name.startswith("llvm.") or stem not in allowed:
                raise ValueError(f"[emit] kernels for {target.name} may not call {name}")
