"""Autograd of operators, for torch.func's transforms too; forward mode, which there is none of, is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

_below_autograd = torch._C._AutoDispatchBelowAutograd
_libraries: list[torch.library.Library] = []


def is_plain_call() -> bool:
    """Whether operators are run here as they are called: not compiled, exported, traced, or transformed by torch.func,
    and no derivatives go forward with them."""
    return (
        not torch.compiler.is_compiling()  # which is also true while a program is exported
        and not torch._C._is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
    )


def register(name: str, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
    """`torch.library.register_autograd` of `pydet::<name>`.

    torch's own makes a Function that torch.func.grad, vjp and jacrev do not accept, and takes no notice of forward
    mode, where all derivatives are then 0.
    """
    operator = getattr(torch.ops.pydet, name).default
    defaults = tuple(a.default_value for a in operator._schema.arguments)

    def forward(ctx: Any, *args: Any) -> Any:
        with below():
            result = operator(*args)
        setup_context(ctx, args, result)
        return result

    apply = function(name, forward, backward)
    register_kernel(name, lambda *args: apply(*args, *defaults[len(args) :]))


def register_kernel(name: str, differentiable: Callable[..., Any]) -> None:
    """Has `differentiable` called in the place of `pydet::<name>` where a gradient is wanted."""
    operator = getattr(torch.ops.pydet, name).default
    library = torch.library.Library("pydet", "IMPL")
    _libraries.append(library)  # its registrations live as long as it does

    def autograd(keyset: Any, *args: Any) -> Any:
        if torch.autograd.forward_ad._current_level >= 0:
            _refuse_forward_mode(name, args)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return differentiable(*args)
        with _below_autograd():
            return operator.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    library.impl(name, autograd, "Autograd", with_keyset=True)


def function(name: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    """`apply` of an autograd.Function that each of torch.func's transforms goes through as through torch's operators:
    the dispatcher calls once for each, and `forward` goes on to the next one.
    """
    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    plain = type(name, (torch.autograd.Function,), members)
    of_one_transform = type(name, (torch.autograd.function._SingleLevelFunction,), members)

    def apply(*args: Any) -> Any:
        if not torch._C._are_functorch_transforms_active():
            return plain.apply(*args)  # type: ignore[attr-defined]
        before = torch._C._functorch.get_single_level_autograd_function_allowed()
        torch._C._functorch.set_single_level_autograd_function_allowed(True)
        try:
            return of_one_transform.apply(*args)  # type: ignore[attr-defined]
        finally:
            torch._C._functorch.set_single_level_autograd_function_allowed(before)

    return apply


@contextlib.contextmanager
def below() -> Iterator[None]:
    """Where `forward` calls what it is the gradient of: the kernel, or the same operator for the next transform, which
    shall be differentiated though PyTorch stops that in a forward.
    """
    if torch._C._are_functorch_transforms_active():
        with torch.enable_grad(), torch.autograd.forward_ad._set_fwd_grad_enabled(True), _below_autograd():
            yield
    else:
        with _below_autograd():
            yield


def _refuse_forward_mode(name: str, args: tuple[Any, ...]) -> None:
    for arg in args:
        if isinstance(arg, Tensor) and torch.autograd.forward_ad.unpack_dual(arg).tangent is not None:
            raise NotImplementedError(
                f"{name}: forward-mode derivatives (torch.func.jvp, jacfwd, hessian) are not implemented, only those "
                "of reverse mode (backward, torch.func.grad, vjp, jacrev)"
            )
