"""The native driver: one foreign call runs a program's table of launches, on one thread or on all.

Comes in: the machine's architecture. Goes out: the driver's LLVM text, and the layout of the tables
that it reads (the constants below; every field is one 8-byte word). Guaranteed: each unit of work
is done exactly once; a launch starts only when all earlier groups are complete; no thread needs
another one to arrive: chunks are claimed from counters, and a group is complete when its units are
done, so a thread that sleeps, or wakes late, delays nobody.

    run_alone(job)            -> status   all launches on the calling thread
    run_shared(pool, job)     -> status   the same, with the pool's workers helping
    serve(pool, thread)                   a worker's life: wait for a job, help, wait again
    stop(pool)                            lets the workers return from `serve`
    spin(count)                           `count` pauses, to learn how long one takes

A worker joins a job by raising `active` and then reading `job`; the caller first clears `job` and
then waits for `active` to be zero. So a worker either sees no job or is waited for, and the job's
memory is never read after the call returned.
"""

from __future__ import annotations

from typing import NamedTuple

# A job: what one call needs. `values` holds the arena's address, then inputs, then outputs.
JOB_LAUNCHES, JOB_LAUNCH_COUNT = 0, 1
JOB_PATCHES, JOB_PATCH_COUNT = 2, 3  # pairs (slot, value): slots[slot] = values[value]
JOB_RELOCATIONS, JOB_RELOCATION_COUNT = 4, 5  # pairs (slot, offset): slots[slot] = arena + offset
JOB_SLOTS, JOB_VALUES = 6, 7
JOB_GROUPS, JOB_GROUP_COUNT = 8, 9
JOB_THREADS, JOB_SCRATCH_STRIDE = 10, 11  # thread t has its scratch at arena + t * stride
JOB_STATUS, JOB_FLUSH = 12, 13
JOB_COUNTERS = 14  # for each launch, for each thread, how many of its chunks are claimed
JOB_WORDS = 16

LAUNCH_FUNCTION, LAUNCH_SLOTS, LAUNCH_WORK, LAUNCH_GROUP = 0, 1, 2, 3
LAUNCH_CHUNK, LAUNCH_CHUNKS = 4, 5  # units in a chunk, and how many chunks there are
LAUNCH_WORDS = 8

COUNTER_WORDS = 8  # a cache line of its own

# A group of launches without a barrier between them.
GROUP_TOTAL, GROUP_DONE = 0, 1
GROUP_WORDS = 8

# The pool; words that threads write lie on different cache lines.
POOL_GENERATION, POOL_JOB = 0, 1  # the generation, a futex, changes with each job
POOL_ACTIVE = 8
POOL_EPOCH, POOL_WAITING = 16, 17  # the epoch, a futex, changes when a group or a job is complete
POOL_ASLEEP = 24
POOL_STOP = 32
POOL_SYSCALL, POOL_YIELD, POOL_NAP, POOL_FUTEX = 33, 34, 35, 36
POOL_BARRIER_SPINS, POOL_BARRIER_YIELDS = 37, 38
POOL_IDLE_SPINS, POOL_IDLE_YIELDS = 39, 40
POOL_NAP_TIME = 41  # what is handed to the function at POOL_NAP, in its unit
POOL_WORDS = 48

_FUTEX_WAIT_PRIVATE, _FUTEX_WAKE_PRIVATE = 128, 129
_EVERYBODY = 0x7FFFFFFF
# Pauses before a thread takes another one's chunk: a launch of one chunk stays with its owner, the
# calling thread, in whose cache its data are.
_HESITATION = 8
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
            _function("internal void @pause()", architecture.pause + "\n  ret void\n"),
            _function("internal i64 @enter(i64 %flush)", architecture.enter),
            _function("internal void @leave(i64 %old)", architecture.leave),
            *(_function(head, body) for head, body in _FUNCTIONS),
        ]
    )


def _function(head: str, body: str) -> str:
    return f"define {head} nounwind {{\nentry:\n{body}}}\n"


def _at(name: str, base: str, word: int | str) -> str:
    return f"  %{name} = getelementptr i64, ptr {base}, i64 {word}"


def _get(name: str, base: str, word: int | str, kind: str = "i64") -> str:
    return f"{_at(name + '.at', base, word)}\n  %{name} = load {kind}, ptr %{name}.at"


