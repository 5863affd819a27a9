"""Networks in files: `KAN.save` and `KAN.load`. A file holds tensors and plain values; loading runs no code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from kan_fast._support import files
from kan_fast._support.checks import real
from kan_fast._support.files import PathLike
from kan_fast._support.saved import Saved, check_held
from kan_fast.nn import grids
from kan_fast.nn.initial import SCHEMES
from kan_fast.nn.linear import DTYPES, KANLinear
from kan_fast.nn.network import Network
from kan_fast.ops.arguments import BASES, EXTRAPOLATIONS, MAX_DEGREE, grid_dtype

FORMAT = 2
N = TypeVar("N", bound=Network)
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}


class _Sizes(NamedTuple):
    """The sizes of a layer, which fix the shapes of its tensors, and their dtype."""

    inputs: int
    outputs: int
    grid_size: int
    degree: int
    bias: bool
    base_weight: bool
    dtype: torch.dtype


class _Network(NamedTuple):
    """The checked description of a network."""

    width: list[int | list[int]]
    mult_arity: list[list[int]]
    layers: list[dict[str, Any]]  # options of KANLinear
    frozen: list[str]  # names of parameters
    input_id: list[int]
    state: dict[str, Tensor]


def describe(model: Network) -> dict[str, Any]:
    """A network as plain values and tensors, from which `rebuild` makes the network again.

    The description leaves out device, backend, hooks and `last_inputs`.

    Raises:
        TypeError: a base function is a callable or a layer is not a KANLinear; a file can keep neither.
        ValueError: parameters are shared, sharded or computed from others, or have values that no layer allows.
    """
    for layer in model.layers:
        if isinstance(layer, KANLinear):
            layer.check_plain("save")
        if type(layer) is not KANLinear:
            raise TypeError(f"can't save a {type(layer).__name__} among the layers; a file keeps KANLinear layers")
        if callable(layer.base):
            raise TypeError(
                f"can't save the callable base function {layer.base!r}; save model.state_dict() and build the network "
                "with it before loading"
            )
    saved = {
        "format": FORMAT,
        "width": model.width,
        "mult_arity": model.mult_arity,
        "layers": [_options(layer) for layer in model.layers],
        "frozen": [name for name, parameter in model.named_parameters() if not parameter.requires_grad],
        "input_id": list(model.input_id),
        "state": {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()},
    }
    saved = files.plain(saved, "the network")
    try:
        _checked(saved)
    except ValueError as error:
        raise ValueError(f"can't save a network that could not be loaded again: {error}") from error
    return saved


def rebuild(cls: type[N], saved: dict[str, Any], device: torch.device | str | None = None) -> N:
    """The network that `describe` described, in this version or an earlier one.

    Raises:
        ValueError: `saved` is not the result of `describe`; the message says what is wrong.
    """
    network = _checked(saved)
    model = cls(network.width, 1, 0, mult_arity=network.mult_arity, seed=0, device="cpu")  # layers follow
    model.layers = nn.ModuleList(  # type: ignore[assignment]  # it has no type for its items
        _layer(options, old) for options, old in zip(network.layers, model.layers, strict=True)
    )
    model.k, model.input_id = model.layers[0].spline_order, network.input_id
    try:
        model.load_state_dict(network.state)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    for name in network.frozen:
        model.get_parameter(name).requires_grad_(False)
    return model.to(torch.get_default_device() if device is None else device)


def save(model: Network, path: PathLike) -> None:
    """Write the network to a file: sizes, options of every layer, parameters, grids, masks and symbolic edges.

    The file is replaced as a whole: after a crash, a full disk or Ctrl-C the old file is still there, and other
    processes never read a part of the new one. Symbolic edges are kept by the names of their functions. Device and
    backend are not kept. (pykan writes several files that begin with the path.)

    Args:
        model: the network; `model.save(path)` writes it.
        path: of the file.

    Raises:
        TypeError, ValueError: a file can't keep the network: a base function is a callable, a layer is not a KANLinear,
            or parameters are shared, sharded or computed from others.
        OSError: the file can't be written.
    """
    files.save(path, describe(model))


def load(cls: type[N], path: PathLike, device: torch.device | str | None = None) -> N:
    """The network that `save` wrote: `KAN.load(path)`.

    Functions that were added to the library have to be added again before (`kan_fast.nn.functions.add_symbolic`).

    Args:
        cls: the class; `KAN.load(path)` gives it.
        path: of the file.
        device: device of the parameters; None for the default.

    Raises:
        ValueError: the file is not one of `KAN.save`, damaged, or of a later version of this package.
        OSError: it can't be opened.
    """
    return files.load(path, "a file of KAN.save", lambda saved: rebuild(cls, saved, device))


def _check_tensors(state: Saved, prefix: str, sizes: _Sizes) -> None:
    """Refuse a state dict whose tensors are not those of a layer of these sizes.

    Raises:
        ValueError: one is missing, or has another shape or dtype; or knots are not finite or do not increase.
    """
    rows = sizes.grid_size + sizes.degree
    shapes: dict[str, tuple[int, ...]] = {"spline_weight": (sizes.outputs, sizes.inputs, rows)}
    if sizes.base_weight:
        shapes["base_weight"] = (sizes.outputs, sizes.inputs)
    if sizes.bias:
        shapes["bias"] = (sizes.outputs,)
    for name, shape in shapes.items():
        state[prefix + name].tensor(sizes.dtype, shape)
    knots = state[f"{prefix}grid"].tensor(grid_dtype(sizes.dtype), (sizes.inputs, rows + sizes.degree + 1))
    try:
        grids.check_knots(knots)
    except ValueError as error:
        raise ValueError(f"{state.place}.{prefix}grid: {error}") from None
    mask = state.get(f"{prefix}mask")
    if mask is not None:
        mask.tensor(torch.bool, (sizes.outputs, sizes.inputs))
    symbolic = state.get(f"{prefix}symbolic.edges")
    if symbolic is not None:
        count = len(symbolic.tensor(torch.int64, (None, 2)))
        state[f"{prefix}symbolic.affine"].tensor(sizes.dtype, (count, 4))
        state[f"{prefix}symbolic._extra_state"].tensor(torch.uint8, (None,))


def _options(layer: KANLinear) -> dict[str, Any]:
    return {
        "bias": layer.bias is not None,
        "grid_size": layer.grid_size,
        "spline_order": layer.spline_order,
        "grid_range": grids.checked_range(layer.grid_range, layer.in_features),
        "base": layer.base,
        "extrapolation": layer.extrapolation,
        "grid_eps": real("grid_eps", layer.grid_eps),
        "init": layer.init,
        "dtype": str(layer.spline_weight.dtype).removeprefix("torch."),
    }


def _layer(options: dict[str, Any], like: KANLinear) -> KANLinear:
    """A layer with these options and the sizes of another; its tensors are uninitialised."""
    options = dict(options)
    grid_range = options.pop("grid_range")  # set below: it may be too narrow for a dtype that the layer was cast to
    layer = KANLinear(like.in_features, like.out_features, **options, device="meta").to_empty(device="cpu")
    layer.grid_range = grid_range
    return layer


def _checked(data: Any) -> _Network:
    """The description of a network, checked before anything is built: values, and sizes against the tensors."""
    saved = Saved(data, "the network")
    version = saved["format"].integer()
    if version == 1:
        saved = Saved(_of_format_1(saved), "the network")
    elif version != FORMAT:
        raise ValueError(f"the network has the format {version!r}, this version of kan_fast reads 1 to {FORMAT}")
    levels = [_level(*entry) for entry in zip(saved["width"].items(), saved["mult_arity"].items(), strict=False)]
    if not len(levels) == len(saved["width"].items()) == len(saved["mult_arity"].items()) >= 2 or levels[0][1]:
        raise saved["width"].wrong("sizes of at least two levels, the first without products, as mult_arity has")
    state = saved["state"]
    layers = []
    for number, options in enumerate(saved["layers"].items(len(levels) - 1)):
        inputs = levels[number][0] + len(levels[number][1])
        outputs = levels[number + 1][0] + sum(levels[number + 1][1])
        if min(inputs, outputs) < 1:
            raise saved["width"].wrong("sizes of at least 1")
        layers.append(_layer_options(options, inputs))
        _check_tensors(state, f"layers.{number}.", _sizes(inputs, outputs, layers[-1]))
    tensors = {name: entry.any_tensor() for name, entry in state.record().items()}
    check_held(list(tensors.values()), state.place)
    frozen = [name.one_of(list(tensors)) for name in saved["frozen"].items()]
    return _Network(
        saved["width"].value,
        saved["mult_arity"].value,
        layers,
        [name for name in frozen if tensors[name].is_floating_point()],
        [column.integer() for column in saved["input_id"].items(levels[0][0])],
        tensors,
    )


def _level(width: Saved, arities: Saved) -> tuple[int, list[int]]:
    """Number of sums, and of factors of each product."""
    factors = [arity.integer(2) for arity in arities.items()]
    if type(width.value) is int:
        arities.items(0)
        return width.integer(), factors
    sums, products = width.items(2)
    arities.items(products.integer())
    return sums.integer(), factors


def _layer_options(saved: Saved, inputs: int) -> dict[str, Any]:
    degree, grid_eps, init = saved["spline_order"], saved["grid_eps"], saved.get("init")
    if degree.integer() > MAX_DEGREE:
        raise degree.wrong(f"0 to {MAX_DEGREE}")
    if not 0 <= grid_eps.real() <= 1:
        raise grid_eps.wrong("0 to 1")
    return {
        "bias": saved["bias"].truth(),
        "grid_size": saved["grid_size"].integer(1),
        "spline_order": degree.value,
        "grid_range": _range(saved["grid_range"], inputs),
        "base": saved["base"].one_of(BASES),
        "extrapolation": saved["extrapolation"].one_of(EXTRAPOLATIONS),
        "grid_eps": grid_eps.value,
        "init": "variance" if init is None else init.one_of(list(SCHEMES)),  # older files have none
        "dtype": _DTYPES[saved["dtype"].one_of(list(_DTYPES))],
    }


def _range(saved: Saved, inputs: int) -> grids.Range:
    several = saved.items() and isinstance(saved.items()[0].value, list | tuple)
    pairs = saved.items(inputs) if several else [saved]
    for pair in pairs:
        start, end = (number.real() for number in pair.items(2))
        if not start < end:
            raise pair.wrong("(start, end) with start < end")
    return grids.checked_range(saved.value, inputs)


def _sizes(inputs: int, outputs: int, options: Mapping[str, Any]) -> _Sizes:
    return _Sizes(
        inputs,
        outputs,
        options["grid_size"],
        options["spline_order"],
        options["bias"],
        options["base"] != "zero",
        options["dtype"],
    )


def _of_format_1(saved: Saved) -> dict[str, Any]:
    """The description in format 2 of a network in format 1, which has the options of the first layer alone.

    Those of the other layers follow from the sizes of their tensors and from the metadata of the state dict.
    """
    degree, metadata = saved["k"].integer(), Saved(getattr(saved["state"].value, "_metadata", {}), "metadata")

    def options(number: int) -> dict[str, Any]:
        prefix = f"layers.{number}"
        own = metadata.get(prefix)
        weight = saved["state"][f"{prefix}.spline_weight"].any_tensor()
        shared = {name: saved[name].value for name in ("base", "extrapolation")}
        return {
            **shared,
            **({} if own is None else {name: own[name].value for name in shared if own.get(name) is not None}),
            "bias": f"{prefix}.bias" in saved["state"].record(),
            "grid_size": weight.shape[-1] - degree,
            "spline_order": degree,
            "grid_range": (-1.0, 1.0),
            "grid_eps": saved["grid_eps"].value,
            "dtype": saved["dtype"].value,
        }

    kept = {name: saved[name].value for name in ("width", "mult_arity", "input_id", "state")}
    return {"layers": [options(n) for n in range(len(saved["width"].items()) - 1)], "frozen": [], **kept}
