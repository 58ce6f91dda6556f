"""Buffers: alignment, reuse, pinning by views, foreign memory, threads and forked children."""

from __future__ import annotations

import copy
import gc
import itertools
import os
import pickle
import threading

import numpy as np
import pytest

from avalon import dtype
from avalon.runtime import buffer
from avalon.runtime.buffer import Buffer


@pytest.mark.parametrize("nbytes", [0, 1, 63, 64, 65, 257, 5000, 1 << 20, (3 << 20) + 1])
def test_memory_is_aligned_and_large_enough(nbytes):
    held = [Buffer(nbytes) for _ in range(5)]
    spans = sorted((b.address, b.address + nbytes) for b in held)
    assert all(b.address % 64 == 0 for b in held)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    for number, block in enumerate(held):
        block.as_numpy(dtype.uint8, (nbytes,))[...] = number
    for number, block in enumerate(held):
        assert block.tobytes() == bytes([number]) * nbytes


@pytest.mark.parametrize("nbytes", [1, 100, 4097, 10**6, 10**7])
def test_classes_waste_at_most_a_fifth(nbytes):
    assert nbytes <= buffer._round_up(nbytes) <= max(nbytes * 1.25, nbytes + 63)


@pytest.mark.parametrize("channels", [256, 512, 1024])
def test_weights_of_three_by_three_fill_their_blocks(channels):
    nbytes = 4 * channels * channels * 9
    assert buffer._round_up(nbytes) == nbytes
    assert buffer._round_up(nbytes + 1) <= nbytes * 1.125


@pytest.mark.parametrize("nbytes", [100, 2 << 20])
def test_a_dead_buffer_is_reused_without_new_pages(nbytes):
    first = Buffer(nbytes)
    address = first.address
    del first
    mapped = buffer.pool.mapped
    assert Buffer(nbytes).address == address
    assert buffer.pool.mapped == mapped


def test_a_view_shares_memory_and_pins_until_the_last_view_of_it_dies():
    block = Buffer.from_numpy(np.arange(6, dtype="float32"))
    assert not block.pinned
    view = block.as_numpy(dtype.float32, (2, 3))
    row = view[1][::2]
    view[1, 0] = 42
    assert block.as_numpy(dtype.float32, (6,))[3] == 42
    del view
    assert block.pinned
    row[:] = 7
    assert block.as_numpy(dtype.float32, (6,)).tolist() == [0, 1, 2, 7, 4, 7]
    del row
    gc.collect()
    assert not block.pinned


def test_threads_that_look_at_the_same_time_all_pin():
    for _ in range(20):
        block, views, start = Buffer(64), [], threading.Barrier(4)

        def look(block=block, views=views, start=start):
            start.wait()
            views.append(block.as_numpy(dtype.float32, (16,)))

        lookers = [threading.Thread(target=look) for _ in range(4)]
        for looker in lookers:
            looker.start()
        for looker in lookers:
            looker.join()
        while views:
            assert block.pinned
            views.pop()
        assert not block.pinned


def test_a_view_keeps_the_memory_of_a_dead_buffer():
    view = Buffer.from_numpy(np.full(1000, 5, "int64")).as_numpy(dtype.int64, (1000,))
    others = [Buffer(8000) for _ in range(4)]
    for other in others:
        other.as_numpy(dtype.int64, (1000,))[...] = 1
    assert (view == 5).all()


def test_a_view_must_fit():
    with pytest.raises(ValueError, match=r"\[buffer\] \(3,\) of float64 needs 24 bytes"):
        Buffer(16).as_numpy(dtype.float64, (3,))


@pytest.mark.parametrize("kind", dtype.ALL, ids=lambda kind: kind.name)
def test_every_dtype_round_trips(kind):
    array = np.arange(4).astype(kind.storage)
    assert (Buffer.from_numpy(array).as_numpy(kind, (4,)) == array).all()


def test_from_numpy_copies_in_row_major_order_whatever_the_strides():
    array = np.arange(12, dtype=">i4").reshape(3, 4).T[::2]
    block = Buffer.from_numpy(array)
    assert (block.as_numpy(dtype.int32, array.shape) == array).all()


def test_foreign_memory_is_shared_pinned_and_kept_alive():
    class Owner:
        def __init__(self):
            self.array = np.arange(3, dtype="float64")

    owner = Owner()
    block = Buffer.foreign(owner.array.ctypes.data, owner.array.nbytes, owner)
    owner.array[1] = 9
    del owner
    assert block.as_numpy(dtype.float64, (3,)).tolist() == [0, 9, 2]
    gc.collect()
    assert block.pinned


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda block: pickle.loads(pickle.dumps(block))]
)
def test_copies_have_memory_of_their_own(copied):
    block = Buffer.from_numpy(np.arange(5))
    twin = copied(block)
    twin.as_numpy(dtype.int64, (5,))[0] = 9
    assert twin.as_numpy(dtype.int64, (5,)).tolist() == [9, 1, 2, 3, 4]
    assert block.as_numpy(dtype.int64, (5,)).tolist() == [0, 1, 2, 3, 4]


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        Buffer(-1)


def test_trim_gives_back_only_what_nobody_uses():
    kept = Buffer.from_numpy(np.full(3 << 20, 1, "uint8"))
    spare = Buffer(3 << 20)
    del spare
    before = buffer.pool.mapped
    freed = buffer.pool.trim()
    assert freed >= 3 << 20
    assert buffer.pool.mapped == before - freed
    assert kept.tobytes() == b"\1" * (3 << 20)


def test_many_threads_never_share_a_block():
    wrong = []

    def work(mark):
        for round_ in range(300):
            block = Buffer(512)
            view = block.as_numpy(dtype.int64, (64,))
            view[...] = mark * 1000 + round_
            if not (view == mark * 1000 + round_).all():
                wrong.append(mark)

    workers = [threading.Thread(target=work, args=(mark,)) for mark in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_memory_of_its_own():
    block = Buffer.from_numpy(np.zeros(1 << 20, "uint8"))
    child = os.fork()
    if child == 0:
        block.as_numpy(dtype.uint8, (1,))[0] = 1
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert block.as_numpy(dtype.uint8, (1,))[0] == 0


def test_arenas_of_different_sizes_lie_in_one_block():
    own = buffer.Pool()
    pool, buffer.pool = buffer.pool, own
    try:
        large = Buffer.arena(9 << 20)
        address = large.address
        del large
        small = Buffer.arena(3 << 20)
        assert small.address == address
        assert small.nbytes == 3 << 20
        another = Buffer.arena(3 << 20)  # the block is lent
        assert another.address != address
        mapped = own.mapped
        del small, another
        assert Buffer.arena(8 << 20).address == address
        assert own.mapped == mapped
        larger = Buffer.arena(20 << 20)  # what was too small made room
        assert own.mapped < 22 << 20
        del larger
        assert own.idle == own.mapped // (1 << 20) * (1 << 20)
    finally:
        buffer.pool = pool
