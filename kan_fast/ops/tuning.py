"""Measured constants of the backends: what each is for, the machine, and the command that measures it.

Constants of the kernels themselves stand beside them, in csrc/cpu/tuning.h.
"""

from __future__ import annotations

# Knots, or samples, of all inputs, times outputs: a layer of this size or less computes all its gradients on a CPU. Its
# kernels take less time than autograd's engine takes to say which gradients are wanted. Two cores of a server (x86-64);
# `python -m bench` at its smallest sizes, with torch.autograd.grad(y, x).
SMALL = 10_000

# Rows that a matrix product takes in the time that the local form of the cuda backend needs for one, by arithmetic.
# H100; `python -m bench.gpu` with grids of growing size, once in each form (docs/gpu.md).
ROWS_PER_ROW = {"half": 110, "tf32": 60, "ieee": 7, "float64": 20}

# Bytes of the rows that wait for a matrix product; more only where one sample needs more. H100; `python -m bench.gpu`:
# smaller parts, which stay in the L2 cache, made products slower than they saved (docs/gpu.md).
WORKSPACE = 1 << 28
