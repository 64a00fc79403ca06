"""Plans are arithmetic: chosen and packed without TVM."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from convolution_reference import make_shape, square

from onyxc.backends.cpu import pooling_plan
from onyxc.backends.cpu.blocking import bands, costs, register_tiles, row_tiles, split_evenly, split_panels, tail_lanes
from onyxc.backends.cpu.convolution_plan import pack, plan
from onyxc.backends.cpu.depthwise_plan import plan as depthwise_plan
from onyxc.backends.cpu.shapes import ConvShape, collapse, dense_strides, matmul_shape
from onyxc.backends.target import get

X86 = ["x86-64-v2", "x86-64-v3", "x86-64-v4"]


def test_plans_do_not_import_tvm() -> None:
    names = ["convolution_plan", "depthwise_plan", "gemm_plan", "pooling_plan"]
    code = ";".join(f"import onyxc.backends.cpu.{name}" for name in names)
    subprocess.run([sys.executable, "-c", f"import sys;{code};assert 'tvm' not in sys.modules"], check=True)


@pytest.mark.parametrize("level", X86)
def test_accumulators_fit_the_registers(level: str) -> None:
    target = get(level)
    assert all(blocks * pixels + blocks < target.registers for blocks, pixels in register_tiles(target))


@pytest.mark.parametrize(
    ("channels", "lanes", "blocks"), [(64, 16, 4), (116, 16, 4), (58, 8, 3), (3, 16, 4), (1000, 16, 5)]
)
def test_panels_cover_the_channels(channels: int, lanes: int, blocks: int) -> None:
    panels = split_panels(channels, lanes, blocks)
    assert sum(p.count * p.channels for p in panels) == channels
    assert all(p.channels <= p.width < p.channels + lanes for p in panels)
    assert all(len(p.lanes) <= blocks for p in panels)


def test_a_tail_takes_half_a_vector_or_all() -> None:
    assert [tail_lanes(n, 16) for n in (1, 4, 5, 8, 9, 16)] == [8, 8, 8, 8, 16, 16]


def test_rows_divide_evenly() -> None:
    assert split_evenly(56, 6) == [6] * 6 + [5] * 4
    assert split_evenly(5, 6) == [5]


@pytest.mark.parametrize("level", X86)
@pytest.mark.parametrize("shape", [square(64, 56, 64, 3), square(8, 5, 24, 7), square(16, 14, 116, 1)])
def test_tiles_cover_the_row_once(shape: ConvShape, level: str) -> None:
    made = plan(shape, get(level))
    covered = [t.start + i * t.width + m for t in made.tiles for i in range(t.count) for m in range(t.width)]
    assert covered == list(range(made.shape.out_size[1]))


def test_border_tiles_leave_out_the_padding() -> None:
    first, *_, last = row_tiles(square(16, 12, 16, 3), 6)
    assert [(t.begin, t.end, t.pixels) for t in first.taps] == [(0, 1, (1, 2, 3, 4, 5)), (1, 3, (0, 1, 2, 3, 4, 5))]
    assert last.taps[-1].pixels == (0, 1, 2, 3, 4)


def test_pointwise_images_become_one_row() -> None:
    shape, operands, turned = collapse(square(32, 14, 64, 1), ((0, 0, 0, 1),))
    assert shape.out_size == (1, 196)
    assert operands == ((0, 0, 0, 1),)
    assert not turned


def test_an_operand_per_image_keeps_images_apart() -> None:
    shape = square(8, 3, 8, 1, batch=2)
    assert collapse(shape, ((8, 0, 0, 1),))[0].batch == 2
    assert collapse(shape, ((0, 0, 0, 1),))[0].batch == 1


def test_a_column_is_turned() -> None:
    turned = plan(make_shape((1, 40, 1, 8), 8, (3, 1), pads=(1, 0, 1, 0)), get("x86-64-v3"))
    assert turned.turned
    assert turned.shape.kernel == (1, 3)
    assert turned.shape.pads == (0, 1, 0, 1)


def test_weights_are_packed_by_panel_and_padded() -> None:
    made = plan(square(2, 4, 20, 1), get("x86-64-v4"))
    weights = np.arange(40, dtype=np.float32).reshape(20, 2, 1, 1)
    packed = pack(weights, made)
    assert packed.size == made.packed_size
    assert (packed[:20] == weights[:, 0, 0, 0]).all() or packed[16] == weights[0, 1, 0, 0]
    np.testing.assert_equal(np.sort(packed[packed != 0]), np.arange(1, 40))


def test_a_wrong_weight_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="the plan expects"):
        pack(np.zeros((4, 2, 1, 1), np.float32), plan(square(2, 4, 20, 1), get("x86-64-v4")))


def test_integer_weights_lose_their_zero_point() -> None:
    types = {"x_dtype": "uint8", "w_dtype": "uint8", "acc_dtype": "int32", "y_dtype": "int32"}
    made = plan(matmul_shape(3, 4, 16, **types), get("x86-64-v4"))
    packed = pack(np.full((16, 4, 1, 1), 5, np.uint8), made, np.full(16, 9, np.uint8))
    assert packed.dtype == np.int16
    assert (packed == -4).all()


def test_one_row_uses_many_accumulators() -> None:
    made = plan(matmul_shape(1, 2048, 1000), get("x86-64-v3"))
    assert len(made.panels[0].lanes) * made.tiles[0].width >= 7


def test_pixels_a_page_apart_stay_few() -> None:
    made = plan(square(2048, 7, 512, 1), get("x86-64-v4"))
    assert max(t.width for t in made.tiles) <= 7


def test_equal_ranges_of_tasks_are_equal_work() -> None:
    made = plan(square(960, 7, 160, 1), get("x86-64-v4"))
    assert len({p.width for p in made.panels}) > 1
    work = [p.count * p.width * made.rows for p in made.panels]
    shares = [p.count * cost * made.rows for p, cost in zip(made.panels, costs(made.panels), strict=True)]
    assert sum(shares) == made.tasks
    assert len({w / s for w, s in zip(work, shares, strict=True)}) == 1


def test_rows_are_divided_first_unless_weights_are_far_larger() -> None:
    target = get("x86-64-v4")
    assert plan(square(1024, 14, 256, 1), target).bands == 2
    assert plan(square(512, 7, 2048, 1), target).bands == 1
    for made in (plan(square(144, 56, 24, 1), target), depthwise_plan(square(96, 56, 96, 3, group=96), target)):
        assert made.bands > 8


@pytest.mark.parametrize("units", [7, 14, 28, 33, 49, 131])
def test_half_of_the_bands_are_half_of_the_rows(units: int) -> None:
    pixels, few = 7 * units, 1 << 20
    count = bands(units, pixels, few, few)
    size = -(-units // count)
    assert count in (2, 4)
    assert abs(count // 2 * size - units / 2) <= max(1, units / 16)
    narrow = bands(units, pixels, few, 1000)
    assert 2 <= pixels / narrow <= 36
    assert bands(units, pixels, few, 5 * few) == bands(1, 500, few, 1000) == 1


def test_depthwise_tasks() -> None:
    made = depthwise_plan(square(72, 14, 72, 3, group=72), get("x86-64-v4"))
    assert [p.width for p in made.panels] == [16, 8]
    assert made.tasks == 5 * 14


@pytest.mark.parametrize("kernel", [(1, 11), (7, 7), (31, 31)])
@pytest.mark.parametrize("registers", [32, 28, 24])
def test_depthwise_rows_of_many_taps(kernel: tuple[int, int], registers: int) -> None:
    """Weights of a row beside the accumulators, also where a kernel is planned again for fewer registers."""
    pads = (kernel[0] // 2, kernel[1] // 2) * 2
    shape = make_shape((1, 40, 40, 40), 40, kernel, (1, 1), pads, group=40)
    made = depthwise_plan(shape, replace(get("x86-64-v4"), registers=registers))
    blocks, pixels = len(made.panels[0].lanes), max(t.width for t in made.tiles)
    assert blocks * (min(kernel[1], 7) + pixels) < registers


def test_depthwise_takes_few_vectors_of_a_pixel_at_once() -> None:
    made = depthwise_plan(square(40, 14, 40, 3, group=40), get("x86-64-v4"))
    assert [p.lanes for p in made.panels] == [(16, 16, 8)]
    assert max(t.width for t in made.tiles) == 4


def test_whole_and_half_vectors_have_tiles_of_their_own() -> None:
    narrow = plan(square(96, 56, 24, 1), get("x86-64-v4"))
    assert [p.lanes for p in narrow.panels] == [(16,), (8,)]
    wide = plan(square(96, 20, 40, 1), get("x86-64-v4"))
    assert [p.lanes for p in wide.panels] == [(16, 16, 8)]
    assert [p.lanes for p in plan(square(96, 56, 24, 1), get("x86-64-v3")).panels] == [(8, 8, 8)]


@pytest.mark.parametrize("level", X86)
def test_few_input_channels_take_a_small_tile(level: str) -> None:
    target = get(level)
    made = plan(square(3, 224, 32, 3), target)
    width = max(t.width for t in made.tiles)
    assert len(made.panels[0].lanes) * width <= 9
    assert width <= target.registers // 4


def pool_shape(height: int, width: int, channels: int, kernel: int, stride: int) -> pooling_plan.PoolShape:
    out = (height - kernel) // stride + 1, (width - kernel) // stride + 1
    return pooling_plan.PoolShape(
        "max", 1, channels, (height, width), out, (kernel, kernel), (stride, stride), (1, 1), (0, 0, 0, 0),
        dense_strides(height, width, channels), dense_strides(*out, channels)[:3],
    )  # fmt: skip


@pytest.mark.parametrize("level", X86)
def test_pooling_columns_fit_the_registers(level: str) -> None:
    target = get(level)
    for kernel, stride in ((2, 2), (3, 1), (3, 2), (5, 1)):
        made = pooling_plan.plan(pool_shape(56, 56, 64, kernel, stride), target)
        columns = (max(t.width for t in made.tiles) - 1) * stride + kernel
        assert not made.by_columns or columns * max(len(p.lanes) for p in made.panels) < target.registers
        assert made.by_rows
        assert made.tasks == made.shape.out_size[0]


def test_pooling_of_a_whole_image_divides_the_channels() -> None:
    made = pooling_plan.plan(pool_shape(14, 14, 512, 14, 1), get("x86-64-v4"))
    assert not made.by_columns
    assert not made.by_rows
    assert made.tasks == sum(p.count for p in made.panels) > 1
    assert made.note == "max pool, tiles of 16+16+16+16+16+16+16+16 channels x 1 pixels"
    assert pooling_plan.plan(pool_shape(56, 56, 64, 3, 1), get("x86-64-v4")).note.endswith("pixels, columns first")
