"""csrc/math/ alone: no torch, no GPU; numpy in float64, exact fractions and numbers by hand."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from compile_cpp import compile_cpp
from numpy.typing import NDArray

pybind11 = pytest.importorskip("pybind11")
XYXY, XYWH, CXCYWH = 0, 1, 2
NAN, INF = np.nan, np.inf
F32 = np.float32


@pytest.fixture(scope="module")
def math(request: pytest.FixtureRequest) -> ModuleType:
    name = "detection_math_module"
    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    source = Path(__file__).parent / f"{name}.cpp"
    file = f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    library = compile_cpp(request.config.cache.mkdir("compiled"), file, source, includes)
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ulps(value: NDArray, truth: NDArray) -> NDArray:
    """Distance of float32 values to float64 truths, in units in the last place of the truth."""
    assert value.dtype == np.float32
    assert truth.dtype == np.float64
    return np.abs(value.astype(np.float64) - truth) / np.spacing(np.abs(truth).astype(np.float32)).astype(np.float64)


def every_float(step: int) -> NDArray:
    """Floats across all bit patterns, NaN left out."""
    x = np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return x[~np.isnan(x)]


def same_bits(a: NDArray, b: NDArray) -> bool:
    return bool(np.array_equal(np.asarray(a, np.float32).view(np.uint32), np.asarray(b, np.float32).view(np.uint32)))


def test_maximum_and_minimum_return_the_second_of_unordered(math: ModuleType) -> None:
    for f in (math.f32, math.f64):
        assert f.maximum(NAN, 3) == 3
        assert f.minimum(NAN, 3) == 3
        assert np.isnan(f.maximum(3, NAN))
        assert np.isnan(f.minimum(3, NAN))
        assert (f.maximum(-1, 2), f.minimum(-1, 2)) == (2, -1)


@pytest.mark.parametrize("arithmetic", ["f32", "f32_fused"])
def test_exp_whole_range(math: ModuleType, arithmetic: str) -> None:
    near_the_ends = np.linspace(-104.5, -86, 200_001), np.linspace(88, 89.5, 100_001), np.linspace(-1, 1, 100_001)
    x = np.concatenate([every_float(1021), *near_the_ends]).astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        truth = np.exp(x.astype(np.float64))
        finite = truth < np.finfo(np.float32).max
        result = getattr(math, arithmetic).exponential(x)
        assert ulps(result[finite], truth[finite]).max() <= 1.0
    assert (result[~finite] == INF).all()


def test_exp_special_values(math: ModuleType) -> None:
    exp = math.f32.exponential
    assert exp(0.0) == exp(-0.0) == 1
    assert exp(INF) == exp(3e38) == INF
    assert exp(-INF) == exp(-3e38) == 0
    assert np.isnan(exp([NAN, -NAN])).all()
    last = np.log(np.finfo(np.float32).max.astype(np.float64)).astype(np.float32)  # 88.72283
    assert np.isfinite(exp(np.nextafter(last, F32(0))))
    assert exp(np.nextafter(last, F32(INF))) == INF
    # half of the smallest subnormal, 2^-150, is where results become 0
    assert exp(F32(-103.97)) == np.float32(2**-149)
    assert exp(F32(-103.98)) == 0


@pytest.mark.parametrize("arithmetic", ["f32", "f32_fused"])
def test_exp_of_negative(math: ModuleType, arithmetic: str) -> None:
    exp = getattr(math, arithmetic).exp_of_negative
    x = -np.concatenate([every_float(1021), np.linspace(0, 89, 400_001)]).astype(np.float32)
    x = x[x <= 0]
    result, truth = exp(x), np.exp(x.astype(np.float64))
    normal = x > -87.3  # e^-87.3 is the smallest normal float
    assert ulps(result[normal], truth[normal]).max() <= 1.0
    assert result[~normal].max() <= 1.3e-38
    assert (result[x < -87.7] == 0).all()
    assert exp([0.0, -0.0]).tolist() == [1, 1]
    assert np.isnan(exp(NAN))


@pytest.mark.parametrize("arithmetic", ["f32", "f32_fused"])
def test_log1p_of_fraction(math: ModuleType, arithmetic: str) -> None:
    log1p = getattr(math, arithmetic).log1p_of_fraction
    x = np.concatenate([every_float(1021), np.linspace(0, 1, 1_000_001)]).astype(np.float32)
    x = x[(x >= 0) & (x <= 1)]
    assert ulps(log1p(x), np.log1p(x.astype(np.float64))).max() <= 2.0
    assert log1p(0.0) == 0
    assert np.isnan(log1p(NAN))


def test_logarithm(math: ModuleType) -> None:
    x = np.concatenate([every_float(1021), np.linspace(0.5, 2, 1_000_001), 2.0 ** np.arange(-149, 128)])
    x = x.astype(np.float32)
    x = x[(x > 0) & np.isfinite(x)]
    assert ulps(math.f32.logarithm(x), np.log(x.astype(np.float64))).max() <= 2.0
    log = math.f32.logarithm
    assert log(1.0) == 0
    assert (log(0.0), log(-0.0), log(INF)) == (-INF, -INF, INF)
    assert np.isnan(log([NAN, -1.0, -1e-45, -INF])).all()


@pytest.mark.parametrize("arithmetic", ["f32", "f32_fused"])
def test_logistic_keeps_the_digits_of_both_sides(math: ModuleType, arithmetic: str) -> None:
    f = getattr(math, arithmetic)
    x = np.linspace(-87, 87, 400_001, dtype=np.float32)
    wide = x.astype(np.float64)
    truth = 1 / (1 + np.exp(-wide)), 1 / (1 + np.exp(wide)), np.log1p(np.exp(-np.abs(wide)))
    for part, limit in enumerate((3.0, 3.0, 3.0)):
        assert ulps(f.logistic(x, part), truth[part]).max() <= limit
        assert same_bits(f.logistic_of_ordinary(x, part), f.logistic(x, part))
    assert [f.logistic(INF, i) for i in range(3)] == [1, 0, 0]
    assert [f.logistic(-INF, i) for i in range(3)] == [0, 1, 0]
    assert all(np.isnan(f.logistic([NAN, -NAN], i)).all() for i in range(3))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("arithmetic", ["f32", "f32_fused"])
def test_focal_in_float_and_double(math: ModuleType, arithmetic: str, gamma: float) -> None:
    f32 = getattr(math, arithmetic)
    random = np.random.default_rng(5)
    x, t = random.normal(0, 6, 50_000), random.choice([0, 1, 0.25], 50_000)
    x = x.astype(np.float32).astype(np.float64)
    miss = t / (1 + np.exp(x)) + (1 - t) / (1 + np.exp(-x))
    entropy = t * np.logaddexp(0, -x) + (1 - t) * np.logaddexp(0, x)
    truth = (0.25 * t + 0.75 * (1 - t)) * miss**gamma * entropy
    np.testing.assert_allclose(math.f64.focal(x, t, 0.25, 0.75, gamma, 0), truth, rtol=1e-12)
    np.testing.assert_allclose(f32.focal(x, t, 0.25, 0.75, gamma, 0), truth, rtol=1e-5, atol=1e-37)
    step = 1e-5  # a central difference of the double loss is its derivative to about 1e-10
    up, down = (math.f64.focal(x + s, t, 0.25, 0.75, gamma, 0) for s in (step, -step))
    slope = math.f64.focal(x, t, 0.25, 0.75, gamma, 1)
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(f32.focal(x, t, 0.25, 0.75, gamma, 1), slope, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0, 2.0, 3.5])
def test_focal_is_finite_everywhere(math: ModuleType, gamma: float) -> None:
    x = np.array([0, 20, 87, 87.5, 88, 100, 1e4, 3e38, INF])
    for t in (0, 0.3, 1):
        for sign in (-1, 1):
            for f in (math.f32, math.f32_fused, math.f64):
                for part in (0, 1):
                    assert np.isfinite(f.focal(sign * x, t, 0.25, 0.75, gamma, part)).all()
    for f in (math.f32, math.f32_fused):
        assert np.isnan(f.focal(NAN, 1, 0.25, 0.75, gamma, 0))
        assert np.isnan(f.focal(0, NAN, 0.25, 0.75, gamma, 1))


def test_exp_of_negated_is_the_reciprocal(math: ModuleType) -> None:
    x = np.linspace(-80, 80, 100_001, dtype=np.float32)
    product = math.f32.exponential(x).astype(np.float64) * math.f32.exponential(-x)
    assert np.abs(product - 1).max() <= 2 * 2.0**-23


def test_arctangent_whole_range(math: ModuleType) -> None:
    joints = np.tan(np.pi / 8), 1.0, np.tan(3 * np.pi / 8)
    near = [np.linspace(j - 0.05, j + 0.05, 100_001) for j in joints]
    x = np.concatenate([every_float(1021), *near]).astype(np.float32)
    result = math.f32.arctangent(x)
    truth = np.arctan(x.astype(np.float64))
    normal = np.abs(truth) > np.finfo(np.float32).tiny
    assert ulps(result[normal], truth[normal]).max() <= 2.0
    assert same_bits(result[~normal], x[~normal])  # atan(x) is x there
    assert same_bits(math.f32.arctangent(-x), -result)


def test_arctangent_special_values(math: ModuleType) -> None:
    for f, pi in ((math.f32, F32(np.pi)), (math.f64, np.pi)):
        assert (f.arctangent(INF), f.arctangent(-INF), f.arctangent(1.0)) == (pi / 2, -pi / 2, pi / 4)
        assert np.signbit(f.arctangent(-0.0))
        assert f.arctangent(0.0) == 0
        assert np.isnan(f.arctangent(NAN))


def test_sigmoid_whole_range(math: ModuleType) -> None:
    x = np.concatenate([every_float(1021), np.linspace(-90, 30, 400_001)]).astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        truth = 1 / (1 + np.exp(-x.astype(np.float64)))
    result = math.f32.sigmoid(x)
    normal = x > -87
    assert ulps(result[normal], truth[normal]).max() <= 3.0
    assert result[~normal].max() <= 2e-38
    assert (result[x < -88.5] == 0).all()
    assert (result[x > 18] == 1).all()
    assert np.isnan(math.f32.sigmoid(NAN))
    assert math.f32.sigmoid(0.0) == 0.5
    assert (math.f32.sigmoid(INF), math.f32.sigmoid(-INF)) == (1, 0)


def test_sigmoid_is_symmetric(math: ModuleType) -> None:
    x = np.linspace(-20, 20, 100_001, dtype=np.float32)
    total = math.f32.sigmoid(x).astype(np.float64) + math.f32.sigmoid(-x)
    assert np.abs(total - 1).max() <= 2.0**-23


def test_sigmoid_double(math: ModuleType) -> None:
    x = np.linspace(-700, 40, 100_001)
    np.testing.assert_allclose(math.f64.sigmoid(x), 1 / (1 + np.exp(-x)), rtol=1e-15)
    assert (math.f64.sigmoid(-INF), math.f64.sigmoid(INF)) == (0, 1)


def test_scaled_sigmoid(math: ModuleType) -> None:
    random = np.random.default_rng(0)
    confidence, x = random.random(100_000, dtype=np.float32), random.normal(0, 5, 100_000).astype(np.float32)
    truth = confidence / (1 + np.exp(-x.astype(np.float64)))
    assert ulps(math.f32.scaled_sigmoid(confidence, x), truth).max() <= 3.0
    assert same_bits(math.f32.scaled_sigmoid(1, x), math.f32.sigmoid(x))
    assert math.f32.scaled_sigmoid(0.5, INF) == 0.5
    assert math.f32.scaled_sigmoid(0.5, -INF) == 0
    assert np.isnan(math.f32.scaled_sigmoid([NAN, 0.5], [1, NAN])).all()


def test_half_and_bfloat16_bit_by_bit(math: ModuleType) -> None:
    bits = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    half, ours = bits.view(np.float16).astype(np.float32), math.float_of_half(bits)
    assert np.array_equal(np.isnan(half), np.isnan(ours))
    assert same_bits(ours[~np.isnan(half)], half[~np.isnan(half)])
    wide = (bits.astype(np.uint32) << 16).view(np.float32)
    ours = math.float_of_bfloat16(bits)
    assert np.array_equal(np.isnan(wide), np.isnan(ours))
    assert same_bits(ours[~np.isnan(wide)], wide[~np.isnan(wide)])


def test_formats(math: ModuleType) -> None:
    for f in (math.f32, math.f64):
        corners = {
            name: [f.to_xyxy(10, 20, 6, 8, fmt, i) for i in range(4)]
            for name, fmt in (("xyxy", XYXY), ("xywh", XYWH), ("cxcywh", CXCYWH))
        }
        assert corners == {"xyxy": [10, 20, 6, 8], "xywh": [10, 20, 16, 28], "cxcywh": [7, 16, 13, 24]}


def test_cxcywh_of_corners_is_exact_on_a_grid(math: ModuleType) -> None:
    random = np.random.default_rng(1)
    corners = random.integers(-2000, 2000, (4, 10_000)).astype(np.float32)
    width, height = corners[2] - corners[0], corners[3] - corners[1]
    given = corners[0] + width / 2, corners[1] + height / 2, width, height
    for i in range(4):
        assert same_bits(math.f32.to_xyxy(*given, CXCYWH, i), corners[i])


def test_area(math: ModuleType) -> None:
    for f in (math.f32, math.f64):
        assert f.area(1, 2, 4, 7) == 15
        assert f.area(4, 2, 1, 7) == -15  # inverted: negative, as in torchvision
        assert f.area(4, 7, 1, 2) == 15  # twice inverted
        assert f.area(3, 3, 3, 9) == 0
        assert np.isnan(f.area([NAN, 0, 0, 0], [0, NAN, 0, 0], [1, 1, NAN, 1], [1, 1, 1, NAN])).all()


def test_iou_is_the_rounded_fraction(math: ModuleType) -> None:
    """Integer corners: areas and union are exact in float32, so that only the division rounds."""
    random = np.random.default_rng(2)
    corner = random.integers(-1000, 1000, (2, 2, 50_000))
    a_lo, b_lo = corner
    a_hi, b_hi = a_lo + random.integers(1, 1000, a_lo.shape), b_lo + random.integers(1, 1000, b_lo.shape)
    extent = np.maximum(np.minimum(a_hi, b_hi) - np.maximum(a_lo, b_lo), 0)
    overlap = extent[0] * extent[1]
    union = (a_hi - a_lo).prod(0) + (b_hi - b_lo).prod(0) - overlap
    arguments = *a_lo, *a_hi, *b_lo, *b_hi
    assert same_bits(math.f32.intersection(*arguments), overlap)
    # float64 has more than twice the digits of float32: rounding twice is rounding once
    assert same_bits(math.f32.iou(*arguments), overlap / union)
    assert np.array_equal(math.f64.iou(*arguments), overlap / union)


def test_iou_of_random_boxes(math: ModuleType) -> None:
    random = np.random.default_rng(3)
    lo, extent = random.random((2, 2, 50_000)) * 500, random.random((2, 2, 50_000)) * 300 + 1
    a_lo, b_lo, a_hi, b_hi = lo[0], lo[1], lo[0] + extent[0], lo[1] + extent[1]
    rounded = [v.astype(np.float32) for v in (*a_lo, *a_hi, *b_lo, *b_hi)]
    result = math.f32.iou(*rounded)
    ax1, ay1, ax2, ay2, bx1, by1, bx2, by2 = (v.astype(np.float64) for v in rounded)
    overlap = np.clip(np.minimum(ax2, bx2) - np.maximum(ax1, bx1), 0, None) * np.clip(
        np.minimum(ay2, by2) - np.maximum(ay1, by1), 0, None
    )
    truth = overlap / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - overlap)
    # two areas, a union and a division round; extents near 1 lose up to 500 / 1 of their precision before that
    np.testing.assert_allclose(result, truth, rtol=2e-6, atol=1e-9)
    assert same_bits(result, math.f32.iou(*rounded[4:], *rounded[:4]))
    assert (math.f32.iou(*rounded[:4], *rounded[:4]) == 1).all()


def test_iou_of_neighbouring_floats(math: ModuleType) -> None:
    below, above = np.nextafter(F32(1), F32(0)), np.nextafter(F32(1), F32(2))
    unit = (0, 0, 1, 1)
    assert math.f32.intersection(*unit, below, 0, 2, 1) == F32(2**-24)
    # second area 1 + 2^-24 rounds to 1, the union 2 - 2^-24 to 2 (ties to even)
    assert math.f32.iou(*unit, below, 0, 2, 1) == F32(2**-25)
    assert math.f32.iou(*unit, 1, 0, 2, 1) == 0
    assert math.f32.iou(*unit, above, 0, 2, 1) == 0
    # areas 1 and 1 - 2^-24; their sum rounds to 2, and 2 - (1 - 2^-24) to 1: both ties to even
    assert math.f32.iou(*unit, 0, 0, below, 1) == below


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((5, 5, 5, 5), (0, 0, 10, 10), 0),  # a point inside a box
        ((5, 5, 5, 5), (5, 5, 5, 5), NAN),  # 0 / 0
        ((10, 10, 0, 0), (10, 10, 0, 0), 0),  # twice inverted: area 100, no overlap
        ((10, 10, 0, 0), (0, 0, 10, 10), 0),
        ((10, 0, 0, 10), (0, 0, 10, 10), NAN),  # inverted once: the areas cancel, 0 / 0
        ((10, 0, 0, 10), (0, 0, 10, 20), 0),
        ((0, 0, INF, 10), (0, 0, 10, 10), 0),  # 100 / inf
        ((0, 0, INF, INF), (0, 0, INF, INF), NAN),  # inf / (inf - inf)
        ((-INF, 0, 10, 10), (0, 0, 10, 10), 0),
        ((0, 0, 1, 1), (1, 0, 2, 1), 0),  # they touch
    ],
)
def test_iou_of_degenerate_boxes(math: ModuleType, a: tuple, b: tuple, expected: float) -> None:
    for f in (math.f32, math.f64):
        for pair in ((*a, *b), (*b, *a)):
            np.testing.assert_equal(float(f.iou(*pair)), float(expected))


def test_any_nan_gives_nan(math: ModuleType) -> None:
    for far in (0, 100):  # also where the boxes are apart
        for position in range(8):
            corners = [0, 0, 10, 10, far, far, far + 10, far + 10]
            corners[position] = NAN
            assert np.isnan(math.f32.iou(*corners))
            assert np.isnan(math.f64.iou(*corners))


def test_overflow(math: ModuleType) -> None:
    huge = (0, 0, 1e30, 1e30)
    assert np.isnan(math.f32.iou(*huge, *huge))  # inf / (inf - inf): float32 boxes must stay below 1.8e19
    assert math.f64.iou(*huge, *huge) == 1


def test_yolo_box_by_hand(math: ModuleType) -> None:
    """Cell (column 2, row 1) of 32 x 16 pixels, anchor 20 x 40; sigmoid(+-log 3) = 3/4, 1/4."""
    given = np.log(3), -np.log(3), np.log(2), np.log(0.5), 2, 1, 32, 16, 20, 40
    expected = [88 - 20, 20 - 10, 88 + 20, 20 + 10]
    np.testing.assert_allclose([math.f64.yolo_box(*given, i) for i in range(4)], expected, rtol=1e-14)
    np.testing.assert_allclose([math.f32.yolo_box(*given, i) for i in range(4)], expected, rtol=1e-6)


def test_yolo_box_of_zero_logits_is_exact(math: ModuleType) -> None:
    assert [math.f32.yolo_box(0, 0, 0, 0, 7, 3, 32, 32, 116, 90, i) for i in range(4)] == [182, 67, 298, 157]


def test_yolo_box_in_float_and_double(math: ModuleType) -> None:
    random = np.random.default_rng(4)
    logits = random.normal(0, 1.5, (4, 50_000)).astype(np.float32)
    cell = random.integers(0, 76, (2, 50_000)).astype(np.float32)
    wide = [v.astype(np.float64) for v in (*logits, *cell)]
    centre = (wide[4] + 1 / (1 + np.exp(-wide[0]))) * 8, (wide[5] + 1 / (1 + np.exp(-wide[1]))) * 8
    half = np.exp(wide[2]) * 59 / 2, np.exp(wide[3]) * 119 / 2
    truth = [centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]]
    for i in range(4):
        np.testing.assert_allclose(math.f64.yolo_box(*wide, 8, 8, 59, 119, i), truth[i], rtol=1e-12, atol=1e-11)
        scale = centre[i % 2] + half[i % 2]  # of the two terms, which may cancel
        error = np.abs(math.f32.yolo_box(*logits, *cell, 8, 8, 59, 119, i) - truth[i])
        assert (error / scale).max() <= 4 * 2.0**-24 + 2.0**-24


def test_yolo_box_special_values(math: ModuleType) -> None:
    box = math.f32.yolo_box
    assert [box(0, 0, 1e4, 0, 0, 0, 8, 8, 10, 10, i) for i in range(4)] == [-INF, -1, INF, 9]
    assert [box(0, 0, -1e4, 0, 0, 0, 8, 8, 10, 10, i) for i in range(4)] == [4, -1, 4, 9]
    assert [box(INF, -INF, 0, 0, 1, 1, 8, 8, 10, 10, i) for i in range(4)] == [11, 3, 21, 13]
    nan = [
        [bool(np.isnan(box(*(NAN if k == j else 0 for k in range(4)), 0, 0, 8, 8, 10, 10, i))) for i in range(4)]
        for j in range(4)
    ]
    assert nan == [[True, False, True, False], [False, True, False, True]] * 2


def test_yolo_grid_box_by_hand(math: ModuleType) -> None:
    """Cell (column 2, row 1) of 32 pixels, a picture of 96; 0.5^2 = 1/4 of it, or half of it."""
    for f in (math.f32, math.f64):
        given = 0.25, 0.75, 0.5, -0.5, 2, 1, 32, 96
        assert [f.yolo_grid_box(*given, True, i) for i in range(4)] == [72 - 12, 56 - 12, 72 + 12, 56 + 12]
        assert [f.yolo_grid_box(*given, False, i) for i in range(4)] == [72 - 24, 56 + 24, 72 + 24, 56 - 24]


def test_yolo_scores(math: ModuleType) -> None:
    sigmoid, logits, linear = 0, 2, 3
    assert math.f64.yolo_score(0.5, np.log(3), sigmoid) == pytest.approx(0.375, rel=1e-15)
    assert math.f32.yolo_score(0.5, -7, logits) == -7
    assert math.f32.yolo_score(0.5, -7, linear) == -3.5


def test_parts_of_a_softmax(math: ModuleType) -> None:
    """Sixteen parts, added by halves; one after the other the float sum of 0.8 + 0.01 i has another last bit."""
    assert math.f64.combined_parts(1.0, 2.0, False) == sum(range(1, 32, 2))
    assert math.f64.combined_parts(1.0, 2.0, True) == math.f64.combined_parts(31.0, -2.0, True) == 31
    parts = F32(0.8) + np.arange(16, dtype=F32) * F32(0.01)
    halves = parts
    while len(halves) > 1:
        halves = halves[: len(halves) // 2] + halves[len(halves) // 2 :]
    in_order = F32(0)
    for part in parts:
        in_order += part
    result = F32(math.f32.combined_parts(F32(0.8), F32(0.01), False))
    assert result == halves[0]
    assert result != in_order


def test_shape_iou(math: ModuleType) -> None:
    for f in (math.f32, math.f64):
        assert f.shape_iou(2, 3, 4, 6) == 0.25
        assert f.shape_iou(1, 8, 8, 1) == pytest.approx(1 / 15, rel=1e-7)
        sizes = np.random.default_rng(0).lognormal(3, 2, (2, 1000)).astype(F32 if f is math.f32 else np.float64)
        assert (f.shape_iou(*sizes, *sizes) == 1).all()


def test_random_numbers_are_splitmix64(math: ModuleType) -> None:
    """The first numbers of the authors' program from the seed 1234567."""
    state, numbers = 1234567, []
    for _ in range(5):
        state, number = math.next_random(state)
        numbers.append(number)
    assert numbers == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_rank_orders_as_numbers_do(math: ModuleType) -> None:
    for f, dtype in ((math.f32, np.float32), (math.f64, np.float64)):
        tiny = np.finfo(dtype).smallest_subnormal
        x = np.array([-INF, -3.5, -1, -tiny, 0, tiny, 0.5, 1, 2, INF, NAN], dtype=dtype)
        assert (np.diff(f.rank_of(x).astype(object)) > 0).all()
        assert f.rank_of(dtype(-0.0)) == f.rank_of(dtype(0)) == f.rank_of_positive(dtype(-0.0)) == 0
        assert f.rank_of(-dtype(NAN)) == f.rank_of(dtype(NAN)) == np.iinfo(f"int{dtype().nbytes * 8}").max
        assert np.array_equal(f.rank_of(x[4:-1]), f.rank_of_positive(x[4:-1]))


