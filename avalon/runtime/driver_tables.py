"""The layout of the tables that the native driver reads: which word of a record holds what.

Comes in: nothing. Goes out: the number of each field in its record, and each record's length. The
driver's texts (`driver_launches`, `driver_loops`, `driver_waiting`) read by these numbers, `frame`
and `threads` write by them. Guaranteed: every field is one 8-byte word.
"""

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
JOB_AT = 17  # the record that a paused run goes on with; -1 where none is paused
JOB_FIRM = 18  # the record from which on memory is written over: there is no pause any more
JOB_CLOCK, JOB_CLOCK_KIND = 19, 20  # the system's clock and what it is asked for, or 0
JOB_LOOK = 21  # nanoseconds that launches may take, by the estimates, between looks at the clock
JOB_SINCE = 22  # when the clock was looked at first, or 0
JOB_WORDS = 24

# What a run returns that has not ended, because Python should look what there is to do; and the
# status that ends a paused run.
PAUSED, STOPPED = -1, -2

LAUNCH_FUNCTION, LAUNCH_SLOTS, LAUNCH_WORK, LAUNCH_GROUP = 0, 1, 2, 3
LAUNCH_CHUNK, LAUNCH_CHUNKS = 4, 5  # units in a chunk, and how many chunks there are
LAUNCH_KIND = 6  # what the record is: a kernel, or where a loop begins or ends
LAUNCH_SLOT_COUNT, LAUNCH_ADVANCES, LAUNCH_ADVANCE_COUNT = 7, 8, 9
LAUNCH_TARGET, LAUNCH_DEPTH = 10, 11  # marks: the record to go on with, and the loop's depth
LAUNCH_COST = 12  # nanoseconds on one thread, about
LAUNCH_WORDS = 13
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

# A series of calls of one job: when to stop, how many words differ between them, how many were
# done; then the numbers of these words among the job's values, then for each call what they hold.
SERIES_STOP, SERIES_WIDTH, SERIES_DONE = 0, 1, 2
SERIES_WORDS = 3

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
