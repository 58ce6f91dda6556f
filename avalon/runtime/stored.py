"""Plans on disk: a whole program written down, so that a later process skips the compiler.

Comes in: a `Plan` and the key of what it was compiled from. Goes out: an equal `Plan`, or None.
Guaranteed: the format is JSON and plain bytes, so reading a file runs no code; a key depends on the
recorded graph, the tier, the machine, the versions and the library's own source, so an edited
compiler never meets a plan of its former self.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict
from functools import cache as once
from pathlib import Path
from typing import Any

from avalon.runtime import cache, library
from avalon.runtime.plan import (
    Argument,
    BufferSpec,
    CheckSpec,
    InputSpec,
    Kernel,
    Launch,
    LoopSpec,
    Plan,
)

_COMPRESSION = 1  # fast; LLVM text shrinks tenfold anyway
_LENGTH = struct.Struct("<Q")


def key_of(signature: str | bytes, tier: str, machine: library.Machine) -> str:
    """Return the key of the program that `signature`, a graph's canonical form, compiles to.

    A compiler that was given passes, rules or primitives from outside the library must say so in
    `signature`, or not keep its plans.
    """
    digest = hashlib.sha256()
    if isinstance(signature, str):
        signature = signature.encode()
    for part in (
        library.VERSIONS.encode(),
        source_digest(),
        machine.triple.encode(),
        machine.cpu.encode(),
        machine.features.encode(),
        tier.encode(),
        signature,
    ):
        digest.update(_LENGTH.pack(len(part)))
        digest.update(part)
    return digest.hexdigest()


@once
def source_digest() -> bytes:
    """Return what stands for the library's own source: the names, sizes and times of its files."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        status = path.stat()
        name = path.relative_to(root)
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.digest()


def write(key: str, plan: Plan) -> None:
    """Keep a plan in the cache folder."""
    cache.write("program", key, to_bytes(plan))


def read(key: str) -> Plan | None:
    """Return the plan kept under `key`, or None if there is no sound one."""
    content = cache.read("program", key)
    if content is None:
        return None
    try:
        return from_bytes(content)
    except (ValueError, KeyError, TypeError, IndexError, struct.error, zlib.error):
        return None


def to_bytes(plan: Plan) -> bytes:
    """Return a plan as bytes: compressed JSON, then the constants' data and the kernels' texts."""
    blobs: list[bytes] = []

    def keep(blob: bytes) -> int:
        blobs.append(blob)
        return len(blobs) - 1

    form = {
        "name": plan.name,
        "tier": plan.tier,
        "inputs": [asdict(spec) for spec in plan.inputs],
        "outputs": plan.outputs,
        "buffers": [asdict(spec) | {"data": keep(spec.data)} for spec in plan.buffers],
        "kernels": [
            asdict(kernel) | {"text": keep(kernel.text.encode())}
            for kernel in plan.kernels.values()
        ],
        "launches": [
            _fields(launch)
            | {"arguments": [[a.kind, a.value, a.written] for a in launch.arguments]}
            for launch in plan.launches
        ],
        "checks": [asdict(spec) for spec in plan.checks],
        "donations": plan.donations,
        "loops": [asdict(spec) for spec in plan.loops],
        "blobs": [len(blob) for blob in blobs],
    }
    head = json.dumps(form).encode()
    return zlib.compress(b"".join([_LENGTH.pack(len(head)), head, *blobs]), _COMPRESSION)


def from_bytes(content: bytes) -> Plan:
    """Return the plan that `to_bytes` wrote.

    Raises:
        ValueError, KeyError, TypeError, IndexError, struct.error, zlib.error: if the content is of
            another form.
    """
    raw = zlib.decompress(content)
    (length,) = _LENGTH.unpack_from(raw)
    form = json.loads(raw[_LENGTH.size : _LENGTH.size + length])
    blobs = _cut(raw, _LENGTH.size + length, form["blobs"])
    return Plan(
        name=form["name"],
        tier=form["tier"],
        inputs=[InputSpec(**_with_shape(spec)) for spec in form["inputs"]],
        outputs=form["outputs"],
        buffers=[
            BufferSpec(**_with_shape(spec) | {"data": blobs(spec["data"])})
            for spec in form["buffers"]
        ],
        kernels={
            spec["symbol"]: Kernel(**spec | {"text": blobs(spec["text"]).decode()})
            for spec in form["kernels"]
        },
        launches=[
            Launch(**spec | {"arguments": tuple(Argument(*a) for a in spec["arguments"])})
            for spec in form["launches"]
        ],
        checks=[CheckSpec(**spec) for spec in form["checks"]],
        donations=[(output, position) for output, position in form["donations"]],
        loops=[LoopSpec(**spec) for spec in form["loops"]],
    )


def _fields(launch: Launch) -> dict[str, Any]:
    """The fields of a launch, not descending into its arguments."""
    return {name: getattr(launch, name) for name in launch.__dataclass_fields__}


def _with_shape(spec: dict[str, Any]) -> dict[str, Any]:
    return spec | {"shape": tuple(spec["shape"])}


def _cut(raw: bytes, start: int, lengths: list[int]) -> Callable[[int], bytes]:
    """Return the function that gives the blob of a number."""
    pieces = []
    for length in lengths:
        pieces.append(raw[start : start + length])
        start += length
    if start != len(raw):
        raise ValueError(f"{len(raw)} bytes hold {start}")
    return pieces.__getitem__
