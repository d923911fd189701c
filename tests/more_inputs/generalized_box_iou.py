"""Those of box_iou."""

from __future__ import annotations

from typing import Any

import torch
from more_inputs.box_iou import usual_and_forward


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    return [(*pair, aligned) for *pair, aligned in usual_and_forward(n, dtype)]
