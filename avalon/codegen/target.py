"""Feature sets that code is generated for: vector width, registers, and what the machine lacks.

Comes in: this machine, or the name of a set ("avx512", "avx2", "x86", "neon"). Goes out: a
`Target`, and from it the LLVM target machine that assembles kernels. Guaranteed: kernels built for
different targets with fused multiply-add compute equal bits; "x86", which lacks it, multiplies and
adds, and so differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import llvmlite.binding as llvm


@dataclass(frozen=True)
class Target:
    """One machine as the code generator sees it.

    Attributes:
        name: "avx512", "avx2", "x86" or "neon"; a host is named after the set that it fits.
        triple: LLVM's name of architecture and system.
        cpu: LLVM's name of the processor.
        features: LLVM's feature string.
        lanes: float32 elements in one vector register.
        registers: number of vector registers.
        has_fma: fused multiply-add in one instruction.
        has_half: conversions between float16 and float32 in one instruction.
        has_rounding: floor, ceil, truncate and round in one instruction.
        has_masks: lanes can be switched off in loads and stores without a loop over them.
    """

    name: str
    triple: str
    cpu: str
    features: str
    lanes: int
    registers: int
    has_fma: bool
    has_half: bool
    has_rounding: bool
    has_masks: bool

    @property
    def is_x86(self) -> bool:
        return self.triple.startswith(("x86_64", "i686", "amd64"))

    @property
    def has_streams(self) -> bool:
        """Whether aligned vectors can be written past the caches, in an order that a fence ends."""
        return self.is_x86

    @property
    def has_scaling(self) -> bool:
        """Whether one instruction multiplies by a power of two, rounding denormal results once."""
        return self.name == "avx512"

    @property
    def has_lookup(self) -> bool:
        """Whether one instruction picks for each lane one of eight float32 in a register."""
        return self.name in ("avx512", "avx2")

    def machine(self) -> Any:
        """The LLVM target machine (position-independent code, constants near the code)."""
        _initialize()
        return llvm.Target.from_triple(self.triple).create_target_machine(
            cpu=self.cpu, features=self.features, opt=2, reloc="pic", codemodel="small"
        )


_X86 = "x86_64-unknown-linux-gnu"
_TARGETS = {
    target.name: target
    for target in (
        Target("avx512", _X86, "x86-64-v4", "-prefer-256-bit", 16, 32, True, True, True, True),
        Target("avx2", _X86, "x86-64-v3", "", 8, 16, True, True, True, True),
        Target("x86", _X86, "x86-64", "", 4, 16, False, False, False, False),
        Target("neon", "aarch64-unknown-linux-gnu", "generic", "", 4, 32, True, True, True, False),
    )
}


@cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def named(name: str) -> Target:
    """The feature set called `name`; "" is this machine's.

    Raises:
        ValueError: for a name that is none of the sets.
    """
    if not name:
        return host()
    try:
        return _TARGETS[name]
    except KeyError:
        listed = ", ".join(map(repr, _TARGETS))
        raise ValueError(f"[target] {name!r} is no feature set; expected one of {listed}") from None


@cache
def host() -> Target:
    """This machine: the widest set that it has, tuned for its processor."""
    triple = llvm.get_process_triple()
    found = {name for name, present in llvm.get_host_cpu_features().items() if present}
    if triple.startswith(("aarch64", "arm64")):
        base = _TARGETS["neon"]
    elif {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd", "fma", "f16c"} <= found:
        base = _TARGETS["avx512"]
    elif {"avx2", "fma", "f16c"} <= found:
        base = _TARGETS["avx2"]
    elif triple.startswith(("x86_64", "amd64")):
        base = _TARGETS["x86"]
    else:
        return Target("plain", triple, llvm.get_host_cpu_name(), "", 4, 16, *(False,) * 4)
    features = llvm.get_host_cpu_features().flatten() if base.is_x86 else ""
    if base.name == "avx512":
        features += ",-prefer-256-bit"
    cpu = llvm.get_host_cpu_name() or base.cpu
    return Target(
        base.name, triple, cpu, features, base.lanes, base.registers,
        base.has_fma, base.has_half, base.has_rounding, base.has_masks,
    )  # fmt: skip
