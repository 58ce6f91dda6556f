"""Tables of vectors, looked up by index.

Source: https://docs.pytorch.org/docs/stable/nn.html#sparse-layers
"""

from __future__ import annotations

from typing import Any, Self

from avalon.dtype import DType
from avalon.errors import ShapeError
from avalon.functions import embedding, embedding_bag, empty
from avalon.nn import init
from avalon.nn.module import Module
from avalon.nn.parameter import Parameter
from avalon.tensor import Tensor, no_grad


class _Table(Module):
    weight: Parameter
    padding_idx: int | None

    def _make(
        self, rows: int, width: int, padding_idx: int | None, given: Tensor | None, freeze: bool,
        dtype: DType | None,
    ) -> None:  # fmt: skip
        name = type(self).__name__
        if padding_idx is not None:
            if not -rows <= padding_idx < rows:
                raise ValueError(f"[{name}] padding_idx {padding_idx} must lie within {rows} rows")
            padding_idx %= rows
        self.num_embeddings = rows
        self.embedding_dim = width
        self.padding_idx = padding_idx
        if given is None:
            self.weight = Parameter(empty(rows, width, dtype=dtype), requires_grad=not freeze)
            self.reset_parameters()
        else:
            if tuple(given.shape) != (rows, width):
                raise ShapeError(
                    f"[{name}] weight of shape {tuple(given.shape)} must have shape {(rows, width)}"
                )
            self.weight = Parameter(given, requires_grad=not freeze)

    def reset_parameters(self) -> None:
        """Draw new initial values: normal, the padding row zero."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx].fill_(0)

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True, **options: Any) -> Self:
        """A layer with a given table, not trained if frozen."""
        if embeddings.ndim != 2:
            raise ShapeError(
                f"[{cls.__name__}] embeddings must have 2 axes, got shape {tuple(embeddings.shape)}"
            )
        rows, width = embeddings.shape
        make: Any = cls
        made: Self = make(rows, width, _weight=embeddings, _freeze=freeze, **options)
        return made


class Embedding(_Table):
    """Rows of a table at given indices: (...) to (..., embedding_dim).

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.Embedding.html

    >>> import avalon as av
    >>> av.nn.Embedding(10, 3)(av.tensor([[1, 2], [4, 5]])).shape
    (2, 2, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        self._make(num_embeddings, embedding_dim, padding_idx, _weight, _freeze, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return embedding(
            input, self.weight, self.padding_idx, self.max_norm, self.norm_type,
            self.scale_grad_by_freq, self.sparse,
        )  # fmt: skip

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        return text if self.padding_idx is None else f"{text}, padding_idx={self.padding_idx}"


class EmbeddingBag(_Table):
    """Sum, mean or maximum of the rows of each bag of indices."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.mode = mode
        self.sparse = sparse
        self.include_last_offset = include_last_offset
        self._make(num_embeddings, embedding_dim, padding_idx, _weight, _freeze, dtype)

    def forward(
        self,
        input: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        return embedding_bag(
            input, self.weight, offsets, self.max_norm, self.norm_type, self.scale_grad_by_freq,
            self.mode, self.sparse, per_sample_weights, self.include_last_offset, self.padding_idx,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, mode={self.mode!r}"
