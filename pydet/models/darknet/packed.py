"""Convolutions on the CPU with weights laid out once for oneDNN.

torch lays the weights out anew in every call. Where the maps are small and the weights many, at the end of a detector,
this takes as long as a fifth of the convolution; and a leaky ReLU of its own is one more pass over the map. oneDNN can
do better, but torch offers it only under names that begin with an underscore (its own compiler uses them since torch
2.0): where they are missing, `convolve` says so by returning None, and the caller does it the ordinary way.
"""

from __future__ import annotations

import platform
from functools import cache

import torch
from torch import Tensor, nn

# oneDNN's names of what Darknet's activations are, with their parameters. The others are left to torch.
FUSED_ACTIVATIONS: dict[str, tuple[str, list[float]]] = {
    "linear": ("none", []),
    "leaky": ("leaky_relu", [0.1]),
    "relu": ("relu", []),
}


@cache
def available() -> bool:
    """Only where it has been measured to help: x86."""
    operators = ("_convolution_pointwise", "_reorder_convolution_weight")
    return (
        torch.backends.mkldnn.is_available()
        and platform.machine().lower() in ("x86_64", "amd64")
        and all(hasattr(torch.ops.mkldnn, name) for name in operators)
    )


class PackedWeight:
    """The weight of a convolution in oneDNN's layout; made when it is first used, and again when the weight changes.

    A copy of it, in memory or in a file, is empty: such tensors cannot be copied, and need not be.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._weight: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> PackedWeight:
        return PackedWeight()

    def __reduce__(self) -> tuple[type[PackedWeight], tuple[()]]:
        return PackedWeight, ()

    def convolve(self, conv: nn.Conv2d, activation: str, x: Tensor) -> Tensor | None:
        """activation(conv(x)), or None where it has to be done the ordinary way."""
        if torch.compiler.is_compiling():  # first: the compiler lays weights out by itself, and follows nothing below
            return None
        if x.device.type != "cpu" or x.dtype != torch.float32 or activation not in FUSED_ACTIVATIONS or not available():
            return None
        if torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad):
            return None
        if torch.is_autocast_enabled("cpu") or not len(x):
            return None
        key = (*x.shape[2:], *_state(conv.weight))
        geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        if key != self._key:
            self._weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *geometry, [1, *x.shape[1:]])
            self._key = key
        name, parameters = FUSED_ACTIVATIONS[activation]
        return torch.ops.mkldnn._convolution_pointwise(x, self._weight, conv.bias, *geometry, name, parameters, "")


def _state(tensor: Tensor) -> tuple[object, ...]:
    """What changes when a tensor's numbers do; tensors of inference mode do not count their changes."""
    return tensor.data_ptr(), None if tensor.is_inference() else tensor._version
