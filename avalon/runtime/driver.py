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

# A job: what one call needs. `values` holds the arena's address, then inputs, then outputs.
JOB_LAUNCHES, JOB_LAUNCH_COUNT = 0, 1
JOB_PATCHES, JOB_PATCH_COUNT = 2, 3  # pairs (slot, value): slots[slot] = values[value]
JOB_RELOCATIONS, JOB_RELOCATION_COUNT = 4, 5  # pairs (slot, offset): slots[slot] = arena + offset
JOB_SLOTS, JOB_VALUES = 6, 7
JOB_GROUPS, JOB_GROUP_COUNT = 8, 9
JOB_THREADS, JOB_SCRATCH_STRIDE = 10, 11  # thread t has its scratch at arena + t * stride
JOB_STATUS, JOB_FLUSH = 12, 13
JOB_COUNTERS = 14  # for each launch, for each thread, how many of its chunks are claimed
JOB_STATES, JOB_STATE_STRIDE = 15, 16  # thread t has its state at states + t * stride words
JOB_WORDS = 24

LAUNCH_FUNCTION, LAUNCH_SLOTS, LAUNCH_WORK, LAUNCH_GROUP = 0, 1, 2, 3
LAUNCH_CHUNK, LAUNCH_CHUNKS = 4, 5  # units in a chunk, and how many chunks there are
LAUNCH_KIND = 6  # what the record is: a kernel, or where a loop begins or ends
LAUNCH_SLOT_COUNT, LAUNCH_ADVANCES, LAUNCH_ADVANCE_COUNT = 7, 8, 9
LAUNCH_TARGET, LAUNCH_DEPTH = 10, 11  # marks: the record to go on with, and the loop's depth
LAUNCH_WORDS = 12
KERNEL, BEGIN, END = 0, 1, 2

# A mark's LAUNCH_WORK is the number of rounds, unless it has slots: then the first one points to
# that number, which the loop's own kernels may write.

# An advance: slots[slot] += f(round of the loop at depth) * stride, where f is the round, the
# rounds that follow, or the parity of the round or of the next one.
ADVANCE_SLOT, ADVANCE_DEPTH, ADVANCE_MODE, ADVANCE_STRIDE = 0, 1, 2, 3
ADVANCE_WORDS = 4
FORWARD, BACKWARD, NOW, NEXT = 0, 1, 2, 3

# What a thread knows of the loops it is in: how often it has come to where it is, then for each
# depth the round and the number of rounds, then the slots of the launch that it runs.
STATE_VISIT, STATE_ROUNDS = 0, 1
DEEPEST = 8
STATE_SLOTS = STATE_ROUNDS + 2 * DEEPEST

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
{_get("state", "%job", JOB_STATES, "ptr")}
  store i64 0, ptr %state
  %scratch = load ptr, ptr %values
  %control = call i64 @enter(i64 %flush)
  br label %launch
