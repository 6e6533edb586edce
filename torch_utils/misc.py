"""Helpers around tensors and modules, under the names that scripts of StyleGAN2-ADA expect."""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from dnnlib import UserError
from torch_utils import distributed
from torch_utils.summary import print_module_summary

__all__ = [
    "InfiniteSampler",
    "assert_shape",
    "check_ddp_consistency",
    "constant",
    "copy_params_and_buffers",
    "ddp_sync",
    "named_params_and_buffers",
    "nan_to_num",
    "params_and_buffers",
    "print_module_summary",
    "profiled_function",
    "resolve_device",
    "suppress_tracer_warnings",
    "symbolic_assert",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_MAX_CONSTANTS = 1024
_constants: OrderedDict[tuple[Any, ...], torch.Tensor] = OrderedDict()


def resolve_device(name: str | torch.device) -> torch.device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:N` or `mps` into a device that exists.

    Args:
        name: `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: The name is unknown, or there is no such device here.
    """
    if str(name) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            why = (
                "torch was built without CUDA" if torch.version.cuda is None else "no GPU is found"
            )
            raise UserError(f"the device '{device}' cannot be used: {why}; use auto or cpu")
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise UserError(f"the device '{device}' is not there: this machine has {count} GPU(s)")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("the device 'mps' cannot be used on this machine; use auto or cpu")
    elif device.type != "cpu":
        raise UserError(f"the device '{device}' is not supported; use auto, cpu, cuda or mps")
    return device


def constant(
    value: Any,
    shape: tuple[int, ...] | torch.Size | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """Return a constant tensor, the same object for the same arguments. Do not modify it in place.

    Args:
        value: Anything `np.asarray` takes.
        shape: Broadcast to this shape; None = the shape of `value`.
        dtype: None = torch's default dtype.
        device: None = the CPU.
        memory_format: None = contiguous.
    """
    array = np.asarray(value)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    device = torch.device("cpu" if device is None else device)
    memory_format = torch.contiguous_format if memory_format is None else memory_format
    shape = None if shape is None else tuple(shape)
    content = (array.shape, array.dtype.str, array.tobytes())
    key = (content, shape, dtype, device, memory_format)
    tensor = _constants.get(key)
    if tensor is None:
        # A tensor made inside inference mode could never take part in a graph later on.
        with torch.inference_mode(False), torch.no_grad():
            tensor = torch.as_tensor(array.copy(), dtype=dtype, device=device)
            if shape is not None:
                tensor = tensor.broadcast_to(shape)
            tensor = tensor.contiguous(memory_format=memory_format)
        _constants[key] = tensor
        while len(_constants) > _MAX_CONSTANTS:
            _constants.popitem(last=False)
    return tensor


def nan_to_num(
    input: torch.Tensor,
    nan: float = 0.0,
    posinf: float | None = None,
    neginf: float | None = None,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Replace NaN and infinities; `torch.nan_to_num`."""
    return torch.nan_to_num(input, nan=nan, posinf=posinf, neginf=neginf, out=out)


def symbolic_assert(condition: Any, message: str) -> None:
    """Assert in a way that torch.fx can trace."""
    torch._assert(condition, message)


@contextlib.contextmanager
def suppress_tracer_warnings() -> Iterator[None]:
    """Ignore `torch.jit.TracerWarning` inside the block.

    Outside of tracing this does nothing: changing the warning filters makes Python forget which
    warnings it has already shown.
    """
    if not torch.jit.is_tracing():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=torch.jit.TracerWarning)
        yield


def assert_shape(tensor: torch.Tensor, ref_shape: Any) -> None:
    """Assert that `tensor` has the shape `ref_shape`; None in it = any size.

    Raises:
        AssertionError: Names the dimension and both sizes.
    """
    if tensor.ndim != len(ref_shape):
        raise AssertionError(
            f"wrong number of dimensions: got {tensor.ndim} ({list(tensor.shape)}), "
            f"expected {len(ref_shape)}"
        )
    with suppress_tracer_warnings():
        for dim, (size, ref_size) in enumerate(zip(tensor.shape, ref_shape)):
            if ref_size is not None and size != ref_size:
                raise AssertionError(
                    f"wrong size of dimension {dim}: got {size}, expected {ref_size}"
                )


