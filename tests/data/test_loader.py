"""DataLoader and data sets: order, batches, threads and their errors, PyTorch as the oracle."""

import threading
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader

from avalon.data.dataset import (
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    random_split,
)
from avalon.data.loader import DataLoader, default_collate
from avalon.data.order import draw_permutation, permutation
from avalon.random import Generator
from avalon.tensor import Tensor, tensor

ROWS = np.arange(22, dtype=np.float32).reshape(11, 2)


class Squares(Dataset):
    def __init__(self, fails_at=-1):
        self.fails_at = fails_at

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index == self.fails_at:
            raise KeyError("no such picture")
        return index, index * 0.5, np.full(2, index, np.int32)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(7))


def seeded():
    return Generator().manual_seed(5)


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize(
    ("batch_size", "drop_last"),
    [(1, False), (4, False), (4, True), (11, False), (20, False), (20, True), (None, False)],
)
def test_batches_are_pytorchs(batch_size, workers, drop_last):
    ours = DataLoader(Squares(), batch_size, num_workers=workers, drop_last=drop_last)
    theirs = TorchLoader(Squares(), batch_size, drop_last=drop_last)
    assert len(ours) == len(theirs)
    for got, expected in zip(ours, theirs, strict=True):
        for one, other in zip(got, expected, strict=True):
            other = torch.as_tensor(other)
            np.testing.assert_array_equal(np.asarray(one), other.numpy())
            if isinstance(one, Tensor):
                assert str(one.dtype).split(".")[1] == str(other.dtype).split(".")[1]


def test_tensor_datasets_are_cut_by_index_vectors(monkeypatch):
    data = TensorDataset(ROWS, np.arange(11))
    monkeypatch.setattr(
        TensorDataset, "__getitem__", lambda self, index: pytest.fail("walked item by item")
    )
    batches = list(DataLoader(data, 4, shuffle=True, generator=seeded()))
    assert [len(rows) for rows, _ in batches] == [4, 4, 3]
    order = np.concatenate([labels.numpy() for _, labels in batches])
    assert sorted(order) == list(range(11))
    np.testing.assert_array_equal(np.concatenate([r.numpy() for r, _ in batches]), ROWS[order])


def test_a_batch_is_a_copy():
    source = tensor(ROWS)
    ((batch,),) = DataLoader(TensorDataset(source), 11)
    batch.zero_()
    np.testing.assert_array_equal(source.numpy(), ROWS)


def test_rows_that_are_not_there():
    with pytest.raises(IndexError, match="rows 2 to 11 were asked for, there are 11"):
        TensorDataset(ROWS).take([2, 11])


def test_items_of_a_tensor_dataset():
    data = TensorDataset(ROWS, np.arange(11))
    rows, label = data[3]
    np.testing.assert_array_equal(rows.numpy(), ROWS[3])
    assert label.item() == 3
    assert len(data) == 11


def test_shuffling_is_a_function_of_the_generator():
    def order(generator):
        return [i.item() for i, _, _ in DataLoader(Squares(), shuffle=True, generator=generator)]

    first = order(seeded())
    assert sorted(first) == list(range(10))
    assert first == order(seeded())
    generator = seeded()
    assert order(generator) != order(generator)


def test_permutations_are_uniform_enough():
    seen = {tuple(permutation(3, seed=1, position=i).tolist()) for i in range(100)}
    assert len(seen) == 6
    assert permutation(0, seed=1).shape == (0,)
    generator = seeded()
    first = draw_permutation(5, generator).tolist()
    assert generator.offset == 1
    assert first == permutation(5, generator.initial_seed(), 0).tolist()


def test_order_does_not_depend_on_threads():
    class Slow(Squares):
        def __getitem__(self, index):
            time.sleep(0.002 * (index % 3))
            return index

    assert [i.item() for i in DataLoader(Slow(), num_workers=4)] == list(range(10))


