"""One struct crosses the boundary to the compiled kernels; Python mirrors it field by field."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from kan_fast.ops import native, problem

HEADER = (Path(__file__).parents[2] / "csrc/problem.h").read_text()
RENAMED = {"in": "inputs", "out": "outputs"}  # `in` is a word of Python
INTEGERS = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64}


def declared() -> list[tuple[str, object]]:
    """The fields of the struct in C++ with the types that stand for theirs."""
    body = re.search(r"struct Problem \{(.*?)\n\};", HEADER, re.DOTALL)
    assert body
    fields = []
    for statement in re.sub(r"//.*", "", body[1]).split(";")[:-1]:
        first, *others = statement.split(",")
        *kind, name = first.split()
        pointer = kind[-1] == "void*"
        type_ = ctypes.c_void_p if pointer else INTEGERS.get(kind[0], ctypes.c_int32)  # enums are int32_t
        fields += [(RENAMED.get(name, name), type_) for name in (name, *map(str.strip, others))]
    return fields


def enumerators(name: str) -> list[str]:
    body = re.search(rf"enum class {name} : int32_t \{{(.*?)\}}", HEADER)
    assert body
    return body[1].replace(" ", "").split(",")


def test_the_mirror_has_the_fields_of_the_struct_in_their_order() -> None:
    assert list(problem.Problem._fields_) == declared()


def test_the_enums_have_the_numbers_of_the_header() -> None:
    assert list(problem.BASES) == enumerators("Base")
    assert list(problem.EXTRAPOLATIONS) == enumerators("Extrapolation")
    names = [str(dtype).removeprefix("torch.").replace("loat", "") for dtype in problem.DTYPES]  # bfloat16: bf16
    assert names == enumerators("Type")
    for numbers in (problem.BASES, problem.EXTRAPOLATIONS, problem.DTYPES):
        assert list(numbers.values()) == list(range(len(numbers)))


@pytest.mark.skipif(native.unavailable_reason() is not None, reason=str(native.unavailable_reason()))
def test_the_extension_was_built_with_this_struct() -> None:
    assert native._C.problem_size() == ctypes.sizeof(problem.Problem)


def test_a_packed_problem_has_the_bytes_of_the_struct() -> None:
    names = [name for name, _ in problem.Problem._fields_]
    values = range(1, names.index("device") + 1)  # what follows is for CUDA alone
    assert problem.pack(*values) == bytes(problem.Problem(*values))


@pytest.mark.skipif(native.unavailable_reason() is not None, reason=str(native.unavailable_reason()))
@pytest.mark.parametrize("size", [0, ctypes.sizeof(problem.Problem) - 1, ctypes.sizeof(problem.Problem) + 1])
def test_the_extension_refuses_bytes_that_are_no_problem(size: int) -> None:
    with pytest.raises(ValueError, match=f"a problem has {ctypes.sizeof(problem.Problem)} bytes, got {size}"):
        native._C.forward(0, bytes(size))


@pytest.mark.parametrize("size", [None, ctypes.sizeof(problem.Problem) - 8])
def test_a_library_of_other_sources_is_refused(size: int | None) -> None:
    with pytest.raises(ImportError, match="built from other sources than these; build it again"):
        problem.check_size(size)
