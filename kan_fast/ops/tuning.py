"""Measured constants of the backends: what each is for, on which machine and how it was measured."""

from __future__ import annotations

# Outputs times the larger of two sizes: the numbers in x, or in grid. Up to this product the cpu kernels compute all
# gradients in less time than autograd's engine takes to say which ones are wanted. 2 cores with AVX-512; timed is
# `torch.autograd.grad(layer(x).sum(), x)` of single layers with SMALL at 0 and at 10**9: the times cross near 20,000.
SMALL = 10_000

# Rows that a matrix product takes in the time that the local form of the cuda backend needs for one, by arithmetic.
# H100; `python -m bench.gpu`, grids of growing size in either form (docs/gpu.md).
ROWS_PER_ROW = {"half": 110, "tf32": 60, "ieee": 7, "float64": 20}

# Bytes of rows that wait for a matrix product on a GPU; more only where one sample needs more. H100; `python -m
# bench.gpu`: parts small enough for the L2 cache made products slower than they saved (docs/gpu.md).
WORKSPACE = 1 << 28

# Inputs and samples of one program of the Triton kernels that evaluate rows. A warp holds samples of one input, so a
# look-up touches one or two cache lines (docs/gpu.md, on an H100). No measurement of the two numbers is recorded.
INPUTS, SAMPLES = 8, 64

# Samples and outputs of a tile of the Triton edge kernels, by arithmetic; smaller ones where the architecture, given by
# its major compute capability, has fewer registers. Compiled, not run: `python -m bench.gpu_static` finds no spills.
TILES = {"half": (64, 64), "tf32": (64, 64), "ieee": (32, 32), "float64": (32, 16)}
FEWER_REGISTERS = {("half", 8): (32, 64), ("half", 12): (32, 64)}
