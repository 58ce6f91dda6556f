"""The native driver: one foreign call runs a program's table of launches, on one thread or on all.

Comes in: the machine's architecture. Goes out: the driver's LLVM text, put together from the bodies
in `driver_launches`, `driver_loops` and `driver_waiting`; the tables that it reads are laid out in
`driver_tables`. Guaranteed: each unit of work is done exactly once; a launch starts only when all
earlier groups are complete; no thread needs another one to arrive: chunks are claimed from
counters, and a group is complete when its units are done, so a thread that sleeps, or wakes late,
delays nobody.

    run_alone(job)            -> status   all launches on the calling thread
    run_shared(pool, job)     -> status   the same, with the pool's workers helping
    begin(pool, job)                      the first half of that: the workers begin
    finish(pool, job)         -> status   the second half: the caller helps until all is done
    run_series(pool, job, series) -> status   several calls of one job; `pool` null: alone
    serve(pool, thread)                   a worker's life: wait for a job, help, wait again
    stop(pool)                            lets the workers return from `serve`
    spin(count)                           `count` pauses, to learn how long one takes

Among the launches stand the marks of loops. Each thread walks them for itself, with its own count
of rounds (`STATE`), and goes back from a loop's end to its beginning. Counters only ever grow: in
visit v of a launch its chunks are those from v times their number on. So a thread that sleeps
through whole rounds finds, when it wakes, that there is nothing to do there.

A worker joins a job by raising `active` and then reading `job`; the caller first clears `job` and
then waits for `active` to be zero. So a worker either sees no job or is waited for, and the job's
memory is never read after the call returned.
"""

from __future__ import annotations

from typing import NamedTuple

from avalon.runtime import (
    driver_launches as launches,
    driver_loops as loops,
    driver_waiting as waiting,
)
from avalon.runtime.driver_text import function

_MXCSR_IEEE, _MXCSR_FLUSH = 0x1F80, 0x1F80 | 0x8040
_FPCR_FLUSH = 1 << 24


class _Architecture(NamedTuple):
    """What differs between processors: pausing in a spin, and the floating-point control word."""

    declarations: str
    pause: str
    enter: str  # set the control word to IEEE rounding, or flushing; return the old one
    leave: str


_X86 = _Architecture(
    """
declare void @llvm.x86.sse2.pause()
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
""",
    "  call void @llvm.x86.sse2.pause()",
    f"""
  %word = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %word)
  %old = load i32, ptr %word
  %flushing = icmp ne i64 %flush, 0
  %new = select i1 %flushing, i32 {_MXCSR_FLUSH}, i32 {_MXCSR_IEEE}
  store i32 %new, ptr %word
  call void @llvm.x86.sse.ldmxcsr(ptr %word)
  %wide = zext i32 %old to i64
  ret i64 %wide
""",
    """
  %word = alloca i32
  %narrow = trunc i64 %old to i32
  store i32 %narrow, ptr %word
  call void @llvm.x86.sse.ldmxcsr(ptr %word)
  ret void
""",
)
_ARM = _Architecture(
    """
declare void @llvm.aarch64.hint(i32)
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)
""",
    "  call void @llvm.aarch64.hint(i32 1)",
    f"""
  %old = call i64 @llvm.aarch64.get.fpcr()
  %flushing = icmp ne i64 %flush, 0
  %new = select i1 %flushing, i64 {_FPCR_FLUSH}, i64 0
  call void @llvm.aarch64.set.fpcr(i64 %new)
  ret i64 %old
""",
    """
  call void @llvm.aarch64.set.fpcr(i64 %old)
  ret void
""",
)
_OTHER = _Architecture("", "", "\n  ret i64 0\n", "\n  ret void\n")


def text(triple: str) -> str:
    """Return the driver's LLVM text for the architecture that `triple` names."""
    if triple.startswith(("x86_64", "amd64", "i686")):
        architecture = _X86
    elif triple.startswith(("aarch64", "arm64")):
        architecture = _ARM
    else:
        architecture = _OTHER
    return "\n".join(
        [
            architecture.declarations,
            function("internal void @pause()", architecture.pause + "\n  ret void\n"),
            function("internal i64 @enter(i64 %flush)", architecture.enter),
            function("internal void @leave(i64 %old)", architecture.leave),
            *(function(head, body) for head, body in _FUNCTIONS),
        ]
    )


_FUNCTIONS = (
    ("internal void @prepare(ptr %job)", launches.PREPARE),
    ("internal void @reset(ptr %job)", launches.RESET),
    ("internal i1 @is_due(ptr %job)", launches.IS_DUE),
    ("internal i64 @work(ptr %pool, ptr %job, i64 %thread)", launches.WORK),
    ("internal i64 @turn(ptr %record, ptr %state, i64 %index)", loops.TURN),
    ("internal ptr @place(ptr %record, ptr %state)", loops.PLACE),
    ("internal void @await(ptr %pool, ptr %counter, i64 %target)", waiting.wait_until("sge")),
    ("internal void @await_none(ptr %pool, ptr %counter, i64 %target)", waiting.wait_until("eq")),
    ("internal void @notify(ptr %pool)", waiting.NOTIFY),
    ("internal void @futex_wait(ptr %pool, ptr %word, i32 %expected)", waiting.FUTEX_WAIT),
    ("internal void @futex_wake(ptr %pool, ptr %word)", waiting.FUTEX_WAKE),
    ("i64 @walk_alone(ptr %job)", launches.WALK_ALONE),
    ("i64 @run_alone(ptr %job)", launches.RUN_ALONE),
    ("void @begin(ptr %pool, ptr %job)", launches.BEGIN),
    ("i64 @finish(ptr %pool, ptr %job)", launches.FINISH),
    ("i64 @run_shared(ptr %pool, ptr %job)", launches.RUN_SHARED),
    ("i64 @run_series(ptr %pool, ptr %job, ptr %series)", launches.RUN_SERIES),
    ("void @serve(ptr %pool, i64 %thread)", waiting.SERVE),
    ("void @stop(ptr %pool)", waiting.STOP),
    ("void @spin(i64 %count)", waiting.SPIN),
)

ENTRIES = (
    "run_alone", "walk_alone", "run_shared", "run_series", "begin", "finish",
    "serve", "stop", "spin",
)  # fmt: skip
