"""LSTM, GRU and RNN as one kernel: a block for each direction and sequence, the state in shared memory.

A step: the warps share the rows of the weights, lanes along a row; then a thread for each hidden unit.
float32 with the usual activations; what does not fit is left to the imperative kernel.
"""

from __future__ import annotations

from string import Template

from onyxc.backends.cuda import lower
from onyxc.backends.lowering.gates import Gate
from onyxc.backends.lowering.recurrent_spec import Spec, spec
from onyxc.backends.program import Kernel
from onyxc.compiler.ir.graph import Node

THREADS = 256
SHARED = 40 << 10  # bytes; every GPU gives 48 KB without asking

_INPUTS = ("X", "W", "R", "B", "lengths", "h0", "c0", "P")
_OUTPUTS = ("Y", "Yh", "Yc")
_FUNCTIONS = {
    "sigmoid": "1.0f / (1.0f + expf(-({0})))",
    "tanh": "tanhf({0})",
    "relu": "fmaxf({0}, 0.0f)",
}

_KERNEL = Template("""\
extern "C" __global__ void __launch_bounds__($threads) $name($parameters) {
  const int T = $T, N = $N, I = $I, H = $H, G = $G;
  const int d = blockIdx.x / N, n = blockIdx.x % N, tid = threadIdx.x;
  const bool backwards = $backwards;
  const int length = $length;
  __shared__ float x[$I], h[$H], c[$H], reset[$H], wx[$G * $H], rh[$G * $H];
  const float *w = W + (size_t)d * G * H * I, *r = R + (size_t)d * G * H * H;
  auto rows = [&](int first, int last, const float *weights, const float *vector, int size, float *result) {
    for (int row = first + tid / 32; row < last; row += $threads / 32) {
      float sum = 0.0f;
      for (int k = tid % 32; k < size; k += 32) sum += weights[row * size + k] * vector[k];
      for (int far = 16; far > 0; far >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, far);
      if (tid % 32 == 0) result[row] = sum;
    }
  };
  auto clip = [](float v) { return $clip; };
  auto f = [](float v) { return $f; };
  auto g = [](float v) { return $g; };
  auto e = [](float v) { return $e; };
  for (int j = tid; j < H; j += $threads) h[j] = $h0, c[j] = $c0, reset[j] = 0.0f;
  for (int step = 0; step < length; ++step) {
    const int t = backwards ? length - 1 - step : step;
    for (int k = tid; k < I; k += $threads) x[k] = X[$x + k];
    __syncthreads();
    rows(0, G * H, w, x, I, wx);
    rows(0, $rows, r, h, H, rh);
    __syncthreads();
$cell
    __syncthreads();
$write
  }
$tail
}
""")

_CELLS = {
    "LSTM": """\
    for (int j = tid; j < H; j += $threads) {
      const float i = f(clip(wx[j] + rh[j] + $b0$pi));
      const float forget = $forget;
      const float fresh = g(clip(wx[3 * H + j] + rh[3 * H + j] + $b3));
      const float state = forget * c[j] + i * fresh;
      c[j] = state;
      h[j] = f(clip(wx[H + j] + rh[H + j] + $b1$po)) * e(state);
    }""",
    "GRU": """\
    for (int j = tid; j < H; j += $threads) reset[j] = f(clip(wx[H + j] + rh[H + j] + $b1))$times_h;
$again
    for (int j = tid; j < H; j += $threads) {
      const float z = f(clip(wx[j] + rh[j] + $b0));
      const float fresh = g(clip(wx[2 * H + j] + $candidate));
      h[j] = (1.0f - z) * fresh + z * h[j];
    }""",
    "RNN": "    for (int j = tid; j < H; j += $threads) h[j] = f(clip(wx[j] + rh[j] + $b0));",
}
_AGAIN = """\
    __syncthreads();
    rows(2 * H, 3 * H, r, reset, H, rh);
    __syncthreads();"""


