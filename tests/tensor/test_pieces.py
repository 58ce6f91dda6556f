"""Windows that lie in one piece of known memory are read where they are, and never see a write."""

import numpy as np
import pytest

import avalon as av
from avalon import nn
from avalon.tracing.values import recorder


def table():
    made = av.tensor(np.arange(24, dtype=np.float32).reshape(6, 4))
    av.synchronize()
    return made


def lies_inside(part, whole):
    """Whether a tensor's value is read in the memory of another's."""
    inner, outer = part.value().buffer, whole.value().buffer
    return inner is not None and (
        outer.address <= inner.address
        and inner.address + inner.nbytes <= outer.address + outer.nbytes
    )


PIECES = {
    "rows": lambda x: x[1:3],
    "one row": lambda x: x[2],
    "one element": lambda x: x[2, 3],
    "part of a row": lambda x: x[2, 1:3],
    "rows of rows": lambda x: x[1:5][1:3],
    "rows in another shape": lambda x: x[1:3].view(4, 2),
    "rows with a new axis": lambda x: x[1:3][:, None],
}
OTHERS = {
    "a column": lambda x: x[:, 1],
    "every other row": lambda x: x[::2],
    "turned": lambda x: x[1:3].T,
    "repeated": lambda x: x[1:2].expand(3, 4),
}


@pytest.mark.parametrize("name", PIECES)
def test_a_piece_is_read_where_it_lies(name):
    x = table()
    part = PIECES[name](x)
    assert lies_inside(part, x)
    assert not recorder().values
    np.testing.assert_array_equal(np.asarray(part), PIECES[name](x.clone() + 0).numpy())
    assert (part * 2).tolist() == (PIECES[name](x + 0) * 2).tolist()


@pytest.mark.parametrize("name", OTHERS)
def test_what_lies_in_no_piece_is_copied(name):
    x = table()
    part = OTHERS[name](x)
    expected = OTHERS[name](x + 0).tolist()
    assert part.value().buffer is None or not lies_inside(part, x)
    assert part.tolist() == expected


def test_what_was_read_of_a_piece_stays_when_the_whole_is_written():
    x = table()
    part = x[1:3]
    pending = part * 2
    kept = part.value()
    x.zero_()
    assert part.tolist() == [[0.0] * 4] * 2
    assert pending.tolist() == [[8.0, 10.0, 12.0, 14.0], [16.0, 18.0, 20.0, 22.0]]
    assert kept.host().tolist() == [[4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0]]


def test_numpy_writes_are_seen_by_views_and_not_by_what_was_read():
    x = table()
    part = x[1:3]
    kept = part.value()
    array = x.numpy()
    array[...] = 1
    assert part.tolist() == [[1.0] * 4] * 2
    assert kept.host()[0].tolist() == [4.0, 5.0, 6.0, 7.0]
    part.numpy()[...] = 2
    assert array[1].tolist() == [2.0] * 4


def test_what_is_written_often_is_copied():
    x = table()
    x.add_(1)
    av.synchronize()
    assert not lies_inside(x[1:3], x) or x[1:3].value().buffer is None
    assert x[1:3].tolist() == [[5.0, 6.0, 7.0, 8.0], [9.0, 10.0, 11.0, 12.0]]


def test_memory_is_not_taken_over_while_a_piece_of_it_is_kept():
    x = table()
    weight = av.ones(2, 4, requires_grad=True)
    loss = (weight * x[1:3]).sum()
    loss.item()
    for _ in range(3):  # each round may overwrite what the one before made
        x = x * 2 + 1
        x.tolist()
    loss.backward()
    assert weight.grad.tolist() == [[4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0]]


def test_memory_is_not_taken_over_by_the_program_that_reads_a_piece():
    x = table()
    expected = (x.numpy() * 2, x.numpy()[1:3] * 3)
    part = x[1:3]
    doubled, tripled = x * 2, part * 3
    del x, part
    np.testing.assert_array_equal(doubled.numpy(), expected[0])
    np.testing.assert_array_equal(tripled.numpy(), expected[1])


def test_batches_of_a_compiled_step_are_read_where_they_lie():
    x = table()
    model = nn.Linear(4, 2)

    @av.compile
    def predict(rows):
        with av.no_grad():
            return model(rows)

    found = [predict(x[k : k + 2]).tolist() for k in (0, 2, 4, 0, 2, 4, 1)]
    with av.no_grad():
        expected = [model(x[k : k + 2].clone() + 0).tolist() for k in (0, 2, 4, 0, 2, 4, 1)]
    assert found == expected
    assert predict.recorded == 2


def test_a_compiled_step_that_writes_what_it_is_given_a_piece_of():
    weight = av.ones(4, 2)

    def step(rows):
        weight.mul_(2)
        return rows + weight[:2]

    loop, compiled = [], []
    for found, run in ((loop, step), (compiled, av.compile(step))):
        weight = av.ones(4, 2)
        found += [run(weight[2:4]).tolist() for _ in range(6)]
    assert loop == compiled


def test_an_empty_piece():
    x = table()
    assert x[3:3].tolist() == []
    assert x[3:3].sum().item() == 0.0
