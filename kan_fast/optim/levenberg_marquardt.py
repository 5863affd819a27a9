"""Levenberg-Marquardt for least squares with KAN layers: data, or residuals of differential equations."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kan_fast._support.checks import real
from kan_fast.nn.linear import KANLinear
from kan_fast.optim.flat import flatten, in_own_dtype, write
from kan_fast.optim.jacobian import Jacobian

Residuals = Tensor | tuple[Tensor, ...]

QR_BELOW = 1e-12  # damping, relative to the largest diagonal element, below which normal equations lose the step
LARGE = 1000  # number of parameters above which damping stays above QR_BELOW
KEPT = 1 << 26  # largest number of elements of a Jacobian that is kept; larger ones are computed for every product
TRIES = 15
BEND = 0.5  # longest second-order part of a step, in units of half the first-order part
PROBE = 0.1  # share of the step at which the second derivative along it is measured


class LevenbergMarquardt(Optimizer):
    """Least squares by damped Gauss-Newton steps with geodesic acceleration, for networks of KAN layers.

    Minimises `sum_p mean(r_p^2) + weight_decay * |theta|^2` over the trainable parameters of all KAN layers, where the
    closure gives the residuals r_p: a tensor `(samples, ...)`, or a tuple of them for several calls of the network
    (samples inside and on the boundary of a domain; scale them to weight them). Residuals may hold derivatives of the
    network in its inputs, taken with `torch.autograd.grad(..., create_graph=True)`:

        optimizer = LevenbergMarquardt(model)
        for _ in range(100):
            optimizer.step(lambda: model(x) - y)

    Where L-BFGS crawls along narrow valleys, Levenberg-Marquardt reaches the accuracy of the splines, or of float64, in
    some dozens of steps. Memory and time per step are those of the matrix J'J, which suits up to about 5,000
    parameters. All linear algebra is in float64, whatever the dtype of the network: by normal equations, and by QR
    where small damping makes these too ill-conditioned.

    The damping is Levenberg's, a multiple of the identity, which does not move parameters that the data don't
    determine. It falls by a factor of 5 after a successful step, and grows by 2 before each of the next five tries, by
    16 after them. The acceleration (Transtrum and Sethna, arXiv 1201.5885) adds the second-order term of the geodesic
    where that term is short.

    Args:
        model: holds the KAN layers. All its trainable parameters must be theirs.
        damping: damping of the first step, in units of the largest diagonal element of J'J; greater than 0.
        weight_decay: weight of the squared parameters, at least 0.

    Raises:
        TypeError: parameters have 16 bits.
        ValueError: the model has other trainable parameters, or none, or an option is out of range.
    """

    def __init__(self, model: nn.Module, damping: float = 1e-2, weight_decay: float = 0.0) -> None:
        self.layers = [module for module in model.modules() if isinstance(module, KANLinear)]
        unused = {id(p) for layer in self.layers for p in layer.unused_parameters()}
        owned = [
            p
            for layer in self.layers
            for part in (layer, layer.symbolic)
            if part is not None
            for p in part.parameters(recurse=False)
        ]
        params = [p for p in owned if p.requires_grad and id(p) not in unused]
        others = {id(p) for p in model.parameters() if p.requires_grad} - {id(p) for p in owned}
        others |= {id(layer.base_weight) for layer in self.layers if callable(layer.base)} & {id(p) for p in params}
        if others:
            names = [name for name, p in model.named_parameters() if id(p) in others]
            raise ValueError(
                "Levenberg-Marquardt trains splines, weights of built-in base functions, biases and symbolic edges of "
                f"KAN layers; set requires_grad_(False) on {', '.join(names)}, or choose another optimiser"
            )
        if not params:
            raise ValueError("the model has no trainable parameters in KAN layers")
        if params[0].dtype.itemsize < 4:
            raise TypeError(f"Levenberg-Marquardt needs float32 or float64, got {params[0].dtype}; call model.float()")
        defaults = {
            "damping": real("damping", damping, positive=True),
            "weight_decay": real("weight_decay", weight_decay),
        }
        super().__init__(params, defaults)
        self._checked = False

    @in_own_dtype
    def step(self, closure: Callable[[], Residuals]) -> Tensor:  # type: ignore[override]  # torch calls it a float
        """One step that makes the objective smaller; no step if rounding leaves nothing to gain.

        Args:
            closure: gives the residuals; it neither calls backward nor clears gradients. Residual b must depend on
                the b-th sample of each call of a layer alone.

        Returns:
            The objective before the step, float64. If it is NaN or infinite, nothing changes.

        Raises:
            ValueError: residuals don't belong to samples one to one, or mix samples.
        """
        group = self.param_groups[0]
        params, decay = group["params"], group["weight_decay"]
        theta = flatten(params).double()
        parts = _tuple(closure())
        residual = _vector(parts)
        value = residual.dot(residual) + decay * theta.dot(theta)
        if not value.isfinite():
            return value
        with torch.enable_grad():
            problem = _Linearised(self.layers, params, parts)
            gradient = problem.transpose(residual)
            if not self._checked:
                self._check(params, parts, gradient, (problem.scale() * value).sqrt())
        gradient += decay * theta
        unit = problem.scale()
        least = QR_BELOW if len(theta) > LARGE else max(1e-22, torch.finfo(params[0].dtype).eps ** 2)
        damping = max(group["damping"], least)
        for tries in range(TRIES):
            shift = damping * unit + decay
            solve = problem.solver(shift, exact=damping < QR_BELOW)
            tried, damping = damping, damping * (2 if tries < 5 else 16)
            if solve is None:
                continue
            step = solve(-gradient)
            change = problem.times(step)
            step += solve(-gradient - problem.transpose(change) - shift * step)  # one step of refinement
            change = problem.times(step)
            gain = -(2 * residual + change).dot(change) - decay * (2 * theta + step).dot(step)
            if not gain > 1e-15 * value:
                break
            write(params, theta + PROBE * step)
            second = 2 / PROBE * ((_vector(_tuple(closure())) - residual) / PROBE - change)
            bend = -solve(problem.transpose(second))
            if bend.norm() <= BEND / 2 * step.norm():
                step += bend / 2
            write(params, theta + step)
            trial = _vector(_tuple(closure()))
            if trial.dot(trial) + decay * (theta + step).square().sum() < value:
                group["damping"] = max(tried / 5, least)
                return value
        write(params, theta)
        return value

    def _check(self, params: list[Tensor], parts: tuple[Tensor, ...], gradient: Tensor, scale: Tensor) -> None:
        """Refuse residuals that mix samples: the gradient from the Jacobian then differs from that of backward.

        At a stationary point both gradients are rounding errors of numbers as large as `scale`.
        """
        total = torch.stack([part.square().mean() for part in parts]).sum()
        whole = torch.autograd.grad(total, params, retain_graph=True, allow_unused=True, materialize_grads=True)
        expected = flatten(whole).double() / 2
        rounding = 100 * torch.finfo(params[0].dtype).eps
        if (expected - gradient).norm() > 1e-3 * expected.norm() + 1e-9 * gradient.norm() + rounding * scale:
            raise ValueError(
                "the residuals' gradient differs from that of their sum of squares, sample by sample: every residual "
                "must depend on its own sample alone (no batch statistics, no sums over samples), and parameters must "
                "reach the layers unchanged"
            )
        self._checked = True


class _Linearised:
    """The weighted residuals of all parts to first order: products with the Jacobian and solutions with J'J + shift."""

    def __init__(self, layers: list[KANLinear], params: list[Tensor], parts: tuple[Tensor, ...]) -> None:
        self._parts = [(Jacobian(layers, params, part), part.numel() ** -0.5) for part in parts]
        self._width = sum(p.numel() for p in params)
        keep = sum(part.numel() for part in parts) * self._width <= KEPT
        self._kept = list(self._compute()) if keep else None
        self._gram: Tensor | None = None
        self._triangle: Tensor | None = None

    def _compute(self) -> Iterator[Tensor]:
        return (weight * rows for jacobian, weight in self._parts for rows in jacobian.blocks())

    def _blocks(self) -> Iterator[Tensor]:
        return self._compute() if self._kept is None else iter(self._kept)

    def times(self, vector: Tensor) -> Tensor:
        return torch.cat([rows @ vector for rows in self._blocks()])

    def transpose(self, vector: Tensor) -> Tensor:
        total, start = vector.new_zeros(self._width), 0
        for rows in self._blocks():
            total.addmv_(rows.T, vector[start : start + len(rows)])
            start += len(rows)
        return total

    def scale(self) -> Tensor:
        """Largest diagonal element of J'J, at least the smallest normal number."""
        squares = [rows.square().sum(0) for rows in self._blocks()]
        return torch.stack(squares).sum(0).max().clamp(min=torch.finfo(torch.float64).tiny)

    def solver(self, shift: Tensor, exact: bool) -> Callable[[Tensor], Tensor] | None:
        """A function that solves with J'J + shift; None if that is not positive in float64. `exact` decomposes J."""
        if exact:
            if self._triangle is None:
                self._triangle = next(self._blocks()).new_zeros(0, self._width)
                for rows in self._blocks():
                    self._triangle = torch.linalg.qr(torch.cat([self._triangle, rows]), mode="r").R
            eye = torch.eye(self._width, dtype=shift.dtype, device=shift.device)
            upper = torch.linalg.qr(torch.cat([self._triangle, shift.sqrt() * eye]), mode="r").R
        else:
            if self._gram is None:
                self._gram = sum((rows.T @ rows for rows in self._blocks()), start=shift.new_zeros(()))
            shifted = self._gram.clone()
            shifted.diagonal().add_(shift)
            upper, info = torch.linalg.cholesky_ex(shifted, upper=True)
            if info:
                return None
        return lambda right: torch.cholesky_solve(right[:, None], upper, upper=True)[:, 0]


def _tuple(residuals: Residuals) -> tuple[Tensor, ...]:
    return residuals if isinstance(residuals, tuple) else (residuals,)


def _vector(parts: tuple[Tensor, ...]) -> Tensor:
    """All residuals, weighted so that their squares add up to the objective, in the order of the Jacobian's rows."""
    return torch.cat(
        [part.detach().double().reshape(len(part), -1).T.reshape(-1) * part.numel() ** -0.5 for part in parts]
    )
