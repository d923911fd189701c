"""Triton kernels without a GPU: run by Triton's interpreter, and compiled to cubins for real architectures."""

from __future__ import annotations

import functools
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from more_inputs import nms, yolo_decode, yolo_grid_decode
from more_inputs.box_iou import degenerate
from op_cases import OP_CASES, aligned_boxes, random_boxes
from op_checks import assert_gradients_close, gradients, inputs_of, outputs
from torch import Tensor

from pydet import ops, reference
from pydet.ops._backend import _Override, _put_triton, _triton_operator

triton = pytest.importorskip("triton")
HERE = Path(__file__).parent
HALVES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, *HALVES)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def degenerate_boxes(n: int, dtype: torch.dtype) -> Tensor:
    return degenerate(random_boxes(n, torch.Generator().manual_seed(n)).to(dtype))


def box_iou_inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """n and 2 n + 1 boxes, and 8 n aligned ones, of which a program takes more."""
    generator = torch.Generator().manual_seed(n)
    a, b = random_boxes(n, generator).to(dtype), random_boxes(2 * n + 1, generator).to(dtype)
    batch = torch.stack([a, a.flip(0)]), torch.stack([b, b.flip(0)])
    bad = degenerate_boxes(n, dtype)
    c, d = (random_boxes(8 * n, generator).to(dtype) for _ in range(2))
    aligned = (c, d, "cxcywh", True), (c, degenerate_boxes(8 * n, dtype), "xyxy", True)
    return [(a, b, "xyxy"), (b, a, "xywh"), (a, b, "cxcywh"), (*batch, "xyxy"), (bad, bad, "xyxy"), *aligned]


def kin_inputs(n: int, dtype: torch.dtype, *options: Any) -> list[tuple[Any, ...]]:
    """n and 2 n + 1 boxes, and 8 n aligned ones, of which a program takes more."""
    generator = torch.Generator().manual_seed(n)
    a, b = (t.to(dtype) for t in aligned_boxes(2 * n + 1, generator))
    c, d = (t.to(dtype) for t in aligned_boxes(8 * n, generator))
    bad, many_bad = degenerate_boxes(n, dtype), degenerate_boxes(8 * n, dtype)
    return [(a[:n], b, *options), (bad, bad, *options), (c, d, *options, True), (many_bad, c, *options, True)]


def decode_inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Those of more_inputs; the maps of 2 x 80 channels, which are the same for every n, once; of no cells the rest."""
    found = yolo_decode.inputs(n, dtype)
    if n == 0:
        return [args for args in found if not args[0].numel()]
    return [args for args in found if n == 1 or args[0].shape[1] != 160]


def nms_inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Half of more_inputs/nms.py in one tile, half in two; a few of the former in three, which takes a second each."""
    found = nms.inputs(n, dtype)
    if n == 65:
        return [found[i] for i in (0, 8, 10)]
    return found[1::2] if n == 33 else found[::2]


CASES = {case.name: case for case in OP_CASES}
FOCAL = CASES["sigmoid_focal_loss"]


class Inputs(NamedTuple):
    """Of a kernel.

    Attributes:
        make: (size, dtype) -> lists of arguments.
        sizes: nothing, one, about the share of a program, and so many that there are several programs and rounds of
            each loop; no more, since the interpreter goes through all of them step by step.
        rtol, atol: zero where the arithmetic is that of the reference bit by bit.
        sizes_of_halves: where halves are brought to float32 before the kernel that has the loops, a few.
    """

    make: Callable[[int, torch.dtype], list[tuple[Any, ...]]]
    sizes: tuple[int, ...] = (0, 1, 31, 33, 65)
    rtol: float = 0.0
    atol: float = 0.0
    sizes_of_halves: tuple[int, ...] | None = None

    def sizes_of(self, dtype: torch.dtype) -> tuple[int, ...]:
        return self.sizes if self.sizes_of_halves is None or dtype not in HALVES else self.sizes_of_halves


