"""The native driver's texts for one job: fill its tables, run its launches, alone or together.

Comes in: a job's table (`driver_tables`). Goes out: bodies of the driver's LLVM functions (`driver`
names them). `PREPARE` and `RESET` make the tables ready for this call; `RUN_ALONE` walks the
launches on one thread; `WORK` is one thread's part when several do. `BEGIN` hands a job to the
workers, `FINISH` takes part until it is done, and `RUN_SHARED` is one after the other; `RUN_SERIES`
makes several calls of either kind. Guaranteed: each unit of work is done exactly once, and a launch
starts only when all earlier groups are complete. Chunks are claimed from counters, so no thread
needs another to arrive.
"""

from __future__ import annotations

from avalon.runtime.driver_tables import (
    COUNTER_WORDS,
    GROUP_DONE,
    GROUP_TOTAL,
    GROUP_WORDS,
    JOB_AT,
    JOB_CLOCK,
    JOB_CLOCK_KIND,
    JOB_COUNTERS,
    JOB_FIRM,
    JOB_FLUSH,
    JOB_GROUP_COUNT,
    JOB_GROUPS,
    JOB_LAUNCH_COUNT,
    JOB_LAUNCHES,
    JOB_LOOK,
    JOB_PATCH_COUNT,
    JOB_PATCHES,
    JOB_RELOCATION_COUNT,
    JOB_RELOCATIONS,
    JOB_SCRATCH_STRIDE,
    JOB_SINCE,
    JOB_SLOTS,
    JOB_STATE_STRIDE,
    JOB_STATES,
    JOB_STATUS,
    JOB_THREADS,
    JOB_VALUES,
    KERNEL,
    LAUNCH_CHUNK,
    LAUNCH_CHUNKS,
    LAUNCH_COST,
    LAUNCH_FUNCTION,
    LAUNCH_GROUP,
    LAUNCH_KIND,
    LAUNCH_WORDS,
    LAUNCH_WORK,
    PAUSED,
    POOL_ACTIVE,
    POOL_ASLEEP,
    POOL_JOB,
    SERIES_DONE,
    SERIES_STOP,
    SERIES_WIDTH,
    SERIES_WORDS,
    STATE_VISIT,
)
from avalon.runtime.driver_text import at, get, repeat

# Pauses before a thread takes another one's chunk: a launch of one chunk stays with its owner, the
# calling thread, in whose cache its data are.
_HESITATION = 8

# Pauses of the calling thread: ctrl-C is answered there.
_PAUSE_EVERY = 50_000_000
_FOR_EVER = 1 << 62


# Before launch %i: pause if it is time for that. The launches since the last look at the clock have
# taken %spent, about.
_LOOK = f"""\
{get("cost", "%record", LAUNCH_COST)}
  %spent.sum = add i64 %spent, %cost
  %looks = icmp sgt i64 %spent.sum, %patience
  br i1 %looks, label %look.before, label %start
look.before:
  %may.pause = icmp slt i64 %i, %firm
  br i1 %may.pause, label %look.at.clock, label %start
look.at.clock:
  %is.due = call i1 @is_due(ptr %job)
  br i1 %is.due, label %pausing, label %start
start:
  %spent.now = phi i64 [ %spent.sum, %kernel ], [ 0, %look.before ], [ 0, %look.at.clock ]"""

_PATCH = repeat(
    "patch", "p", "%patch.count", before="entry", after="relocate",
    body=f"""\
  %p.word = shl i64 %p, 1
  %p.pair = getelementptr i64, ptr %patches, i64 %p.word
{get("p.slot", "%p.pair", 0)}
{get("p.index", "%p.pair", 1)}
{get("p.value", "%values", "%p.index")}
{at("p.target", "%slots", "%p.slot")}
  store i64 %p.value, ptr %p.target""",
)  # fmt: skip

_RELOCATE = repeat(
    "relocate", "r", "%relocation.count", before="patch", after="done",
    body=f"""\
  %r.word = shl i64 %r, 1
  %r.pair = getelementptr i64, ptr %relocations, i64 %r.word
{get("r.slot", "%r.pair", 0)}
{get("r.offset", "%r.pair", 1)}
  %r.value = add i64 %arena, %r.offset
{at("r.target", "%slots", "%r.slot")}
  store i64 %r.value, ptr %r.target""",
)  # fmt: skip

