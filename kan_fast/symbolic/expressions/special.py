"""Functions that numpy lacks."""

import math

import numpy as np

erf = np.vectorize(math.erf, otypes=[float])
erfc = np.vectorize(math.erfc, otypes=[float])


@np.vectorize(otypes=[float])
def gamma(x: float) -> float:
    """The gamma function; NaN at its poles 0, -1, -2, ..., infinite beyond the largest number."""
    try:
        return math.gamma(x)
    except (OverflowError, ValueError):
        return math.inf if x > 0 else math.nan


@np.vectorize(otypes=[float])
def log_gamma(x: float) -> float:
    """The logarithm of the gamma function; NaN for x < 0, where that is complex, infinite at 0."""
    try:
        return math.lgamma(x) if x > 0 or x != x else math.nan if x < 0 else math.inf
    except OverflowError:
        return math.inf


def bessel(order: int, x: np.ndarray) -> np.ndarray:
    """Bessel functions of the first kind, orders 0 and 1: Bessel's integral, and Hankel's series for |x| > 25."""
    near, r = np.clip(x, -25, 25), np.maximum(np.abs(x), 25)
    angles = (np.arange(64) + 0.5) * (np.pi / 64)
    mean = sum(np.cos(order * angle - near * np.sin(angle)) for angle in angles) / 64
    even, odd, term = 0 * r, 0 * r, 1.0
    for k in range(18):
        part = odd if k % 2 else even
        part += term if k % 4 < 2 else -term
        term = term * (4 * order**2 - (2 * k + 1) ** 2) / (8 * (k + 1) * r)
    phase = r - (order / 2 + 0.25) * np.pi
    far = np.sqrt(2 / (np.pi * r)) * (even * np.cos(phase) - odd * np.sin(phase))
    return np.where(np.abs(x) <= 25, mean, far * np.sign(x) ** order)
