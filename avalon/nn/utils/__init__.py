"""Clipping of gradients, and parameters as one vector.

Source: https://docs.pytorch.org/docs/stable/nn.html#utilities
"""

from avalon.nn.utils.clip import (
    clip_grad_norm as clip_grad_norm,
    clip_grad_norm_ as clip_grad_norm_,
    clip_grad_value_ as clip_grad_value_,
    clip_grads_with_norm_ as clip_grads_with_norm_,
    get_total_norm as get_total_norm,
)
from avalon.nn.utils.vector import (
    parameters_to_vector as parameters_to_vector,
    vector_to_parameters as vector_to_parameters,
)
