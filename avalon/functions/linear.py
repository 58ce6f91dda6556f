"""Linear and bilinear maps, looking up rows of tables, and dropout.

Comes in: activations, weights as PyTorch lays them out, indices. Goes out: activations. Guaranteed:
shapes and dtypes that do not fit are named with both sides; indices are checked; dropout draws one
number per element (or channel) and keeps the expected value.

Source: https://docs.pytorch.org/docs/stable/nn.functional.html
"""

from __future__ import annotations

from avalon import ops, random
from avalon.errors import DTypeError, IndexOutOfRange, ShapeError
from avalon.functions.linear_algebra import matmul
from avalon.functions.statistics import max as max_along, mean as mean_along, sum as sum_along
from avalon.functions.support import (
    broadcast,
    cast,
    dtypes,
    iota,
    known_values,
    reshape,
    spread,
)
from avalon.shape import Shape
from avalon.tensor import Tensor
from avalon.tensor.composite import composite


@composite
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input @ weight.T + bias: (..., in) with weight (out, in) to (..., out).

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.linear.html

    Raises:
        ShapeError: the last size of the input is not the weight's.
        DTypeError: input and weight have different dtypes.

    >>> import avalon as av
    >>> av.nn.functional.linear(av.ones(1, 2), av.ones(3, 2), av.zeros(3))
    tensor([[2., 2., 2.]])
    """
    features = weight.shape[-1] if weight.ndim else 1
    if input.ndim == 0 or input.shape[-1] != features:
        raise ShapeError(
            f"[linear] input of shape {tuple(input.shape)} does not fit weight of shape "
            f"{tuple(weight.shape)}: its last size must be {features}"
        )
    if input.dtype is not weight.dtype:
        remedy = (
            "convert the input with .float()"
            if not input.dtype.is_floating_point
            else f"convert the input with .to({weight.dtype!r}), or the layer with "
            f".to({input.dtype!r})"
        )
        raise DTypeError(
            f"[linear] input is {input.dtype!r} and weight is {weight.dtype!r}: {remedy}"
        )
    if weight.ndim == 1:
        y = matmul(input, weight)
    else:
        y = matmul(input, ops.transpose(weight, permutation=(1, 0)))
    return y if bias is None else y + bias


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x1 W x2 for every output: (..., in1), (..., in2), weight (out, in1, in2) to (..., out)."""
    first, second = input1.shape[-1], input2.shape[-1]
    if tuple(weight.shape[1:]) != (first, second) or input1.shape[:-1] != input2.shape[:-1]:
        raise ShapeError(
            f"[bilinear] inputs of shapes {tuple(input1.shape)} and {tuple(input2.shape)} do not "
            "fit "
            f"weight of shape {tuple(weight.shape)}: expected (..., {weight.shape[1]}) and (..., "
            f"{weight.shape[2]}) with equal leading sizes"
        )
    outputs = weight.shape[0]
    rows = reshape(ops.transpose(weight, permutation=(1, 0, 2)), (first, outputs * second))
    mapped = reshape(matmul(input1, rows), (*input1.shape[:-1], outputs, second))
    other = broadcast(reshape(input2, (*input2.shape[:-1], 1, second)), tuple(mapped.shape))
    y = sum_along(mapped * other, -1)
    return y if bias is None else y + bias


# --- tables -------------------------------------------------------------------------------------


def checked_index(operation: str, index: Tensor, size: int, what: str) -> Tensor:
    """Indices (int64) that lie in [0, size): checked now if they are known, else in the program."""
    message = (
        f"[{operation}] index {{value}} is out of range: {what} has {size} rows, so indices lie in "
        f"[0, {size})"
    )
    known = known_values(index)
    index = cast(index, dtypes.int64)
    if known is None:
        return ops.check_index(index, size=size, message=message)
    if known.size and (known.min() < 0 or known.max() >= size):
        wrong = known[(known < 0) | (known >= size)].flat[0]
        raise IndexOutOfRange(message.format(value=wrong))
    return index


def embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor:  # fmt: skip
    """Rows of `weight` (rows, width) at the indices `input`: (...) to (..., width).

    The row `padding_idx` gets no gradient.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.embedding.html

    Raises:
        DTypeError: the indices are not integers.
        IndexOutOfRange: an index is not a row.
    """
    if not input.dtype.is_integer:
        raise DTypeError(
            f"[embedding] indices must be integers, got {input.dtype!r}; write input.long()"
        )
    if weight.ndim != 2:
        raise ShapeError(f"[embedding] weight must have 2 axes, got shape {tuple(weight.shape)}")
    if max_norm is not None or scale_grad_by_freq:
        raise NotImplementedError("[embedding] max_norm and scale_grad_by_freq are not there")
    rows = weight.shape[0]
    index = checked_index("embedding", input, rows, f"weight of shape {tuple(weight.shape)}")
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            raise IndexOutOfRange(
                f"[embedding] padding_idx {padding_idx} must lie within {rows} rows"
            )
        padding = ops.equal(
            iota(tuple(weight.shape), 0), index.constant(padding_idx % rows, tuple(weight.shape))
        )
        weight = ops.where(padding, ops.stop_gradient(weight), weight)
    return ops.take(weight, index)


def embedding_bag(
    input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: float | None = None,
    norm_type: float = 2, scale_grad_by_freq: bool = False, mode: str = "mean",
    sparse: bool = False, per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False, padding_idx: int | None = None,
) -> Tensor:  # fmt: skip
    """Sum, mean or maximum of the rows of each bag: indices (bags, length) to (bags, width).

    A vector of indices is cut into bags at `offsets`. Rows `padding_idx` do not count.
    """
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"[embedding_bag] mode must be 'sum', 'mean' or 'max', got {mode!r}")
    if offsets is not None:
        return _ragged_bags(input, weight, offsets, mode, per_sample_weights, include_last_offset)
    if input.ndim != 2:
        raise ShapeError(
            f"[embedding_bag] indices of shape {tuple(input.shape)} must be (bags, length), or a "
            "vector with offsets"
        )
    rows = embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    if padding_idx is None:
        if mode == "max":
            return max_along(rows, dim=1).values
        return sum_along(rows, 1) if mode == "sum" else mean_along(rows, 1)
    counts = ops.not_equal(input, input.constant(padding_idx % weight.shape[0]))
    mask = spread(counts, tuple(rows.shape), (2,))
    if mode == "max":
        return max_along(ops.where(mask, rows, rows.constant(float("-inf"))), dim=1).values
    total = sum_along(ops.where(mask, rows, rows.constant(0)), 1)
    if mode == "sum":
        return total
    number = cast(ops.reduce_sum(cast(counts, dtypes.int64), axes=(1,)), rows.dtype)
    return total / spread(ops.maximum(number, number.constant(1)), tuple(total.shape), (1,))


def _ragged_bags(
    input: Tensor, weight: Tensor, offsets: Tensor, mode: str, scale: Tensor | None, last: bool
) -> Tensor:
    if mode == "max":
        raise NotImplementedError(
            "[embedding_bag] mode 'max' with offsets is not there; pad the bags"
        )
    rows = embedding(input, weight)
    if scale is not None:
        rows = rows * scale.unsqueeze(-1)
    bags = offsets.shape[0] - (1 if last else 0)
    starts = offsets.narrow(0, 0, bags)
    place = iota((input.shape[0], bags), 0)
    begun = ops.less_equal(broadcast(cast(starts, dtypes.int64), tuple(place.shape)), place)
    bag = ops.reduce_sum(cast(begun, dtypes.int64), axes=(1,))
    bag = bag - bag.constant(1)
    total = ops.put_add(rows.constant(0, (bags, weight.shape[1])), bag, rows)
    if mode == "sum":
        return total
    number = ops.put_add(rows.constant(0, (bags,)), bag, rows.constant(1, tuple(bag.shape)))
    return total / spread(ops.maximum(number, number.constant(1)), tuple(total.shape), (1,))


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """int64 tensor (..., classes) with a 1 at each index; the number of classes is found if -1."""
    if not tensor.dtype.is_integer:
        raise DTypeError(f"[one_hot] indices must be integers, got {tensor.dtype!r}")
    if num_classes == -1:
        num_classes = int(tensor.max().item()) + 1
    index = checked_index("one_hot", tensor, num_classes, "one_hot")
    shape = (*tensor.shape, num_classes)
    hot = ops.equal(iota(shape, len(shape) - 1), spread(index, shape, (len(shape) - 1,)))
    return cast(hot, dtypes.int64)


