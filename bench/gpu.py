"""Everything there is to learn from a machine with a GPU, in one command under 8 minutes: `python -m bench.gpu`.

Correctness first (parity with the float64 reference at full size, gradcheck), then memory and times against linear
layers, plain torch under torch.compile and radial basis functions. Ends with a table and a JSON file in bench/results.
Needs torch, Triton and this package. `--dry-run` does the same with a few numbers on the CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.peers import CoxDeBoor, Gaussians
from kan_fast import KANLinear
from kan_fast.ops import dispatch, reference
from kan_fast.ops.contract import Coefficients, Rows, Spec

RESULTS = Path(__file__).parent / "results"
SHAPES = [(8192, 1024, 1024, 5), (65536, 64, 64, 5), (4096, 512, 512, 20), (256, 784, 256, 5), (16, 4096, 4096, 5)]
TINY = [(16, 5, 6, 3)]
DTYPES = {"bfloat16": torch.bfloat16, "tf32": torch.float32, "float32": torch.float32, "float64": torch.float64}
ROUNDS = 15


class Case(NamedTuple):
    """A layer and the units that compute it."""

    batch: int
    n_in: int
    n_out: int
    grid_size: int
    units: str

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.units]

    def products(self) -> int:
        """Multiply-adds of the dense forward contraction, the base function included."""
        return self.batch * self.n_in * self.n_out * (self.grid_size + 3 + 1)


class Machine:
    """The device, its clock and its memory."""

    def __init__(self, dry: bool, backend: str) -> None:
        self.device = torch.device("cpu" if dry else "cuda")
        self.backend = backend
        self.name = "dry run on the CPU" if dry else torch.cuda.get_device_name()

    def seconds(self, calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
        """Median time of each call; the contenders take turns."""
        for call in calls.values():
            for _ in range(3):
                call()
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                times[name].append(self._time(call))
        return {name: statistics.median(values) for name, values in times.items()}

    def _time(self, call: Callable[[], Any]) -> float:
        if self.device.type == "cpu":
            begin = time.perf_counter()
            call()
            return time.perf_counter() - begin
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1e3

    def captured(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """The call as a CUDA graph, which leaves out the time of Python and of torch."""
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            call()
        return graph.replay

    def peak_bytes(self, call: Callable[[], Any]) -> int:
        """Memory that a call needs beyond what is there before it."""
        if self.device.type == "cpu":
            return 0
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def set_units(units: str) -> None:
    torch.set_float32_matmul_precision("high" if units == "tf32" else "highest")


def kan_layer(case: Case, machine: Machine) -> KANLinear:
    torch.manual_seed(0)
    layer = KANLinear(case.n_in, case.n_out, grid_size=case.grid_size, backend=machine.backend)
    return layer.to(machine.device, case.dtype)


def step(module: nn.Module, x: Tensor, g: Tensor) -> Callable[[], None]:
    """A training step without the optimiser, gradients of the input included."""
    x = x.detach().requires_grad_()
    leaves = [x, *module.parameters()]

    def call() -> None:
        for leaf in leaves:
            leaf.grad = None
        module(x).backward(g)

    return call


def parity(case: Case, machine: Machine) -> dict[str, float]:
    """Error of y and of all gradients relative to that of plain torch in the same dtype, both against float64."""
    layer = kan_layer(case, machine)
    x = (torch.rand(min(case.batch, 2048), case.n_in, device=machine.device) * 2.6 - 1.3).to(case.dtype)
    g = torch.randn(len(x), case.n_out, device=machine.device).to(case.dtype)
    arguments = (layer.spline_weight.detach(), layer.base_weight.detach(), layer.grid)
    spec = Spec(layer.spline_order)
    module = dispatch.module(machine.backend)

    def results(m: Any, dtype: torch.dtype, rows: int) -> list[Tensor]:
        xs, gs, *rest = (t.to(dtype) for t in (x[:rows], g[:rows], *arguments))
        if m is not reference and dtype.itemsize < 4:
            rest[-1] = rest[-1].float()
        c, knots = Coefficients(*rest[:2]), Rows(rest[2], 0, spec)
        return [m.forward(xs, None, c, None, knots), *m.backward(xs, None, gs, c, knots)]

    errors = {}
    rows = max(1, min(len(x), (1 << 28) // (case.n_in * max(case.n_out, 64) // 8 + 1)))
    exact = results(reference, torch.float64, rows)
    plain = results(reference, case.dtype if case.dtype != torch.float64 else torch.float32, rows)
    names, ours = ("y", "x", "spline", "base", "bias"), results(module, case.dtype, rows)
    for name, a, b, c in zip(names, ours, plain, exact, strict=True):
        if not a.isfinite().all():
            raise SystemExit(f"parity: {name} of {case} is not finite")
        unit = torch.finfo(case.dtype).eps * c.square().mean().sqrt()
        errors[name] = float((a.double() - c).square().mean().sqrt() / ((b.double() - c).square().mean().sqrt() + unit))
        if case.units != "tf32" and errors[name] > 2:
            raise SystemExit(f"parity: {name} of {case} errs {errors[name]:.2f} times as much as plain torch, not 2")
    return errors


def gradcheck(machine: Machine) -> bool:
    layer = kan_layer(Case(3, 3, 2, 3, "float64"), machine)
    x = (torch.rand(3, 3, dtype=torch.float64, device=machine.device) * 1.6 - 0.8).requires_grad_()
    return torch.autograd.gradcheck(layer, x) and torch.autograd.gradgradcheck(layer, x)


def ceilings(machine: Machine, size: int) -> dict[str, float]:
    """Multiply-adds per second of torch.matmul in every arithmetic, and bytes per second of a copy."""
    found = {}
    for units, dtype in DTYPES.items():
        set_units(units)
        a, b = (torch.randn(size, size, dtype=dtype, device=machine.device) for _ in range(2))
        found[units] = size**3 / machine.seconds({"matmul": lambda a=a, b=b: a @ b})["matmul"]
    source = torch.empty(size * size * 4, device=machine.device)
    target = torch.empty_like(source)
    found["copy"] = 2 * source.numel() * 4 / machine.seconds({"copy": lambda: target.copy_(source)})["copy"]
    return found


def contenders(case: Case, machine: Machine) -> dict[str, nn.Module]:
    layer = kan_layer(case, machine)
    modules: dict[str, nn.Module] = {
        "kan_fast": layer,
        "linear": nn.Linear(case.n_in, case.n_out),
        "linear, equal parameters": nn.Linear(case.n_in * (case.grid_size + 4), case.n_out),
    }
    if case.batch * case.n_in * (case.grid_size + 4) * 40 < 16e9:  # what plain torch keeps for its backward pass
        plain = CoxDeBoor(layer)
        modules["plain torch, compiled"] = torch.compile(plain) if machine.device.type == "cuda" else plain
        modules["radial basis"] = Gaussians(layer)
    return {name: module.to(machine.device, case.dtype) for name, module in modules.items()}


def race(case: Case, machine: Machine) -> dict[str, Any]:
    set_units(case.units)
    record: dict[str, Any] = {"case": case._asdict(), "errors": parity(case, machine)}
    forward, training = {}, {}
    for name, module in contenders(case, machine).items():
        width = case.n_in * (case.grid_size + 4) if "equal" in name else case.n_in
        x = (torch.rand(case.batch, width, device=machine.device) * 2 - 1).to(case.dtype)
        g = torch.randn(case.batch, case.n_out, device=machine.device).to(case.dtype)
        forward[name] = torch.no_grad()(lambda module=module, x=x: module(x))
        training[name] = step(module, x, g)
    record["bytes"] = {}
    for name, call in training.items():
        call()
        record["bytes"][name] = machine.peak_bytes(call)
    record["forward"], record["training"] = machine.seconds(forward), machine.seconds(training)
    if machine.device.type == "cuda":
        for name, calls in (("forward", forward), ("training", training)):
            graphs = {contender: machine.captured(call) for contender, call in calls.items()}
            record[f"{name}, graph"] = machine.seconds(graphs)
    return record


def report(machine: Machine, limits: dict[str, float], records: list[dict[str, Any]]) -> str:
    lines = [
        f"# Measured on {machine.name}, backend {machine.backend}",
        "",
        "Ceilings: "
        + ", ".join(f"{u} {2 * v / 1e12:.1f} TFLOP/s" for u, v in limits.items() if u != "copy")
        + f", copy {limits['copy'] / 1e9:.0f} GB/s.",
        "",
        "`graph`: the same as a CUDA graph, without the time of Python and torch; `of ceiling` is of this time.",
        "",
        "| batch x in x out, G | units | contender "
        "| forward us | graph | of ceiling | training us | graph | of ceiling | peak MB |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for record in records:
        case = Case(**record["case"])
        for name in record["forward"]:
            cells = [f"{case.batch}x{case.n_in}x{case.n_out}, {case.grid_size}", case.units, name]
            for measure, contractions in (("forward", 1), ("training", 3)):
                eager, graph = record[measure][name], record.get(f"{measure}, graph", {}).get(name)
                least = contractions * case.products() / limits[case.units]
                cells += [f"{eager * 1e6:.1f}", "" if graph is None else f"{graph * 1e6:.1f}"]
                cells += [f"{least / (graph or eager):.0%}" if name == "kan_fast" else ""]
            lines.append(f"| {' | '.join(cells)} | {record['bytes'][name] / 1e6:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default=None, help="triton or cuda; default: the one that would be chosen")
    parser.add_argument("--units", default="bfloat16,tf32,float32", help=f"of {', '.join(DTYPES)}")
    parser.add_argument("--minutes", type=float, default=7.5, help="start no further case after this time")
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    if not arguments.dry_run and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU; --dry-run shows what this command does")
    device = "cpu" if arguments.dry_run else "cuda"
    begin = time.monotonic()
    machine = Machine(arguments.dry_run, arguments.backend or dispatch.choose(device, torch.float32).backend)
    print(machine.name, machine.backend, "gradcheck", gradcheck(machine), flush=True)
    limits = ceilings(machine, 256 if arguments.dry_run else 8192)
    records = []
    for shape in TINY if arguments.dry_run else SHAPES:
        for units in arguments.units.split(","):
            if time.monotonic() - begin > 60 * arguments.minutes:
                print("out of time before", shape, units)
                continue
            records.append(race(Case(*shape, units), machine))
            print(json.dumps(records[-1]), flush=True)
    text = report(machine, limits, records)
    print(text)
    if not arguments.dry_run:
        name = "gpu_" + "_".join(machine.name.lower().split())
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(text)
        document = {"machine": machine.name, "backend": machine.backend, "torch": torch.__version__}
        (RESULTS / f"{name}.json").write_text(
            json.dumps({**document, "ceilings": limits, "records": records}, indent=1)
        )


if __name__ == "__main__":
    main()
