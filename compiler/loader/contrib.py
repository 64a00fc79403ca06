"""Operators of onnxruntime's own domain, as ONNX functions over standard operators.

onnxruntime's quantizer and optimizer write them into model files. Each entry is ONNX text; the inliner
expands it like any other model-local function, and the quantization passes find the pattern again.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from onyxc.compiler.errors import UnsupportedError

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
    **{
        f"QLinear{op}": _QLINEAR_UNARY.format(op=op, attributes="", references="")
        for op in ("Sigmoid", "GlobalAveragePool")
    },
    "QLinearLeakyRelu": _QLINEAR_UNARY.format(op="LeakyRelu", attributes=" <alpha>", references="<alpha: float = @alpha>"),
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


def _concat(node: onnx.NodeProto) -> str:
    """QLinearConcat takes any number of tensors, each with its scale and zero point."""
    count = (len(node.input) - 2) // 3
    arguments = ", ".join(f"x{i}, s{i}, z{i}" for i in range(count))
    parts = "\n".join(f"f{i} = DequantizeLinear(x{i}, s{i}, z{i})" for i in range(count))
    return f"""(ys, yz, {arguments}) => (y) {{
      {parts}
      c = Concat<axis: int = @axis>({", ".join(f"f{i}" for i in range(count))})
      y = QuantizeLinear(c, ys, yz)
    }}"""


def _gemm(node: onnx.NodeProto) -> str:
    """QGemm, with or without a bias of scale as * bs, quantized or float."""
    attrs = {"alpha": 1.0, "transA": 0, "transB": 0} | {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    alpha, a, b = attrs["alpha"], attrs["transA"], attrs["transB"]
    present = [*node.input, "", "", ""]
    bias, last = bool(present[6]), bool(present[7])
    return f"""(a, as, az, b, bs, bz{", c" * bias}{", ys, yz" * last}) => (y) {{
      fa = DequantizeLinear(a, as, az)
      fb = DequantizeLinear<axis = {0 if b else 1}>(b, bs, bz)
      {"s = Mul(as, bs)  fc = DequantizeLinear<axis = -1>(c, s)" if bias else ""}
      {"r" if last else "y"} = Gemm<alpha = {float(alpha)}, beta = {float(alpha)}, transA = {a}, transB = {b}>
        (fa, fb{", fc" * bias})
      {"y = QuantizeLinear(r, ys, yz)" if last else ""}
    }}"""


# Operators whose function depends on the node: name -> (attributes, function text of a node)
SPECIAL: dict[str, tuple[str, Callable[[onnx.NodeProto], str]]] = {
    "QLinearConcat": ("<axis>", _concat),
    "QGemm": ("", _gemm),
}


def add_functions(model: onnx.ModelProto) -> None:
    """Give ``model`` the functions for the contributed operators that it uses."""
    used = {n.op_type for n in model.graph.node if n.domain == DOMAIN and n.op_type in FUNCTIONS}
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    head = f'<domain: "{DOMAIN}", opset_import: ["" : {version}]>'
    known = {f.name for f in model.functions if f.domain == DOMAIN}
    for name in sorted(used - known):
        model.functions.append(onnx.parser.parse_function(head + FUNCTIONS[name]))
    for index, node in enumerate(model.graph.node):
        if node.domain == DOMAIN and any(a.name == "channels_last" and a.i for a in node.attribute):
            raise UnsupportedError(f"node {node.name!r} ({node.op_type}) is channels-last; save the model unoptimized")
        if node.domain == DOMAIN and node.op_type in SPECIAL and node.op_type not in known:
            attributes, body = SPECIAL[node.op_type]
            name, text = f"{node.op_type}{index}", body(node)
            model.functions.append(onnx.parser.parse_function(f"{head} {name} {attributes} {text}"))
            node.op_type = name
            kept = [i for i in node.input if i]
            del node.input[:]
            node.input.extend(kept)
            if not attributes:
                del node.attribute[:]
