"""L-BFGS on one flat vector: few operations and one synchronisation per evaluation, and no absolute tolerances."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from kan_fast._support.checks import integer, real
from kan_fast.optim.flat import flatten, flatten_gradients, in_own_dtype, write
from kan_fast.optim.line_search import Point, strong_wolfe

PAIRS = (20, 100)  # least and greatest default of history_size
MEMORY = 1 << 25  # numbers that a history may hold by default, within these limits


class LBFGS(Optimizer):
    """Limited-memory BFGS with a strong Wolfe line search, for objectives without noise (all the data in every step).

    A replacement of `torch.optim.LBFGS(line_search_fn="strong_wolfe")`, which drops pairs of changes with
    `y.s <= 1e-10`, so that it stalls at losses around 1e-5, and which spends hundreds of small operations per
    iteration. Here the test of a pair does not depend on the scale of the loss, and an iteration multiplies the
    history, a single matrix, twice (the compact representation of Byrd, Nocedal and Schnabel, Math. Prog. 63, 1994).

    Args:
        params: parameters of one dtype and device; one group.
        lr: length of the first step that a line search tries, in units of the quasi-Newton step; greater than 0.
        max_iter: iterations per `step`, at least 1.
        max_eval: evaluations per `step` after which no further iteration begins, at least 1; None for 5/4 of
            `max_iter`.
        history_size: number of pairs of changes, at least 1, that approximate the Hessian; each takes the memory of two
            copies of the parameters. None for as many as 2^25 numbers hold, but 20 to 100: objectives with kinks, such
            as those of sparsity terms, need a history that spans most directions.
        tolerance_grad: a step ends when no component of the gradient is larger than this, at least 0.
        tolerance_change: a step ends when no parameter has moved further than this in an iteration, at least 0.
        tolerance_ys: pairs whose product `y.s` is not larger than this are dropped, at least 0.
        line_search_fn: "strong_wolfe", the only line search. (This and the tolerances are options of torch and pykan.)

    Raises:
        ValueError: parameters of several groups, dtypes or devices, or an option out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        history_size: int | None = None,
        *,
        tolerance_grad: float = 0.0,
        tolerance_change: float = 0.0,
        tolerance_ys: float = 0.0,
        line_search_fn: str = "strong_wolfe",
    ) -> None:
        max_iter = integer("max_iter", max_iter, 1)
        defaults = {
            "lr": real("lr", lr, positive=True),
            "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else integer("max_eval", max_eval, 1),
            "history_size": None if history_size is None else integer("history_size", history_size, 1),
            "tolerance_grad": real("tolerance_grad", tolerance_grad),
            "tolerance_change": real("tolerance_change", tolerance_change),
            "tolerance_ys": real("tolerance_ys", tolerance_ys),
        }
        if line_search_fn != "strong_wolfe":
            raise ValueError(f"line_search_fn must be 'strong_wolfe', got {line_search_fn!r}")
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError(f"LBFGS takes one group of parameters, got {len(self.param_groups)}")
        kinds = {(p.dtype, p.device) for p in self._params}
        if len(kinds) > 1:
            got = ", ".join(f"{dtype} on {device}" for dtype, device in sorted(kinds, key=str))
            raise ValueError(f"LBFGS needs parameters of one dtype and device, got {got}")
        if history_size is None:
            fits = MEMORY // max(1, 2 * sum(p.numel() for p in self._params))
            self.param_groups[0]["history_size"] = min(max(fits, PAIRS[0]), PAIRS[1])

    @property
    def _params(self) -> list[Tensor]:
        return self.param_groups[0]["params"]

    @in_own_dtype
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]  # torch calls it a float
        """Up to `max_iter` iterations; `closure` clears the gradients, evaluates the objective and calls backward.

        Returns:
            The objective before the step. After the step the parameters are those of the smallest value found, which
            need not be the last one evaluated. A value that is NaN or infinite counts as too large; if the first value
            is, nothing changes.

        Raises:
            ValueError: there are more or fewer parameters than in the step before, as after `refine_`.
        """
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

        def within(tensor: Tensor, tolerance: float) -> bool:
            return tolerance > 0 and tensor.abs().max().item() <= tolerance

        for _ in range(options["max_iter"]):
            if within(gradient, options["tolerance_grad"]):
                break
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
            bent = point.slope - slope  # y.s in units of the length
            if bent > 1e-3 * -slope and point.step * bent > options["tolerance_ys"]:
                memory.add(step, point.gradient - gradient)
            value, gradient = point.value, point.gradient
            if evaluations >= options["max_eval"] or within(step, options["tolerance_change"]):
                break
        write(params, x)
        memory.save(self.state[params[0]])
        return first

    def _memory(self, x: Tensor) -> _Memory:
        state = self.state[self._params[0]]
        if state and state["rows"].shape[1] != len(x):
            raise ValueError(
                f"LBFGS remembers changes of {state['rows'].shape[1]} parameters, and these are {len(x)}. Grids that "
                "get another size, by refine_ for example, change shapes: call "
                "kan_fast.training.forget_splines(optimizer, model), or make the optimiser anew"
            )
        return _Memory(x, self.param_groups[0]["history_size"], state)