# Fill the slots of this call: addresses and scalars from the values, temporaries from the arena.
_PREPARE = f"""
{_get("patches", "%job", JOB_PATCHES, "ptr")}
{_get("patch.count", "%job", JOB_PATCH_COUNT)}
{_get("relocations", "%job", JOB_RELOCATIONS, "ptr")}
{_get("relocation.count", "%job", JOB_RELOCATION_COUNT)}
{_get("slots", "%job", JOB_SLOTS, "ptr")}
{_get("values", "%job", JOB_VALUES, "ptr")}
{_get("status", "%job", JOB_STATUS, "ptr")}
  %arena = load i64, ptr %values
  store i64 0, ptr %status
  br label %patch
patch:
  %p = phi i64 [ 0, %entry ], [ %p.next, %patch.one ]
  %p.more = icmp slt i64 %p, %patch.count
  br i1 %p.more, label %patch.one, label %relocate
patch.one:
  %p.word = shl i64 %p, 1
  %p.pair = getelementptr i64, ptr %patches, i64 %p.word
{_get("p.slot", "%p.pair", 0)}
{_get("p.index", "%p.pair", 1)}
{_get("p.value", "%values", "%p.index")}
{_at("p.target", "%slots", "%p.slot")}
  store i64 %p.value, ptr %p.target
  %p.next = add i64 %p, 1
  br label %patch
relocate:
  %r = phi i64 [ 0, %patch ], [ %r.next, %relocate.one ]
  %r.more = icmp slt i64 %r, %relocation.count
  br i1 %r.more, label %relocate.one, label %done
relocate.one:
  %r.word = shl i64 %r, 1
  %r.pair = getelementptr i64, ptr %relocations, i64 %r.word
{_get("r.slot", "%r.pair", 0)}
{_get("r.offset", "%r.pair", 1)}
  %r.value = add i64 %arena, %r.offset
{_at("r.target", "%slots", "%r.slot")}
  store i64 %r.value, ptr %r.target
  %r.next = add i64 %r, 1
  br label %relocate
done:
  ret void
"""

# Put the counters of launches and groups back to zero.
_RESET = f"""
{_get("counters", "%job", JOB_COUNTERS, "ptr")}
{_get("threads", "%job", JOB_THREADS)}
{_get("launch.count", "%job", JOB_LAUNCH_COUNT)}
{_get("groups", "%job", JOB_GROUPS, "ptr")}
{_get("group.count", "%job", JOB_GROUP_COUNT)}
  %counter.count = mul i64 %launch.count, %threads
  br label %counter
counter:
  %c = phi i64 [ 0, %entry ], [ %c.next, %counter.one ]
  %c.more = icmp slt i64 %c, %counter.count
  br i1 %c.more, label %counter.one, label %group
counter.one:
  %c.word = mul i64 %c, {COUNTER_WORDS}
{_at("c.counter", "%counters", "%c.word")}
  store i64 0, ptr %c.counter
  %c.next = add i64 %c, 1
  br label %counter
group:
  %g = phi i64 [ 0, %counter ], [ %g.next, %group.one ]
  %g.more = icmp slt i64 %g, %group.count
  br i1 %g.more, label %group.one, label %done
group.one:
  %g.word = mul i64 %g, {GROUP_WORDS}
  %g.record = getelementptr i64, ptr %groups, i64 %g.word
{_at("g.counter", "%g.record", GROUP_DONE)}
  store i64 0, ptr %g.counter
  %g.next = add i64 %g, 1
  br label %group
done:
  ret void
"""

