"""Convolutions and fully connected layers on the CPU with weights laid out once, for our kernels or for oneDNN.

torch lays the weights of a convolution out anew in every call. Where the maps are small and the weights many, at the
end of a detector, this takes as long as a fifth of the convolution, in bfloat16 as long as the convolution; and an
activation of its own is one more pass over the map. Those of a fully connected layer it takes as they lie, which are
read at half the speed. Kernels of our own do better where a processor has the instructions, `pydet.ops.conv`; for the
rest oneDNN does, but torch offers it only under names that begin with an underscore (its own compiler uses them since
torch 2.0). Where there is neither, `convolve` and `connect` say so by returning None, and the caller does it the
ordinary way.
"""

from __future__ import annotations

import platform
import weakref
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pydet.models.max_pool import MaxPool2x2
from pydet.ops import conv as ours
from pydet.ops._autograd import is_plain_call
from pydet.ops.conv import Geometry

# Darknet's activations that are x above 0 and a multiple of it below: they are computed with the convolution.
SLOPES = {"linear": 1.0, "leaky": 0.1, "relie": 0.01, "relu": 0.0}
OURS = (0,)
"""Among the sizes that a weight is laid out for: our kernels' layout, which is one for all."""
CONNECTED = Geometry(size=1, stride=1, padding=0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def available() -> bool:
    """Only where it has been measured to help: x86."""
    operators = (
        "_convolution_pointwise",
        "_convolution_pointwise_",
        "_linear_pointwise",
        "_reorder_convolution_weight",
        "_reorder_linear_weight",
    )
    return (
        torch.backends.mkldnn.is_available()
        and platform.machine().lower() in ("x86_64", "amd64")
        and all(hasattr(torch.ops.mkldnn, name) for name in operators)
    )


@cache
def computes_in(dtype: torch.dtype) -> bool:
    """Whether this CPU has instructions for convolutions in a type: bfloat16 and float16 came late."""
    if dtype == torch.float32:
        return True
    asked = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    try:
        supported = bool(getattr(torch.ops.mkldnn, asked[dtype])())
    except (AttributeError, RuntimeError):
        return False
    if dtype == torch.bfloat16 and supported and platform.machine().lower() in ("x86_64", "amd64"):
        # oneDNN also takes bfloat16 where it can only widen it, which gains nothing.
        return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    return supported


class Layouts(NamedTuple):
    """A weight's layouts for some sizes of maps, and what tells that it is still that weight.

    Attributes:
        storage: the weight's memory; by its address alone, new memory in the place of what was freed would be taken
            for it.
        version: how often the weight's numbers have been changed, and what of the memory they are.
        of_size: by the height and width of a map; that of a fully connected layer by (), that of our kernels by OURS.
    """

    storage: weakref.ref[torch.UntypedStorage] | None
    version: tuple[object, ...]
    of_size: dict[tuple[int, ...], Tensor]

    @classmethod
    def none_yet(cls, weight: Tensor) -> Layouts:
        return cls(weakref.ref(weight.untyped_storage()), _version(weight), {})

    def are_of(self, weight: Tensor) -> bool:
        same = self.storage is not None and self.storage() is weight.untyped_storage()
        return same and self.version == _version(weight)


class PackedWeight:
    """The weight of one layer as it is read fastest; made when it is first used, and again when the weight changes.

    A copy of it, in memory or in a file, is empty: such tensors cannot be copied, and need not be.

    Attributes:
        most_sizes: of how many sizes of maps the layouts are kept, since they differ: more than one where a
            convolution takes all levels of a pyramid.
    """

    def __init__(self, most_sizes: int = 1) -> None:
        self.most_sizes = most_sizes
        self._layouts = Layouts(None, (), {})

    def __deepcopy__(self, memo: dict[int, object]) -> PackedWeight:
        return PackedWeight(self.most_sizes)

    def __reduce__(self) -> tuple[type[PackedWeight], tuple[int]]:
        return PackedWeight, (self.most_sizes,)

    def convolve(self, conv: nn.Conv2d, activation: str, x: Tensor, onto: Tensor | None = None) -> Tensor | None:
        """activation(conv(x) + onto), in the memory of `onto`; None where it has to be done the ordinary way."""
        if not _can(conv, activation, x) or (onto is not None and torch.is_grad_enabled() and onto.requires_grad):
            return None
        result = self._convolve(conv, activation, x) if onto is None else None
        if result is not None or not _by_onednn(x.dtype):
            return result
        geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        reorder = torch.ops.mkldnn._reorder_convolution_weight
        weight = self._laid_out(conv.weight, tuple(x.shape[2:]), reorder, *geometry, [1, *x.shape[1:]])
        name, parameters = _fused(activation)
        if onto is None:
            return torch.ops.mkldnn._convolution_pointwise(x, weight, conv.bias, *geometry, name, parameters, "")
        if name == "none":
            return None  # oneDNN wants an activation behind the sum
        return torch.ops.mkldnn._convolution_pointwise_(
            onto, x, weight, conv.bias, *geometry, "add", 1.0, name, parameters, ""
        )

    def convolve_and_pool(self, conv: nn.Conv2d, activation: str, x: Tensor, pool: MaxPool2x2) -> Tensor | None:
        """pool(activation(conv(x))); None also where only `convolve` may be able to do its part."""
        return self._convolve(conv, activation, x, pool) if _can(conv, activation, x) else None

    def connect(self, linear: nn.Linear, activation: str, x: Tensor) -> Tensor | None:
        """activation(linear(x)) of x [B, inputs]; None where it has to be done the ordinary way."""
        if not _can(linear, activation, x):
            return None
        pixel = x[:, :, None, None]
        if ours.serves(pixel, CONNECTED):
            weight = self._laid_out(linear.weight, OURS, ours.laid_out)
            return ours.conv(pixel, weight, linear.bias, len(linear.weight), CONNECTED, SLOPES[activation])[:, :, 0, 0]
        if not _by_onednn(x.dtype):
            return None
        # The layout for one picture does for batches too: it is faster than torch for any number.
        weight = self._laid_out(linear.weight, (), torch.ops.mkldnn._reorder_linear_weight, 1)
        return torch.ops.mkldnn._linear_pointwise(x, weight, linear.bias, *_fused(activation), "")

    def _convolve(self, conv: nn.Conv2d, activation: str, x: Tensor, pool: MaxPool2x2 | None = None) -> Tensor | None:
        """By our kernels, which pool an odd last row or column by itself; None where they do not serve."""
        geometry, pools = _geometry(conv), pool is not None
        if geometry is None or not ours.serves(x, geometry, pools):
            return None
        if pool is not None and not pool.ceil_mode and any(side % 2 for side in geometry.sides(x)):
            return None
        weight = self._laid_out(conv.weight, OURS, ours.laid_out)
        return ours.conv(x, weight, conv.bias, len(conv.weight), geometry, SLOPES[activation], pools)

    def _laid_out(
        self, weight: Tensor, size: tuple[int, ...], reorder: Callable[..., Tensor], *arguments: object
    ) -> Tensor:
        layouts = self._layouts  # looked up once: another thread may put new ones there
        others = len(layouts.of_size.keys() - {size, OURS})
        full = size != OURS and others >= self.most_sizes
        if full or not layouts.are_of(weight):
            layouts = self._layouts = Layouts.none_yet(weight)
        if size not in layouts.of_size:
            layouts.of_size[size] = reorder(weight, *arguments)
        return layouts.of_size[size]


def _fused(activation: str) -> tuple[str, list[float]]:
    """oneDNN's name of an activation, and its parameters."""
    slope = SLOPES[activation]
    return {1.0: ("none", []), 0.0: ("relu", [])}.get(slope, ("leaky_relu", [slope]))


def _by_onednn(dtype: torch.dtype) -> bool:
    return available() and computes_in(dtype)


def _geometry(conv: nn.Conv2d) -> Geometry | None:
    """None for convolutions that ours do not know."""
    size, width = conv.weight.shape[2:]
    geometry = Geometry(size, conv.stride[0], int(conv.padding[0]))
    plain = conv.dilation == (1, 1) and conv.groups == 1
    square = size == width and conv.stride == (geometry.stride,) * 2 and conv.padding == (geometry.padding,) * 2
    return geometry if plain and square else None


def _can(layer: nn.Conv2d | nn.Linear, activation: str, x: Tensor) -> bool:
    """Whether a layer can be computed from a weight that is laid out, and nothing is lost by it."""
    # First: a compiler lays weights out by itself, and follows nothing below; a dispatch mode wants to see torch's own.
    if not is_plain_call() or torch._C._len_torch_dispatch_stack():
        return False
    if not _is_plain(layer) or activation not in SLOPES:
        return False
    weight, bias = layer.weight, layer.bias
    if x.device.type != "cpu" or x.dtype not in DTYPES or x.dtype != weight.dtype:
        return False
    # Whoever trains a weight may change it unseen: torch's fused optimizers count no version, nor does `.data`. And
    # tensors of inference mode have none.
    if weight.requires_grad or (bias is not None and bias.requires_grad) or weight.is_inference():
        return False
    dims, inputs = (4, layer.in_channels) if isinstance(layer, nn.Conv2d) else (2, layer.in_features)
    if x.dim() != dims or x.shape[1] != inputs or (torch.is_grad_enabled() and x.requires_grad):
        return False
    return bool(len(x)) and not torch.is_autocast_enabled("cpu")


def _is_plain(layer: nn.Module) -> bool:
    """Whether nothing but its class's own forward happens to a layer, and its weight is a tensor like others."""
    if type(layer) is PackedConv2d:  # which is called, hooks and all
        return True
    watched = layer._forward_hooks or layer._forward_pre_hooks
    return type(layer) in (nn.Conv2d, nn.Linear) and type(layer.weight) in (nn.Parameter, Tensor) and not watched


class PackedConv2d(nn.Conv2d):
    """A convolution for evaluation, with the ReLU and the max pooling behind it where there are some.

    Its tensors have the same names.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool, pool: MaxPool2x2 | None = None) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            bias=conv.bias is not None,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.activation, self.pool, self.packed = "relu" if relu else "linear", pool, PackedWeight()

    def forward(self, input: Tensor) -> Tensor:
        if self.pool is None:
            return self._forward(input)
        result = self.packed.convolve_and_pool(self, self.activation, input, self.pool)
        return self.pool(self._forward(input)) if result is None else result

    def _forward(self, x: Tensor) -> Tensor:
        result = self.packed.convolve(self, self.activation, x)
        return self._activated(super().forward(x)) if result is None else result

    def _activated(self, x: Tensor) -> Tensor:
        return x.relu_() if self.activation == "relu" else x

    def add_to(self, onto: Tensor, x: Tensor) -> Tensor:
        """The result plus `onto`, then the ReLU. It may take the memory of `onto`."""
        result = self.packed.convolve(self, self.activation, x, onto)
        return self._activated(super().forward(x) + onto) if result is None else result


def pack(network: nn.Module) -> None:
    """Makes every plain convolution of a network a `PackedConv2d`, with what follows it in a Sequential: ReLU, pool."""
    places = Counter(module for _, module in network.named_modules(remove_duplicate=False))
    for parent in list(network.modules()):
        children = [(name, child) for name, child in parent._modules.items() if child is not None]
        for i, (name, conv) in enumerate(children):
            if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
                continue
            if places[conv] > 1 or conv._forward_pre_hooks or not isinstance(conv._parameters.get("weight"), Tensor):
                continue  # it stands elsewhere, too, or its weight is made of others, as torch's pruning does
            following = children[i + 1 :] if isinstance(parent, nn.Sequential) else []
            relu = bool(following) and isinstance(following[0][1], nn.ReLU)
            pool = following[relu][1] if len(following) > relu else None
            taken = following[: relu + isinstance(pool, MaxPool2x2)]
            setattr(parent, name, PackedConv2d(conv, relu, pool if isinstance(pool, MaxPool2x2) else None))
            for taken_name, _ in taken:
                setattr(parent, taken_name, nn.Identity())


def _version(tensor: Tensor) -> tuple[object, ...]:
    return tensor._version, tensor.storage_offset(), tensor.shape, tensor.stride()
