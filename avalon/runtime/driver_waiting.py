"""The native driver's texts for waiting: threads that pause, let others run, sleep and are woken.

Comes in: the pool (`driver_tables`), with the system's functions and how long to try each way. Goes
out: bodies of the driver's LLVM functions (`driver` names them). `wait_until` waits for a counter
and `NOTIFY` tells who does so; `SERVE` is a worker's life, waiting for jobs, and `STOP` its end;
`FUTEX_WAIT` and `FUTEX_WAKE` are the sleep of both; `SPIN` pauses. Guaranteed: no wake-up is lost:
who goes to sleep says so and then looks once more, and who wakes first changes the word slept on.
"""

from __future__ import annotations

from avalon.runtime.driver_tables import (
    JOB_THREADS,
    POOL_ACTIVE,
    POOL_ASLEEP,
    POOL_BARRIER_SPINS,
    POOL_BARRIER_YIELDS,
    POOL_EPOCH,
    POOL_FUTEX,
    POOL_IDLE_SPINS,
    POOL_IDLE_YIELDS,
    POOL_JOB,
    POOL_NAP,
    POOL_NAP_TIME,
    POOL_STOP,
    POOL_SYSCALL,
    POOL_WAITING,
    POOL_YIELD,
)
from avalon.runtime.driver_text import at, get

_FUTEX_WAIT_PRIVATE, _FUTEX_WAKE_PRIVATE = 128, 129
_EVERYBODY = 0x7FFFFFFF

# What `wait_until` and `SERVE` do after they looked in vain for the %n-th time: up to %spins pause,
# then up to %patience let others run by %yield, and %look again; after that %sleep.
_PATIENCE = """choose:
  %n.next = add i64 %n, 1
  %spinning = icmp slt i64 %n, %spins
  br i1 %spinning, label %pausing, label %impatient
impatient:
  %patient = icmp slt i64 %n, %patience
  br i1 %patient, label %yielding, label %sleep
pausing:
  call void @pause()
  br label %look
yielding:
  %ignored = call i32 %yield()
  br label %look"""


def wait_until(reached: str) -> str:
    """Return the body that waits until the word at %counter is `reached` (sge, eq) to %target."""
    return f"""
{get("spins", "%pool", POOL_BARRIER_SPINS)}
{get("yields", "%pool", POOL_BARRIER_YIELDS)}
{get("yield", "%pool", POOL_YIELD, "ptr")}
{at("waiting", "%pool", POOL_WAITING)}
{at("epoch.at", "%pool", POOL_EPOCH)}
  %patience = add i64 %spins, %yields
  br label %look
look:
  %n = phi i64 [ 0, %entry ], [ %n.next, %pausing ], [ %n.next, %yielding ]
  %value = load atomic i64, ptr %counter acquire, align 8
  %reached = icmp {reached} i64 %value, %target
  br i1 %reached, label %done, label %choose
{_PATIENCE}
sleep:
  %before = atomicrmw add ptr %waiting, i64 1 seq_cst
  %epoch = load atomic i32, ptr %epoch.at seq_cst, align 4
  %again = load atomic i64, ptr %counter seq_cst, align 8
  %reached.now = icmp {reached} i64 %again, %target
  br i1 %reached.now, label %awake, label %wait
wait:
  call void @futex_wait(ptr %pool, ptr %epoch.at, i32 %epoch)
  br label %awake
awake:
  %after = atomicrmw sub ptr %waiting, i64 1 seq_cst
  %last = load atomic i64, ptr %counter acquire, align 8
  %reached.last = icmp {reached} i64 %last, %target
  br i1 %reached.last, label %done, label %sleep
done:
  ret void
"""


NOTIFY = f"""
{at("epoch", "%pool", POOL_EPOCH)}
{at("waiting.at", "%pool", POOL_WAITING)}
  %ignored = atomicrmw add ptr %epoch, i32 1 seq_cst
  %waiting = load atomic i64, ptr %waiting.at seq_cst, align 8
  %none = icmp eq i64 %waiting, 0
  br i1 %none, label %done, label %wake
wake:
  call void @futex_wake(ptr %pool, ptr %epoch)
  br label %done
done:
  ret void
"""

