"""Which implementation serves an operator: compiled C++ / CUDA, Triton, or the PyTorch reference.

The dispatcher decides by device. What is changed here is what stands behind a device, so that the wrappers, and code
compiled from them, never ask.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
import warnings
from types import TracebackType
from typing import Any, Literal

import torch

from pydet import _library, reference

Backend = Literal["auto", "compiled", "triton", "reference"]


def _has_kernel(name: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"pydet::{name}", key)


def _triton_operator(name: str) -> Any | None:
    """Launcher of the Triton kernel of the same name, or None where there is no kernel or no triton."""
    if importlib.util.find_spec("triton") is None:
        return None
    family = getattr(reference, name).__module__.rpartition(".")[2]  # its members may share a file
    for module in (f"pydet.triton_kernels.{name}", f"pydet.triton_kernels.{family}"):
        if importlib.util.find_spec(module) is not None:
            return getattr(importlib.import_module(module), name, None)
    return None


OPERATORS = (
    "anchor_kmeans",
    "batched_nms",
    "box_iof",
    "box_iou",
    "complete_box_iou",
    "complete_box_iou_loss",
    "decode_boxes",
    "distance_box_iou",
    "distance_box_iou_loss",
    "encode_boxes",
    "generalized_box_iou",
    "generalized_box_iou_loss",
    "hard_negative_mining",
    "match_anchors",
    "match_cells",
    "multiclass_nms",
    "nms",
    "sigmoid_focal_loss",
    "soft_nms",
    "softmax_focal_loss",
    "tree_predict",
    "tree_probabilities",
    "tree_softmax",
    "yolo_decode",
    "yolo_grid_decode",
)
"""Every operator of torch.ops.pydet that users call, by name: its wrapper, reference and test are called the same."""


class _Override:
    """Python implementations put in front of the compiled ones of some operators, until it is undone."""

    def __init__(self) -> None:
        self.library = torch.library.Library("pydet", "IMPL")

    def put(self, name: str, key: str, function: Any) -> None:
        with warnings.catch_warnings():  # torch warns that a kernel is overridden: that is the point
            warnings.simplefilter("ignore", UserWarning)
            self.library.impl(name, function, key, allow_override=True)

    def undo(self) -> None:
        self.library._destroy()


_forced: list[tuple[Backend, _Override]] = []
_switching = threading.RLock()
_fallbacks: dict[str, tuple[str, str]] = {}
"""CUDA operators without a compiled kernel: name -> (backend that serves, why)."""
_slow: dict[str, Any] = {}
"""Those that the reference serves: name -> the reference, with a warning once."""


class set_backend:
    """Forces one implementation for every operator, at once or as a context manager.

    It holds for the whole process. Switch while no other thread calls an operator: PyTorch's dispatcher does not expect
    that a kernel is exchanged under a call.

    Args:
        backend: "auto" (the default choice: compiled where the build has it, else Triton, else the reference),
            "compiled", "triton" or "reference".

    Raises:
        ValueError: the name is none of these.
        RuntimeError: "compiled" was asked for on a GPU and an operator has no CUDA kernel, or "triton" without triton.

    Example:
        >>> with set_backend("reference"):
        ...     keep = pydet.ops.nms(boxes, scores, 0.5)
    """

    def __init__(self, backend: Backend) -> None:
        if backend not in ("auto", "compiled", "triton", "reference"):
            raise ValueError(f"set_backend: backend must be auto, compiled, triton or reference, got {backend!r}")
        with _switching:
            self._before = [entry[0] for entry in _forced]
            _apply(backend)

    def __enter__(self) -> set_backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _switching:
            _apply(self._before[-1] if self._before else "auto")


def _apply(backend: Backend) -> None:
    if backend == "compiled" and _fallbacks:
        raise RuntimeError(f"set_backend: no compiled CUDA kernel here for {', '.join(_fallbacks)}; see pydet info")
    if backend == "triton" and importlib.util.find_spec("triton") is None:
        raise RuntimeError("set_backend: triton is not installed; pip install triton")
    while _forced:
        _forced.pop()[1].undo()
    if backend in ("auto", "compiled"):
        return
    override = _Override()
    for name in OPERATORS:
        if backend == "reference":
            for key in ("CPU", "CUDA"):
                override.put(name, key, getattr(reference, name))
        elif (launcher := _triton_operator(name)) is not None:
            _put_triton(override, name, launcher)
    _forced.append((backend, override))


def _serve_cuda_without_kernels() -> _Override | None:
    """On a GPU whose build lacks an operator: Triton's, else the reference with one warning. Called once, on import."""
    missing = [name for name in OPERATORS if not _has_kernel(name, "CUDA")]
    # Not asked without need, and not by is_available(), which starts CUDA: CUDA_VISIBLE_DEVICES can then no longer be
    # set, and a process that is forked has no GPU.
    if not missing or torch.cuda.device_count() == 0:
        return None
    override = _Override()
    for name in missing:
        why = _library.CUDA_MISSING_BECAUSE or "it has no CUDA kernel yet"
        launcher = _triton_operator(name)
        _fallbacks[name] = ("triton" if launcher else "reference", why)
        if launcher is None:
            _slow[name] = _warn_once(name, getattr(reference, name), why)
            override.put(name, "CUDA", _slow[name])
        else:
            _put_triton(override, name, launcher)
    return override


def _put_triton(override: _Override, name: str, launcher: Any, key: str = "CUDA") -> None:
    """With the operators of its gradient, where their launchers are in the same file."""
    override.put(name, key, launcher)
    module = importlib.import_module(launcher.__module__)
    for gradient in (f"_{name}_with_gradient", f"_{name}_backward"):
        if (own := getattr(module, gradient, None)) is not None:
            override.put(gradient, key, own)


def _warn_once(name: str, function: Any, why: str) -> Any:
    warned = False

    def slow(*args: Any) -> Any:
        nonlocal warned
        if not warned:
            warned = True
            warnings.warn(f"pydet: {name} runs as the slow PyTorch reference on CUDA: {why}", stacklevel=2)
        return function(*args)

    return slow


def reference_of(name: str, device: str) -> Any | None:
    """The reference where it serves an operator on a device now, else None."""
    if _forced and _forced[-1][0] == "reference":
        return getattr(reference, name)
    return _slow.get(name) if device == "cuda" else None


def has_internal(name: str, device: torch.device) -> bool:
    """Whether an operator of our own use, whose name begins with an underscore, serves a device now."""
    if _forced and _forced[-1][0] == "reference":
        return False
    return device.type == "cpu" or (device.type == "cuda" and _has_kernel(name, "CUDA"))


def backend_of(name: str, device: str = "cpu") -> tuple[str, str]:
    """What serves an operator on "cpu" or "cuda" now, and why: ("compiled", "avx512").

    Raises:
        ValueError: no operator has that name.
    """
    if name not in OPERATORS:
        raise ValueError(f"backend_of: no operator {name!r}; there are {', '.join(OPERATORS)}")
    forced = _forced[-1][0] if _forced else None
    if forced == "reference":
        return "reference", "set_backend"
    if device == "cpu":
        return "compiled", _library.cpu_level()
    if forced == "triton" and _triton_operator(name) is not None:
        return "triton", "set_backend"
    if name in _fallbacks:
        return _fallbacks[name]
    if _has_kernel(name, "CUDA"):
        return "compiled", "CUDA"
    return "none", _library.CUDA_MISSING_BECAUSE or "no CUDA device"


_cuda_fallbacks = _serve_cuda_without_kernels()  # alive as long as the module: undone when it is collected
