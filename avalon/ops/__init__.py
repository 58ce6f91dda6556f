"""The primitives: each declared in one block, with its meaning, shapes, gradient, write and
lowering.

Goes out: every primitive by name. Guaranteed: the table is complete; an incomplete declaration is
an error at import.
"""

from avalon.graph.node import Node
from avalon.graph.primitive import install_operators, seal
from avalon.ops.contraction import contract as contract, convolve as convolve
from avalon.ops.elementwise import (
    absolute as absolute,
    add as add,
    atan2 as atan2,
    ceil as ceil,
    cos as cos,
    digamma as digamma,
    divide as divide,
    erf as erf,
    erfinv as erfinv,
    exp as exp,
    expm1 as expm1,
    floor as floor,
    floor_divide as floor_divide,
    lgamma as lgamma,
    log as log,
    log1p as log1p,
    maximum as maximum,
    minimum as minimum,
    multiply as multiply,
    negative as negative,
    polygamma as polygamma,
    power as power,
    remainder as remainder,
    round as round,
    sigmoid as sigmoid,
    sin as sin,
    sqrt as sqrt,
    subtract as subtract,
    tanh as tanh,
    truncate as truncate,
)
from avalon.ops.indexing import (
    argsort as argsort,
    check_index as check_index,
    gather as gather,
    put as put,
    put_add as put_add,
    scatter as scatter,
    scatter_add as scatter_add,
    take as take,
)
from avalon.ops.logic import (
    bit_and as bit_and,
    bit_not as bit_not,
    bit_or as bit_or,
    bit_xor as bit_xor,
    bitcast as bitcast,
    cast as cast,
    equal as equal,
    less as less,
    less_equal as less_equal,
    logical_not as logical_not,
    not_equal as not_equal,
    shift_left as shift_left,
    shift_right as shift_right,
    where as where,
)
from avalon.ops.loops import (
    branch as branch,
    differentiate_loops_by as differentiate_loops_by,
    repeat as repeat,
    result as result,
    scan as scan,
)
from avalon.ops.movement import (
    assign_diagonal as assign_diagonal,
    assign_slice as assign_slice,
    broadcast as broadcast,
    concatenate as concatenate,
    diagonal as diagonal,
    pad as pad,
    reshape as reshape,
    reverse as reverse,
    slice as slice,
    transpose as transpose,
)
from avalon.ops.reduction import (
    argmax as argmax,
    argmin as argmin,
    cumulative_argmax as cumulative_argmax,
    cumulative_argmin as cumulative_argmin,
    cumulative_product as cumulative_product,
    cumulative_sum as cumulative_sum,
    reduce_max as reduce_max,
    reduce_min as reduce_min,
    reduce_product as reduce_product,
    reduce_sum as reduce_sum,
)
from avalon.ops.source import iota as iota, random_bits as random_bits
from avalon.ops.structure import (
    host_call as host_call,
    register_host_function as register_host_function,
    stop_gradient as stop_gradient,
    transfer as transfer,
)
from avalon.ops.window import (
    assign_window as assign_window,
    fold_window as fold_window,
    window as window,
)

install_operators(Node)
seal()
