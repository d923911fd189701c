from __future__ import annotations

import torch
from torch import Tensor

from pydet.reference.box_iou import result_dtype


def tree_probabilities(conditional: Tensor, parents: Tensor) -> Tensor:
    """P(node) = P(node | parent) * P(parent), from the root on (YOLO9000, section 4)."""
    own = conditional.to(result_dtype(conditional)).unbind(-1)
    absolute: list[Tensor] = []
    for node, parent in enumerate(parents.tolist()):
        absolute.append(own[node] if parent < 0 else own[node] * absolute[parent])
    return torch.stack(absolute, dim=-1) if absolute else conditional.to(result_dtype(conditional), copy=True)


def tree_predict(
    conditional: Tensor, parents: Tensor, threshold: float = 0.5, rule: str = "absolute"
) -> tuple[Tensor, Tensor]:
    """The walk from the root to the most probable child while it is confident, one position after another."""
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(parents.tolist()):
        children.setdefault(parent, []).append(node)
    rows = conditional.reshape(-1, conditional.shape[-1]).to(result_dtype(conditional))
    walks = [_walk(row, children, threshold, rule) for row in rows]
    shape = conditional.shape[:-1]
    nodes = torch.tensor([node for node, _ in walks], dtype=torch.int64, device=rows.device).reshape(shape)
    probabilities = torch.stack([p for _, p in walks]) if walks else rows.new_empty(0)
    return nodes, probabilities.reshape(shape)


def _walk(row: Tensor, children: dict[int, list[int]], threshold: float, rule: str) -> tuple[int, Tensor]:
    node, probability, confidence = -1, row.new_ones(()), row.new_ones(())
    while node in children:
        absolute = probability * row[children[node]]
        known = torch.where(absolute.isnan(), -torch.inf, absolute)
        best = int((known == known.max()).nonzero()[0])  # the first of equal ones
        # Darknet multiplies probabilities that are products already.
        following = confidence * absolute[best] if rule == "darknet" else absolute[best]
        confident = bool(following > threshold)
        if confident or node < 0:
            node, probability, confidence = children[node][best], absolute[best], following
        if not confident:
            break
    return node, probability