INPUTS = {
    "box_iou": Inputs(box_iou_inputs),
    "box_iof": Inputs(box_iou_inputs),
    "generalized_box_iou": Inputs(kin_inputs),
    "distance_box_iou": Inputs(lambda n, dtype: kin_inputs(n, dtype, 1e-3)),
    "complete_box_iou": Inputs(lambda n, dtype: kin_inputs(n, dtype, 1e-3), rtol=1e-6, atol=1e-6),
    "sigmoid_focal_loss": Inputs(functools.partial(inputs_of, FOCAL), (0, 1, 31, 33, 257), 5e-6, 1e-9),
    "yolo_decode": Inputs(decode_inputs, (0, 1, 33, 65), 5e-6, 1e-4),
    "yolo_grid_decode": Inputs(yolo_grid_decode.inputs, rtol=5e-6, atol=1e-4),
    # 81 anchors of 2 are two programs, as are 70 predictions of 4.
    "match_anchors": Inputs(functools.partial(inputs_of, CASES["match_anchors"]), (0, 1, 2), sizes_of_halves=(0, 1)),
    "match_cells": Inputs(functools.partial(inputs_of, CASES["match_cells"]), (0, 1, 4), sizes_of_halves=(0, 1)),
    "nms": Inputs(nms_inputs, sizes_of_halves=(0, 1, 33)),
}
RUNS = [
    pytest.param(name, size, dtype, id=f"{name}-{size}-{dtype}")
    for name, kernel in INPUTS.items()
    for dtype in DTYPES
    for size in kernel.sizes_of(dtype)
]

POINTERS = ("*fp32", "*fp64", "*fp16", "*bf16")


def box_iou_signature(pointer: str) -> tuple[dict[str, str], dict[str, Any]]:
    compute = triton.language.float64 if pointer == "*fp64" else triton.language.float32
    out = "*fp64" if pointer == "*fp64" else "*fp32"
    arguments = {"boxes1": pointer, "boxes2": pointer, "out": out, "n": "i32", "m": "i32"}
    op = {"*fp16": "generalized_box_iou", "*bf16": "box_iof"}.get(pointer, "complete_box_iou")
    constants = {"OP": op, "FORMAT": "cxcywh", "EPS": 1e-7, "COMPUTE": compute}
    return arguments, constants | {"ROWS": 16, "COLUMNS": 128}


def aligned_box_iou_signature(pointer: str) -> tuple[dict[str, str], dict[str, Any]]:
    arguments, constants = box_iou_signature(pointer)
    names = ("OP", "FORMAT", "EPS", "COMPUTE")
    return {k: v for k, v in arguments.items() if k != "m"}, {k: constants[k] for k in names} | {"PAIRS": 512}


def sigmoid_focal_loss_signature(pointer: str) -> tuple[dict[str, str], dict[str, Any]]:
    compute = triton.language.float64 if pointer == "*fp64" else triton.language.float32
    out, classes = "*fp64" if pointer == "*fp64" else "*fp32", pointer in ("*fp32", "*bf16")
    arguments = {"inputs": pointer, "targets": "*i64" if classes else pointer, "factors": out, "losses": out}
    arguments |= {"gradients": pointer, "numel": "i64", "num_classes": "i32"}
    each = pointer in ("*fp16", "*bf16")
    options = {"ALPHA": 0.25, "GAMMA": 2.0 if classes else 1.5, "CLASSES": classes, "EACH": each, "FACTORS": each}
    return arguments, options | {"LOSS": True, "GRADIENT": True, "COMPUTE": compute, "BLOCK": 1024}


def yolo_decode_signature(pointer: str) -> tuple[dict[str, str], dict[str, Any]]:
    compute = triton.language.float64 if pointer == "*fp64" else triton.language.float32
    out = "*fp64" if pointer == "*fp64" else "*fp32"
    arguments = {"inputs": pointer, **dict.fromkeys(("anchors", "boxes", "objectness", "scores"), out)}
    arguments["image_stride"] = "i64"
    names = ("channel_stride", "row_stride", "column_stride", "image_height", "image_width")
    arguments |= dict.fromkeys((*names, "num_anchors", "num_classes", "height", "width"), "i32")
    options = {"CLASSES_ARE": "softmax", "ANCHORS_IN_CELLS": True}
    return arguments, {**options, "COMPUTE": compute, "CELLS": 64, "CLASSES": 32}