def test_plain_boxes_apart_have_an_iou_of_zero(math: ModuleType) -> None:
    """What match_anchors does not compute: of plain boxes, one of positive area, the IoU is 0 apart and never NaN."""
    random = np.random.default_rng(5)
    for f, dtype, largest in ((math.f32, np.float32, 120), (math.f64, np.float64, 1000)):
        corners = random.choice([-1, 1], (8, 100_000)) * 2.0 ** random.integers(-largest, largest, (8, 100_000))
        corners = np.where(random.random((8, 100_000)) < 0.1, random.choice([0, INF, NAN, 1], (8, 100_000)), corners)
        boxes = np.sort(corners.reshape(2, 2, 2, -1), axis=1).reshape(2, 4, -1).astype(dtype)
        with np.errstate(all="ignore"):
            a, b = boxes
            plain = f.is_plain(*a) & f.is_plain(*b) & (f.area(*b) > 0)
            iou, apart, plain_iou = f.iou(*a, *b), f.apart(*a, *b), f.plain_iou(*a, *b)
        assert plain.sum() > 1000
        assert (plain & apart).sum() > 1000
        assert (iou[plain & apart] == 0).all()
        assert np.array_equal(iou[plain], plain_iou[plain])
        assert (iou[plain] >= 0).all()
        assert (iou[plain] <= 1).all()
        assert (plain & ~apart & (iou > 0)).any()
        for odd in ([3, 0, 1, 1], [0, 3, 1, 1], [NAN, 0, 1, 1], [0, 0, 1, NAN], [0, 0, INF, 1], [0, 0, INF, 0]):
            assert not f.is_plain(*map(dtype, odd))


