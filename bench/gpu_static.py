"""What the Triton kernels compile to, read without a GPU: `python -m bench.gpu_static` writes results/gpu_static.md.

A recorder stands in for the launch of every kernel; the layer runs on tensors without memory, and each recorded launch
is compiled for each architecture exactly as it would be there. Registers, spills and instructions come from the
disassembly of the machine code.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from kan_fast.nn import grids
from kan_fast.ops.contract import Coefficients, Rows, Spec
from kan_fast.ops.triton import launch, plan

RESULT = Path(__file__).parent / "results" / "gpu_static.md"
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHARED = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448, "sm_120": 101376, "gfx942": 65536}  # bytes per block
MATRIX = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "sm_120": "HMMA", "gfx942": "MFMA"}
PRODUCTS = ("edge_magnitude_kernel", "edge_grad_input_kernel")  # the kernels that multiply matrices
UNITS = {"half": torch.bfloat16, "tf32": torch.float32, "ieee": torch.float32, "float64": torch.float64}
TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float64: "fp64"}


@dataclass(frozen=True)
class Launch:
    """One recorded launch: the kernel, its arguments by name, and the options of the compiler."""

    kernel: JITFunction
    arguments: dict[str, Any]
    options: dict[str, Any]
    grid: tuple[int, ...]

    @property
    def name(self) -> str:
        name = self.kernel.__name__
        if name == "rows_kernel" and self.arguments["v_ptr"] is not None:
            return "rows_kernel (tangent)"
        if name == "edge_magnitude_kernel" and self.arguments["gm_ptr"] is not None:
            return "edge_magnitude_kernel (gradient)"
        return name

    def tile(self) -> str:
        sizes = [self.arguments.get(name) for name in ("BI", "BM", "BN")]
        return "x".join(str(s) for s in sizes if s is not None)


@dataclass
class Row:
    """What one launch compiles to on one architecture."""

    launch: Launch
    units: str
    arch: str
    registers: int
    spills: int
    shared: int
    counts: Counter[str]

    def problems(self) -> list[str]:
        """Why this kernel must not be shipped; empty if it may."""
        found = []
        if self.spills:
            found.append(f"{self.spills} spilled")
        if self.shared > SHARED[self.arch]:
            found.append(f"{self.shared} bytes of shared memory, {self.arch} has {SHARED[self.arch]}")
        if sum(self.counts.values()) < 16:
            found.append("no code: the compiler gave up")
        if (
            self.launch.kernel.__name__ in PRODUCTS
            and self.units in ("half", "tf32")
            and not self.counts[MATRIX[self.arch]]
        ):
            found.append(f"no {MATRIX[self.arch]}")
        return found


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Every kernel launched inside is recorded instead of run."""
    launches: list[Launch] = []

    def record(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        arguments = dict(zip(self.arg_names, args, strict=False))
        arguments |= {name: value for name, value in kwargs.items() if name in self.arg_names}
        options = {name: value for name, value in kwargs.items() if name not in self.arg_names}
        launches.append(Launch(self, arguments, options, grid))

    run, JITFunction.run = JITFunction.run, record
    try:
        yield launches
    finally:
        JITFunction.run = run


def layer_launches(
    units: str, arch: str, batch: int = 8192, n_in: int = 1024, n_out: int = 1024, size: int = 5, degree: int = 3
) -> list[Launch]:
    """The launches of a layer's forward and backward pass and of its edge magnitudes."""
    dtype, spec = UNITS[units], Spec(degree)
    before, device = torch.get_float32_matmul_precision(), plan.device
    plan.device = lambda _: plan.Device(int(arch[3:]) // 10 if arch.startswith("sm_") else 0, 132)
    torch.set_float32_matmul_precision("high" if units == "tf32" else "highest")

    def tensor(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    x, g, gm = tensor(batch, n_in), tensor(batch, n_out), tensor(n_out, n_in)
    c = Coefficients(tensor(n_out, n_in, size + degree), tensor(n_out, n_in))
    knots = grids.uniform_grid(n_in, size, degree, (-1, 1))
    rows = Rows(knots.to(torch.float32 if dtype.itemsize < 4 else dtype).to("meta"), 0, spec)
    try:
        with recorded() as launches:
            launch.forward(x, None, c, tensor(n_out), rows)
            launch.forward(x, x, c, None, rows.derivative())
            launch.backward(x, None, g, c, rows)
            launch.edge_magnitude(x, c, rows)
            launch.edge_magnitude_backward(x, gm, c, rows)
    finally:
        torch.set_float32_matmul_precision(before)
        plan.device = device
    seen: dict[str, Launch] = {}
    for item in launches:
        seen.setdefault(item.name + str(item.arguments.get("ORDER")) if "build" in item.name else item.name, item)
    return list(seen.values())


def compile_launch(item: Launch, units: str, arch: str) -> Row:
    """Compile a recorded launch and read its machine code."""
    source = _source(item)
    nvidia = arch.startswith("sm_")
    target = GPUTarget("cuda", int(arch[3:]), 32) if nvidia else GPUTarget("hip", arch, 64)
    compiled = triton.compile(source, target=target, options=dict(item.options))
    if not nvidia:
        text = compiled.asm["amdgcn"]
        names = re.findall(r"^\s+([vs]_\w+|ds_\w+|global_\w+|buffer_\w+|scratch_\w+)", text, re.M)
        counts = Counter("MFMA" if name.startswith("v_mfma") else name for name in names)
        number = {key: int(value) for key, value in re.findall(r"\.(vgpr_count|vgpr_spill_count):\s+(\d+)", text)}
        spills = number["vgpr_spill_count"]
        return Row(item, units, arch, number["vgpr_count"], spills, compiled.metadata.shared, counts)
    sass, usage = _disassemble(compiled.asm["cubin"])
    counts = count_instructions(sass)
    registers, stack, _, local = map(int, re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage).groups())  # type: ignore[union-attr]
    spills = stack + local + counts["LDL"] + counts["STL"]
    return Row(item, units, arch, registers, spills, compiled.metadata.shared, counts)


def _source(item: Launch) -> ASTSource:
    signature, constants, attributes = {}, {}, {}
    for position, parameter in enumerate(item.kernel.params):
        value = item.arguments[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + TYPES[value.dtype]
            attributes[(position,)] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or value is None or (value == 1 and not parameter.do_not_specialize):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        else:
            signature[parameter.name] = "i32"
            if value % 16 == 0 and not parameter.do_not_specialize:
                attributes[(position,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=item.kernel, signature=signature, constexprs=constants, attrs=attributes)


def _disassemble(cubin: bytes) -> tuple[str, str]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        commands = ([TOOLS / "nvdisasm", "-c", file.name], [TOOLS / "cuobjdump", "--dump-resource-usage", file.name])
        sass, usage = (subprocess.run(c, capture_output=True, text=True, check=True).stdout for c in commands)
    return sass, usage


def count_instructions(sass: str) -> Counter[str]:
    """Instructions of a kernel by name."""
    return Counter(re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", sass, re.M))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archs", default="sm_80,sm_90,sm_100,sm_120,gfx942")
    parser.add_argument("--units", default="half,tf32,ieee,float64")
    parser.add_argument("--kernels", default="", help="only kernels whose name contains this")
    parser.add_argument("--check", action="store_true", help="write nothing; fail on spills and the like")
    arguments = parser.parse_args()
    rows: list[Row] = []
    failures: list[str] = []
    for units in arguments.units.split(","):
        for arch in arguments.archs.split(","):
            large, small = layer_launches(units, arch), layer_launches(units, arch, 64, 8, 64)
            tiles = {(item.name, item.tile()) for item in large}
            for item in [*large, *(item for item in small if (item.name, item.tile()) not in tiles)]:
                if arguments.kernels not in item.name:
                    continue
                try:
                    row = compile_launch(item, units, arch)
                except Exception as error:  # the compiler's own errors are many
                    failures.append(f"{item.name} {units} {arch}: {type(error).__name__}: {str(error)[-300:]}")
                    continue
                rows.append(row)
                failures += [f"{item.name} {units} {arch} {item.tile()}: {p}" for p in row.problems()]
                print(item.name, units, arch, item.tile(), row.registers, row.spills, row.shared, flush=True)
    if not arguments.check:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(report(rows, failures))
    print("\n".join(failures))
    sys.exit(bool(failures))


def report(rows: list[Row], failures: list[str]) -> str:
    lines = [
        "# What the Triton kernels compile to",
        "",
        f"Triton {triton.__version__}; batch 8192, 1024 inputs, 1024 outputs, G = 5, k = 3, and for other tiles",
        "batch 64, 8 inputs, 64 outputs. Written by",
        "`python -m bench.gpu_static`; compiled, not run. `spill`: bytes of stack and local memory plus local loads",
        "and stores; `all`: instructions of the kernel.",
        "",
        "| kernel | unit | arch | tile | warps | regs | spill | shared | matrix | fma | all |",
        "|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        warps = row.launch.options.get("num_warps", 4)
        cells = [row.launch.name.replace("_kernel", ""), row.units, row.arch, row.launch.tile(), warps, row.registers]
        cells += [row.spills, row.shared, f"{row.counts[MATRIX[row.arch]]} {MATRIX[row.arch]}", row.counts["FFMA"]]
        cells.append(sum(row.counts.values()))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "Not usable as they are:", "", *(f"- {failure}" for failure in failures)] if failures else []
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
