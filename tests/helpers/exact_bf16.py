"""bfloat16 in Triton's interpreter: numpy has no such type, so it keeps the 16 bits as integers, multiplies those as
they are, and cuts where a GPU rounds. Inside `exact_bf16` products and elementwise arithmetic are those of the numbers,
and rounding is to the nearest, ties to even."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import triton.language as tl
from numpy.typing import NDArray
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

Bits = NDArray[np.uint16]
Floats = NDArray[np.float32]


def numbers(bits: Bits) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def nearest_bits(values: NDArray[Any]) -> Bits:
    """Of fp32 numbers; NaN stays NaN."""
    wide = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def _numbers_of(handle: Any) -> NDArray[Any]:
    return numbers(handle.data) if handle.dtype.scalar == tl.bfloat16 else handle.data


def _convert(real: Callable[..., Any], data: Any, source: Any, target: Any, mode: Any) -> Any:
    if source == tl.bfloat16:
        wide = numbers(data)
        return wide.view(np.uint32) if target == tl.float32 else real(wide, tl.float32, target, mode)
    if target == tl.bfloat16:
        return nearest_bits(data.astype(np.float32) if source != tl.float32 else data)
    return real(data, source, target, mode)


def _elementwise(real: Callable[..., Any]) -> Callable[..., Any]:
    """A method of the interpreter that takes handles and then a numpy function."""

    def run(self: Any, *arguments: Any) -> Any:
        *handles, op = arguments
        if handles[0].dtype.scalar != tl.bfloat16:
            return real(self, *arguments)
        out = op(*(_numbers_of(handle) for handle in handles))
        if out.dtype == np.bool_:
            return TensorHandle(out, tl.int1)
        return TensorHandle(nearest_bits(out), tl.bfloat16)

    return run


def _cast(real: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, source: Any, target: Any) -> Any:
        if target.scalar == tl.bfloat16:
            return TensorHandle(nearest_bits(_numbers_of(source)), tl.bfloat16)
        if source.dtype.scalar == tl.bfloat16:
            wide = TensorHandle(numbers(source.data), tl.float32)
            return wide if target.scalar == tl.float32 else real(self, wide, target)
        return real(self, source, target)

    return run


def _dot(real: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        if tl.bfloat16 not in (a.dtype.scalar, b.dtype.scalar):
            return real(self, a, b, d, *rest)
        # Products of two bf16 numbers are exact in fp32, as in a tensor core.
        return TensorHandle(np.matmul(_numbers_of(a), _numbers_of(b), dtype=np.float32) + d.data, d.dtype.scalar)

    return run


@contextmanager
def exact_bf16() -> Iterator[None]:
    convert, builder = interpreter._convert_float, InterpreterBuilder
    methods = {
        "binary_op": _elementwise(builder.binary_op),
        "unary_op": _elementwise(builder.unary_op),
        "cast_impl": _cast(builder.cast_impl),
        "create_dot": _dot(builder.create_dot),
    }
    with (
        mock.patch.object(interpreter, "_convert_float", lambda *arguments: _convert(convert, *arguments)),
        mock.patch.multiple(builder, **methods),
    ):
        yield
