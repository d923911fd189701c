"""Batch normalisation over the pictures of all processes, so that many learn what one would learn.

`torch.nn.SyncBatchNorm` does this on GPUs only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pydet.models.darknet.convolutional import BatchNorm


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) with the statistics of all processes, which have equally many pictures."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        wide = x.float()
        world = dist.get_world_size()
        mean = wide.mean((0, 2, 3))
        dist.all_reduce(mean)
        mean /= world
        centred = wide - mean[:, None, None]
        variance = centred.square().mean((0, 2, 3))
        dist.all_reduce(variance)
        variance /= world
        inverse = (variance + eps).rsqrt()
        normal = centred * inverse[:, None, None]
        ctx.save_for_backward(normal, inverse)
        ctx.mark_non_differentiable(mean, variance)
        return normal.to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        normal, inverse = ctx.saved_tensors
        gradient = gradients[0].float()
        # Ioffe and Szegedy 2015, section 3: what comes back through mean and variance, which others share.
        means = torch.stack([gradient.mean((0, 2, 3)), (gradient * normal).mean((0, 2, 3))])
        dist.all_reduce(means)
        means /= dist.get_world_size()
        through = gradient - means[0, :, None, None] - normal * means[1, :, None, None]
        return (through * inverse[:, None, None]).to(gradients[0].dtype), None


class SharedBatchNorm(nn.Module):
    """A batch normalisation's numbers under the same names, its statistics those of all processes."""

    def __init__(self, norm: BatchNorm | nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)
        self.eps = norm.eps if isinstance(norm, nn.BatchNorm2d) else 1e-5
        self.momentum = 0.1 if norm.momentum is None else norm.momentum

    def forward(self, x: Tensor) -> Tensor:
        normal, mean, variance = _Normalise.apply(x, self.eps)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        with torch.no_grad():
            self.get_buffer("running_mean").lerp_(mean, self.momentum)
            # As torch: what is kept for evaluation is the unbiased estimate
            self.get_buffer("running_var").lerp_(variance * (count / max(count - 1, 1)), self.momentum)
            if hasattr(self, "num_batches_tracked"):
                self.get_buffer("num_batches_tracked").add_(1)
        return torch.addcmul(self.bias[:, None, None].to(normal), normal, self.weight[:, None, None].to(normal))


def share_batch_norms(network: nn.Module) -> None:
    """Puts a `SharedBatchNorm` in the place of every batch normalisation. The network is for training only then."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, (BatchNorm, nn.BatchNorm2d)):
                setattr(module, name, SharedBatchNorm(child))


def set_momentum(network: nn.Module, momentum: float) -> None:
    """How much of a batch enters the running statistics."""
    for module in network.modules():
        if isinstance(module, (BatchNorm, nn.BatchNorm2d)):
            module.momentum = momentum
