"""Running programs: memory, native code, threads, the cache folder.

A `Plan` (`plan`) comes from the compiler. `program` loads it: `library` turns its LLVM text into
code, by way of the folder that `cache` keeps; `memory` places the temporaries; `frame` writes the
tables that the native `driver` reads (`driver_tables` is their layout). At a call `values` hands
over what changed, and `threads` runs the driver on all threads. `buffer` is the memory of all of
them, `stored` keeps whole plans on disk, `report` and `profile` say what a program is and where its
time goes.
"""