class _Memory:
    """The last m changes of parameters s and of gradients y, in one matrix, with the products that a step needs."""

    slots: list[int]  # rows of the pairs, oldest first
    added: bool  # there is a pair whose products are not known yet

    def __init__(self, like: Tensor, size: int, state: dict[str, Any]) -> None:
        self.size = size
        if state:
            self.rows, self.slots, self.added = state["rows"], state["slots"], state["added"]
            square = (len(self.slots),) * 2  # which an empty list does not tell
            self.inverse, self.yy = (np.array(state[name]).reshape(square) for name in ("inverse", "yy"))
            self.curvature = np.array(state["curvature"])
        else:
            self.rows = like.new_zeros(2 * size + 1, len(like))  # s, y and the gradient
            self.clear()

    @property
    def count(self) -> int:
        return len(self.slots) + self.added

    def save(self, state: dict[str, Any]) -> None:
        arrays = {name: getattr(self, name).tolist() for name in ("inverse", "yy", "curvature")}
        state.update(rows=self.rows, slots=self.slots, added=self.added, **arrays)

    def clear(self) -> None:
        self.slots, self.added = [], False
        self.inverse, self.yy, self.curvature = np.zeros((0, 0)), np.zeros((0, 0)), np.zeros(0)

    def add(self, s: Tensor, y: Tensor) -> None:
        slot = self._next()
        self.rows[slot], self.rows[self.size + slot] = s, y
        self.added = True

    @np.errstate(all="ignore")  # a slope that is NaN makes `step` begin anew
    def direction(self, gradient: Tensor) -> tuple[Tensor, float]:
        """`-H g` and its product with g.

        With R the upper triangle of S'Y, D its diagonal and c = s'y / y'y of the newest pair,
        `H g = c g + S R^-T ((D + c Y'Y) p - c Y'g) - c Y p` where `p = R^-1 S'g`.
        """
        if not self.count:
            return -gradient, -gradient.dot(gradient).item()
        m = self.size
        self.rows[2 * m] = gradient
        if self.added:
            columns = torch.stack([gradient, self.rows[m + self._next()]], 1)
        else:
            columns = gradient[:, None]
        products = (self.rows @ columns).double().cpu().numpy()
        if self.added:
            self._include(products[:, 1])
        order = np.array(self.slots)
        sg, yg, gg = products[order, 0], products[m + order, 0], products[2 * m, 0]
        scale = self.curvature[-1] / self.yy[-1, -1]
        p = self.inverse @ sg
        q = self.inverse.T @ (self.curvature * p + scale * (self.yy @ p - yg))
        weights = np.zeros(2 * m + 1)
        weights[order], weights[m + order], weights[2 * m] = -q, scale * p, -scale
        slope = float(scale * (p @ yg) - q @ sg - scale * gg)
        return torch.from_numpy(weights).to(gradient) @ self.rows, slope

    def _next(self) -> int:
        return len(self.slots) if len(self.slots) < self.size else self.slots[0]

    def _include(self, products: np.ndarray) -> None:
        """Take in the products of all rows with the newest y; the oldest pair makes room for it.

        The inverse of a triangle without its first row and column is the inverse without them, and a further column
        of the triangle adds one to the inverse.
        """
        slot, drop = self._next(), len(self.slots) == self.size
        self.slots = [*self.slots[drop:], slot]
        sy, yy, d = products[self.slots], products[self.size :][self.slots], products[slot]
        kept, old = len(self.slots) - 1, self.inverse[drop:, drop:]
        self.inverse = np.zeros((kept + 1, kept + 1))
        self.inverse[:kept, :kept] = old
        self.inverse[:kept, kept] = -(old @ sy[:kept]) / d
        self.inverse[kept, kept] = 1 / d
        squares = self.yy[drop:, drop:]
        self.yy = np.empty((kept + 1, kept + 1))
        self.yy[:kept, :kept] = squares
        self.yy[kept] = self.yy[:, kept] = yy
        self.curvature = np.append(self.curvature[drop:], d)
        self.added = False
