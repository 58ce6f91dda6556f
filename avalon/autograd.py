"""Gradients by PyTorch's names: `av.autograd.grad`, `av.autograd.backward`, and where they are
recorded.

Source: https://docs.pytorch.org/docs/stable/autograd.html
"""

from avalon.tensor.function import Function as Function
from avalon.tensor.gradients import backward as backward, grad as grad
from avalon.tracing.modes import (
    enable_grad as enable_grad,
    is_grad_enabled as is_grad_enabled,
    no_grad as no_grad,
    set_grad_enabled as set_grad_enabled,
)