# Fill the slots of this call: addresses and scalars from the values, temporaries from the arena.
PREPARE = f"""
{get("patches", "%job", JOB_PATCHES, "ptr")}
{get("patch.count", "%job", JOB_PATCH_COUNT)}
{get("relocations", "%job", JOB_RELOCATIONS, "ptr")}
{get("relocation.count", "%job", JOB_RELOCATION_COUNT)}
{get("slots", "%job", JOB_SLOTS, "ptr")}
{get("values", "%job", JOB_VALUES, "ptr")}
{get("status", "%job", JOB_STATUS, "ptr")}
  %arena = load i64, ptr %values
  store i64 0, ptr %status
  br label %patch
{_PATCH}
{_RELOCATE}
done:
  ret void
"""

_ZERO_COUNTERS = repeat(
    "counter", "c", "%counter.count", before="entry", after="group",
    body=f"""\
  %c.word = mul i64 %c, {COUNTER_WORDS}
{at("c.counter", "%counters", "%c.word")}
  store i64 0, ptr %c.counter""",
)  # fmt: skip

_ZERO_GROUPS = repeat(
    "group", "g", "%group.count", before="counter", after="done",
    body=f"""\
  %g.word = mul i64 %g, {GROUP_WORDS}
  %g.record = getelementptr i64, ptr %groups, i64 %g.word
{at("g.counter", "%g.record", GROUP_DONE)}
  store i64 0, ptr %g.counter""",
)  # fmt: skip

# Put the counters of launches and groups back to zero.
RESET = f"""
{get("counters", "%job", JOB_COUNTERS, "ptr")}
{get("threads", "%job", JOB_THREADS)}
{get("launch.count", "%job", JOB_LAUNCH_COUNT)}
{get("groups", "%job", JOB_GROUPS, "ptr")}
{get("group.count", "%job", JOB_GROUP_COUNT)}
  %counter.count = mul i64 %launch.count, %threads
  br label %counter
{_ZERO_COUNTERS}
{_ZERO_GROUPS}
done:
  ret void
"""

# Whether the caller should return for a while: some time has passed since the first look.
IS_DUE = f"""
{get("clock", "%job", JOB_CLOCK, "ptr")}
{get("kind", "%job", JOB_CLOCK_KIND)}
{get("since", "%job", JOB_SINCE)}
  %lacking = icmp eq ptr %clock, null
  br i1 %lacking, label %due, label %ask
ask:
  %time = alloca [2 x i64]
  %kind.narrow = trunc i64 %kind to i32
  %ignored = call i32 %clock(i32 %kind.narrow, ptr %time)
{get("seconds", "%time", 0)}
{get("rest", "%time", 1)}
  %whole = mul i64 %seconds, 1000000000
  %now = add i64 %whole, %rest
  %first = icmp eq i64 %since, 0
  br i1 %first, label %note, label %compare
note:
  store i64 %now, ptr %since.at
  ret i1 false
compare:
  %passed = sub i64 %now, %since
  %long = icmp sgt i64 %passed, {_PAUSE_EVERY}
  ret i1 %long
due:
  ret i1 true
"""

# Walk the launches on the calling thread, from where a paused run stands.
WALK_ALONE = f"""
{get("flush", "%job", JOB_FLUSH)}
{get("launches", "%job", JOB_LAUNCHES, "ptr")}
{get("count", "%job", JOB_LAUNCH_COUNT)}
{get("values", "%job", JOB_VALUES, "ptr")}
{get("status", "%job", JOB_STATUS, "ptr")}
{get("state", "%job", JOB_STATES, "ptr")}
{get("first", "%job", JOB_AT)}
{get("firm", "%job", JOB_FIRM)}
{get("patience", "%job", JOB_LOOK)}
{at("since", "%job", JOB_SINCE)}
  store i64 0, ptr %since
  %scratch = load ptr, ptr %values
  %control = call i64 @enter(i64 %flush)
  br label %launch
launch:
  %i = phi i64 [ %first, %entry ], [ %turned, %mark ], [ %i.next, %after ]
  %spent = phi i64 [ 0, %entry ], [ %spent, %mark ], [ %spent.now, %after ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %over
one:
  %word = mul i64 %i, {LAUNCH_WORDS}
  %record = getelementptr i64, ptr %launches, i64 %word
{get("kind", "%record", LAUNCH_KIND)}
  %is.kernel = icmp eq i64 %kind, {KERNEL}
  br i1 %is.kernel, label %kernel, label %mark
mark:
  %turned = call i64 @turn(ptr %record, ptr %state, i64 %i)
  br label %launch
kernel:
{get("work", "%record", LAUNCH_WORK)}
  %i.next = add i64 %i, 1
{_LOOK}
  %any = icmp sgt i64 %work, 0
  br i1 %any, label %call, label %after
call:
{get("function", "%record", LAUNCH_FUNCTION, "ptr")}
  %slots = call ptr @place(ptr %record, ptr %state)
  call void %function(ptr %slots, i64 0, i64 %work, ptr %scratch)
  br label %after
after:
  %failed = load i64, ptr %status
  %good = icmp eq i64 %failed, 0
  br i1 %good, label %launch, label %over
over:
  store i64 -1, ptr %first.at
  call void @leave(i64 %control)
  %result = load i64, ptr %status
  ret i64 %result
pausing:
  store i64 %i, ptr %first.at
  call void @leave(i64 %control)
  ret i64 {PAUSED}
"""