def build(name: str, node: Node) -> Kernel | None:
    """The kernel of a recurrent node, its arguments the inputs and outputs that are there; None if unsuited."""
    s = spec(node)
    functions = [_function(gate) for gate in s.functions[0]]
    usual = all(gates == s.functions[0] for gates in s.functions) and None not in functions
    shared = 4 * (s.inputs + 3 * s.hidden + 2 * s.gates * s.hidden)
    if not usual or s.dtype != "float32" or shared > SHARED or any(v and v.dtype == "float16" for v in node.inputs):
        return None
    inputs = [n for n, v in zip(_INPUTS, node.inputs, strict=False) if v is not None]
    outputs = [n for n, v in zip(_OUTPUTS, node.outputs, strict=False) if v.name]
    f, g, e = (*functions, "v", "v")[:3]
    name = lower.symbol(name)
    fields = {
        "name": name,
        "parameters": ", ".join(f"{'int' if p == 'lengths' else 'float'}* __restrict__ {p}" for p in (*inputs, *outputs)),
        "threads": THREADS,
        "T": s.steps,
        "N": s.batch,
        "I": s.inputs,
        "H": s.hidden,
        "G": s.gates,
        "backwards": "true" if s.reverse == (True,) else "d == 1" if len(s.reverse) == 2 else "false",
        "length": "lengths[n]" if "lengths" in inputs else "T",
        "clip": f"fminf(fmaxf(v, -{s.clip!r}f), {s.clip!r}f)" if s.clip else "v",
        "f": f,
        "g": g,
        "e": e,
        **{p: f"{p}[{_state(s)} + j]" if p in inputs else "0.0f" for p in ("h0", "c0")},
        "x": f"({'n * T + t' if s.batch_first else 't * N + n'}) * I",
        "rows": "2 * H" if s.kind == "GRU" and not s.linear_before_reset else "G * H",
        "write": f"    for (int j = tid; j < H; j += {THREADS}) Y[{_place(s)} + j] = h[j];" if "Y" in outputs else "",
    }
    fields["cell"] = Template(_CELLS[s.kind]).substitute(fields, **_cell(s, "B" in inputs, "P" in inputs))
    fields["tail"] = _tail(s, outputs)
    source = _KERNEL.substitute(fields)
    work = 2 * s.directions * s.batch * s.steps * s.gates * s.hidden * (s.inputs + s.hidden)
    return Kernel(name, source=source, grid=(s.directions * s.batch, 1, 1), block=(THREADS, 1, 1), work=work)


def _function(gate: Gate) -> str | None:
    return _FUNCTIONS[gate.name].format("v") if gate.name in _FUNCTIONS else None


def _state(s: Spec) -> str:
    """Where the states of sequence n in direction d start."""
    return f"({'n * ' + str(s.directions) + ' + d' if s.batch_first else 'd * N + n'}) * H"


def _place(s: Spec) -> str:
    """Where output (t, d, n) starts."""
    d = s.directions
    return f"((n * T + t) * {d} + d) * H" if s.batch_first else f"((t * {d} + d) * N + n) * H"


def _cell(s: Spec, biased: bool, peepholes: bool) -> dict[str, str]:
    """Biases, peepholes and variants of the cell."""

    G = s.gates

    def bias(gate: int, recurrent: bool | None = None) -> str:
        parts = [f"B[(d * 2 * G + {gate + (G if side else 0)}) * H + j]" for side in (False, True)]
        chosen = parts if recurrent is None else [parts[recurrent]]
        return f"({' + '.join(chosen)})" if biased else "0.0f"

    def peephole(index: int, state: str) -> str:
        return f" + P[(d * 3 + {index}) * H + j] * {state}" if peepholes else ""

    forget = f"f(clip(wx[2 * H + j] + rh[2 * H + j] + {bias(2)}{peephole(2, 'c[j]')}))"
    first = s.linear_before_reset
    return {
        **{f"b{gate}": bias(gate) for gate in range(G)},
        "pi": peephole(0, "c[j]"),
        "po": peephole(1, "state"),
        "forget": "1.0f - i" if s.coupled else forget,
        "times_h": "" if first else " * h[j]",
        "again": "" if first else _AGAIN,
        "candidate": f"{bias(2, False)} + reset[j] * (rh[2 * H + j] + {bias(2, True)})"
        if first
        else f"rh[2 * H + j] + {bias(2)}",
    }


def _tail(s: Spec, outputs: list[str]) -> str:
    """Zeros behind short sequences, and the last states."""
    lines = []
    if "Y" in outputs:
        lines += [
            "  for (int t = length; t < T; ++t)",
            f"    for (int j = tid; j < H; j += {THREADS}) Y[{_place(s)} + j] = 0.0f;",
        ]
    for name, state in (("Yh", "h"), ("Yc", "c")):
        if name in outputs:
            lines.append(f"  for (int j = tid; j < H; j += {THREADS}) {name}[{_state(s)} + j] = {state}[j];")
    return "\n".join(lines)
