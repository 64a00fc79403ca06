"""Winograd's matrices, plans and packed weights, and when they are chosen."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from convolution_reference import square

from onyxc.backends.cpu.shapes import ConvShape, dense_strides, planar_strides
from onyxc.backends.cpu.winograd_choice import cycles, direct_cycles, fits, plan
from onyxc.backends.cpu.winograd_plan import make, pack
from onyxc.backends.cpu.winograd_transforms import Matrix, transform
from onyxc.backends.cpu.winograd_transforms import outputs as possible
from onyxc.backends.target import get

LEVELS = ["x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64", "armv7"]
V4 = get("x86-64-v4")


def outputs(shape: ConvShape, level: str = "x86-64-v4") -> tuple[int, int] | None:
    """The chosen tile of outputs."""
    made = plan(shape, get(level))
    return made and (made.vertical.outputs, made.horizontal.outputs)


def dense(stages: Sequence[Matrix], size: int) -> Any:
    """The product of the stages of a transform of ``size`` inputs."""
    made = np.eye(size)
    for stage in stages:
        made = np.array(stage) @ made
    return made


def test_plans_do_not_import_tvm() -> None:
    code = "import sys, onyxc.backends.cpu.winograd_choice; assert 'tvm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("m", "taps", "stride"),
    [
        (1, 1, 1),
        (2, 3, 1),
        (4, 3, 1),
        (2, 5, 1),
        (4, 5, 1),
        (2, 7, 1),
        (4, 2, 1),
        (4, 3, 2),
        (2, 3, 2),
        (4, 5, 2),
        (2, 7, 3),
    ],
)
def test_transforms_compute_a_short_convolution(m: int, taps: int, stride: int) -> None:
    made = transform(m, taps, stride)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(made.size), rng.standard_normal(taps)
    products = (np.array(made.filter) @ w) * (dense(made.forward, made.size) @ x)
    np.testing.assert_allclose(dense(made.inverse, made.size) @ products, np.correlate(x, w, "valid")[::stride], atol=1e-13)


@pytest.mark.parametrize(("m", "taps"), [(2, 3), (4, 3), (2, 5), (4, 5)])
def test_input_and_output_transforms_are_exact_in_single_precision(m: int, taps: int) -> None:
    made = transform(m, taps)
    entries = np.array([v for stage in (*made.forward, *made.inverse) for row in stage for v in row])
    assert (entries.astype(np.float32) == entries).all()


def test_sizes_without_points_are_refused() -> None:
    with pytest.raises(ValueError, match="10 points"):
        transform(8, 3)


def test_tiles_are_as_large_as_errors_allow() -> None:
    assert [possible(taps, 1) for taps in (1, 2, 3, 5, 7, 8)] == [(1,), (4, 2), (4, 2), (4, 2), (2,), ()]
    assert [possible(taps, 2) for taps in (1, 2, 3, 5, 7)] == [(), (), (4, 2), (4, 2), (2,)]


def test_a_matrix_of_pairs_needs_fewer_additions() -> None:
    made = transform(4, 3)
    plain = np.count_nonzero(dense(made.forward, 6)) - 6
    assert sum(np.count_nonzero(row) - 1 for stage in made.forward for row in stage) < plain


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", [square(64, 56, 64), square(512, 7, 512), square(58, 13, 116, group=2, batch=3)])
def test_strips_and_panels_cover_everything_once(shape: ConvShape, level: str) -> None:
    made = make(shape, (4, 2), get(level))
    covered = [c.start + i for c in made.columns for i in range(c.count)]
    assert covered == list(range(made.grid[1]))
    assert sum(c.count * c.outputs for c in made.columns) == shape.out_size[1]
    assert sum(p.count * p.channels for p in made.panels) == shape.group_out
    assert (made.strips - 1) * made.strip < made.tiles <= made.strips * made.strip
    assert made.strip % made.width == 0
    assert made.tasks == made.strips * made.units
    assert made.scratch >= made.products + made.strip * made.points * made.panel_width
    assert made.plane // 16 % 2 == 1


def test_columns_know_what_lies_inside() -> None:
    left, inner, right = make(square(16, 14, 16), (4, 4), V4).columns
    assert left.inputs == (1, 2, 3, 4, 5)
    assert (inner.count, inner.inputs) == (2, (0, 1, 2, 3, 4, 5))
    assert (right.inputs, right.outputs) == ((0, 1, 2), 2)


def test_many_weights_are_read_for_one_strip_only() -> None:
    assert make(square(512, 28, 512), (4, 4), V4).strips == 1
    assert make(square(64, 56, 64), (4, 4), V4).strips > 8


@pytest.mark.parametrize("shape", [square(256, 14, 256), square(512, 7, 512)])
def test_two_threads_get_equal_shares(shape: ConvShape) -> None:
    made = plan(shape, V4)
    assert made is not None
    assert len(made.panels) == 1
    assert made.tasks % 2 == 0


def test_weights_are_transformed_and_packed() -> None:
    made = make(square(2, 4, 20), (2, 2), V4)
    weights = np.random.default_rng(0).standard_normal((20, 2, 3, 3)).astype(np.float32)
    packed = pack(weights, made)
    assert packed.dtype == np.float32
    assert packed.size == made.packed_size
    g = np.array(made.vertical.filter)
    expected = g @ weights[1, 0].astype(np.float64) @ g.T
    points = packed[: made.points * 2 * made.panels[0].width].reshape(made.points, 2, -1)[:, 0, 1]
    np.testing.assert_allclose(points.reshape(4, 4), expected, rtol=1e-6)


def test_a_wrong_weight_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="the plan expects"):
        pack(np.zeros((4, 2, 3, 3), np.float32), make(square(2, 4, 20), (2, 2), V4))


def test_large_images_take_large_tiles_and_many_weights_smaller_ones() -> None:
    assert outputs(square(64, 56, 64)) == (4, 4)
    assert outputs(square(256, 14, 256)) == (4, 4)
    assert outputs(square(512, 7, 512)) in [(2, 4), (4, 2), (2, 2)]
    assert outputs(square(32, 28, 96, 5)) == (4, 4)
    assert outputs(square(16, 32, 16), "aarch64") == (4, 4)


def test_strides_are_worth_it_where_images_are_large() -> None:
    def halved(shape: ConvShape) -> ConvShape:
        size = (shape.in_size[0] // 2, shape.in_size[1] // 2)
        return replace(shape, strides=(2, 2), out_size=size, y_strides=dense_strides(*size, shape.out_channels)[:3])

    assert outputs(halved(square(128, 56, 128))) is not None
    assert outputs(halved(square(512, 14, 512))) is None


def test_the_direct_sum_is_better_for_few_channels_and_tiny_images() -> None:
    assert outputs(square(2, 32, 32)) is None
    assert outputs(square(64, 2, 64)) is None
    assert outputs(square(256, 4, 256)) is None


def test_the_model_tells_gains() -> None:
    shape = square(128, 28, 128)
    assert 2.5 < direct_cycles(shape, V4) / cycles(make(shape, (4, 4), V4), V4) < 4
    assert 1.7 < direct_cycles(shape, V4) / cycles(make(shape, (2, 2), V4), V4) < 2.25


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": (2, 2), "strides": (2, 2), "out_size": (14, 14), "pads": (0, 0, 0, 0)},
        {"dilations": (2, 2), "pads": (2, 2, 2, 2)},
        {"kernel": (9, 9), "pads": (4, 4, 4, 4)},
        {"kernel": (1, 1), "pads": (0, 0, 0, 0)},
        {"x_dtype": "uint8", "w_dtype": "int8", "acc_dtype": "int32"},
        {"x_strides": planar_strides(64, 28, 28)},
    ],
)
def test_other_convolutions_are_refused(changes: dict[str, Any]) -> None:
    shape = square(64, 28, 64)
    assert fits(shape, V4)
    assert not fits(replace(shape, **changes), V4)


def test_options_keep_to_the_direct_sum() -> None:
    shape = square(64, 56, 64)
    assert plan(shape, replace(V4, exact=True)) is None
    assert plan(shape, replace(V4, favor="size")) is None


@pytest.mark.parametrize("shape", [square(128, 28, 128), square(256, 28, 256), square(64, 56, 64)])
def test_strips_stay_in_l2_and_two_threads_get_equal_shares(shape: ConvShape) -> None:
    made = make(shape, (4, 4), V4)
    assert made.scratch * 4 < V4.l2
    first = min(made.tiles, made.strips // 2 * made.strip + made.strips % 2 * made.strip / 2)
    assert abs(first / made.tiles - 1 / 2) < 0.06


def test_more_tiles_share_weights_that_come_from_memory() -> None:
    assert make(square(512, 28, 512), (4, 4), V4).strips == 1
