"""torch_utils.misc."""

from __future__ import annotations

import itertools
import warnings

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from torch import nn

from dnnlib import UserError
from torch_utils import misc


def test_resolve_device() -> None:
    assert misc.resolve_device("cpu") == misc.resolve_device(torch.device("cpu"))
    assert misc.resolve_device("cpu").type == "cpu"
    assert misc.resolve_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("gpu", "cuda:999", "meta"):
        with pytest.raises(UserError, match=name.partition(":")[0]):
            misc.resolve_device(name)
    if not torch.cuda.is_available():
        assert misc.resolve_device("auto").type != "cuda"
        with pytest.raises(UserError, match="use auto or cpu"):
            misc.resolve_device("cuda")


def test_constant_is_cached_by_content_shape_and_dtype() -> None:
    a = misc.constant([1, 2])
    assert a.dtype == torch.float32 and a.tolist() == [1, 2]
    assert misc.constant(np.array([1, 2])) is a and misc.constant((1, 2)) is a
    assert misc.constant([1, 3]) is not a
    assert misc.constant([1, 2], dtype=torch.float64).dtype == torch.float64
    assert misc.constant([[1, 2]]).shape == (1, 2)
    broadcast = misc.constant(5, shape=[2, 3])
    assert broadcast.shape == (2, 3) and broadcast.is_contiguous() and bool((broadcast == 5).all())
    image = misc.constant(0, shape=[1, 2, 3, 4], memory_format=torch.channels_last)
    assert image.is_contiguous(memory_format=torch.channels_last)


def test_constant_made_in_inference_mode_works_in_a_graph() -> None:
    with torch.inference_mode():
        c = misc.constant([0.25, 17.5])
    x = torch.ones(2, requires_grad=True)
    (x * c).sum().backward()
    assert x.grad.tolist() == [0.25, 17.5]


def test_constant_cache_is_bounded() -> None:
    first = misc.constant(-1.5)
    for i in range(2000):
        misc.constant(i)
    assert len(misc._constants) <= 1024 and misc.constant(-1.5) is not first


def test_nan_to_num_and_symbolic_assert() -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 2.0])
    assert misc.nan_to_num(x, posinf=9.0, neginf=-9.0).tolist() == [0, 9, -9, 2]
    misc.symbolic_assert(True, "fine")
    with pytest.raises(AssertionError, match="not fine"):
        misc.symbolic_assert(torch.tensor(False), "not fine")


def test_assert_shape() -> None:
    x = torch.zeros(2, 3)
    misc.assert_shape(x, [2, 3])
    misc.assert_shape(x, [None, 3])
    with pytest.raises(AssertionError, match="got 2 .* expected 3"):
        misc.assert_shape(x, [2, 3, 1])
    with pytest.raises(AssertionError, match="dimension 1: got 3, expected 4"):
        misc.assert_shape(x, [None, 4])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_suppress_tracer_warnings() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        with misc.suppress_tracer_warnings():
            if x.sum() > 0:
                x = x + 1
        misc.assert_shape(x, [2, None])
        return x

    with warnings.catch_warnings():
        warnings.simplefilter("error", category=torch.jit.TracerWarning)
        traced = torch.jit.trace(function, torch.ones(2, 2), check_trace=False)
    assert traced(torch.ones(2, 2)).tolist() == [[2, 2], [2, 2]]
    with misc.suppress_tracer_warnings(), pytest.warns(torch.jit.TracerWarning):
        warnings.warn("not tracing: shown", torch.jit.TracerWarning, stacklevel=1)


def test_profiled_function() -> None:
    @misc.profiled_function
    def named_function(a: int, b: int = 2) -> int:
        """Docstring."""
        return a + b

    assert named_function(1, b=4) == 5 and named_function.__doc__ == "Docstring."
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        named_function(1)
    assert "named_function" in {event.key for event in profile.key_averages()}


def take(n: int, *args: object, **kwargs: object) -> list[int]:
    return list(itertools.islice(iter(misc.InfiniteSampler(*args, **kwargs)), n))


