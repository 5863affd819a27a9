"""The cases of all benchmarks, as data: shapes, and the ratios that are to be reached."""

from __future__ import annotations

from typing import NamedTuple

import torch

FORWARD, TRAINING, STEP = "forward", "forward+backward", "training step"
LINEAR, EQUAL_PARAMETERS, UNIFORM = "nn.Linear", "nn.Linear, equal parameters", "uniform grid"
MLP, EQUAL_MLP = "MLP", "MLP, equal parameters"
FASTEST_PEER = "fastest exact peer"


class Bar(NamedTuple):
    """A claim: our time / time of `against` is at most `bar`, and hopefully `aim`."""

    measure: str
    against: str
    bar: float
    aim: float


class Case(NamedTuple):
    """A layer, or a network of several, and a batch; inputs are uniform in the grid range.

    Attributes:
        widths: sizes of input and output, and those of the hidden levels between them.
    """

    name: str
    batch: int
    widths: tuple[int, ...]
    grid_size: int = 5
    degree: int = 3
    dtype: torch.dtype = torch.float32
    adaptive: bool = False
    bars: tuple[Bar, ...] = ()

    @property
    def ours(self) -> str:
        """The name of our contender."""
        return "KANLinear" if len(self.widths) == 2 else "KAN"


TWICE, FOUR_TIMES = Bar(TRAINING, FASTEST_PEER, 1 / 2, 1 / 3), Bar(TRAINING, FASTEST_PEER, 1 / 4, 1 / 6)

CASES = (
    Case(
        *("1024x256x256", 1024, (256, 256)),
        bars=(
            Bar(FORWARD, LINEAR, 6.5, 5.3),
            Bar(TRAINING, LINEAR, 6.0, 5.0),
            Bar(TRAINING, EQUAL_PARAMETERS, 0.75, 0.55),
            TWICE,
        ),
    ),
    Case(
        *("1024x256x256-G20", 1024, (256, 256)),
        grid_size=20,
        bars=(Bar(TRAINING, EQUAL_PARAMETERS, 0.35, 0.22), FOUR_TIMES),
    ),
    Case("256x1024x1024", 256, (1024, 1024), bars=(Bar(TRAINING, LINEAR, 6.0, 5.0), TWICE)),
    Case("256x784x64", 256, (784, 64), bars=(Bar(TRAINING, LINEAR, 7.0, 5.5), TWICE)),
    Case("8192x64x64", 8192, (64, 64), bars=(Bar(TRAINING, LINEAR, 7.0, 5.5), TWICE)),
    Case("1000x2x5", 1000, (2, 5), bars=(Bar(TRAINING, LINEAR, 1.5, 1.0), TWICE)),
    Case("1024x256x256-adaptive", 1024, (256, 256), adaptive=True, bars=(Bar(TRAINING, UNIFORM, 1.15, 1.05),)),
    Case(
        *("1024x256x256-float64", 1024, (256, 256)),
        dtype=torch.float64,
        bars=(Bar(TRAINING, LINEAR, 6.5, 5.0), TWICE),
    ),
    Case("1000x2x5x1", 1000, (2, 5, 1)),
    Case("256x64x64x10", 256, (64, 64, 10)),
    Case("256x784x64x10", 256, (784, 64, 10)),
    Case("1024x256x256x256x256", 1024, (256, 256, 256, 256)),
)

# Peak memory of a training step, as a multiple of nn.Linear's.
MEMORY = Case("65536x256x256", 65536, (256, 256), bars=(Bar("peak memory", LINEAR, 1.5, 1.1),))
