"""Optimizers by PyTorch's names, used as `Adam(params, lr).step()` or as `update(Adam(lr=...),
...)`.
"""

from avalon.optim import lr_scheduler as lr_scheduler
from avalon.optim.adam import (
    Adam as Adam,
    Adamax as Adamax,
    AdamW as AdamW,
    NAdam as NAdam,
    RAdam as RAdam,
)
from avalon.optim.adaptive import (
    Adadelta as Adadelta,
    Adagrad as Adagrad,
    RMSprop as RMSprop,
)
from avalon.optim.optimizer import Optimizer as Optimizer
from avalon.optim.sgd import SGD as SGD
from avalon.optim.update import update as update