def yolo_grid_decode_signature(pointer: str) -> tuple[dict[str, str], dict[str, Any]]:
    compute = triton.language.float64 if pointer == "*fp64" else triton.language.float32
    out = "*fp64" if pointer == "*fp64" else "*fp32"
    arguments = {"inputs": pointer, **dict.fromkeys(("boxes", "objectness", "scores"), out)}
    names = ("rows", "side", "num_boxes", "num_classes", "image_height", "image_width")
    arguments |= dict.fromkeys(names, "i32")
    options = {"CLASSES_ARE": "softmax", "ROOTS": True}
    return arguments, {**options, "COMPUTE": compute, "CELLS": 32, "CLASSES": 32}


def match_anchors_signature(phase: str, asked: str, pointer: str) -> tuple[dict[str, str], dict[str, Any]]:
    double = pointer == "*fp64"  # other types are brought to float32 before
    arguments = dict.fromkeys(("anchors", "truths"), "*fp64" if double else "*fp32")
    arguments |= {"offsets": "*i64", "highest": "*i64" if double else "*i32", "first": "*i64", "out": "*i64"}
    arguments |= {"count": "i32", "image_stride": "i64", **dict.fromkeys(("high", "low"), "i64" if double else "i32")}
    return arguments, {"PHASE": phase, "ASKED": asked, "ANCHORS": 64}


def match_cells_signature(pointer: str) -> tuple[dict[str, str], dict[str, Any]]:
    boxes = "*fp64" if pointer == "*fp64" else "*fp32"
    arguments = {"predictions": boxes, "truths": boxes, "offsets": "*i64", "threshold": boxes, "matches": "*i64"}
    return {**arguments, "count": "i32"}, {"PREDICTIONS": 64}


def nms_keys_signature(pointer: str) -> tuple[dict[str, str], dict[str, Any]]:
    compute = triton.language.float64 if pointer == "*fp64" else triton.language.float32
    return {"boxes": pointer, "order": "*i64", "keys": "*i64", "n": "i32"}, {"COMPUTE": compute, "TILE": 32}


def nms_bounds_signature(pointer: str) -> tuple[dict[str, str], dict[str, Any]]:
    compute = triton.language.float64 if pointer == "*fp64" else triton.language.float32
    out = "*fp64" if pointer == "*fp64" else "*fp32"
    arguments = {"boxes": pointer, "order": "*i64", "ranks": "*i32", "corners": out, "bounds": out, "best": "*i32"}
    return {**arguments, "n": "i32", "tiles": "i32"}, {"COMPUTE": compute, "TILE": 32}


def nms_signature(everything: bool, pointer: str) -> tuple[dict[str, str], dict[str, Any]]:
    compute = triton.language.float64 if pointer == "*fp64" else triton.language.float32
    out = "*fp64" if pointer == "*fp64" else "*fp32"
    arguments = {"corners": out, "ranks": "*i32", "bounds": out, "best": "*i32", "states": "*i32", "pending": "*i32"}
    arguments |= {"thresholds": "*fp64", "n": "i32", "tiles": "i32", "launch": "i32"}
    return arguments, {"EVERYTHING": everything, "COMPUTE": compute, "TILE": 32}


# kernel, less its "_kernel", after a dot which of its variants
SIGNATURES = {
    "box_iou": box_iou_signature,
    "aligned_box_iou": aligned_box_iou_signature,
    "sigmoid_focal_loss": sigmoid_focal_loss_signature,
    "yolo_decode": yolo_decode_signature,
    "yolo_grid_decode": yolo_grid_decode_signature,
    "match_anchors.threshold": functools.partial(match_anchors_signature, "best", "no"),
    "match_anchors.retinanet": functools.partial(match_anchors_signature, "best", "restore"),
    "match_anchors.restore": functools.partial(match_anchors_signature, "restore", "restore"),
    "match_anchors.first": functools.partial(match_anchors_signature, "first", "first"),
    "match_cells": match_cells_signature,
    "nms_keys": nms_keys_signature,
    "nms_bounds": nms_bounds_signature,
    "nms": functools.partial(nms_signature, False),
    "nms.everything": functools.partial(nms_signature, True),
}


def launcher(name: str) -> Any:
    found = _triton_operator(name)
    assert found is not None
    return found


