"""pydet's operators in the place of torchvision's, for programs whose imports cannot be changed.

Each function here has the name and the arguments of one of torchvision's. It runs ours on what both compute alike, and
torchvision's own on all the rest: rotated boxes, half precision, other devices, and whatever torchvision refuses.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any

import torch
from torch import Tensor

from pydet import _library  # noqa: F401  (defines torch.ops.pydet)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    if _alike(boxes, scores) and _is_boxes(boxes) and scores.shape == boxes.shape[:1]:
        return torch.ops.pydet.nms(boxes, scores, iou_threshold)
    return _theirs("nms")(boxes, scores, iou_threshold)


def _batched_nms_vanilla(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """What torchvision's `batched_nms`, itself left as it is, does for many boxes; for few it calls `nms`."""
    if _alike(boxes, scores) and _is_boxes(boxes) and scores.shape == idxs.shape == boxes.shape[:1]:
        kept = torch.ops.pydet.batched_nms(boxes, scores, idxs, iou_threshold).sort().values
        # Ours keeps the order of equal scores. torchvision's is what this sort, which is not stable, makes of it.
        return kept[scores[kept].sort(descending=True).indices]
    return _theirs("_batched_nms_vanilla")(boxes, scores, idxs, iou_threshold)


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    if fmt == "xyxy" and _is_pair(boxes1, boxes2):
        return torch.ops.pydet.box_iou(boxes1, boxes2, fmt)
    return _theirs("box_iou")(boxes1, boxes2, fmt)


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    if _is_pair(boxes1, boxes2):
        return torch.ops.pydet.generalized_box_iou(boxes1, boxes2)
    return _theirs("generalized_box_iou")(boxes1, boxes2)


def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    if _is_pair(boxes1, boxes2):
        return torch.ops.pydet.distance_box_iou(boxes1, boxes2, eps)
    return _theirs("distance_box_iou")(boxes1, boxes2, eps)


def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    if _is_pair(boxes1, boxes2):
        return torch.ops.pydet.complete_box_iou(boxes1, boxes2, eps)
    return _theirs("complete_box_iou")(boxes1, boxes2, eps)


def generalized_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    return _loss("generalized_box_iou_loss", boxes1, boxes2, reduction, eps)


def distance_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    return _loss("distance_box_iou_loss", boxes1, boxes2, reduction, eps)


def complete_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    return _loss("complete_box_iou_loss", boxes1, boxes2, reduction, eps)


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    known = (0 <= alpha <= 1 or alpha == -1) and gamma >= 0 and reduction in _REDUCTIONS
    # Integer targets are classes to us and labels to torchvision; its mean of nothing is NaN.
    if known and _alike(inputs, targets) and inputs.shape == targets.shape and inputs.numel() > 0:
        return torch.ops.pydet.sigmoid_focal_loss(inputs, targets, alpha, gamma, reduction)
    return _theirs("sigmoid_focal_loss")(inputs, targets, alpha, gamma, reduction)


_REDUCTIONS = ("none", "mean", "sum")
_OURS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        nms,
        _batched_nms_vanilla,
        box_iou,
        generalized_box_iou,
        distance_box_iou,
        complete_box_iou,
        generalized_box_iou_loss,
        distance_box_iou_loss,
        complete_box_iou_loss,
        sigmoid_focal_loss,
    )
}


def _loss(name: str, boxes1: Tensor, boxes2: Tensor, reduction: str, eps: float) -> Tensor:
    if reduction in _REDUCTIONS and _alike(boxes1, boxes2) and boxes1.shape == boxes2.shape and _ends_in_4(boxes1):
        return getattr(torch.ops.pydet, name)(boxes1, boxes2, reduction, eps)
    return _theirs(name)(boxes1, boxes2, reduction, eps)


def _alike(first: Tensor, second: Tensor) -> bool:
    """Whether both libraries compute with these in the same precision, and nobody writes down which operator ran."""
    if torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return False  # ONNX knows torchvision's operators
    if torch.autograd.forward_ad._current_level >= 0:
        return False  # ours have no derivatives of forward mode (torch.func.jvp, jacfwd, hessian)
    return (
        isinstance(first, Tensor)
        and isinstance(second, Tensor)
        and first.dtype == second.dtype
        and first.dtype in (torch.float32, torch.float64)
        and first.device == second.device
        and first.device.type in ("cpu", "cuda")
    )


def _ends_in_4(boxes: Tensor) -> bool:
    return boxes.dim() > 0 and boxes.size(-1) == 4


def _is_boxes(boxes: Tensor) -> bool:
    return boxes.dim() == 2 and boxes.size(1) == 4


