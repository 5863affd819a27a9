"""Options of pykan that are not supported here: the values that have no effect, and advice for all other values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
_ANY = object()


class Option(NamedTuple):
    """An option of pykan. The value `harmless` asks for what is the case here anyway; `advice` is for other values."""

    harmless: Any
    advice: str = ""


_LOG_HISTORY = Option(False, "no history is written; saveckpt(path) saves a network")
_RANGE = Option(None, "the search covers all a and b that make a difference; fix_symbolic(..., affine=) sets them")
_ONLY_WITH_OTHERS = Option(_ANY)
OPTIONS: dict[str, dict[str, Option]] = {
    "KAN": {
        "save_act": Option(False, "nothing is kept of a forward pass; activations(x) gives what flows through"),
        "auto_save": Option(False, "nothing is written by itself; saveckpt(path) saves a network"),
        "symbolic_enabled": Option(True, "symbolic edges are on until unfix_symbolic_all()"),
        "affine_trainable": Option(False, "nodes have no scales and shifts of their own; layers have biases"),
        "sparse_init": Option(False, "remove_edge takes edges away"),
        "scale_base_mu": Option(None, "layers have an initialisation of their own, KANLinear.reset_parameters"),
        "scale_base_sigma": Option(None, "layers have an initialisation of their own, KANLinear.reset_parameters"),
    },
    "fit": {
        "save_fig": Option(False, "draw in a callback, lambda step, entry: model.plot().save(f'{step}.png')"),
        **dict.fromkeys(("save_fig_freq", "img_folder", "beta", "in_vars", "out_vars"), _ONLY_WITH_OTHERS),
        "singularity_avoiding": Option(False, "training stops before a pole, at the last good step"),
        "y_th": _ONLY_WITH_OTHERS,
    },
    "plot": {"folder": Option(_ANY)},  # where pykan puts the parts of a picture
    "attribute": {"plot": Option(False, "attribute draws nothing; plot() shows the scores of edges")},
    "suggest_symbolic": {
        "a_range": _RANGE,
        "b_range": _RANGE,
        "r2_loss_fun": Option(None, "weight_simple sets how R2 and complexity are weighed"),
        "c_loss_fun": Option(None, "weight_simple sets how R2 and complexity are weighed"),
    },
    "auto_symbolic": {"a_range": _RANGE, "b_range": _RANGE},
    "fix_symbolic": {
        "a_range": _RANGE,
        "b_range": _RANGE,
        "random": Option(False, "affine= sets a, b, c, d"),
        "log_history": _LOG_HISTORY,
    },
    "prune_node": {
        "mode": Option("auto", "active_neurons_id alone chooses nodes by hand"),
        "log_history": _LOG_HISTORY,
    },
    **{
        name: {"log_history": _LOG_HISTORY}
        for name in ("unfix_symbolic", "unfix_symbolic_all", "prune_edge", "prune_input", "remove_edge", "remove_node")
    },
}


def tolerant(function: Callable[P, R]) -> Callable[P, R]:
    """The function, extended to accept the options of pykan with their harmless values.

    Raises:
        TypeError: an option has another value; the message has the advice.
    """
    name = function.__name__ if function.__name__ != "__init__" else function.__qualname__.split(".")[0]
    options = OPTIONS[name]

    @functools.wraps(function)
    def call(*args: P.args, **given: P.kwargs) -> R:
        for option in options.keys() & given.keys():
            harmless, advice = options[option]
            value = given.pop(option)
            if harmless is not _ANY and value != harmless:
                raise TypeError(f"{name} has no {option} (got {value!r}): {advice}; see docs/pykan.md")
        return function(*args, **given)

    return call
