"""The number format that a network computes in: float32, or half of it where the device has instructions for that."""

from __future__ import annotations

import torch
from torch import nn

from pydet.models.packed import computes_in
from pydet.ops.round_weight import round_weight

PRECISIONS = {"f32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
AUTO = "auto"
# Detectors whose official weights have the same AP in bfloat16 within .002. YOLOv3-tiny, `pydet evaluate` with
# --precision f32 and bf16 on 80 pictures each of COCO's val2017 and train2017, AP .5:.95: see the README.
EXACT_IN_BFLOAT16 = ("yolov3-tiny",)


def dtype_of(precision: str, device: str | torch.device, official: str | None = None) -> torch.dtype:
    """The format of that name, where the device computes in it.

    Args:
        official: the detector whose official weights are meant, for "auto": bfloat16 where they have been measured to
            lose nothing by it and the processor has instructions for it, else float32.

    Raises:
        ValueError: there is no such format, or the device could only imitate it, slower than float32.
    """
    device = torch.device(device)
    if precision == AUTO:
        gains = official in EXACT_IN_BFLOAT16 and device.type == "cpu" and computes_in(torch.bfloat16)
        return torch.bfloat16 if gains else torch.float32
    if precision not in PRECISIONS:
        raise ValueError(f"load: precision must be one of {AUTO}, {', '.join(PRECISIONS)}, got {precision!r}")
    dtype = PRECISIONS[precision]
    if device.type == "cpu" and not computes_in(dtype):
        needed = "AVX512-BF16 or AMX" if dtype == torch.bfloat16 else "AVX512-FP16 or AMX-FP16"
        raise ValueError(f"load: precision {precision!r}: this processor cannot compute in it (x86: {needed}); use f32")
    if device.type == "cuda" and dtype == torch.bfloat16 and torch.cuda.get_device_capability(device) < (8, 0):
        raise ValueError(f"load: precision 'bf16': {torch.cuda.get_device_name(device)} cannot compute in it; use fp16")
    return dtype


def round_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Rounds the weights of convolutions and connected layers to half precision so that their errors cancel."""
    if dtype == torch.float32:
        return
    for weight in {module.weight for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))}:
        half = torch.empty_like(weight, dtype=dtype)  # and as it lies
        weight.data = half.copy_(round_weight(weight.detach().cpu(), dtype))
