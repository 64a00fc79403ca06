"""Writing artifacts: the folder's contents, the same bytes again, replaced as a whole or not at all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from artifact_tools import chain, constant, object_code, tensor

from onyxc.backends.artifact import link, manifest
from onyxc.backends.artifact.level import Level
from onyxc.backends.artifact.source import Body
from onyxc.backends.artifact.write import write
from onyxc.backends.program import Call, Kernel, Program
from onyxc.backends.target import get
from onyxc.compiler.errors import BuildError, OptionError, UnsupportedError

HOST = get("host")


def _write(out: Path, program: Program | None = None, **options: Any) -> manifest.Manifest:
    return write([Level(HOST, program or chain(), [object_code()])], out, **options)


def _output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("options", [{}, {"weights": "beside"}, {"library": "static"}])
def test_the_same_program_gives_the_same_bytes_anywhere(tmp_path: Path, options: dict[str, Any]) -> None:
    first, second = tmp_path / "a", tmp_path / "somewhere" / "else" / "b"
    _write(first, **options)
    _write(second, **options)
    assert _contents(first) == _contents(second)
    library = "libchain.a" if "library" in options else "libchain.so"
    beside = {"weights.bin"} if "weights" in options else set()
    assert set(_contents(first)) == {library, "chain.h", "manifest.json", "steps.json", "run"} | beside


def test_the_manifest_says_what_was_made(tmp_path: Path) -> None:
    made = _write(tmp_path / "a", info={"digest": "abc", "passes": ["fuse"], "versions": {"extra": "1"}, "note": [1]})
    assert manifest.read(tmp_path / "a") == made
    assert (made.digest, made.passes, made.info, made.kernels) == ("abc", ("fuse",), {"note": [1]}, 3)
    assert made.versions["extra"] == "1"
    assert set(made.versions) >= {"onyxc", "tvm", "onnx"}
    assert made.inputs == (manifest.Tensor("x", "float32", (16,), 64),)


def test_the_library_needs_only_libc_libm_and_pthread(tmp_path: Path) -> None:
    _write(tmp_path / "a")
    text = _output("readelf", "-d", tmp_path / "a/libchain.so")
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", text))
    assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0"}
    assert "PATH" not in text


def test_the_library_exports_only_its_functions(tmp_path: Path) -> None:
    _write(tmp_path / "a")
    text = _output("nm", "-D", tmp_path / "a/libchain.so")
    exported = set(re.findall(r" [TDBRV] (\w+)", text))
    functions = "create create_with destroy input output bind_input bind_output output_shape run error profile level table"
    assert exported == {"onyxc_table_v1", *(f"chain_{f}" for f in functions.split())}


def test_an_artifact_is_replaced_and_foreign_files_stay(tmp_path: Path) -> None:
    out = tmp_path / "a"
    _write(out, weights="beside")
    (out / "notes.txt").write_text("mine")
    _write(out, chain("other"))
    assert set(_contents(out)) == {"libother.so", "other.h", "manifest.json", "steps.json", "run", "notes.txt"}
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_empty_folder_and_new_parents_are_fine(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _write(tmp_path / "empty")
    assert (tmp_path / "empty/manifest.json").exists()


@pytest.mark.parametrize("name", ["data.txt", "manifest.json"])
def test_another_folder_is_not_touched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"manifest_version": 3}')
    with pytest.raises(OptionError, match="not empty and not an onyxc artifact"):
        _write(tmp_path)
    assert _contents(tmp_path) == {name: b'{"manifest_version": 3}'}


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    for out in (tmp_path / "f", tmp_path / "f" / "below"):
        with pytest.raises(OptionError, match=r"not a folder|cannot write"):
            _write(out)
    assert (tmp_path / "f").read_text() == "x"


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_a_failing_compiler_leaves_everything_as_it_was(tmp_path: Path, compiler: str) -> None:
    _write(tmp_path / "a")
    before = _contents(tmp_path / "a")
    for out in ("a", "new/deep"):
        with pytest.raises(BuildError, match=compiler):
            _write(tmp_path / out, chain("other"), compiler=compiler)
    assert _contents(tmp_path / "a") == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_kernel_without_code_is_named(tmp_path: Path) -> None:
    x = tensor("x", kind="input")
    program = Program("p", [x], [x], [Call(Kernel("phantom"), (x,), 1)])
    with pytest.raises(BuildError, match="'phantom'"):
        _write(tmp_path / "a", program)


def test_an_unresolved_symbol_is_an_error(tmp_path: Path) -> None:
    code = object_code(text="void TVMBackendX(void); void add(void) { TVMBackendX(); }")
    with pytest.raises(BuildError, match="TVMBackendX"):
        write([Level(HOST, chain(), [code])], tmp_path / "a")


def test_strings_are_refused(tmp_path: Path) -> None:
    x = tensor("x", dtype="string", kind="input")
    with pytest.raises(UnsupportedError, match=r"'x'.*string"):
        _write(tmp_path / "a", Program("p", [x], [x], []))


@pytest.mark.parametrize("option", ["library", "weights"])
def test_unknown_options_are_named(tmp_path: Path, option: str) -> None:
    with pytest.raises(OptionError, match=f"{option} is 'other'"):
        _write(tmp_path / "a", **{option: "other"})


def test_large_weights_lie_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onyxc.backends.artifact.weights.EMBED_LIMIT", 10)
    assert _write(tmp_path / "a").weights == "weights.bin"


def test_a_backend_may_bring_its_own_body(tmp_path: Path) -> None:
    body = Body(
        """
