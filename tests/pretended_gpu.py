"""A GPU that is not there: numbers stay on the processor, but say that they are on ``cuda:0``.

Whatever computes with tensors of both places fails, as it would on a machine with a GPU, and what
goes from one to the other is counted. Kernels, their rounding and their speed are the processor's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["GPU", "Traffic", "pretended_gpu"]

GPU = torch.device("cuda:0")
_aten = torch.ops.aten
# Python waits for what these tell; within inference mode an operator is seen before it is taken apart.
_TOLD = {
    operator.default for operator in (_aten._local_scalar_dense, _aten.item, _aten.is_nonzero, _aten.nonzero)
}
# Their indices may be on the processor.
_INDEXED = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default}


@dataclass
class Traffic:
    """What went over the bus.

    Attributes
    ----------
    to_device, to_host
        Bytes of every tensor that was copied, in order.
    waits
        How often Python wanted to know a number on the device, and so waited for it.
    """

    to_device: list[int] = field(default_factory=list)
    to_host: list[int] = field(default_factory=list)
    waits: int = 0


class _OnGpu(Tensor):
    """A tensor that claims to be on the GPU."""

    held: Tensor
    traffic: Traffic

    @staticmethod
    def __new__(cls, held: Tensor, traffic: Traffic) -> _OnGpu:
        # One made in inference mode could not stand for a view of one made before.
        with torch.inference_mode(False):
            made: _OnGpu = Tensor._make_wrapper_subclass(
                cls,
                held.size(),
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
            )
        made.held, made.traffic = held, traffic
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where it claims to be; PyTorch without CUDA could not even index it if it really were."""
        return GPU

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        """A copy in main memory."""
        self.traffic.to_host.append(self.nbytes)
        return self.held.clone()

    def untyped_storage(self) -> Any:
        """Where its numbers are."""
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        """Its numbers, copied to main memory first."""
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        """Refused, as for every tensor on a GPU."""
        raise TypeError(f"can't convert {GPU} device type tensor to numpy; use Tensor.cpu() first")

    def __repr__(self, **_: Any) -> str:
        return f"{self.held!r} on {GPU}"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        traffic = next(leaf.traffic for leaf in leaves if isinstance(leaf, _OnGpu))
        kwargs.pop("device", None)
        traffic.waits += func in _TOLD
        if func is _aten.copy_.default and type(args[0]) is Tensor:
            traffic.to_host.append(args[1].nbytes)
            return func(args[0], args[1].held)
        if func is _aten.copy_.default and type(args[1]) is Tensor:
            traffic.to_device.append(args[1].nbytes)
        elif func not in _INDEXED and any(type(leaf) is Tensor and leaf.dim() for leaf in leaves):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, {GPU} or cpu")
        if func in _INDEXED:
            traffic.waits += any(leaf.dtype is torch.bool for leaf in leaves[1:])
        bare_args, bare_kwargs = tree_map(_bare, (args, kwargs))
        made = func(*bare_args, **bare_kwargs)
        if func._schema.is_mutable:
            return args[0]
        return tree_map(lambda one: cls(one, traffic) if type(one) is Tensor else one, made)


def _bare(value: Any) -> Any:
    return value.held if isinstance(value, _OnGpu) else value


class _Pretence(TorchFunctionMode):
    """Moves and makes tensors where a program without CUDA would refuse to."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.pin_memory:
            return args[0]
        if func is Tensor.to:
            return self._moved(*args, **kwargs)
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda" and not _holds(args):
            made = func(*args, **(kwargs | {"device": "cpu"}))
            return _OnGpu(made, self.traffic)
        return func(*args, **kwargs)

    def _moved(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        device, dtype, _, memory_format = torch._C._nn._parse_to(
            *args, **{k: v for k, v in kwargs.items() if k != "copy"}
        )
        rest = {"dtype": dtype or tensor.dtype, "copy": bool(kwargs.get("copy", False))}
        if memory_format is not None:
            rest["memory_format"] = memory_format
        if device is None or device.type == tensor.device.type:
            return tensor.to(**rest)
        if device.type == "cpu":
            return tensor.cpu().to(**rest)
        self.traffic.to_device.append(tensor.nbytes)
        return _OnGpu(tensor.to(**(rest | {"copy": True})), self.traffic)


def _holds(args: Any) -> bool:
    return any(isinstance(leaf, _OnGpu) for leaf in tree_leaves(args))


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch, free_bytes: int = 2**40) -> Iterator[Traffic]:
    """Code within finds one GPU of so much free memory; what it copies is counted."""
    for name, answer in {
        "is_available": True,
        "device_count": 1,
        "is_bf16_supported": True,
        "get_device_capability": (9, 0),
        "mem_get_info": (free_bytes, free_bytes),
        "memory_reserved": 0,
        "memory_allocated": 0,
        "empty_cache": None,
        "synchronize": None,
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 2**28,
        "get_device_name": "pretended",
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    # Weights that go to another place are new ones: what stands for a GPU's cannot take an old one's place.
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    traffic = Traffic()
    try:
        with _Pretence(traffic):
            yield traffic
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