def test_shape_iou_by_hand(math: ModuleType) -> None:
    assert math.f64.shape_iou(2, 3, 4, 6) == 6 / 24
    assert math.f64.shape_iou(2, 6, 4, 3) == 6 / 18
    assert math.f32.shape_iou(7, 5, 7, 5) == 1
    assert np.isnan(math.f32.shape_iou(0, 0, 0, 0))


def test_cell_at_by_hand(math: ModuleType) -> None:
    for f in (math.f32, math.f64):
        middle = np.array([-0.1, -0.0, 0, 31.9, 32, 415.9, 416, NAN, INF, -INF])
        assert f.cell_at(middle - 5, middle + 5, 13, 416).tolist() == [-1, 0, 0, 0, 1, 12, -1, -1, -1, -1]
        edges = np.arange(76) * 8.0  # exact: no edge slips into the cell before it
        assert f.cell_at(edges - 3, edges + 3, 76, 608).tolist() == list(range(76))


def test_cell_at_is_rounded_to_float32(math: ModuleType) -> None:
    """7 / 11 in float32 is less than 7 / 11, but 11 times that in float32 is 7: Darknet's int(x * W)."""
    share = float(np.float32(7 / 11))
    assert share * 11 < 7
    assert np.float32(share) * np.float32(11) == 7
    assert math.f64.cell_at(share * 352 - 5, share * 352 + 5, 11, 352) == 7
    nearly = np.nextafter(352, 0)  # in the picture, so not in the cell behind it
    assert math.f64.cell_at(nearly, nearly, 11, 352) == 10
