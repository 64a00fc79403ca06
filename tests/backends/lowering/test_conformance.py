"""Operators against onnx's own node conformance cases, through compiled kernels."""

from __future__ import annotations

from collections.abc import Callable

import pytest

FAMILIES = {
    "activation": (
        "Acos Acosh Asin Asinh Atan Atanh Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish "
        "LeakyRelu Log Mish PRelu Relu Round Selu Shrink Sigmoid Sin Sinh Softplus Softsign Sqrt SwiGLU Swish "
        "Tan Tanh ThresholdedRelu"
    ),
    "conversion": "BitCast Cast CastLike IsInf IsNaN",
    "elementwise": (
        "Abs Add And BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Clip Div Equal Greater "
        "GreaterOrEqual Identity Less LessOrEqual Max Mean Min Mod Mul Neg Not Or Pow Reciprocal Sign Sub Sum "
        "Where Xor"
    ),
    "gather": "Gather GatherElements GatherND",
    "movement": (
        "Concat ConstantOfShape DepthToSpace Dropout Expand Flatten Reshape Shape Size Slice SpaceToDepth "
        "Split Squeeze Tile Transpose Unsqueeze"
    ),
    "normalization": (
        "BatchNormalization GroupNormalization Hardmax InstanceNormalization LRN LayerNormalization "
        "LogSoftmax LpNormalization MeanVarianceNormalization RMSNormalization Softmax"
    ),
    "padding": "CenterCropPad Pad",
    "pooling": "AveragePool GlobalAveragePool GlobalMaxPool LpPool MaxPool",
    "product": "Conv ConvInteger ConvTranspose Gemm MatMul MatMulInteger QLinearConv QLinearMatMul",
    "quantization": "DequantizeLinear DynamicQuantizeLinear QuantizeLinear",
    "reduction": (
        "ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
        "ReduceProd ReduceSum ReduceSumSquare"
    ),
    "resize": "Resize Upsample",
}

# What native code does not do, by the part of the name that says so.
UNSUPPORTED = ("_string", "identity_sequence", "identity_opt", "training_dropout")


@pytest.mark.parametrize("op", [op for family in FAMILIES.values() for op in family.split()])
def test_operator(op: str, conformance: Callable[[str], dict[str, str]]) -> None:
    found = conformance(op)
    assert found
    wrong = {name: error for name, error in found.items() if error and not any(u in name for u in UNSUPPORTED)}
    assert not wrong, "\n".join(f"{name}: {error}" for name, error in wrong.items())
