"""KANLinear in modules of torch that read the weights of nn.Linear: they work, or say what to do."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from kan_fast import KANLinear

X = torch.linspace(-1, 1, 120).view(3, 5, 8)
PADDING = torch.tensor([[0] * 5, [0, 0, 0, 1, 1], [0, 0, 1, 1, 1]], dtype=torch.bool)


def by_hand(layer):
    """A transformer layer with KANLinear in place of its nn.Linear."""
    layer.linear1, layer.linear2 = KANLinear(8, 16), KANLinear(16, 8)
    return layer.eval()


def encoder_layer(**options):
    return by_hand(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options))


def transformer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about nested tensors
        model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True).eval()
    for layer in (*model.encoder.layers, *model.decoder.layers):
        by_hand(layer)
    return lambda x: model(x, x, src_key_padding_mask=PADDING)


def encoder():
    model = nn.TransformerEncoder(encoder_layer(), 2).eval()
    return lambda x: model(x, src_key_padding_mask=PADDING)


def decoder_layer():
    layer = by_hand(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True))
    return lambda x: layer(x, x)


@pytest.mark.parametrize(
    "build",
    [encoder_layer, lambda: encoder_layer(activation="gelu", norm_first=True), encoder, decoder_layer, transformer],
    ids=["encoder layer", "gelu, norm first", "encoder", "decoder layer", "transformer"],
)
@pytest.mark.parametrize("without_gradients", [torch.no_grad, torch.inference_mode])
def test_transformers_call_the_layers_in_inference_too(build, without_gradients):
    model = build()
    expected = model(X).detach()
    with without_gradients():
        torch.testing.assert_close(model(X), expected)


def test_compiled_exported_and_traced_transformers():
    layer = encoder_layer()
    with torch.no_grad():
        expected = layer(X)
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(X), expected)
        torch.testing.assert_close(torch.export.export(layer, (X,)).module()(X), expected)


@pytest.mark.parametrize("train", [True, False])
def test_attention_that_computes_with_the_weight_says_what_to_do(train):
    attention = nn.MultiheadAttention(8, 2, batch_first=True).train(train)
    attention.out_proj = KANLinear(8, 8)
    with torch.no_grad(), pytest.raises(TypeError, match=r"out_proj: leave an nn.Linear there, as .*replace_linear"):
        attention(X, X, X)


def test_whoever_else_wants_the_weight_is_told_what_there_is():
    layer = KANLinear(3, 2)
    for use in (lambda w: w.shape, lambda w: w.data.normal_(), lambda w: w.device):
        with pytest.raises(AttributeError, match="no weight matrix: their parameters are spline_weight, base_weight"):
            use(layer.weight)
    with pytest.raises(TypeError, match=r"torch.nn.functional.linear computes with the weight itself"):
        nn.functional.linear(torch.rand(5, 3), layer.weight, layer.bias)
    with pytest.raises(ValueError, match="no parameter or buffer"):
        nn.utils.parametrizations.spectral_norm(layer)
    assert not any(name.split(".")[-1] == "weight" for name in layer.state_dict())