_RUN_ALONE = f"""
  call void @prepare(ptr %job)
{_get("flush", "%job", JOB_FLUSH)}
{_get("launches", "%job", JOB_LAUNCHES, "ptr")}
{_get("count", "%job", JOB_LAUNCH_COUNT)}
{_get("values", "%job", JOB_VALUES, "ptr")}
{_get("status", "%job", JOB_STATUS, "ptr")}
  %scratch = load ptr, ptr %values
  %control = call i64 @enter(i64 %flush)
  br label %launch
launch:
  %i = phi i64 [ 0, %entry ], [ %i.next, %after ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %done
one:
  %word = mul i64 %i, {LAUNCH_WORDS}
  %record = getelementptr i64, ptr %launches, i64 %word
{_get("work", "%record", LAUNCH_WORK)}
  %i.next = add i64 %i, 1
  %any = icmp sgt i64 %work, 0
  br i1 %any, label %call, label %after
call:
{_get("function", "%record", LAUNCH_FUNCTION, "ptr")}
{_get("slots", "%record", LAUNCH_SLOTS, "ptr")}
  call void %function(ptr %slots, i64 0, i64 %work, ptr %scratch)
  br label %after
after:
  %failed = load i64, ptr %status
  %good = icmp eq i64 %failed, 0
  br i1 %good, label %launch, label %done
done:
  call void @leave(i64 %control)
  %result = load i64, ptr %status
  ret i64 %result
"""

# One thread's part in a job: walk the launches in order, claim chunks, wait between groups. Each
# thread has a share of a launch's chunks, the same share of each launch, for what it wrote before
# lies in its cache; when its own are claimed it helps the next thread with the rest.
_WORK = f"""
{_get("counters", "%job", JOB_COUNTERS, "ptr")}
{_get("threads", "%job", JOB_THREADS)}
{_get("flush", "%job", JOB_FLUSH)}
{_get("launches", "%job", JOB_LAUNCHES, "ptr")}
{_get("count", "%job", JOB_LAUNCH_COUNT)}
{_get("groups", "%job", JOB_GROUPS, "ptr")}
{_get("values", "%job", JOB_VALUES, "ptr")}
{_get("stride", "%job", JOB_SCRATCH_STRIDE)}
{_get("status", "%job", JOB_STATUS, "ptr")}
  %arena = load ptr, ptr %values
  %scratch.offset = mul i64 %stride, %thread
  %scratch = getelementptr i8, ptr %arena, i64 %scratch.offset
  %rounding = sub i64 %threads, 1
  %control = call i64 @enter(i64 %flush)
  br label %launch
launch:
  %i = phi i64 [ 0, %entry ], [ %i.next, %exhausted ]
  %running = phi i64 [ 0, %entry ], [ %group, %exhausted ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %done
one:
  %word = mul i64 %i, {LAUNCH_WORDS}
  %record = getelementptr i64, ptr %launches, i64 %word
{_get("function", "%record", LAUNCH_FUNCTION, "ptr")}
{_get("slots", "%record", LAUNCH_SLOTS, "ptr")}
{_get("work", "%record", LAUNCH_WORK)}
{_get("chunk", "%record", LAUNCH_CHUNK)}
{_get("chunks", "%record", LAUNCH_CHUNKS)}
{_get("group", "%record", LAUNCH_GROUP)}
  %own.counters = mul i64 %i, %threads
  %group.word = mul i64 %group, {GROUP_WORDS}
  %group.record = getelementptr i64, ptr %groups, i64 %group.word
{_get("total", "%group.record", GROUP_TOTAL)}
{_at("finished", "%group.record", GROUP_DONE)}
  %i.next = add i64 %i, 1
  %same = icmp eq i64 %group, %running
  br i1 %same, label %shares, label %barrier
barrier:
  %before.word = mul i64 %running, {GROUP_WORDS}
  %before = getelementptr i64, ptr %groups, i64 %before.word
{_get("before.total", "%before", GROUP_TOTAL)}
{_at("before.done", "%before", GROUP_DONE)}
  call void @await(ptr %pool, ptr %before.done, i64 %before.total)
  %failed = load atomic i64, ptr %status monotonic, align 8
  %good = icmp eq i64 %failed, 0
  br i1 %good, label %shares, label %done
shares:
  %s = phi i64 [ 0, %one ], [ 0, %barrier ], [ %s.next, %claimed ]
  %s.more = icmp slt i64 %s, %threads
  br i1 %s.more, label %share, label %exhausted
share:
  %s.next = add i64 %s, 1
  %owner.sum = add i64 %thread, %s
  %owner = srem i64 %owner.sum, %threads
  %owner.next = add i64 %owner, 1
  %first.part = mul i64 %chunks, %owner
  %first.up = add i64 %first.part, %rounding
  %first = sdiv i64 %first.up, %threads
  %last.part = mul i64 %chunks, %owner.next
  %last.up = add i64 %last.part, %rounding
  %last = sdiv i64 %last.up, %threads
  %share.size = sub i64 %last, %first
  %counter.number = add i64 %own.counters, %owner
  %counter.word = mul i64 %counter.number, {COUNTER_WORDS}
{_at("next", "%counters", "%counter.word")}
  %seen = load atomic i64, ptr %next monotonic, align 8
  %left = icmp slt i64 %seen, %share.size
  br i1 %left, label %look.closer, label %claimed
claimed:
  br label %shares
look.closer:
  %own = icmp eq i64 %s, 0
  br i1 %own, label %claim, label %hesitate
hesitate:
  call void @spin(i64 {_HESITATION})
  br label %claim
claim:
  %turn = atomicrmw add ptr %next, i64 1 monotonic
  %mine = icmp slt i64 %turn, %share.size
  br i1 %mine, label %run, label %claimed
run:
  %number = add i64 %first, %turn
  %begin = mul i64 %number, %chunk
  %unclipped = add i64 %begin, %chunk
  %inside = icmp slt i64 %unclipped, %work
  %end = select i1 %inside, i64 %unclipped, i64 %work
  call void %function(ptr %slots, i64 %begin, i64 %end, ptr %scratch)
  %units = sub i64 %end, %begin
  %before.mine = atomicrmw add ptr %finished, i64 %units seq_cst
  %now = add i64 %before.mine, %units
  %complete = icmp eq i64 %now, %total
  br i1 %complete, label %announce, label %claim
announce:
  call void @notify(ptr %pool)
  br label %exhausted
exhausted: ; nothing is left of this launch
  br label %launch
done:
  call void @leave(i64 %control)
  ret void
"""

