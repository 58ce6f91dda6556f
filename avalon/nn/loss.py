"""Losses as layers.

Source: https://docs.pytorch.org/docs/stable/nn.html#loss-functions
"""

from __future__ import annotations

from typing import Any

from avalon import functions
from avalon.nn.module import Module
from avalon.tensor import Tensor


class _Loss(Module):
    """A loss with its own fields as arguments of the function; tensors among them are buffers.

    `size_average` and `reduce` are PyTorch's older arguments and must stay None.
    """

    function: str
    fields: tuple[tuple[str, Any], ...] = ()
    buffers_: tuple[str, ...] = ()
    reduction: str

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__()
        order = [name for name, _ in self.fields]
        if len(values) > len(order):
            raise TypeError(
                f"[{type(self).__name__}] takes at most {len(order)} arguments: {order}"
            )
        given = {**dict(zip(order, values, strict=False)), **named}
        known = [*order, "size_average", "reduce"]
        for name, value in given.items():
            if name not in known:
                raise TypeError(f"[{type(self).__name__}] has no argument {name!r}; it has {order}")
            if name in ("size_average", "reduce") and value is not None:
                raise TypeError(f"[{type(self).__name__}] {name} is gone; pass reduction= instead")
        if given.get("reduction", "mean") not in ("mean", "sum", "none", "batchmean"):
            raise ValueError(f"[{type(self).__name__}] unknown reduction {given['reduction']!r}")
        for name, default in self.fields:
            if name in self.buffers_:
                self.register_buffer(name, given.get(name, default))
            elif name not in ("size_average", "reduce"):
                setattr(self, name, given.get(name, default))

    def _arguments(self) -> dict[str, Any]:
        return {
            name: getattr(self, name)
            for name, _ in self.fields
            if name not in ("size_average", "reduce")
        }

    def forward(self, *inputs: Tensor) -> Tensor:
        result: Tensor = getattr(functions, self.function)(*inputs, **self._arguments())
        return result


_OLD = (("size_average", None), ("reduce", None))
_REDUCTION = (*_OLD, ("reduction", "mean"))


class L1Loss(_Loss):
    """Absolute difference."""

    function, fields = "l1_loss", _REDUCTION


class MSELoss(_Loss):
    """Squared difference."""

    function, fields = "mse_loss", _REDUCTION


class SmoothL1Loss(_Loss):
    """Squared difference near 0, absolute difference beyond beta."""

    function, fields = "smooth_l1_loss", (*_REDUCTION, ("beta", 1.0))


class HuberLoss(_Loss):
    """Squared difference near 0, delta times the absolute difference beyond delta."""

    function, fields = "huber_loss", (("reduction", "mean"), ("delta", 1.0))


class NLLLoss(_Loss):
    """Minus the log-probability of each label: (N, C, ...) against (N, ...)."""

    function = "nll_loss"
    fields = (
        ("weight", None), ("size_average", None), ("ignore_index", -100), ("reduce", None),
        ("reduction", "mean"),
    )  # fmt: skip
    buffers_ = ("weight",)


class CrossEntropyLoss(_Loss):
    """NLLLoss of log_softmax: logits against class indices or probabilities.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html
    """

    function = "cross_entropy"
    fields = (
        ("weight", None), ("size_average", None), ("ignore_index", -100), ("reduce", None),
        ("reduction", "mean"), ("label_smoothing", 0.0),
    )  # fmt: skip
    buffers_ = ("weight",)


class BCELoss(_Loss):
    """Binary cross entropy of probabilities."""

    function, fields = "binary_cross_entropy", (("weight", None), *_REDUCTION)
    buffers_ = ("weight",)


class BCEWithLogitsLoss(_Loss):
    """Binary cross entropy of logits."""

    function = "binary_cross_entropy_with_logits"
    fields = (("weight", None), *_REDUCTION, ("pos_weight", None))
    buffers_ = ("weight", "pos_weight")


class KLDivLoss(_Loss):
    """target * (log target - input)."""

    function, fields = "kl_div", (*_REDUCTION, ("log_target", False))


class PoissonNLLLoss(_Loss):
    """Negative log-likelihood of counts."""

    function = "poisson_nll_loss"
    fields = (
        ("log_input", True), ("full", False), ("size_average", None), ("eps", 1e-8),
        ("reduce", None), ("reduction", "mean"),
    )  # fmt: skip


class GaussianNLLLoss(_Loss):
    """Negative log-likelihood under normal distributions."""

    function = "gaussian_nll_loss"
    fields = (("full", False), ("eps", 1e-6), ("reduction", "mean"))


class HingeEmbeddingLoss(_Loss):
    """input where the target is 1, max(0, margin - input) where it is -1."""

    function, fields = "hinge_embedding_loss", (("margin", 1.0), *_REDUCTION)


class SoftMarginLoss(_Loss):
    """log(1 + exp(-target * input))."""

    function, fields = "soft_margin_loss", _REDUCTION


class MarginRankingLoss(_Loss):
    """max(0, -target * (input1 - input2) + margin)."""

    function, fields = "margin_ranking_loss", (("margin", 0.0), *_REDUCTION)


class CosineEmbeddingLoss(_Loss):
    """1 - cos where the target is 1, max(0, cos - margin) where it is -1."""

    function, fields = "cosine_embedding_loss", (("margin", 0.0), *_REDUCTION)


class TripletMarginLoss(_Loss):
    """max(0, d(anchor, positive) - d(anchor, negative) + margin)."""

    function = "triplet_margin_loss"
    fields = (("margin", 1.0), ("p", 2.0), ("eps", 1e-6), ("swap", False), *_REDUCTION)


class MultiMarginLoss(_Loss):
    """max(0, margin - x[target] + x[class]) ** p over the other classes."""

    function = "multi_margin_loss"
    fields = (("p", 1), ("margin", 1.0), ("weight", None), *_REDUCTION)
    buffers_ = ("weight",)


class MultiLabelSoftMarginLoss(_Loss):
    """Binary cross entropy of logits, averaged over classes."""

    function, fields = "multilabel_soft_margin_loss", (("weight", None), *_REDUCTION)
    buffers_ = ("weight",)


class CosineSimilarity(Module):
    """Cosine of the angle between vectors along dim."""

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        self.dim = dim
        self.eps = eps

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return functions.cosine_similarity(x1, x2, self.dim, self.eps)


class PairwiseDistance(Module):
    """p-norm of x1 - x2 + eps along the last axis."""

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        super().__init__()
        self.p = p
        self.eps = eps
        self.keepdim = keepdim

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return functions.pairwise_distance(x1, x2, self.p, self.eps, self.keepdim)
