"""The checks of tests/test_gpu.py on the CPU: they are right Python, hold where they should, and fail where not."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import gpu_checks
import pytest
import torch
from gpu_large import LARGE_CASES, LargeCase, check_large
from op_cases import OP_CASES, OpCase
from op_checks import inputs_of

from pydet.ops._backend import _triton_operator

CHECKS = {
    "equals_reference": lambda case: gpu_checks.check_equals_reference(case, case.gpu_sizes[2], torch.float16, "cpu"),
    "gradient": lambda case: gpu_checks.check_gradient(case, case.gpu_sizes[2], torch.float32, "cpu"),
    "strided": lambda case: gpu_checks.check_strided(case, "cpu"),
    "messages": lambda case: gpu_checks.check_messages(case, "cpu"),
    "repeats": lambda case: gpu_checks.check_repeats(case, "cpu"),
    "autocast": lambda case: gpu_checks.check_autocast(case, "cpu"),
    "no_synchronisation": lambda case: gpu_checks.check_no_synchronisation(case, "cpu"),
    "stream": lambda case: gpu_checks.check_stream(case, "cpu"),
    "graph": lambda case: gpu_checks.check_graph(case, "cpu", backward=False),
    "graph_backward": lambda case: gpu_checks.check_graph(case, "cpu", backward=True),
    "reference_backend": lambda case: gpu_checks.check_reference_backend(case, "cpu"),
}


@pytest.mark.parametrize("case", OP_CASES, ids=lambda case: case.name)
def test_hold_on_the_cpu(case: OpCase) -> None:
    for check in CHECKS.values():
        check(case)


def off_by_one(case: OpCase) -> Any:
    return lambda *args: case.reference(*args) + 1


def different_each_time(case: OpCase) -> Any:
    numbers = itertools.count()
    return lambda *args: case.reference(*args) + next(numbers)


def without_checks(case: OpCase) -> Any:
    return lambda *args: torch.zeros(())


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("equals_reference", off_by_one),
        ("strided", off_by_one),
        ("messages", without_checks),
        ("repeats", different_each_time),
        ("stream", different_each_time),
        ("graph", different_each_time),
        ("gradient", lambda case: lambda *args: case.reference(*args) ** 2),
        ("reference_backend", off_by_one),
    ],
)
def test_fail_for_a_wrong_operator(name: str, wrong: Callable[[OpCase], Any]) -> None:
    @dataclasses.dataclass(frozen=True)
    class WrongCase(OpCase):
        @property
        def function(self) -> Callable[..., Any]:
            return broken

    good = next(case for case in OP_CASES if case.name == "generalized_box_iou")
    broken = wrong(good)
    case = WrongCase(**{field.name: getattr(good, field.name) for field in dataclasses.fields(good)})
    with pytest.raises(AssertionError):
        CHECKS[name](case)


@pytest.mark.parametrize("case", OP_CASES, ids=lambda case: case.name)
def test_inputs_of_every_size_can_be_made(case: OpCase) -> None:
    for size in case.gpu_sizes:
        assert inputs_of(case, size, torch.float32)


def test_triton_serves_families_too() -> None:
    if _triton_operator("box_iou") is not None:
        assert _triton_operator("generalized_box_iou") is not None
    assert _triton_operator("soft_nms") is None


@pytest.mark.parametrize("case", LARGE_CASES, ids=lambda case: case.name)
def test_large_cases_at_a_small_size(case: LargeCase) -> None:
    check_large(case, 200_000, "cpu")


def test_every_operator_with_many_elements_is_among_the_large_cases() -> None:
    """In place of the others, whose results all depend on one another, there is the NMS of a million boxes."""
    others = {"nms", "batched_nms", "soft_nms", "multiclass_nms", "anchor_kmeans"}
    stem_of = {case.name: case.stem for case in OP_CASES}
    assert {stem_of[case.name] for case in LARGE_CASES} == {case.stem for case in OP_CASES} - others