_RUN_SHARED = f"""
  call void @prepare(ptr %job)
  call void @reset(ptr %job)
{_at("current", "%pool", POOL_JOB)}
{_at("active", "%pool", POOL_ACTIVE)}
{_at("asleep.at", "%pool", POOL_ASLEEP)}
{_get("groups", "%job", JOB_GROUPS, "ptr")}
{_get("group.count", "%job", JOB_GROUP_COUNT)}
{_get("status", "%job", JOB_STATUS, "ptr")}
  store atomic ptr %job, ptr %current seq_cst, align 8
  %generation = atomicrmw add ptr %pool, i32 1 seq_cst
  %asleep = load atomic i64, ptr %asleep.at seq_cst, align 8
  %none = icmp eq i64 %asleep, 0
  br i1 %none, label %work, label %wake
wake:
  call void @futex_wake(ptr %pool, ptr %pool)
  br label %work
work:
  call void @work(ptr %pool, ptr %job, i64 0)
  %failed = load atomic i64, ptr %status monotonic, align 8
  %good = icmp eq i64 %failed, 0
  br i1 %good, label %last, label %finish
last:
  %last.index = sub i64 %group.count, 1
  %last.word = mul i64 %last.index, {GROUP_WORDS}
  %record = getelementptr i64, ptr %groups, i64 %last.word
{_get("total", "%record", GROUP_TOTAL)}
{_at("done", "%record", GROUP_DONE)}
  call void @await(ptr %pool, ptr %done, i64 %total)
  br label %finish
finish:
  store atomic ptr null, ptr %current seq_cst, align 8
  call void @await(ptr %pool, ptr %active, i64 0)
  %result = load i64, ptr %status
  ret i64 %result
"""

# Wait until the word at %counter is %target: pause, then let others run, then sleep.
_AWAIT = f"""
{_get("spins", "%pool", POOL_BARRIER_SPINS)}
{_get("yields", "%pool", POOL_BARRIER_YIELDS)}
{_get("yield", "%pool", POOL_YIELD, "ptr")}
{_at("waiting", "%pool", POOL_WAITING)}
{_at("epoch.at", "%pool", POOL_EPOCH)}
  %patience = add i64 %spins, %yields
  br label %look
look:
  %n = phi i64 [ 0, %entry ], [ %n.next, %pausing ], [ %n.next, %yielding ]
  %value = load atomic i64, ptr %counter acquire, align 8
  %reached = icmp eq i64 %value, %target
  br i1 %reached, label %done, label %choose
choose:
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
  br label %look
sleep:
  %before = atomicrmw add ptr %waiting, i64 1 seq_cst
  %epoch = load atomic i32, ptr %epoch.at seq_cst, align 4
  %again = load atomic i64, ptr %counter seq_cst, align 8
  %reached.now = icmp eq i64 %again, %target
  br i1 %reached.now, label %awake, label %wait
wait:
  call void @futex_wait(ptr %pool, ptr %epoch.at, i32 %epoch)
  br label %awake
awake:
  %after = atomicrmw sub ptr %waiting, i64 1 seq_cst
  %last = load atomic i64, ptr %counter acquire, align 8
  %reached.last = icmp eq i64 %last, %target
  br i1 %reached.last, label %done, label %sleep
done:
  ret void
"""

