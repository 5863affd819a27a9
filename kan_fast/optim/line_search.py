"""Line search for the strong Wolfe conditions that also ends well where the gain of a step is below rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

FAR = 1e10  # times the first step: no objective that has a minimum is minimised from there


class Point(NamedTuple):
    """A step length, with the objective, its slope along the direction, and its gradient there."""

    step: float
    value: float
    slope: float
    gradient: Any


def strong_wolfe(
    evaluate: Callable[[float], Point],
    start: Point,
    step: float,
    *,
    noise: float,
    decrease: float = 1e-4,
    curvature: float = 0.9,
    budget: int = 25,
) -> Point:
    """A point with `value <= start.value + decrease * step * slope` and `|slope| <= curvature * |start.slope|`.

    Brackets, then zooms in by cubic interpolation (Nocedal and Wright, Numerical Optimization, Algorithms 3.5 and 3.6).
    Values that differ by less than `noise` count as equal; there the slopes decide (the approximate Wolfe conditions of
    Hager and Zhang, SIAM J. Optim. 16, 2005).

    Args:
        evaluate: gives the point at a step length; its value may be NaN or infinite.
        start: the point at step 0; its slope is negative.
        step: first step length to try.
        noise: rounding error of a value.
        decrease: c1 of the conditions.
        curvature: c2 of the conditions.
        budget: largest number of evaluations.

    Returns:
        A point that meets the conditions; or one `FAR` times as far as the first step, where the objective falls for
        ever; or else the best point that was found: `start` if none was better.
    """
    low, high, first = start, None, step
    for _ in range(budget):
        point = evaluate(step)
        ceiling = min(start.value + decrease * step * start.slope, low.value) + noise
        if not (point.value <= ceiling and math.isfinite(point.slope)):
            high = point
        elif abs(point.slope) <= -curvature * start.slope:
            return point
        else:
            if point.slope * (math.inf if high is None else high.step - low.step) >= 0:
                high = low
            elif high is None and step >= FAR * first:
                return point
            previous, low = low, point
            if high is None:  # the minimum lies beyond
                step = min(max(_minimiser(previous, low, beyond=True), 2 * step), 10 * step)
                continue
        step = _between(low, high)
        if step in (low.step, high.step):
            break
    return low


def _between(low: Point, high: Point) -> float:
    """The step of the minimum of the cubic through both points, at least a tenth of the way from either."""
    length = high.step - low.step
    if not math.isfinite(high.value) or not math.isfinite(high.slope):
        return low.step + 0.1 * length
    share = (_minimiser(low, high) - low.step) / length
    return low.step + min(max(share, 0.1), 0.9) * length if math.isfinite(share) else low.step + 0.5 * length


def _minimiser(a: Point, b: Point, beyond: bool = False) -> float:
    """Minimum of the cubic with the values and slopes of both points; infinite or NaN where there is none.

    Slopes are divided by the largest of them, because the square of a float above 1e154 raises OverflowError.
    """
    length = b.step - a.step
    rise = (b.value - a.value) / length
    unit = max(abs(a.slope), abs(b.slope), abs(rise))
    if not 0 < unit < math.inf:
        return math.inf if beyond else math.nan
    left, right = a.slope / unit, b.slope / unit
    theta = left + right - 3 * (rise / unit)
    square = theta**2 - left * right
    if square < 0:
        return math.inf if beyond else math.nan
    root = math.copysign(math.sqrt(square), length)
    denominator = right - left + 2 * root
    return b.step - length * (right + root - theta) / denominator if denominator else math.inf
