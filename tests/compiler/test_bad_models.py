"""Whatever is wrong with a model or an option: one clear message, within seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

from onyxc.compiler.errors import ModelError, OptionError, UnsupportedError
from onyxc.compiler.ir.verify import verify
from onyxc.compiler.loader import load


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    start = time.perf_counter()
    yield
    assert time.perf_counter() - start < 3


def parse(body: str, head: str = 'ir_version: 10, opset_import: ["" : 26]') -> onnx.ModelProto:
    return onnx.parser.parse_model(f"<{head}> {body}")


def made(nodes: list[Any], inputs: str = "x", output: str = "y", shape: tuple[Any, ...] = (2, 3)) -> onnx.ModelProto:
    """A model that onnx.parser would not let through."""
    values = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in names] for names in (inputs, output)]
    graph = helper.make_graph(nodes, "g", *values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 26)], ir_version=10)


# ---- files


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read .*no\.onnx"):
        load(tmp_path / "no.onnx")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read"):
        load(tmp_path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 a zip", b"\x89PNG\r\n\x1a\n" + bytes(64), b"{}", bytes(1000)])
def test_foreign_file(data: bytes) -> None:
    with pytest.raises(ModelError, match="not an ONNX model"):
        load(data)


def test_truncated_file() -> None:
    model = parse("g (float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}> { a = Mul(x, w) y = Relu(a) }")
    data = model.SerializeToString()
    for length in range(0, len(data), 7):
        with pytest.raises(ModelError):
            load(data[:length])


def test_no_opset() -> None:
    model = parse("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    del model.opset_import[:]
    with pytest.raises(ModelError, match="opset_import"):
        load(model)


# ---- graphs


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("Rellu", ["x"], ["y"]), "Rellu"),
        (helper.make_node("Relu", ["x"], ["y"], domain="com.nobody"), "com.nobody"),
        (helper.make_node("Relu", ["nothing"], ["y"]), "nothing"),
        (helper.make_node("Relu", ["x"], ["x"]), "x"),
        (helper.make_node("Relu", ["x"], ["z"]), "y"),
        (helper.make_node("Relu", ["x"], ["y"], alpha=1.0), "alpha"),
        (helper.make_node("Concat", ["x"], ["y"]), "axis"),
        (helper.make_node("Concat", ["x"], ["y"], axis=7), "axis"),
        (helper.make_node("Softmax", ["x"], ["y"], axis="one"), "axis"),
        (helper.make_node("Relu", ["x", "x"], ["y"]), "Relu"),
        (helper.make_node("Transpose", ["x"], ["y"], perm=[0, 0]), "(?i)perm"),
    ],
)
def test_bad_node(node: onnx.NodeProto, message: str) -> None:
    with pytest.raises((ModelError, UnsupportedError), match=message):
        load(made([node]))


def test_cycle() -> None:
    with pytest.raises(ModelError, match=r"(?i)topological|sorted|b"):
        load(made([helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])], output="b"))


def test_duplicate_names() -> None:
    with pytest.raises(ModelError, match=r"'?a'?"):
        load(made([helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["x"], ["a"])], output="a"))
    with pytest.raises(ModelError, match="x"):
        load(made([helper.make_node("Add", ["x", "x"], ["y"])], inputs="xx"))
    model = made([helper.make_node("Add", ["x", "w"], ["y"])])
    for _ in range(2):
        model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0]))
    with pytest.raises(ModelError, match="two initializers are called 'w'"):
        load(model)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("g (float[2, 3] x, int64[2, 3] z) => (float[2, 3] y) { y = Add(x, z) }", "Add"),
        ("g (float[2, 3] x, float[2, 4] z) => (float[2, 3] y) { y = Add(x, z) }", "Add"),
        ("g (float[2, 3] x, float[2, 4] z) => (float[2, 3] y) { a = Relu(x) y = MatMul(a, z) }", "MatMul"),
        ("g (float[2, 3] x) => (float[7] y) <int64[1] s = {7}> { y = Reshape(x, s) }", "Reshape"),
        (
            "g (float[1, 3, 4, 4] x) => (float[?] y) <float[2, 5, 1, 1] w = {1,1,1,1,1,1,1,1,1,1}> { y = Conv(x, w) }",
            "Conv",
        ),
    ],
)
def test_type_or_shape_clash(body: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(parse(body))


def test_old_scan() -> None:
    scan = """<ir_version: 10, opset_import: ["" : 8]>
    g (float[1, 2] s, float[1, 3, 2] x) => (float[1, 2] y, float[1, 3, 2] z) {
      y, z = Scan <num_scan_inputs = 1,
        body = b (float[2] p, float[2] q) => (float[2] r, float[2] t) { r = Add(p, q) t = Relu(r) }
      > ("", s, x)
    }"""
    with pytest.raises(ModelError, match="Scan of opset 8 cannot be upgraded"):
        load(onnx.parser.parse_model(scan))


def test_unknown_domain_without_import() -> None:
    model = made([helper.make_node("Relu", ["x"], ["y"])])
    model.opset_import[0].version = 9999
    with pytest.raises(ModelError):
        load(model)


# ---- tensors


def _with_tensor(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = made([helper.make_node("Add", ["x", "w"], ["y"])])
    model.graph.initializer.append(tensor)
    return model


@pytest.mark.parametrize(
    ("dims", "data", "message"),
    [
        ([2, 3], bytes(8), r"'w'.*fill"),
        ([1 << 40, 1 << 20], b"", r"'w'.*fill"),
        ([1 << 62, 1 << 62], bytes(4), r"'w'"),
        ([-1, 3], bytes(12), "'w'.*negative"),
    ],
)
def test_bad_initializer(dims: list[int], data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(_with_tensor(TensorProto(name="w", data_type=1, dims=dims, raw_data=data)))


def test_unknown_element_type() -> None:
    with pytest.raises(ModelError, match="'w' has an unknown element type"):
        load(_with_tensor(TensorProto(name="w", data_type=99, dims=[1], raw_data=bytes(4))))


def test_huge_input_is_no_problem() -> None:
    graph = load(parse(f"g (float[{1 << 40}] x) => (float[{1 << 40}] y) {{ y = Relu(x) }}"))
    verify(graph)


def _external(tmp_path: Path, location: str, dims: tuple[int, ...] = (2, 3), **entries: str) -> Path:
    tensor = TensorProto(name="w", data_type=1, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(_with_tensor(tensor).SerializeToString())
    return path


def test_external_data(tmp_path: Path) -> None:
    path = _external(tmp_path, "w.bin", offset="8")
    (path.parent / "w.bin").write_bytes(bytes(8) + np.arange(6, dtype=np.float32).tobytes())
    graph = load(path)
    weight = graph.nodes[0].const(1)
    assert weight is not None
    np.testing.assert_array_equal(weight, np.arange(6, dtype=np.float32).reshape(2, 3))
    with pytest.raises(ModelError, match="no folder"):
        load(path.read_bytes())


def test_external_data_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"external data of 'w': there is no file .*w\.bin"):
        load(_external(tmp_path, "w.bin"))


@pytest.mark.parametrize(
    ("size", "entries"),
    [
        (23, {}),
        (24, {"offset": "1"}),
        (24, {"length": "20"}),
        (24, {"offset": "-1"}),
        (24, {"offset": "zero"}),
        (1000, {"offset": str(1 << 70)}),
    ],
)
def test_external_data_short(tmp_path: Path, size: int, entries: dict[str, str]) -> None:
    path = _external(tmp_path, "w.bin", **entries)
    (path.parent / "w.bin").write_bytes(bytes(size))
    with pytest.raises(ModelError, match="external data of 'w'"):
        load(path)


def test_external_data_huge(tmp_path: Path) -> None:
    path = _external(tmp_path, "w.bin", dims=(1 << 40, 1 << 20))
    (path.parent / "w.bin").write_bytes(bytes(24))
    with pytest.raises(ModelError, match=r"external data of 'w'.*too short"):
        load(path)


@pytest.mark.parametrize("location", ["../secret", "sub/../../secret", "/etc/passwd", ""])
def test_external_data_outside(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(24))
    with pytest.raises(ModelError, match="must be a file inside the model's folder"):
        load(_external(tmp_path, location))


def test_external_data_by_symlink(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(24))
    path = _external(tmp_path, "w.bin")
    os.symlink(tmp_path / "secret", path.parent / "w.bin")
    with pytest.raises(ModelError, match="leads out of the model's folder"):
        load(path)
    path = _external(tmp_path, "sub/secret")
    os.symlink(tmp_path, path.parent / "sub")
    with pytest.raises(ModelError, match="leads out of the model's folder"):
        load(path)


def test_external_data_in_a_branch(tmp_path: Path) -> None:
    """Tensors of inner graphs are found too."""
    tensor = TensorProto(name="w", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    branch = helper.make_graph(
        [helper.make_node("Relu", ["w"], ["r"])], "b", [], [helper.make_tensor_value_info("r", 1, [2])], [tensor]
    )
    condition = helper.make_tensor_value_info("x", TensorProto.BOOL, [])
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    model = made([node], shape=(2,))
    model.graph.input[0].CopyFrom(condition)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises((ModelError, UnsupportedError), match="w"):
        load(path)


# ---- options

DYNAMIC = "g (float[N, C, 4] a, float[N, ?] b) => (float[N, C, 4] y) { y = Relu(a) z = Relu(b) }"


def test_bindings() -> None:
    graph = load(parse(DYNAMIC), input_dims={"N": 2}, input_shapes={"a": (2, 3, 4), "b": (2, 7)})
    assert [v.dims for v in graph.inputs] == [(2, 3, 4), (2, 7)]
    assert graph.outputs[0].dims == (2, 3, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_dims": {"M": 2}}, "--input-dim M: no input has such a dimension; there are 'C', 'N'"),
        ({"input_dims": {"N": -2}}, "cannot be -2"),
        ({"input_dims": {"N": 2}, "input_shapes": {"a": (3, 3, 4)}}, "'N' cannot be 2 and 3"),
        ({"input_shapes": {"a": (3, 3, 4), "b": (4, 7)}}, "'N' cannot be both 3 and 4"),
        ({"input_shapes": {"a": (3, 3, 5)}}, "dimension 4 of the model cannot become 5"),
        ({"input_shapes": {"a": (3, 3)}}, "2 dimensions given, the input has 3"),
        ({"input_shapes": {"a": (3, -3, 4)}}, "-3 is no size"),
        ({"input_shapes": {"c": (3,)}}, "the model has no such input; there are 'a', 'b'"),
        ({"input_values": {"c": 1}}, "the model has no such input"),
        ({"input_values": {"a": "text"}}, "--input-value a: 'text' is no float32"),
        ({"input_values": {"a": [[1.0]]}}, "--input-value a"),
    ],
)
def test_bad_bindings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load(parse(DYNAMIC), **options)


def test_binding_that_does_not_fit() -> None:
    model = parse("g (float[N] a, float[M] b) => (float[?] y) { y = Add(a, b) }")
    with pytest.raises(ModelError, match="Add"):
        load(model, input_dims={"N": 2, "M": 3})


def test_input_value() -> None:
    graph = load(
        parse("g (float[2] x, int64 n) => (float[2] y) { m = Cast <to = 1> (n) y = Mul(x, m) }"), input_values={"n": 3}
    )
    assert [v.name for v in graph.inputs] == ["x"]


def test_a_branch_never_taken_may_not_fit() -> None:
    split = "a, b, c, d = Split <num_outputs = 4> (x)"
    with pytest.raises(ModelError, match=r"Split .*'d' would be f32\[-1\], a window or slice is larger"):
        load(parse(f"g (float[5] x) => (float d) {{ {split} }}"))
    then = f"then_branch = t () => (float d) {{ {split} }}"
    other = "else_branch = e () => (float[5] r) { r = Relu(x) }"
    load(parse(f"g (bool p, float[5] x) => (float y) {{ y = If (p) <{then}, {other}> }}"))