launch:
  %i = phi i64 [ 0, %entry ], [ %turned, %mark ], [ %i.next, %after ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %done
one:
  %word = mul i64 %i, {LAUNCH_WORDS}
  %record = getelementptr i64, ptr %launches, i64 %word
{_get("kind", "%record", LAUNCH_KIND)}
  %is.kernel = icmp eq i64 %kind, {KERNEL}
  br i1 %is.kernel, label %kernel, label %mark
mark:
  %turned = call i64 @turn(ptr %record, ptr %state, i64 %i)
  br label %launch
kernel:
{_get("work", "%record", LAUNCH_WORK)}
  %i.next = add i64 %i, 1
  %any = icmp sgt i64 %work, 0
  br i1 %any, label %call, label %after
call:
{_get("function", "%record", LAUNCH_FUNCTION, "ptr")}
  %slots = call ptr @place(ptr %record, ptr %state)
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

# Where a thread goes on after the mark of a loop: into its next round, or past it.
_TURN = f"""
{_get("kind", "%record", LAUNCH_KIND)}
{_get("depth", "%record", LAUNCH_DEPTH)}
{_get("fixed", "%record", LAUNCH_WORK)}
{_get("slots", "%record", LAUNCH_SLOTS, "ptr")}
{_get("target", "%record", LAUNCH_TARGET)}
{_get("visit", "%state", STATE_VISIT)}
  %pair = shl i64 %depth, 1
  %place = add i64 %pair, {STATE_ROUNDS}
  %round.at = getelementptr i64, ptr %state, i64 %place
  %count.at = getelementptr i64, ptr %round.at, i64 1
  %following = add i64 %index, 1
  %is.fixed = icmp eq ptr %slots, null
  br i1 %is.fixed, label %counted, label %look
look:
  %word = load ptr, ptr %slots
  %found = load atomic i64, ptr %word monotonic, align 8
  br label %counted
counted:
  %count = phi i64 [ %fixed, %entry ], [ %found, %look ]
  %begins = icmp eq i64 %kind, {BEGIN}
  br i1 %begins, label %begin, label %end
begin:
  store i64 0, ptr %round.at
  store i64 %count, ptr %count.at
  %any = icmp sgt i64 %count, 0
  br i1 %any, label %enter, label %skip
enter:
  %deeper = mul i64 %visit, %count
  store i64 %deeper, ptr %visit.at
  ret i64 %following
skip:
  ret i64 %target
end:
  %round = load i64, ptr %round.at
  %next = add i64 %round, 1
  store i64 %next, ptr %round.at
  %more = icmp slt i64 %next, %count
  br i1 %more, label %again, label %leave
again:
  %visit.next = add i64 %visit, 1
  store i64 %visit.next, ptr %visit.at
  ret i64 %target
leave:
  %outer = sdiv i64 %visit, %count
  store i64 %outer, ptr %visit.at
  ret i64 %following
"""

# The slots of a launch as they are in this round: its own, or a copy that has moved on.
_PLACE = f"""
{_get("slots", "%record", LAUNCH_SLOTS, "ptr")}
{_get("count", "%record", LAUNCH_ADVANCE_COUNT)}
  %none = icmp eq i64 %count, 0
  br i1 %none, label %fixed, label %moving
fixed:
  ret ptr %slots
moving:
{_get("slot.count", "%record", LAUNCH_SLOT_COUNT)}
{_get("advances", "%record", LAUNCH_ADVANCES, "ptr")}
{_at("own", "%state", STATE_SLOTS)}
  br label %copy
copy:
  %c = phi i64 [ 0, %moving ], [ %c.next, %copy.one ]
  %c.more = icmp slt i64 %c, %slot.count
  br i1 %c.more, label %copy.one, label %move
copy.one:
{_get("c.word", "%slots", "%c")}
{_at("c.target", "%own", "%c")}
  store i64 %c.word, ptr %c.target
  %c.next = add i64 %c, 1
  br label %copy
move:
  %a = phi i64 [ 0, %copy ], [ %a.next, %move.one ]
  %a.more = icmp slt i64 %a, %count
  br i1 %a.more, label %move.one, label %done
move.one:
  %a.first = mul i64 %a, {ADVANCE_WORDS}
  %a.record = getelementptr i64, ptr %advances, i64 %a.first
{_get("a.slot", "%a.record", ADVANCE_SLOT)}
{_get("a.depth", "%a.record", ADVANCE_DEPTH)}
{_get("a.mode", "%a.record", ADVANCE_MODE)}
{_get("a.stride", "%a.record", ADVANCE_STRIDE)}
  %a.pair = shl i64 %a.depth, 1
  %a.place = add i64 %a.pair, {STATE_ROUNDS}
  %a.round.at = getelementptr i64, ptr %state, i64 %a.place
  %a.round = load i64, ptr %a.round.at
{_get("a.count", "%a.round.at", 1)}
  %a.following = add i64 %a.round, 1
  %a.left = sub i64 %a.count, %a.following
  %a.now = and i64 %a.round, 1
  %a.then = and i64 %a.following, 1
  %a.is.backward = icmp eq i64 %a.mode, {BACKWARD}
  %a.is.now = icmp eq i64 %a.mode, {NOW}
  %a.is.next = icmp eq i64 %a.mode, {NEXT}
  %a.first.choice = select i1 %a.is.backward, i64 %a.left, i64 %a.round
  %a.second.choice = select i1 %a.is.now, i64 %a.now, i64 %a.first.choice
  %a.factor = select i1 %a.is.next, i64 %a.then, i64 %a.second.choice
  %a.offset = mul i64 %a.factor, %a.stride
{_get("a.word", "%own", "%a.slot")}
  %a.moved = add i64 %a.word, %a.offset
  store i64 %a.moved, ptr %a.word.at
  %a.next = add i64 %a, 1
  br label %move
done:
  ret ptr %own
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
{_get("states", "%job", JOB_STATES, "ptr")}
{_get("state.stride", "%job", JOB_STATE_STRIDE)}
  %arena = load ptr, ptr %values
  %scratch.offset = mul i64 %stride, %thread
  %scratch = getelementptr i8, ptr %arena, i64 %scratch.offset
  %state.offset = mul i64 %state.stride, %thread
  %state = getelementptr i64, ptr %states, i64 %state.offset
  store i64 0, ptr %state
  %rounding = sub i64 %threads, 1
  %control = call i64 @enter(i64 %flush)
  br label %launch
launch:
  %i = phi i64 [ 0, %entry ], [ %turned, %turn ], [ %i.next, %exhausted ]
  %running = phi i64 [ -1, %entry ], [ -1, %turn ], [ %group, %exhausted ]
  %running.done = phi ptr [ null, %entry ], [ null, %turn ], [ %finished, %exhausted ]
  %running.target = phi i64 [ 0, %entry ], [ 0, %turn ], [ %target, %exhausted ]
  %idle = icmp eq i64 %running, -1
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %finish
one:
  %word = mul i64 %i, {LAUNCH_WORDS}
  %record = getelementptr i64, ptr %launches, i64 %word
{_get("group", "%record", LAUNCH_GROUP)}
{_get("kind", "%record", LAUNCH_KIND)}
  %same = icmp eq i64 %group, %running
  %together = or i1 %same, %idle
  br i1 %together, label %ready, label %barrier
barrier:
  call void @await(ptr %pool, ptr %running.done, i64 %running.target)
  %failed = load atomic i64, ptr %status monotonic, align 8
  %good = icmp eq i64 %failed, 0
  br i1 %good, label %ready, label %done
ready:
  %is.kernel = icmp eq i64 %kind, {KERNEL}
  br i1 %is.kernel, label %kernel, label %turn
turn:
  %turned = call i64 @turn(ptr %record, ptr %state, i64 %i)
  br label %launch
kernel:
{_get("function", "%record", LAUNCH_FUNCTION, "ptr")}
{_get("work", "%record", LAUNCH_WORK)}
{_get("chunk", "%record", LAUNCH_CHUNK)}
{_get("chunks", "%record", LAUNCH_CHUNKS)}
{_get("visit", "%state", STATE_VISIT)}
  %slots = call ptr @place(ptr %record, ptr %state)
  %own.counters = mul i64 %i, %threads
  %group.word = mul i64 %group, {GROUP_WORDS}
  %group.record = getelementptr i64, ptr %groups, i64 %group.word
{_get("total", "%group.record", GROUP_TOTAL)}
{_at("finished", "%group.record", GROUP_DONE)}
  %visits = add i64 %visit, 1
  %target = mul i64 %total, %visits
  %i.next = add i64 %i, 1
  br label %shares
shares:
  %s = phi i64 [ 0, %kernel ], [ %s.next, %claimed ]
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
  %share.before = mul i64 %share.size, %visit
  %share.end = add i64 %share.before, %share.size
  %counter.number = add i64 %own.counters, %owner
  %counter.word = mul i64 %counter.number, {COUNTER_WORDS}
{_at("next", "%counters", "%counter.word")}
  %seen = load atomic i64, ptr %next monotonic, align 8
  %left = icmp slt i64 %seen, %share.end
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
  %taken = load atomic i64, ptr %next monotonic, align 8
  %free = icmp slt i64 %taken, %share.end
  br i1 %free, label %take, label %claimed
take:
  %taken.next = add i64 %taken, 1
  %swap = cmpxchg ptr %next, i64 %taken, i64 %taken.next monotonic monotonic
  %mine = extractvalue {{ i64, i1 }} %swap, 1
  br i1 %mine, label %run, label %claim
run:
  %turn.number = sub i64 %taken, %share.before
  %number = add i64 %first, %turn.number
  %begin = mul i64 %number, %chunk
  %unclipped = add i64 %begin, %chunk
  %inside = icmp slt i64 %unclipped, %work
  %end = select i1 %inside, i64 %unclipped, i64 %work
  call void %function(ptr %slots, i64 %begin, i64 %end, ptr %scratch)
  %units = sub i64 %end, %begin
  %before.mine = atomicrmw add ptr %finished, i64 %units seq_cst
  %now = add i64 %before.mine, %units
  %complete = icmp eq i64 %now, %target
  br i1 %complete, label %announce, label %claim
announce:
  call void @notify(ptr %pool)
  br label %exhausted
exhausted: ; nothing is left of this launch
  br label %launch
finish: ; the caller waits for what is still running
  %caller = icmp eq i64 %thread, 0
  %busy = xor i1 %idle, true
  %waits = and i1 %caller, %busy
  br i1 %waits, label %wait, label %done
wait:
  call void @await(ptr %pool, ptr %running.done, i64 %running.target)
  br label %done
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
  store atomic ptr null, ptr %current seq_cst, align 8
  call void @await_none(ptr %pool, ptr %active, i64 0)
  %result = load i64, ptr %status
  ret i64 %result
"""

# Wait until the word at %counter has come to %target: pause, then let others run, then sleep.
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
  %reached = icmp REACHED i64 %value, %target
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
  %reached.now = icmp REACHED i64 %again, %target
  br i1 %reached.now, label %awake, label %wait
wait:
  call void @futex_wait(ptr %pool, ptr %epoch.at, i32 %epoch)
  br label %awake
awake:
  %after = atomicrmw sub ptr %waiting, i64 1 seq_cst
  %last = load atomic i64, ptr %counter acquire, align 8
  %reached.last = icmp REACHED i64 %last, %target
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
    ("internal i64 @turn(ptr %record, ptr %state, i64 %index)", _TURN),
    ("internal ptr @place(ptr %record, ptr %state)", _PLACE),
    (
        "internal void @await(ptr %pool, ptr %counter, i64 %target)",
        _AWAIT.replace("REACHED", "sge"),
    ),
    (
        "internal void @await_none(ptr %pool, ptr %counter, i64 %target)",
        _AWAIT.replace("REACHED", "eq"),
    ),
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
