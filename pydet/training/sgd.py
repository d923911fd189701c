"""Darknet's update, which is PyTorch's SGD with the right groups."""

from __future__ import annotations

from torch import nn
from torch.optim import SGD


def darknet_sgd(network: nn.Module, learning_rate: float, momentum: float = 0.9, decay: float = 0.0005) -> SGD:
    """SGD with momentum whose decay is for the weights of convolutions and connected layers only.

    Darknet adds up the gradients of all images of a batch, in `subdivisions` parts, and divides by their number in the
    update. Its decay leaves biases and batch normalisation alone. This is the same where the losses are means over the
    images, as those of `pydet.losses` are, and each part is divided by how many there are:

        for part in batch.split(subdivisions):
            loss = sum(network(*part).values()) / subdivisions
            loss.backward()
        optimizer.step()

    Args:
        network: whose parameters with a gradient are updated.
        learning_rate: of the first update; `DarknetLR` sets it anew.
        momentum, decay: as in the cfg's [net] section; Darknet's defaults there are .9 and .0001.
    """
    weights: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            # That of a normalisation has one dimension; a bias of a local layer has two.
            (weights if name.endswith("weight") and parameter.dim() > 1 else others).append(parameter)
    groups = [{"params": p, "weight_decay": d} for p, d in ((weights, decay), (others, 0.0)) if p]
    return SGD(groups, lr=learning_rate, momentum=momentum)