def _is_pair(boxes1: Tensor, boxes2: Tensor) -> bool:
    """torchvision broadcasts leading dimensions, we do not."""
    return (
        _alike(boxes1, boxes2)
        and boxes1.dim() >= 2
        and boxes1.shape[:-2] == boxes2.shape[:-2]
        and _ends_in_4(boxes1)
        and _ends_in_4(boxes2)
        and boxes1.dim() == boxes2.dim()
    )


_originals: dict[str, Callable[..., Tensor]] = {}
_lock = threading.RLock()
_active = 0


def _theirs(name: str) -> Callable[..., Tensor]:
    if not _originals:  # unpickled in a process that has not patched
        _find_originals()
    return _originals[name]


def _find_originals() -> None:
    try:
        torchvision: Any = importlib.import_module("torchvision")
        boxes = importlib.import_module("torchvision.ops.boxes")
    except (ImportError, RuntimeError) as error:  # RuntimeError: it was built for another torch
        raise ImportError(
            f"patch_torchvision: torchvision cannot be imported ({error}); pip install the one that goes with "
            f"torch {torch.__version__}"
        ) from error
    found = {name: getattr(boxes, name, None) or getattr(torchvision.ops, name, None) for name in _OURS}
    if missing := [name for name, function in found.items() if function is None]:
        raise ImportError(
            f"patch_torchvision: torchvision {torchvision.__version__} has no {', '.join(missing)}; 0.25, which goes "
            "with torch 2.10, or a newer one is needed"
        )
    _originals.update({name: function for name, function in found.items() if function is not None})
    for name, original in _originals.items():
        # TorchScript compiles torchvision's own where it meets one of ours: the marks of torch.jit.script_if_tracing.
        ours: Any = _OURS[name]
        ours.__script_if_tracing_wrapper = True
        ours.__original_fn = getattr(original, "__original_fn", original)


def _modules() -> list[ModuleType]:
    return [m for name, m in list(sys.modules.items()) if m and (name + ".").startswith("torchvision.")]


def _swap(before: dict[str, Callable[..., Tensor]], after: dict[str, Callable[..., Tensor]]) -> None:
    """In every module of torchvision, under whatever name it has the function."""
    replacement = {id(before[name]): after[name] for name in _OURS}
    for module in _modules():
        for attribute, value in list(vars(module).items()):
            if id(value) in replacement:
                setattr(module, attribute, replacement[id(value)])


class patch_torchvision:
    """Puts pydet's operators in the place of torchvision's, at once or as a context manager; results stay the same.

    Replaced are `nms`, `box_iou`, `generalized_box_iou`, `distance_box_iou`, `complete_box_iou`, their three losses
    and `sigmoid_focal_loss`, in torchvision.ops and in every module of torchvision that imported them (its
    detectors), and what `batched_nms` calls. `batched_nms` keeps torchvision's rule: up to 1,000 boxes (on the CPU)
    offsets are added to the coordinates, more are exact; `pydet.ops.batched_nms` always is. The other box utilities
    are the same torch operations in both libraries, and stay.

    Ours run on float32 and float64 of the CPU and CUDA. torchvision's own functions still serve half precision,
    integers, rotated boxes and other formats than xyxy, broadcast batches, other devices, tracing, scripting, ONNX
    export and forward-mode derivatives; they also raise their own errors. Two differences are left: where gamma < 1 or
    a logit is infinite the gradient of `sigmoid_focal_loss` is finite, and on CUDA the threshold of `nms` is compared
    in double.

    Names are replaced, so what holds a function itself keeps it: code that said `from torchvision.ops import nms`
    before the patch goes on with torchvision's, and code that said it inside goes on with ours, whose results are
    the same. Patch first, then import and build models.

    Patches nest: torchvision is as it was when the last one is undone. They hold for the whole process; threads may
    patch and undo at any time, and what runs meanwhile in another thread takes one or the other function.

    Raises:
        ImportError: torchvision is not installed, does not go with this torch, or is older than 0.25.

    Example:
        >>> pydet.ops.patch_torchvision()  # for good; .undo() of the result takes it back
        >>> with pydet.ops.patch_torchvision():
        ...     detections = torchvision_model(images)
    """

    def __init__(self) -> None:
        global _active
        with _lock:
            if not _originals:
                _find_originals()
            if _active == 0:
                _swap(_originals, _OURS)
            _active += 1
            self._undone = False

    def undo(self) -> None:
        """Takes this patch back; a second time changes nothing."""
        global _active
        with _lock:
            if self._undone:
                return
            self._undone = True
            _active -= 1
            if _active == 0:
                _swap(_OURS, _originals)

    def __enter__(self) -> patch_torchvision:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()