def test_infinite_sampler_in_order() -> None:
    assert take(7, range(3), shuffle=False, window_size=0) == [0, 1, 2, 0, 1, 2, 0]


def test_infinite_sampler_as_specified() -> None:
    """The stream that the formula of the interface gives, written out once more."""
    n, seed, window = 10, 3, 5
    rnd = np.random.RandomState(seed)
    order = np.arange(n)
    rnd.shuffle(order)
    expected = []
    for idx in range(50):
        i = idx % n
        expected.append(int(order[i]))
        j = (i - rnd.randint(window)) % n
        order[i], order[j] = order[j], order[i]
    assert take(50, range(n), seed=seed) == expected
    assert sorted(expected[:n]) != expected[:n]


@hypothesis.given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 9), st.integers(0, 30))
def test_infinite_sampler_replicas_and_start(n: int, replicas: int, seed: int, start: int) -> None:
    whole = take(60, range(n), seed=seed)
    assert set(whole) <= set(range(n))
    for rank in range(replicas):
        part = take(5, range(n), rank=rank, num_replicas=replicas, seed=seed)
        assert part == whole[rank::replicas][:5]
    assert take(20, range(n), seed=seed, start=start) == whole[start : start + 20]


def test_infinite_sampler_in_a_data_loader() -> None:
    data = torch.arange(6)
    loader = torch.utils.data.DataLoader(data, sampler=misc.InfiniteSampler(data), batch_size=4)
    batches = list(itertools.islice(iter(loader), 3))
    assert [len(batch) for batch in batches] == [4, 4, 4]


@pytest.mark.parametrize(
    "kwargs", [{"rank": 1}, {"window_size": 1.5}, {"num_replicas": 0}, {"rank": -1}]
)
def test_infinite_sampler_refuses(kwargs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        misc.InfiniteSampler(range(3), **kwargs)
    with pytest.raises(ValueError, match="empty"):
        misc.InfiniteSampler([])


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(2, width)
        self.register_buffer("w_avg", torch.randn(width))


def test_params_and_buffers() -> None:
    net = Net()
    names = [name for name, _tensor in misc.named_params_and_buffers(net)]
    assert names == ["layer.weight", "layer.bias", "w_avg"]
    assert [id(t) for t in misc.params_and_buffers(net)] == [
        id(t) for _name, t in misc.named_params_and_buffers(net)
    ]


def test_copy_params_and_buffers() -> None:
    src, dst = Net(), Net()
    dst.requires_grad_(False)
    dst.layer.bias.requires_grad_(True)
    weight = dst.layer.weight
    misc.copy_params_and_buffers(src, dst, require_all=True)
    assert dst.layer.weight is weight
    assert all(
        torch.equal(a, b)
        for a, b in zip(misc.params_and_buffers(src), misc.params_and_buffers(dst))
    )
    assert not dst.layer.weight.requires_grad and dst.layer.bias.requires_grad


def test_copy_params_and_buffers_with_missing_names() -> None:
    src, dst = nn.Linear(2, 3), nn.ModuleDict({"layer": nn.Linear(2, 3)})
    before = dst["layer"].weight.clone()
    misc.copy_params_and_buffers(src, dst)
    assert torch.equal(before, dst["layer"].weight)
    with pytest.raises(AssertionError, match=r"layer\.weight"):
        misc.copy_params_and_buffers(src, dst, require_all=True)


def test_copy_params_and_buffers_never_broadcasts() -> None:
    src, dst = Net(1), Net(3)
    before = [t.clone() for t in misc.params_and_buffers(dst)]
    with pytest.raises(ValueError, match=r"'layer\.weight' has the shape \[1, 2\]"):
        misc.copy_params_and_buffers(src, dst)
    assert all(torch.equal(a, b) for a, b in zip(before, misc.params_and_buffers(dst)))


def test_single_process_helpers() -> None:
    net = Net()
    with misc.ddp_sync(net, sync=False):
        net.layer(torch.ones(1, 2)).sum().backward()
    assert net.layer.weight.grad is not None
    misc.check_ddp_consistency(net)
