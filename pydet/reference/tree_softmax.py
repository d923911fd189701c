from __future__ import annotations

import torch
from torch import Tensor

from pydet.reference.box_iou import result_dtype


def tree_softmax(logits: Tensor, parents: Tensor) -> Tensor:
    """Softmax of each group of siblings, the runs of equal `parents` (YOLO9000, section 4): P(node | parent)."""
    sizes = torch.unique_consecutive(parents, return_counts=True)[1].tolist()
    groups = logits.to(result_dtype(logits)).split(sizes, dim=-1) if sizes else [logits]
    return torch.cat([group.softmax(-1) for group in groups], dim=-1).to(logits.dtype)