_NOTIFY = f"""
{_at("epoch", "%pool", POOL_EPOCH)}
{_at("waiting.at", "%pool", POOL_WAITING)}
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
_FUTEX_WAIT = f"""
{_get("syscall", "%pool", POOL_SYSCALL, "ptr")}
{_get("nap", "%pool", POOL_NAP, "ptr")}
{_get("number", "%pool", POOL_FUTEX)}
  %lacking = icmp eq ptr %syscall, null
  br i1 %lacking, label %napping, label %sleeping
sleeping:
  %r = call i64 (i64, ...) %syscall(
    i64 %number, ptr %word, i32 {_FUTEX_WAIT_PRIVATE}, i32 %expected, ptr null)
  ret void
napping:
{_get("time", "%pool", POOL_NAP_TIME)}
  %short = trunc i64 %time to i32
  %ignored = call i32 %nap(i32 %short)
  ret void
"""

_FUTEX_WAKE = f"""
{_get("syscall", "%pool", POOL_SYSCALL, "ptr")}
{_get("number", "%pool", POOL_FUTEX)}
  %lacking = icmp eq ptr %syscall, null
  br i1 %lacking, label %done, label %waking
waking:
  %r = call i64 (i64, ...) %syscall(
    i64 %number, ptr %word, i32 {_FUTEX_WAKE_PRIVATE}, i32 {_EVERYBODY})
  br label %done
done:
  ret void
"""

_SERVE = f"""
{_at("current", "%pool", POOL_JOB)}
{_at("active", "%pool", POOL_ACTIVE)}
{_at("asleep", "%pool", POOL_ASLEEP)}
{_at("stop", "%pool", POOL_STOP)}
{_get("yield", "%pool", POOL_YIELD, "ptr")}
{_get("spins", "%pool", POOL_IDLE_SPINS)}
{_get("yields", "%pool", POOL_IDLE_YIELDS)}
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
choose:
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
  br label %look
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
{_get("threads", "%job", JOB_THREADS)}
  %wanted = icmp slt i64 %thread, %threads
  br i1 %wanted, label %help, label %leave
help:
  call void @work(ptr %pool, ptr %job, i64 %thread)
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

_STOP = f"""
{_at("stop", "%pool", POOL_STOP)}
  store atomic i64 1, ptr %stop seq_cst, align 8
  %generation = atomicrmw add ptr %pool, i32 1 seq_cst
  call void @futex_wake(ptr %pool, ptr %pool)
  ret void
"""

_SPIN = """
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

_FUNCTIONS = (
    ("internal void @prepare(ptr %job)", _PREPARE),
    ("internal void @reset(ptr %job)", _RESET),
    ("internal void @work(ptr %pool, ptr %job, i64 %thread)", _WORK),
    ("internal void @await(ptr %pool, ptr %counter, i64 %target)", _AWAIT),
    ("internal void @notify(ptr %pool)", _NOTIFY),
    ("internal void @futex_wait(ptr %pool, ptr %word, i32 %expected)", _FUTEX_WAIT),
    ("internal void @futex_wake(ptr %pool, ptr %word)", _FUTEX_WAKE),
    ("i64 @run_alone(ptr %job)", _RUN_ALONE),
    ("i64 @run_shared(ptr %pool, ptr %job)", _RUN_SHARED),
    ("void @serve(ptr %pool, i64 %thread)", _SERVE),
    ("void @stop(ptr %pool)", _STOP),
    ("void @spin(i64 %count)", _SPIN),
)

ENTRIES = ("run_alone", "run_shared", "serve", "stop", "spin")
