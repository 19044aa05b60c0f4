"""Calls of a family's compiled budget through the address in its rule, so that a rule's code knows no family."""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.dispatcher import Dispatcher
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numpy.typing import NDArray

from sglang_dspark.errors import InputError
from sglang_dspark.policy.families.base import Policy
from sglang_dspark.policy.record import RULE, Rule

ARGUMENTS: Final = (
    types.Array(numba.from_dtype(RULE), 1, "C"),
    types.Array(types.float32, 2, "C"),
    types.Array(types.int64, 1, "C"),
    types.Array(types.int64, 1, "C"),
)


def address(policy: Policy) -> int:
    """Address of a family's compiled ``compute_budget`` in this process.

    Raises:
        InputError: It is not compiled, or does not return an integer.
    """
    function: Any = type(policy).compute_budget
    if not isinstance(function, Dispatcher):
        raise InputError(
            f"policy: family: '{policy.family}' has no compiled `compute_budget`; decorate it with `jit.njit`"
        )
    compiled = function.get_compile_result(types.int64(*ARGUMENTS))
    returns = types.unliteral(compiled.signature.return_type)
    if returns != types.int64:
        raise InputError(f"policy: family: `compute_budget` of '{policy.family}' returns {returns}; return an int")
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name))


@intrinsic
def _call(typing: Any, where: Any, rule: Any, survival: Any, context: Any, slo_class: Any) -> Any:
    """Call the function at an address. The memory layout of an array does not depend on whether it is read-only."""
    given = (rule, survival, context, slo_class)
    for argument, expected in zip(given, ARGUMENTS, strict=True):
        if (argument.dtype, argument.ndim, argument.layout) != (expected.dtype, expected.ndim, "C"):
            raise TypingError(f"{argument} where {expected} is expected")

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kinds = [context.get_value_type(kind) for kind in ARGUMENTS]
        kind = ir.FunctionType(context.get_value_type(types.int64), kinds)
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])

    return types.int64(where, *given), generate


@numba.extending.register_jitable
def family_budget(
    rule: Rule, survival: NDArray[np.float32], context: NDArray[np.int64], slo_class: NDArray[np.int64]
) -> int:
    """``compute_budget`` of the rule's family."""
    return int(
        _call(
            rule[0].compute_budget,
            rule,
            np.ascontiguousarray(survival),
            np.ascontiguousarray(context),
            np.ascontiguousarray(slo_class),
        )
    )
