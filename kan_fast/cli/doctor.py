"""`python -m kan_fast doctor`: versions, the backends that serve here with reasons, and a check of their results."""

from __future__ import annotations

import copy
import importlib.metadata
import platform

import torch
from torch import Tensor

from kan_fast._version import __version__
from kan_fast.nn.linear import KANLinear
from kan_fast.ops.dispatch import backends, refusal

PACKAGES = ("numpy", "sympy", "matplotlib", "scikit-learn", "pandas", "pyarrow", "onnx", "triton")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
FACTOR = 8  # largest error of a backend, in units of that of plain torch in the same dtype, or of its rounding


def examine() -> int:
    """Print the findings; returns 1 if a backend that is available computes something wrong, else 0."""
    print(f"kan_fast {__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {_devices()}")
    print(", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    print("\nbackends, in order of preference")
    wrong = 0
    for name, status in backends().items():
        print(f"  {name}: {status}")
        if not status.available or name == "reference":
            continue
        for device in ("cpu", "cuda"):
            for dtype in DTYPES:
                if refusal(name, device, dtype) is None:
                    wrong += not _is_right(name, device, dtype)
    if wrong:
        print("\nWrong results: please report this output. backend='reference' computes in plain torch.")
    return int(wrong > 0)


def _is_right(backend: str, device: str, dtype: torch.dtype) -> bool:
    error, plain = _errors(backend, device, dtype)
    good = error <= FACTOR * max(plain, torch.finfo(dtype).eps)
    kind = str(dtype).removeprefix("torch.")
    print(
        f"    {kind} on {device}: {'right' if good else 'WRONG'}, largest error {error:.1e} (plain torch {plain:.1e})"
    )
    return good


def _errors(backend: str, device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Largest errors of output and gradients, in units of their size, of a backend and of plain torch in the dtype."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        layer = KANLinear(33, 20, device="cpu", dtype=torch.float32).to(dtype)
    x = (torch.rand(65, 33, generator=generator) * 2.4 - 1.2).to(dtype)
    weight = torch.randn(65, 20, generator=generator).to(dtype)
    exact = _results(layer, x, weight, "reference", "cpu", torch.float64)
    plain = _results(layer, x, weight, "reference", "cpu", torch.promote_types(dtype, torch.float32))
    found = _results(layer, x, weight, backend, device, dtype)
    largest = [
        max(
            ((a.to(dtype).double() - b).abs().max() / b.abs().max()).item() for a, b in zip(results, exact, strict=True)
        )
        for results in (found, plain)
    ]
    return largest[0], largest[1]


def _results(
    layer: KANLinear, x: Tensor, weight: Tensor, backend: str, device: str, dtype: torch.dtype
) -> list[Tensor]:
    """Output, and the gradients of input and parameters, on the CPU."""
    copied = copy.deepcopy(layer).to(device, dtype)
    copied.backend = backend
    x = x.to(device, dtype).requires_grad_()
    y = copied(x)
    gradients = torch.autograd.grad(y, [x, *copied.parameters()], weight.to(device, dtype))
    return [t.detach().cpu() for t in (y, *gradients)]


def _devices() -> str:
    if not torch.cuda.is_available():
        return "no CUDA device"
    return ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
