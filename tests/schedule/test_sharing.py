"""Programs for many sizes: shared where it costs little, built for each size where it does not."""

import pytest

from avalon import ops
from avalon.dtype import float32
from avalon.graph.graph import Graph
from avalon.schedule.hot import schedule_hot
from avalon.schedule.sharing import is_worth_sharing
from avalon.size import Sizes


def softmax(rows, length):
    """The rows of a softmax, of sizes of which some may be symbols."""
    graph = Graph("softmax")
    x = graph.input((rows, length), float32)

    def spread(value):
        return ops.broadcast(ops.reshape(value, shape=(rows, 1)), shape=(rows, length))

    e = ops.exp(x - spread(ops.reduce_max(x, axes=(1,))))
    graph.outputs = [e / spread(ops.reduce_sum(e, axes=(1,)))]
    return graph


@pytest.mark.parametrize(
    ("sample", "rows_open", "length_open", "worth"),
    [
        ((128, 30_000), True, False, True),
        ((128, 30_000), False, True, False),
        ((128, 30_000), True, True, False),
        ((8, 100), False, True, True),
    ],
)
def test_long_rows_of_unknown_length_are_not_shared(sample, rows_open, length_open, worth):
    sizes = Sizes(strict=True)
    rows, length = (
        sizes.symbol(number, 1 << 20) if is_open else number
        for number, is_open in zip(sample, (rows_open, length_open), strict=True)
    )
    assert is_worth_sharing(schedule_hot(softmax(rows, length))) is worth


def test_contractions_of_unknown_images_are_not_shared_if_they_are_large():
    def schedule(channels):
        side = Sizes(strict=True).symbol(56, 1 << 20)
        graph = Graph("images")
        x = graph.input((1, 4, channels, side, side), float32)
        w = graph.input((1, channels, channels, 3, 3), float32)
        pairs = {
            "stride": (1, 1), "input_dilation": (1, 1), "kernel_dilation": (1, 1),
            "low": (1, 1), "high": (1, 1),
        }  # fmt: skip
        graph.outputs = [ops.convolve(x, w, **pairs, flip=False)]
        return schedule_hot(graph)

    assert is_worth_sharing(schedule(2))
    assert not is_worth_sharing(schedule(64))