struct Context { float x[64], y[64]; };
extern const char extra[], extra_end[];
__asm__(".pushsection .rodata\\nextra: .incbin \\"extra.bin\\"\\nextra_end:\\n.popsection");
static Context *body_create(int threads, const char *weights_path) {
    (void)threads, (void)weights_path;
    return (Context *)allocate(sizeof(Context));
}
static int body_run(Context *c) {
    for (int i = 0; i < 16; i++) c->y[i] = c->x[i] + (float)(extra_end - extra);
    return ONYXC_OK;
}
static void *body_input(Context *c, int i) { (void)i; return c->x; }
static const void *body_output(Context *c, int i) { (void)i; return c->y; }
static int body_bind(Context *c, int i, void *memory) { (void)c, (void)i, (void)memory; return 1; }
static const int64_t *body_output_shape(Context *c, int i) { (void)c, (void)i; return NULL; }
static void body_destroy(Context *c) { free(c); }
static Timing body_timing(Context *c) { (void)c; return (Timing){"p", NULL, 0}; }
static int body_profile(Context *c, int64_t *spent, int64_t *calls) { (void)c, (void)spent, (void)calls; return ONYXC_OK; }
""",
        arena_bytes=512,
        files={"extra.bin": b"12345"},
    )
    program = Program("p", [tensor("x", kind="input")], [tensor("y", kind="output")], [])
    write([Level(get("cuda:sm_80"), program)], tmp_path / "a", body=body)
    code = (
        "import sys, numpy as np; from onyxc.backends import runtime\n"
        "print(runtime.load(sys.argv[1]).run({'x': np.ones(16, 'f4')})[0].tolist())"
    )
    assert _output(sys.executable, "-c", code, tmp_path / "a").strip() == str([6.0] * 16)


def test_no_compiler_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "find_spec", lambda name: None)
    with pytest.raises(BuildError, match=r"pip install 'onyxc\[cross\]'.*ONYXC_CC_ARMV7"):
        link.find(get("armv7"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(BuildError, match=r"apt-get install gcc.*onyxc\[cross\]"):
        link.find(HOST)


def test_the_order_of_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "gcc -pipe")
    assert link.find(HOST).command == ("gcc", "-pipe")
    monkeypatch.setenv("ONYXC_CC_X86_64", "cc")
    assert link.find(HOST).command == ("cc",)
    assert link.find(HOST, "gcc").command == ("gcc",)
    assert link.find(get("cuda:sm_80")).command == ("cc",)


def test_weights_that_do_not_fit_their_dtype(tmp_path: Path) -> None:
    w = constant("w", [1.0])
    w.shape = (7,)
    with pytest.raises(BuildError, match="'w'"):
        _write(tmp_path / "a", Program("p", [], [w], []))