RUN_ALONE = f"""
  call void @prepare(ptr %job)
{get("state", "%job", JOB_STATES, "ptr")}
{at("first", "%job", JOB_AT)}
  store i64 0, ptr %state
  store i64 0, ptr %first
  %result = call i64 @walk_alone(ptr %job)
  ret i64 %result
"""

# One thread's part in a job: walk the launches in order, claim chunks, wait between groups. Each
# thread has a share of a launch's chunks, the same share of each launch, for what it wrote before
# lies in its cache; when its own are claimed it helps the next thread with the rest.
WORK = f"""
{get("counters", "%job", JOB_COUNTERS, "ptr")}
{get("threads", "%job", JOB_THREADS)}
{get("flush", "%job", JOB_FLUSH)}
{get("launches", "%job", JOB_LAUNCHES, "ptr")}
{get("count", "%job", JOB_LAUNCH_COUNT)}
{get("groups", "%job", JOB_GROUPS, "ptr")}
{get("values", "%job", JOB_VALUES, "ptr")}
{get("stride", "%job", JOB_SCRATCH_STRIDE)}
{get("status", "%job", JOB_STATUS, "ptr")}
{get("states", "%job", JOB_STATES, "ptr")}
{get("state.stride", "%job", JOB_STATE_STRIDE)}
{get("paused.at", "%job", JOB_AT)}
{get("firm", "%job", JOB_FIRM)}
{get("look.after", "%job", JOB_LOOK)}
{at("since", "%job", JOB_SINCE)}
  %caller = icmp eq i64 %thread, 0
  %paused = icmp sge i64 %paused.at, 0
  %goes.on = and i1 %caller, %paused
  %begin.at = select i1 %goes.on, i64 %paused.at, i64 0
  %patience = select i1 %caller, i64 %look.after, i64 {_FOR_EVER}
  %arena = load ptr, ptr %values
  %scratch.offset = mul i64 %stride, %thread
  %scratch = getelementptr i8, ptr %arena, i64 %scratch.offset
  %state.offset = mul i64 %state.stride, %thread
  %state = getelementptr i64, ptr %states, i64 %state.offset
  br i1 %goes.on, label %enter, label %reset
reset:
  store i64 0, ptr %state
  br label %enter
enter:
  br i1 %caller, label %time, label %go
time:
  store i64 0, ptr %since
  br label %go
go:
  %rounding = sub i64 %threads, 1
  %control = call i64 @enter(i64 %flush)
  br label %launch
launch:
  %i = phi i64 [ %begin.at, %go ], [ %turned, %turn ], [ %i.next, %exhausted ]
  %spent = phi i64 [ 0, %go ], [ %spent, %turn ], [ %spent.now, %exhausted ]
  %running = phi i64 [ -1, %go ], [ -1, %turn ], [ %group, %exhausted ]
  %running.done = phi ptr [ null, %go ], [ null, %turn ], [ %finished, %exhausted ]
  %running.target = phi i64 [ 0, %go ], [ 0, %turn ], [ %target, %exhausted ]
  %idle = icmp eq i64 %running, -1
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %finish
one:
  %word = mul i64 %i, {LAUNCH_WORDS}
  %record = getelementptr i64, ptr %launches, i64 %word
{get("group", "%record", LAUNCH_GROUP)}
{get("kind", "%record", LAUNCH_KIND)}
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
{_LOOK}
{get("function", "%record", LAUNCH_FUNCTION, "ptr")}
{get("work", "%record", LAUNCH_WORK)}
{get("chunk", "%record", LAUNCH_CHUNK)}
{get("chunks", "%record", LAUNCH_CHUNKS)}
{get("visit", "%state", STATE_VISIT)}
  %slots = call ptr @place(ptr %record, ptr %state)
  %own.counters = mul i64 %i, %threads
  %group.word = mul i64 %group, {GROUP_WORDS}
  %group.record = getelementptr i64, ptr %groups, i64 %group.word
{get("total", "%group.record", GROUP_TOTAL)}
{at("finished", "%group.record", GROUP_DONE)}
  %visits = add i64 %visit, 1
  %target = mul i64 %total, %visits
  %i.next = add i64 %i, 1
  br label %shares
shares:
  %s = phi i64 [ 0, %start ], [ %s.next, %claimed ]
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
{at("next", "%counters", "%counter.word")}
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
  %busy = xor i1 %idle, true
  %waits = and i1 %caller, %busy
  br i1 %waits, label %wait, label %done
wait:
  call void @await(ptr %pool, ptr %running.done, i64 %running.target)
  br label %done
done:
  call void @leave(i64 %control)
  ret i64 0
pausing: ; the workers carry on
  store i64 %i, ptr %paused.at.at
  call void @leave(i64 %control)
  ret i64 {PAUSED}
"""

