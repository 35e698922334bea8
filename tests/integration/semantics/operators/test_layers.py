"""Layers for which PyTorch has an operator of its own: Transformers in eval, LSTMs, fake quantisation, and others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.integration.compare import same
from tests.integration.semantics.operators.reference import assert_like_aot_eager

X = torch.randn(2, 5, 16, generator=torch.manual_seed(0))
PADDING = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 1]]).bool()
CAUSAL = nn.Transformer.generate_square_subsequent_mask(5)


def test_transformer_layers_in_eval(backend: Any) -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    gelu = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu", norm_first=True).eval()

    def layers(x: Tensor, padding: Tensor, causal: Tensor) -> list[Tensor]:
        masked = layer(x, src_mask=causal, is_causal=True)
        return [
            layer(x),
            layer(x, src_key_padding_mask=padding),
            masked,
            gelu(x),
            gelu(x, src_key_padding_mask=padding),
        ]

    assert_like_aot_eager(backend, layers, X, PADDING, CAUSAL)


def test_transformers_in_eval(backend: Any) -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2).eval()
    whole = nn.Transformer(16, 4, 1, 1, 32, batch_first=True).eval()
    attention = nn.MultiheadAttention(16, 4, batch_first=True).eval()

    def models(x: Tensor, padding: Tensor) -> list[Any]:
        attended = attention(x, x, x, key_padding_mask=padding)
        return [encoder(x), encoder(x, src_key_padding_mask=padding), whole(x, x), attended]

    assert_like_aot_eager(backend, models, X, PADDING)


def test_recurrent_layers(backend: Any) -> None:
    x = torch.randn(3, 2, 4)
    with torch._dynamo.config.patch(allow_rnn=True):
        for layer in (nn.LSTM(4, 5, num_layers=2, bidirectional=True), nn.LSTM(4, 5, bias=False)):
            assert_like_aot_eager(backend, layer, x)
            assert_like_aot_eager(backend, layer, x, grad=True)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_outside_compiled_code_take_results(kind: Any, backend: Any) -> None:
    layer, x = kind(4, 5, num_layers=2, bidirectional=True), torch.randn(3, 2, 4)
    result = torch.compile(lambda x: x * 2, backend=backend)(x)
    with torch.no_grad():
        same(layer(result), layer(x * 2))
    gradients = []
    for given in (x * 2, result):
        layer.zero_grad()
        output, _ = layer(given)
        output.sin().sum().backward()
        gradients.append([output, [parameter.grad.clone() for parameter in layer.parameters()]])
    same(gradients[1], gradients[0])


def test_an_embedding_that_renormalises_its_rows(backend: Any) -> None:
    table = nn.Embedding(5, 3, max_norm=0.5)
    for grad in (False, True):
        assert_like_aot_eager(backend, table, torch.tensor([1, 2, 1]), grad=grad)


def test_fake_quantisation(backend: Any) -> None:
    def quantised(x: Tensor, scale: Tensor) -> list[Tensor]:
        zero = torch.zeros(2, dtype=torch.int32)
        whole = torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 255)
        by_tensor = torch.fake_quantize_per_tensor_affine(x, scale[0], zero[0], -128, 127)
        return [whole, by_tensor, torch.fake_quantize_per_channel_affine(x, scale, zero, 0, 0, 255)]

    assert_like_aot_eager(backend, quantised, X, torch.tensor([0.1, 0.2]))
    assert_like_aot_eager(backend, lambda x: quantised(x, torch.tensor([0.1, 0.2])), X, grad=True)


def test_histograms(backend: Any) -> None:
    def counted(x: Tensor) -> list[Any]:
        return [
            torch.histogram(x, 3),
            torch.histogram(x, torch.tensor([-1.0, 0.0, 2.0])),
            torch.histogramdd(x.view(-1, 2), 3),
        ]

    assert_like_aot_eager(backend, counted, X)


def test_second_derivatives(backend: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def derivatives(x: Tensor) -> list[Any]:
        return [
            torch.func.hessian(lambda x: model(x).sum())(x),
            torch.func.jacfwd(model)(x),
            torch.func.jacrev(model)(x),
        ]

    assert_like_aot_eager(backend, derivatives, torch.randn(3))


def test_float8_of_every_kind(backend: Any) -> None:
    kinds = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu)
    values = X.abs() + 1

    def converted(*tensors: Tensor) -> list[Tensor]:
        return [it.float() * 2 for it in tensors] + [values.to(kind) for kind in kinds]

    assert_like_aot_eager(backend, converted, *(values.to(kind) for kind in kinds))