# --- dropout ------------------------------------------------------------------------------------


def _probability(operation: str, p: float) -> None:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"[{operation}] p must lie in [0, 1], got {p}")


def _dropped(
    operation: str, x: Tensor, p: float, training: bool, inplace: bool, shape: Shape
) -> Tensor:
    """x times a mask of `shape`, broadcast, whose ones are scaled to keep the mean."""
    _probability(operation, p)
    if not training or p == 0.0 or x.numel() == 0:
        return x
    if p == 1.0:
        dropped = x * x.constant(0)
    else:
        mask = random.bernoulli(1.0 - p, shape, x.dtype, None) / (1.0 - p)
        dropped = x * broadcast(mask, tuple(x.shape))
    return x.assign_(dropped) if inplace else dropped


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training, each element is 0 with probability p, else divided by 1 - p.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.dropout.html
    """
    return _dropped("dropout", input, p, training, inplace, tuple(input.shape))


def _channels(operation: str, x: Tensor, ranks: tuple[int, int]) -> Shape:
    """The shape of one draw per channel: (N, C, 1, ...), or (C, 1, ...) without a batch."""
    if x.ndim not in ranks:
        raise ShapeError(
            f"[{operation}] expected {ranks[1]} axes, or {ranks[0]} without a batch; got shape "
            f"{tuple(x.shape)}"
        )
    lead = 2 if x.ndim == ranks[1] else 1
    return tuple(x.shape[:lead]) + (1,) * (x.ndim - lead)


def dropout1d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Dropout of whole channels of (N, C, L) or (C, L)."""
    shape = _channels("dropout1d", input, (2, 3))
    return _dropped("dropout1d", input, p, training, inplace, shape)


def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Dropout of whole channels of (N, C, H, W); a tensor of 3 axes is taken as (N, C, L)."""
    if input.ndim == 3:
        return dropout1d(input, p, training, inplace)
    shape = tuple(input.shape[:2]) + (1,) * (input.ndim - 2)
    return _dropped("dropout2d", input, p, training, inplace, shape)


def dropout3d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Dropout of whole channels of (N, C, D, H, W) or (C, D, H, W)."""
    shape = _channels("dropout3d", input, (4, 5))
    return _dropped("dropout3d", input, p, training, inplace, shape)


def _alpha_dropped(operation: str, x: Tensor, p: float, training: bool, shape: Shape) -> Tensor:
    """Dropout that keeps mean and deviation of selu activations: dropped ones become its limit."""
    _probability(operation, p)
    if not training or p == 0.0:
        return x
    if p == 1.0:
        return x * x.constant(0)
    limit = -1.7580993408473766
    scale = (1 / ((1 - p) * (1 + p * limit**2))) ** 0.5
    mask = broadcast(random.bernoulli(1.0 - p, shape, x.dtype, None), tuple(x.shape))
    kept = x * mask + (1 - mask) * limit
    return kept * scale - scale * p * limit


def alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """Dropout for networks of selu."""
    result = _alpha_dropped("alpha_dropout", input, p, training, tuple(input.shape))
    return input.assign_(result) if inplace else result


def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """alpha_dropout of whole channels."""
    shape = tuple(input.shape[:2]) + (1,) * (input.ndim - 2)
    result = _alpha_dropped("feature_alpha_dropout", input, p, training, shape)
    return input.assign_(result) if inplace else result