def files_of_kernels() -> dict[str, str]:
    """Kernel, less its "_kernel": the stem of its file."""
    files = {path.stem: path.read_text() for path in (HERE.parent / "triton_kernels").glob("*.py")}
    return {kernel: stem for stem, text in files.items() for kernel in re.findall(r"def (\w+)_kernel\(", text)}


def test_every_kernel_is_tested() -> None:
    assert {name for name in ops.OPERATORS if _triton_operator(name)} == set(INPUTS)
    assert set(files_of_kernels()) == {name.split(".")[0] for name in SIGNATURES}


@pytest.mark.skipif(not INTERPRETED, reason="runs in the process that test_interpreter starts")
@pytest.mark.parametrize(("name", "size", "dtype"), RUNS)
def test_equals_reference(name: str, size: int, dtype: torch.dtype) -> None:
    kernel = INPUTS[name]
    for args in kernel.make(size, dtype):
        for ours, theirs in zip(outputs(launcher(name)(*args)), outputs(getattr(reference, name)(*args)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=kernel.rtol, atol=kernel.atol, equal_nan=True)


@pytest.mark.skipif(not INTERPRETED, reason="runs in the process that test_interpreter starts")
def test_integer_and_mixed_boxes() -> None:
    a, b, _ = box_iou_inputs(33, torch.float32)[0]
    for x, y in ((a.long(), b.long()), (a.int(), b), (a.half(), b.double()), (a.to(torch.int16), b.bfloat16())):
        result, expected = launcher("box_iou")(x, y), reference.box_iou(x, y)
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


@pytest.mark.skipif(not INTERPRETED, reason="runs in the process that test_interpreter starts")
@pytest.mark.parametrize("size", INPUTS[FOCAL.name].sizes)
def test_gradient_equals_that_of_the_reference(size: int) -> None:
    """By autograd, which finds the launchers of the gradient where it would find the compiled operators."""
    override = _Override()
    _put_triton(override, FOCAL.name, launcher(FOCAL.name), "CPU")
    try:
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            for args in inputs_of(FOCAL, size, dtype):
                ours, theirs = (gradients(FOCAL, f, args) for f in (FOCAL.function, FOCAL.reference))
                assert_gradients_close(ours, theirs)
    finally:
        override.undo()


@pytest.mark.skipif(INTERPRETED, reason="starts this process")
def test_interpreter() -> None:
    """TRITON_INTERPRET is read when a kernel is decorated: another process, and every interpreted test ran in it."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "reference or integer", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    assert f"{len(RUNS) + len(INPUTS[FOCAL.name].sizes) + 1} passed" in process.stdout


def compiled_kernel(name: str, pointer: str, architecture: int, sizes_of_one: bool = False) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants = SIGNATURES[name](pointer)
    if sizes_of_one:
        constants = {**constants, **{size: 1 for size, kind in signature.items() if kind in ("i32", "i64")}}
        signature = {argument: kind for argument, kind in signature.items() if argument not in constants}
    name = name.split(".")[0]
    module = importlib.import_module(f"pydet.triton_kernels.{files_of_kernels()[name]}")
    kernel = getattr(module, f"{name}_kernel")
    kinds = {**signature, **dict.fromkeys(constants, "constexpr")}
    assert set(kinds) == set(kernel.arg_names)
    source = ASTSource(fn=kernel, signature={name: kinds[name] for name in kernel.arg_names}, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"enable_fp_fusion": False})


@pytest.mark.skipif(INTERPRETED, reason="compiles")
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("pointer", POINTERS)
@pytest.mark.parametrize("name", SIGNATURES)
def test_compiles_without_a_gpu(name: str, pointer: str, architecture: int) -> None:
    compiled = compiled_kernel(name, pointer, architecture)
    assert compiled.asm["cubin"][:4] == b"\x7fELF"
    assert f".target sm_{architecture}" in compiled.asm["ptx"]
    assert "fma.rn.f32" not in compiled.asm["ptx"] or name.startswith("yolo")


@pytest.mark.skipif(INTERPRETED, reason="compiles")
@pytest.mark.parametrize("name", SIGNATURES)
def test_compiles_where_sizes_are_one(name: str) -> None:
    """Of a size of 1 Triton makes a constant, a Python number in the kernel: not every expression takes one."""
    assert compiled_kernel(name, "*fp32", 90, sizes_of_one=True).asm["cubin"][:4] == b"\x7fELF"


CELLS = (torch.zeros(1, 12, 4), torch.zeros(1, 4), torch.tensor([1]))


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("box_iou", (torch.zeros(7, 5), torch.zeros(1, 4)), r"boxes1 must be \[..., N, 4\], got \[7, 5\]"),
        ("box_iou", (torch.zeros(7, 4), torch.zeros(1, 4), "yx"), "fmt must be 'xyxy', 'xywh' or 'cxcywh', got 'yx'"),
        (
            "box_iof",
            (torch.zeros(7, 4), torch.zeros(6, 4), "xyxy", True),
            r"boxes2 must be \[7, 4\] as boxes1",
        ),
        (
            "complete_box_iou",
            (torch.zeros(1, 7, 4), torch.zeros(7, 4)),
            r"leading dimensions, got \[1, 7, 4\]",
        ),
        ("sigmoid_focal_loss", (torch.zeros(2, 3), torch.zeros(2)), r"with inputs \[2, 3\], got \[2\]"),
        ("sigmoid_focal_loss", (torch.zeros(2), torch.zeros(2), 0.25, 2.0, "avg"), "or 'sum', got 'avg'"),
        ("sigmoid_focal_loss", (torch.zeros(2), torch.zeros(2), 0.25, -1.0), "gamma must be finite and not negative"),
        ("match_anchors", (torch.zeros(7, 5), torch.zeros(1, 4)), r"or \[B, A, 4\] with counts, got \[7, 5\]"),
        ("match_anchors", (torch.zeros(7, 4), torch.zeros(1, 4), None, 0.4, 0.5), "high_threshold = 0.4, got 0.5"),
        ("match_anchors", (torch.zeros(7, 4), torch.zeros(1, 4), None, 0.5, 0.4, "x"), "'threshold', got 'x'"),
        ("match_cells", (*CELLS, (2, 5), (9, 9)), "for the 2 x 5 grid and fewer than 2\\^31, got 12"),
        ("match_cells", (*CELLS, (2, 3), (9, 0)), r"image_size must be .*, got \[9, 0\]"),
        ("match_cells", (*CELLS, (2, 3), (9, 9), "shape", torch.ones(3, 2)), r"or come with a mask, got \[3, 2\]"),
        ("match_cells", (*CELLS, (2, 3), (9, 9), "shape", torch.ones(3, 2), [0, 3]), r"3 priors, got \[0, 3\]"),
        ("match_cells", (*CELLS, (2, 3), (9, 9), "shape", None, None, -1.0), "must be at least 0, got -1"),
        ("nms", (torch.zeros(7, 5), torch.zeros(7), 0.5), r"boxes must be \[N, 4\], got \[7, 5\]"),
        ("nms", (torch.zeros(7, 4), torch.zeros(6), 0.5), r"scores must be \[N\] with N = 7 as in boxes, got \[6\]"),
        ("nms", (torch.zeros(7, 4), torch.zeros(7), float("nan")), "iou_threshold must be a number, got nan"),
        ("yolo_decode", (torch.zeros(1, 20, 2, 2), torch.ones(3, 2), (64, 64)), "for the A = 3 anchors, got"),
        ("yolo_decode", (torch.zeros(1, 18, 2, 2), torch.ones(3, 2), (64, 0)), r"must be positive, got \(64, 0\)"),
        ("yolo_decode", (torch.zeros(1, 18, 2, 2), torch.ones(3, 2), (64, 64), "tree"), "or 'logits', got 'tree'"),
        ("yolo_grid_decode", (torch.zeros(1, 30, 1), 1, 1, (8, 8)), r"N\)\], got \[1, 30, 1\]"),
        ("yolo_grid_decode", (torch.zeros(1, 30), 2, 1, (8, 8)), r"for S = 2 and N = 1, got \[1, 30\]"),
        ("yolo_grid_decode", (torch.zeros(1, 30), 1, 1, (8, 8), True, "tree"), "or 'softmax', got 'tree'"),
    ],
)
def test_launchers_check_as_the_compiled_operators(name: str, args: tuple[Any, ...], message: str) -> None:
    for function in (launcher(name), getattr(ops, name)):
        with pytest.raises(RuntimeError, match=f"{name}: .*{message}"):
            function(*args)