def test_an_error_in_a_thread_names_the_items():
    loader = DataLoader(Squares(fails_at=5), 2, num_workers=2)
    with pytest.raises(KeyError, match="no such picture") as failed:
        list(loader)
    assert failed.value.__notes__ == ["[DataLoader] while fetching the items [4, 5]"]


def test_leaving_early_leaves_no_thread():
    for _ in DataLoader(Squares(), num_workers=2):
        break
    deadline = time.monotonic() + 5
    while any(t.name.startswith("avalon-loader") for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_worker_init_fn_gets_each_number():
    seen = set()
    loader = DataLoader(Squares(), num_workers=3, worker_init_fn=seen.add)
    assert len(list(loader)) == 10
    assert seen <= {0, 1, 2}
    assert 0 in seen


def test_timeout():
    class Stuck(Squares):
        def __getitem__(self, index):
            time.sleep(0.3)

    with pytest.raises(TimeoutError, match=r"no batch within 0\.01 s"):
        list(DataLoader(Stuck(), num_workers=1, timeout=0.01))


def test_streams():
    assert [batch.tolist() for batch in DataLoader(Stream(), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [batch.tolist() for batch in DataLoader(Stream(), 3, drop_last=True)] == [
        [0, 1, 2],
        [3, 4, 5],
    ]
    with pytest.raises(ValueError, match="a stream of items has no indices to shuffle"):
        DataLoader(Stream(), shuffle=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"shuffle": True, "sampler": [1]}, "a sampler decides the order itself"),
        ({"batch_sampler": [[1]], "batch_size": 2}, "batch_sampler makes the batches itself"),
    ],
)
def test_arguments_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        DataLoader(Squares(), **options)


def test_samplers_and_collate_fn():
    picked = DataLoader(Squares(), 2, sampler=[3, 1, 2], collate_fn=lambda items: len(items))
    assert list(picked) == [2, 1]
    batches = DataLoader(Squares(), batch_sampler=[[1, 2], [3]])
    assert [i.tolist() for i, _, _ in batches] == [[1, 2], [3]]


def test_collate_enters_containers():
    items = [
        {"x": np.ones(2), "name": "a", "pair": (1, 2.0)},
        {"x": np.zeros(2), "name": "b", "pair": (3, 4.0)},
    ]
    batch = default_collate(items)
    assert batch["name"] == ["a", "b"]
    assert batch["x"].shape == (2, 2)
    assert [part.tolist() for part in batch["pair"]] == [[1, 3], [2.0, 4.0]]
    with pytest.raises(TypeError, match="cannot make a batch of object items"):
        default_collate([object()])


def test_split_and_subset():
    data = TensorDataset(np.arange(10))
    parts = random_split(data, [0.5, 0.25, 0.25], generator=seeded())
    theirs = torch.utils.data.random_split(range(10), [0.5, 0.25, 0.25])
    assert [len(part) for part in parts] == [len(part) for part in theirs]
    seen = [part[i][0].item() for part in parts for i in range(len(part))]
    assert sorted(seen) == list(range(10))
    ((batch,),) = DataLoader(parts[0], 10)
    assert batch.tolist() == seen[: len(parts[0])]
    assert [i.item() for i, _, _ in DataLoader(Subset(Squares(), [4, 2]))] == [4, 2]
    with pytest.raises(ValueError, match="sum to 9, the data set has 10 items"):
        random_split(data, [4, 5])


def test_bad_tensor_datasets():
    with pytest.raises(ValueError, match=r"the tensors have \[11, 3\] rows"):
        TensorDataset(ROWS, np.arange(3))
    with pytest.raises(ValueError, match="give at least one"):
        TensorDataset()


def test_half_written_sets_say_what_is_missing():
    with pytest.raises(TypeError, match="must define __len__"):
        len(Dataset())
    with pytest.raises(TypeError, match="must define __getitem__"):
        Dataset()[0]
    with pytest.raises(TypeError, match="must define __iter__"):
        iter(IterableDataset())
