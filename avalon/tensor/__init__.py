"""Tensors: what users hold.

`core` says what a tensor is, `creation` makes them from data, `operators` holds Python's operators
and promotion, `views` and `indexing` look at parts, `writes` changes them in place, `gradients`
walks back, `interchange` exchanges them with Python and NumPy, `display` prints them.
"""

from avalon.tensor import indexing as _indexing, several as _several, views as _views
from avalon.tensor.cell import Cell, Kind, Move
from avalon.tensor.core import Tensor, method, source, wrap
from avalon.tensor.creation import (
    as_tensor,
    constant_tensor,
    from_numpy,
    get_default_dtype,
    set_default_dtype,
    tensor,
)
from avalon.tensor.display import set_printoptions
from avalon.tensor.gradients import backward, grad
from avalon.tensor.interchange import from_dlpack
from avalon.tensor.operators import binary, result_type, unary
from avalon.tensor.writes import check_in_place
from avalon.tracing.history import History
from avalon.tracing.modes import (
    eager,
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from avalon.tracing.values import synchronize