# Hand a job to the workers, who begin at once.
BEGIN = f"""
  call void @prepare(ptr %job)
  call void @reset(ptr %job)
{at("current", "%pool", POOL_JOB)}
{at("asleep.at", "%pool", POOL_ASLEEP)}
{at("first", "%job", JOB_AT)}
  store i64 -1, ptr %first
  store atomic ptr %job, ptr %current seq_cst, align 8
  %generation = atomicrmw add ptr %pool, i32 1 seq_cst
  %asleep = load atomic i64, ptr %asleep.at seq_cst, align 8
  %none = icmp eq i64 %asleep, 0
  br i1 %none, label %done, label %wake
wake:
  call void @futex_wake(ptr %pool, ptr %pool)
  br label %done
done:
  ret void
"""

# Help with what is left of the job, and wait for the workers to leave it; or pause, then a second
# time goes on. After the end it does nothing.
FINISH = f"""
{at("current", "%pool", POOL_JOB)}
{at("active", "%pool", POOL_ACTIVE)}
{get("status", "%job", JOB_STATUS, "ptr")}
  %worked = call i64 @work(ptr %pool, ptr %job, i64 0)
  %paused = icmp eq i64 %worked, {PAUSED}
  br i1 %paused, label %pausing, label %ending
pausing:
  ret i64 {PAUSED}
ending:
{at("first", "%job", JOB_AT)}
  store i64 -1, ptr %first
  store atomic ptr null, ptr %current seq_cst, align 8
  call void @await_none(ptr %pool, ptr %active, i64 0)
  %result = load i64, ptr %status
  ret i64 %result
"""

RUN_SHARED = """
  call void @begin(ptr %pool, ptr %job)
  %result = call i64 @finish(ptr %pool, ptr %job)
  ret i64 %result
"""

_PUT_WORDS = repeat(
    "put", "w", "%width", before="fill", after="run",
    body=f"""\
{get("w.number", "%numbers", "%w")}
{get("w.word", "%row", "%w")}
{at("w.target", "%values", "%w.number")}
  store i64 %w.word, ptr %w.target""",
)  # fmt: skip

# Calls one after the other, each with its own words among the values, until one fails or pauses;
# with the workers' help if there is a pool. What has paused goes on.
RUN_SERIES = f"""
{get("stop", "%series", SERIES_STOP)}
{get("width", "%series", SERIES_WIDTH)}
{get("first", "%series", SERIES_DONE)}
{at("numbers", "%series", SERIES_WORDS)}
  %rows = getelementptr i64, ptr %numbers, i64 %width
{get("values", "%job", JOB_VALUES, "ptr")}
  %alone = icmp eq ptr %pool, null
  br label %step
step:
  %done = phi i64 [ %first, %entry ], [ %done.next, %after ]
  store i64 %done, ptr %first.at
  %more = icmp slt i64 %done, %stop
  br i1 %more, label %fill, label %end
fill:
  %row.word = mul i64 %done, %width
  %row = getelementptr i64, ptr %rows, i64 %row.word
{get("at", "%job", JOB_AT)}
  %paused = icmp sge i64 %at, 0
  br i1 %paused, label %go.on, label %put
go.on:
  br i1 %alone, label %lone.on, label %shared.on
lone.on:
  %lone.rest = call i64 @walk_alone(ptr %job)
  br label %after
shared.on:
  %shared.rest = call i64 @finish(ptr %pool, ptr %job)
  br label %after
{_PUT_WORDS}
run:
  br i1 %alone, label %lone, label %shared
lone:
  %lone.status = call i64 @run_alone(ptr %job)
  br label %after
shared:
  %shared.status = call i64 @run_shared(ptr %pool, ptr %job)
  br label %after
after:
  %status = phi i64 [ %lone.status, %lone ], [ %shared.status, %shared ],
                    [ %lone.rest, %lone.on ], [ %shared.rest, %shared.on ]
  %done.next = add i64 %done, 1
  %good = icmp eq i64 %status, 0
  br i1 %good, label %step, label %end
end:
  %result = phi i64 [ 0, %step ], [ %status, %after ]
  ret i64 %result
"""
