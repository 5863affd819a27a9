"""L-BFGS on one flat vector: few operations and one synchronisation per evaluation, and no absolute tolerances."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from kan_fast.optim.flat import flatten, flatten_gradients, write
from kan_fast.optim.line_search import Point, strong_wolfe
from kan_fast.options import integer, real


class LBFGS(Optimizer):
    """Limited-memory BFGS with a strong Wolfe line search, for objectives without noise (all the data in every step).

    A replacement of `torch.optim.LBFGS(line_search_fn="strong_wolfe")` for what that can't do: it drops pairs of
    changes with `y.s <= 1e-10`, so that a loss of about 1e-5 is where it stalls, and it spends hundreds of small
    operations per iteration. Here the test is free of scale, and an iteration multiplies the history, a single matrix,
    twice (the compact representation of Byrd, Nocedal and Schnabel, Math. Prog. 63, 1994).

    Args:
        params: parameters of one dtype and device; one group.
        lr: length of the first step that a line search tries, in units of the quasi-Newton step.
        max_iter: iterations per `step`.
        max_eval: evaluations per `step` after which no further iteration begins; None for 5/4 of `max_iter`.
        history_size: pairs of changes that make up the Hessian; each takes the memory of two copies of the parameters.

    Raises:
        ValueError: parameters of several groups, dtypes or devices, or an option out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        history_size: int = 20,
    ) -> None:
        max_iter = integer("max_iter", max_iter, 1)
        defaults = {
            "lr": real("lr", lr, positive=True),
            "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else integer("max_eval", max_eval, 1),
            "history_size": integer("history_size", history_size, 1),
        }
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError(f"LBFGS takes one group of parameters, got {len(self.param_groups)}")
        kinds = {(p.dtype, p.device) for p in self._params}
        if len(kinds) > 1:
            got = ", ".join(f"{dtype} on {device}" for dtype, device in sorted(kinds, key=str))
            raise ValueError(f"LBFGS needs parameters of one dtype and device, got {got}")

    @property
    def _params(self) -> list[Tensor]:
        return self.param_groups[0]["params"]

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]  # torch calls it a float
        """Up to `max_iter` iterations; `closure` clears the gradients, evaluates the objective and calls backward.

        Returns:
            The objective before the step. Afterwards the parameters are those of the smallest value found, which need
            not be the last evaluated. A value that is NaN or infinite counts as too large; if the first is, nothing
            changes.
        """
        closure = torch.enable_grad()(closure)
        options, params = self.param_groups[0], self._params
        x = flatten(params)
        first = closure()
        gradient = flatten_gradients(params)
        value, size = torch.stack([first.detach(), gradient.abs().sum()]).tolist()
        if not np.isfinite(value + size):
            return first
        memory = self._memory(x)
        noise = torch.finfo(x.dtype).eps
        evaluations = 1

        def evaluate(length: float) -> Point:
            nonlocal evaluations
            evaluations += 1
            write(params, torch.add(x, direction, alpha=length))
            loss, gradient = closure(), flatten_gradients(params)
            value, slope = torch.stack([loss.detach(), gradient.dot(direction)]).tolist()
            return Point(length, value, slope, gradient)

        for _ in range(options["max_iter"]):
            direction, slope = memory.direction(gradient)
            if not slope < 0:
                if not memory.count:
                    break
                memory.clear()
                continue
            start = Point(0.0, value, slope, gradient)
            length = options["lr"] * (1.0 if memory.count else min(1.0, 1 / size))
            point = strong_wolfe(evaluate, start, length, noise=noise * abs(value))
            if not point.step:  # no progress along this direction
                if not memory.count:
                    break
                memory.clear()
                continue
            step = point.step * direction
            x = x + step
            if point.slope - slope > 1e-3 * -slope:
                memory.add(step, point.gradient - gradient)
            value, gradient = point.value, point.gradient
            if evaluations >= options["max_eval"]:
                break
        write(params, x)
        memory.save(self.state[params[0]])
        return first

    def _memory(self, x: Tensor) -> _Memory:
        return _Memory(x, self.param_groups[0]["history_size"], self.state[self._params[0]])


class _Memory:
    """The last m changes of parameters s and of gradients y, in one matrix, and the products that a step needs."""

    def __init__(self, like: Tensor, size: int, state: dict[str, Any]) -> None:
        self.size = size
        self.count = state.get("count", 0)  # pairs ever added; slots are used in turn
        self.rows = state["rows"] if self.count else like.new_zeros(2 * size + 1, len(like))  # s, y and the gradient
        self.sy = np.array(state["sy"]) if self.count else np.zeros((size, size))  # s_i . y_j where j is not older
        self.yy = np.array(state["yy"]) if self.count else np.zeros((size, size))
        self.fresh: int | None = state.get("fresh")  # slot whose products are not known yet

    def save(self, state: dict[str, Any]) -> None:
        state.update(count=self.count, rows=self.rows, sy=self.sy.tolist(), yy=self.yy.tolist(), fresh=self.fresh)

    def clear(self) -> None:
        self.count, self.fresh = 0, None

    def add(self, s: Tensor, y: Tensor) -> None:
        slot = self.count % self.size
        self.rows[slot], self.rows[self.size + slot] = s, y
        self.count, self.fresh = self.count + 1, slot

    def direction(self, gradient: Tensor) -> tuple[Tensor, float]:
        """`-H g` and its product with g.

        With R the upper triangle of S'Y, D its diagonal and c = s'y / y'y of the newest pair,
        `H g = c g + S R^-T ((D + c Y'Y) p - c Y'g) - c Y p` where `p = R^-1 S'g`.
        """
        if not self.count:
            return -gradient, -gradient.dot(gradient).item()
        m = self.size
        self.rows[2 * m] = gradient
        columns = self.rows[2 * m :] if self.fresh is None else self.rows[[m + self.fresh, 2 * m]]
        products = (self.rows @ columns.T).double().cpu().numpy()
        if self.fresh is not None:
            self.sy[:, self.fresh] = products[:m, 0]
            self.yy[self.fresh] = self.yy[:, self.fresh] = products[m : 2 * m, 0]
            self.fresh = None
        sg, yg, gg = products[:m, -1], products[m : 2 * m, -1], products[2 * m, -1]
        oldest = max(0, self.count - m)
        order = np.arange(oldest, self.count) % m
        sy, yy = np.triu(self.sy[np.ix_(order, order)]), self.yy[np.ix_(order, order)]
        curvature = sy.diagonal()
        scale = curvature[-1] / yy[-1, -1]
        p = np.linalg.solve(sy, sg[order])
        q = np.linalg.solve(sy.T, curvature * p + scale * (yy @ p - yg[order]))
        weights = np.zeros(2 * m + 1)
        weights[order], weights[m + order], weights[2 * m] = -q, scale * p, -scale
        slope = float(weights[:m] @ sg + weights[m : 2 * m] @ yg + weights[2 * m] * gg)
        return torch.from_numpy(weights).to(gradient) @ self.rows, slope