def profiled_function(fn: _Function) -> _Function:
    """Decorate a function so that it shows up in profiles under its own name."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with torch.autograd.profiler.record_function(fn.__name__):
            return fn(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


class InfiniteSampler(torch.utils.data.Sampler):
    """An endless, gently reshuffled stream of indices, divided among replicas.

    The order is shuffled once. After each step the element just used may change places with one
    of those before it, up to `window_size` of the data set back, so that no two passes are alike
    and yet no element stays away for long.

    Args:
        dataset: Anything with a length.
        rank: This replica.
        num_replicas: All replicas together see every step exactly once.
        shuffle: False = 0, 1, 2, ... for ever.
        seed: Of the order; the same on all replicas.
        window_size: In [0, 1], as a share of the data set.
        start: Global step to start from, for resuming: what comes out is what the uninterrupted
            stream would have yielded from there on.
    """

    def __init__(
        self,
        dataset: Any,
        rank: int = 0,
        num_replicas: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        window_size: float = 0.5,
        start: int = 0,
    ) -> None:
        if len(dataset) == 0:
            raise ValueError("the data set is empty")
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank must be in [0, {num_replicas}), got {rank}")
        if not 0 <= window_size <= 1:
            raise ValueError(f"window_size must be in [0, 1], got {window_size}")
        super().__init__()  # the data_source argument is gone from torch's base class
        self.dataset = dataset
        self.rank = rank
        self.num_replicas = num_replicas
        self.shuffle = shuffle
        self.seed = seed
        self.window_size = window_size
        self.start = start

    def __iter__(self) -> Iterator[int]:
        order = np.arange(len(self.dataset))
        rnd = np.random.RandomState(self.seed)
        window = 0
        if self.shuffle:
            rnd.shuffle(order)
            window = int(np.rint(order.size * self.window_size))
        step = 0
        while True:
            i = step % order.size
            if step % self.num_replicas == self.rank and step >= self.start:
                yield int(order[i])
            if window >= 2:
                j = (i - rnd.randint(window)) % order.size
                order[i], order[j] = order[j], order[i]
            step += 1


def params_and_buffers(module: nn.Module) -> list[torch.Tensor]:
    """List all parameters, then all buffers."""
    return [*module.parameters(), *module.buffers()]


def named_params_and_buffers(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """List (name, tensor) of all parameters, then of all buffers."""
    return [*module.named_parameters(), *module.named_buffers()]


def copy_params_and_buffers(
    src_module: nn.Module, dst_module: nn.Module, require_all: bool = False
) -> None:
    """Copy parameters and buffers of the same name, in place; requires_grad stays as it is.

    Args:
        src_module: Where from.
        dst_module: Where to.
        require_all: Insist that the source has every tensor of the destination.

    Raises:
        AssertionError: `require_all`, and the source lacks a name.
        ValueError: Two tensors of the same name have different shapes. Nothing was copied then.
    """
    src = dict(named_params_and_buffers(src_module))
    pairs = []
    for name, tensor in named_params_and_buffers(dst_module):
        assert name in src or not require_all, f"the source has no {name!r}"
        if name in src:
            if src[name].shape != tensor.shape:
                raise ValueError(
                    f"{name!r} has the shape {list(src[name].shape)} in the source and "
                    f"{list(tensor.shape)} in the destination"
                )
            pairs.append((src[name], tensor))
    with torch.no_grad():
        for src_tensor, tensor in pairs:
            tensor.copy_(src_tensor)


@contextlib.contextmanager
def ddp_sync(module: nn.Module, sync: bool) -> Iterator[None]:
    """Skip the exchange of gradients inside the block if `module` is DDP and `sync` is False."""
    if sync or not isinstance(module, nn.parallel.DistributedDataParallel):
        yield
    else:
        with module.no_sync():
            yield


def check_ddp_consistency(module: nn.Module, ignore_regex: str | None = None) -> None:
    """Assert that all processes hold the same parameters and buffers (NaN equals NaN).

    Args:
        module: The same module in every process.
        ignore_regex: Tensors to leave out; matched with `<ClassName>.<tensor name>` as a whole.

    Raises:
        AssertionError: In all processes, if any of them differs from rank 0; names the tensor.
    """
    if distributed.world_size() == 1:
        return
    names = []
    differs = []
    for name, tensor in named_params_and_buffers(module):
        fullname = f"{type(module).__name__}.{name}"
        if ignore_regex is not None and re.fullmatch(ignore_regex, fullname):
            continue
        tensor = tensor.detach()
        other = tensor.clone()
        distributed.broadcast_tensor(other)
        if tensor.is_floating_point():
            tensor, other = nan_to_num(tensor), nan_to_num(other)
        names.append(fullname)
        differs.append((tensor != other).any())
    if not names:
        return
    # Rank 0 agrees with itself; it has to hear from the others, or it would wait for them for ever.
    anywhere = torch.stack(differs).to(torch.int32)
    torch.distributed.all_reduce(anywhere, op=torch.distributed.ReduceOp.MAX)
    wrong = [name for name, flag in zip(names, anywhere.tolist()) if flag]
    assert not wrong, f"{wrong[0]} differs between processes ({len(wrong)} tensors do)"
