"""Operators of onnxruntime's own domain, as ONNX functions over standard operators.

onnxruntime's quantizer and optimizer write them into model files. Each entry is ONNX text; the inliner
expands it like any other model-local function, and the quantization passes find the pattern again.
"""

from __future__ import annotations

import onnx

DOMAIN = "com.microsoft"

_QLINEAR_BINARY = """
QLinear{op} (A, As, Az, B, Bs, Bz, Cs, Cz) => (C) {{
  a = DequantizeLinear(A, As, Az)
  b = DequantizeLinear(B, Bs, Bz)
  c = {op}(a, b)
  C = QuantizeLinear(c, Cs, Cz)
}}"""
_QLINEAR_UNARY = """
QLinear{op}{attributes} (X, Xs, Xz, Ys, Yz) => (Y) {{
  x = DequantizeLinear(X, Xs, Xz)
  y = {op}{references}(x)
  Y = QuantizeLinear(y, Ys, Yz)
}}"""
_POOL = {
    "attributes": " <auto_pad, ceil_mode, count_include_pad, kernel_shape, pads, strides>",
    "references": """<auto_pad: string = @auto_pad, ceil_mode: int = @ceil_mode,
      count_include_pad: int = @count_include_pad, kernel_shape: ints = @kernel_shape, pads: ints = @pads,
      strides: ints = @strides>""",
}

FUNCTIONS: dict[str, str] = {
    **{f"QLinear{op}": _QLINEAR_BINARY.format(op=op) for op in ("Add", "Mul")},
    **{f"QLinear{op}": _QLINEAR_UNARY.format(op=op, attributes="", references="") for op in ("Sigmoid", "GlobalAveragePool")},
    "QLinearLeakyRelu": _QLINEAR_UNARY.format(
        op="LeakyRelu", attributes=" <alpha>", references="<alpha: float = @alpha>"
    ),
    "QLinearSoftmax": _QLINEAR_UNARY.format(op="Softmax", attributes=" <axis>", references="<axis: int = @axis>"),
    "QLinearAveragePool": _QLINEAR_UNARY.format(op="AveragePool", **_POOL),
    "QuantizeLinear": "QuantizeLinear <axis> (x, s, z) => (y) { y = QuantizeLinear<axis: int = @axis>(x, s, z) }",
    "DequantizeLinear": "DequantizeLinear <axis> (x, s, z) => (y) { y = DequantizeLinear<axis: int = @axis>(x, s, z) }",
    "Gelu": "Gelu (x) => (y) { y = Gelu(x) }",
    "FastGelu": 'FastGelu (x, b) => (y) { z = Add(x, b)  y = Gelu<approximate = "tanh">(z) }',
    "QuickGelu": "QuickGelu <alpha> (x) => (y) { y = Swish<alpha: float = @alpha>(x) }",
    "SkipLayerNormalization": """SkipLayerNormalization <epsilon> (x, skip, gamma, beta) => (y) {
      s = Add(x, skip)
      y = LayerNormalization<axis = -1, epsilon: float = @epsilon>(s, gamma, beta)
    }""",
}


def add_functions(model: onnx.ModelProto) -> None:
    """Give ``model`` the functions for the contributed operators that it uses."""
    used = {n.op_type for n in model.graph.node if n.domain == DOMAIN and n.op_type in FUNCTIONS}
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    head = f'<domain: "{DOMAIN}", opset_import: ["" : {version}]>'
    known = {f.name for f in model.functions if f.domain == DOMAIN}
    for name in sorted(used - known):
        model.functions.append(onnx.parser.parse_function(head + FUNCTIONS[name]))
