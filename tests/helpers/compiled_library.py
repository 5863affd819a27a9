"""Exported C source, compiled strictly and called from numpy."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


class Library:
    """The exported function, compiled strictly, as a function of arrays (batch, in)."""

    def __init__(self, source, folder, name, real, outputs):
        path = folder / f"{name}.c"
        path.write_text(source)
        flags = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC"]
        subprocess.run(["gcc", *flags, path, "-o", folder / f"{name}.so", "-lm"], check=True, timeout=600)
        self.function = getattr(ctypes.CDLL(str(folder / f"{name}.so")), name)
        self.pointer, self.outputs = ctypes.POINTER(real), outputs
        self.function.argtypes, self.function.restype = [self.pointer, self.pointer], None

    def __call__(self, x):
        x = np.ascontiguousarray(x)
        y = np.full((len(x), self.outputs), np.nan, x.dtype)
        for row, result in zip(x, y, strict=True):
            self.function(row.ctypes.data_as(self.pointer), result.ctypes.data_as(self.pointer))
        return y
