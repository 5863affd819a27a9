"""Functions that numpy lacks."""

import math

import numpy as np

erf = np.vectorize(math.erf, otypes=[float])


def bessel(order: int, x: np.ndarray) -> np.ndarray:
    """Bessel functions of the first kind: Bessel's integral by the trapezoidal rule."""
    x = np.asarray(x, dtype=float)
    points = 32 + int(np.max(np.abs(x), initial=0, where=np.isfinite(x)))
    angles = (np.arange(points) + 0.5) * (np.pi / points)
    near = np.where(np.isfinite(x), x, 0)
    mean = sum(np.cos(order * angle - near * np.sin(angle)) for angle in angles) / points
    return np.where(np.isfinite(x), mean, 1 / x)  # 0 at infinity, NaN at NaN