# Sleep while the word holds %expected; systems without futexes look again after a nap.
FUTEX_WAIT = f"""
{get("syscall", "%pool", POOL_SYSCALL, "ptr")}
{get("nap", "%pool", POOL_NAP, "ptr")}
{get("number", "%pool", POOL_FUTEX)}
  %lacking = icmp eq ptr %syscall, null
  br i1 %lacking, label %napping, label %sleeping
sleeping:
  %r = call i64 (i64, ...) %syscall(
    i64 %number, ptr %word, i32 {_FUTEX_WAIT_PRIVATE}, i32 %expected, ptr null)
  ret void
napping:
{get("time", "%pool", POOL_NAP_TIME)}
  %short = trunc i64 %time to i32
  %ignored = call i32 %nap(i32 %short)
  ret void
"""

FUTEX_WAKE = f"""
{get("syscall", "%pool", POOL_SYSCALL, "ptr")}
{get("number", "%pool", POOL_FUTEX)}
  %lacking = icmp eq ptr %syscall, null
  br i1 %lacking, label %done, label %waking
waking:
  %r = call i64 (i64, ...) %syscall(
    i64 %number, ptr %word, i32 {_FUTEX_WAKE_PRIVATE}, i32 {_EVERYBODY})
  br label %done
done:
  ret void
"""

SERVE = f"""
{at("current", "%pool", POOL_JOB)}
{at("active", "%pool", POOL_ACTIVE)}
{at("asleep", "%pool", POOL_ASLEEP)}
{at("stop", "%pool", POOL_STOP)}
{get("yield", "%pool", POOL_YIELD, "ptr")}
{get("spins", "%pool", POOL_IDLE_SPINS)}
{get("yields", "%pool", POOL_IDLE_YIELDS)}
  %patience = add i64 %spins, %yields
  br label %idle
idle:
  %seen = phi i32 [ 0, %entry ], [ %generation, %left ]
  br label %look
look:
  %n = phi i64 [ 0, %idle ], [ %n.next, %pausing ], [ %n.next, %yielding ], [ %n, %awake ]
  %generation = load atomic i32, ptr %pool seq_cst, align 4
  %fresh = icmp ne i32 %generation, %seen
  br i1 %fresh, label %called, label %choose
{_PATIENCE}
sleep:
  %before = atomicrmw add ptr %asleep, i64 1 seq_cst
  call void @futex_wait(ptr %pool, ptr %pool, i32 %seen)
  br label %awake
awake:
  %after = atomicrmw sub ptr %asleep, i64 1 seq_cst
  br label %look
called:
  %stopping = load atomic i64, ptr %stop seq_cst, align 8
  %leaving = icmp ne i64 %stopping, 0
  br i1 %leaving, label %done, label %join
join:
  %joined = atomicrmw add ptr %active, i64 1 seq_cst
  %job = load atomic ptr, ptr %current seq_cst, align 8
  %gone = icmp eq ptr %job, null
  br i1 %gone, label %leave, label %look.closer
look.closer:
{get("threads", "%job", JOB_THREADS)}
  %wanted = icmp slt i64 %thread, %threads
  br i1 %wanted, label %help, label %leave
help:
  %worked = call i64 @work(ptr %pool, ptr %job, i64 %thread)
  br label %leave
leave:
  %were = atomicrmw sub ptr %active, i64 1 seq_cst
  %last = icmp eq i64 %were, 1
  br i1 %last, label %announce, label %left
announce:
  call void @notify(ptr %pool)
  br label %left
left:
  br label %idle
done:
  ret void
"""

STOP = f"""
{at("stop", "%pool", POOL_STOP)}
  store atomic i64 1, ptr %stop seq_cst, align 8
  %generation = atomicrmw add ptr %pool, i32 1 seq_cst
  call void @futex_wake(ptr %pool, ptr %pool)
  ret void
"""

SPIN = """
  br label %look
look:
  %n = phi i64 [ %count, %entry ], [ %n.next, %pausing ]
  %more = icmp sgt i64 %n, 0
  br i1 %more, label %pausing, label %done
pausing:
  call void @pause()
  %n.next = sub i64 %n, 1
  br label %look
done:
  ret void
"""
