"""What KAN layers have in place of the weight matrix of nn.Linear, for modules of torch that read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from torch.overrides import resolve_name

_ADVICE = (
    "KAN layers have no weight matrix: their parameters are spline_weight, base_weight and bias, which "
    "reset_parameters() draws anew, and the layer is called, layer(x). "
)


class NoWeight:
    """Stands where a module of torch expects the `weight` of an nn.Linear.

    In inference nn.TransformerEncoderLayer computes with the weights of linear1 and linear2 instead of calling them,
    unless one of its tensors has a `__torch_function__`. This object has one, so torch calls the layers.

    Raises:
        TypeError: some function of torch computes with it.
        AttributeError: it is asked for anything else.
    """

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> NoReturn:
        """Refuse; the message says what to do."""
        raise TypeError(
            f"{_ADVICE}{resolve_name(function) or function.__name__} computes with the weight itself, as "
            "nn.MultiheadAttention does with that of out_proj: leave an nn.Linear there, as "
            "kan_fast.convert.replace_linear(model) does"
        )

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{_ADVICE}weight.{name} is for nn.Linear alone")

    def __repr__(self) -> str:
        return "no weight matrix"
