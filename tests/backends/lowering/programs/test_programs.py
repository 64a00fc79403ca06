"""Operators that are programs, and those with few relatives, against onnx's own node conformance cases."""

from __future__ import annotations

from collections.abc import Callable

import pytest

FAMILIES = {
    "generation": "AffineGrid EyeLike OneHot Range ReverseSequence Trilu",
    "learning": "ArrayFeatureExtractor Binarizer LabelEncoder TreeEnsemble",
    "linear algebra": "Det Einsum",
    "n-grams": "TfIdfVectorizer",
    "recurrent": "GRU LSTM RNN",
    "sampling": "Col2Im DeformConv GridSample MaxUnpool RoiAlign",
    "scan": "CumProd CumSum",
    "scatter": "Scatter ScatterElements ScatterND TensorScatter",
    "selection": "Compress NonMaxSuppression NonZero",
    "signal": "DFT STFT",
    "sorting": "TopK Unique",
    "training": "Adagrad Adam Momentum",
}

EXCEPTIONS = {
    "test_ai_onnx_ml_label_encoder_string_int": "strings are not compiled",
    "test_ai_onnx_ml_label_encoder_string_int_no_default": "strings are not compiled",
    "test_ai_onnx_ml_label_encoder_tensor_mapping": "strings are not compiled",
    "test_ai_onnx_ml_label_encoder_tensor_value_only_mapping": "strings are not compiled",
    "test_dft_inverse": "the expected values are float32 noise around zero",
    "test_dft_inverse_opset19": "the expected values are float32 noise around zero",
    "test_range_float16_type_positive_delta": "no static shape; constant folding evaluates it",
    "test_range_bfloat16_type_positive_delta": "no static shape; constant folding evaluates it",
    "test_maxunpool_export_with_output_shape": "onnx infers no static shape; constant folding of the shape decides",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family: str, conformance: Callable[[str], dict[str, str]]) -> None:
    found = conformance(FAMILIES[family])
    assert found
    wrong = {name: error for name, error in found.items() if error and name not in EXCEPTIONS}
    assert not wrong, "\n".join(f"{name}: {error}" for name, error in wrong.items())
