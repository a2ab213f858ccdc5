"""Streams are clocks, and a graph does what was captured, on the storages that it was captured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from tests.card.pretended import PretendedCard

pytestmark = pytest.mark.skipif(
    torch.backends.cuda.is_built(), reason="this torch has CUDA: there is a card to ask"
)


@pytest.fixture
def card() -> Iterator[PretendedCard]:
    with PretendedCard() as card:
        yield card


def captured(run: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    return graph, out


def test_another_stream_has_to_wait(card):
    side = torch.cuda.Stream()
    tensor = torch.ones(2, device="cuda")
    with torch.cuda.stream(side), pytest.raises(RuntimeError, match="race"):
        tensor + 1
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        more = tensor + 1
    with pytest.raises(RuntimeError, match="race"):
        more * 2
    torch.cuda.current_stream().wait_stream(side)
    assert (more * 2).tolist() == [4, 4]


def test_synchronize_is_enough(card):
    side = torch.cuda.Stream()
    tensor = torch.ones(2, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        assert (tensor + 1).tolist() == [2, 2]


def test_a_capture_does_nothing(card):
    weight, still = torch.full((2,), 3.0, device="cuda"), torch.ones(2, device="cuda")

    def run() -> Tensor:
        still.add_(1)
        return weight * still

    _, out = captured(run)
    assert out.isnan().all() and still.tolist() == [1, 1]


def test_a_replay_reads_what_is_there_now(card):
    weight, still = torch.full((2,), 3.0, device="cuda"), torch.ones(2, device="cuda")
    graph, out = captured(lambda: (weight * still).view(1, 2).sort(1, descending=True)[0] + 1)
    where = out.data_ptr()
    for value, expected in ((1.0, 4.0), (5.0, 16.0)):
        still.fill_(value)
        graph.replay()
        assert out.tolist() == [[expected, expected]] and out.data_ptr() == where
    weight.fill_(0)
    graph.replay()
    assert out.tolist() == [[1, 1]]


def test_a_graph_keeps_nothing_alive(card):
    weights = [torch.ones(2, 3, device="cuda")]
    still = torch.ones(2, device="cuda")
    graph, _ = captured(lambda: weights[0].t() @ still)
    graph.replay()
    weights.clear()
    with pytest.raises(torch.AcceleratorError, match="freed"):
        graph.replay()


FORBIDDEN: dict[str, Callable[[Tensor], object]] = {
    "reading a number": lambda x: x.sum().item(),
    "a copy to the host": lambda x: x.cpu(),
    "a tensor from the host": lambda x: torch.tensor([1.0], device="cuda"),
    "a mask": lambda x: x[x > 0],
    "emptying the cache": lambda x: torch.cuda.empty_cache(),
    "synchronize": lambda x: torch.cuda.synchronize(),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_a_capture_forbids(card, name):
    x = torch.ones(2, device="cuda")
    with pytest.raises(torch.AcceleratorError, match="captur"):
        captured(lambda: FORBIDDEN[name](x))
    assert not torch.cuda.is_current_stream_capturing()
    x + 1  # and afterwards all is well


def test_a_generator_that_a_graph_does_not_know(card):
    generator = torch.Generator("cuda")
    with pytest.raises(RuntimeError, match="generator"):
        captured(lambda: torch.rand(2, device="cuda", generator=generator))


def test_a_pool_of_memory(card):
    x, pool, side = torch.ones(2, device="cuda"), torch.cuda.graph_pool_handle(), torch.cuda.Stream()
    graphs = [torch.cuda.CUDAGraph() for _ in range(3)]
    for graph in graphs[:2]:
        with torch.cuda.graph(graph, pool, side):
            x + 1
    assert graphs[0].pool() == graphs[1].pool() == pool and not card.streams.allocating
    graphs[0].reset()
    graphs[1].reset()
    with pytest.raises(RuntimeError, match="last graph is gone"), torch.cuda.graph(graphs[2], pool, side):
        x + 1


def test_what_a_broken_capture_leaves_behind(card):
    x, pool, before = (
        torch.ones(2, device="cuda"),
        torch.cuda.graph_pool_handle(),
        torch.cuda.current_stream(),
    )
    with pytest.raises(torch.AcceleratorError), torch.cuda.graph(torch.cuda.CUDAGraph(), pool):
        x.sum().item()
    assert torch.cuda.current_stream() != before and card.streams.allocating == [pool]
    torch._C._cuda_endAllocateToPool(0, pool)
    with pytest.raises(RuntimeError, match="not currently recording"):
        torch._C._cuda_endAllocateToPool(0, pool)


def test_waits_can_be_forbidden(card):
    x = torch.ones(2, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    with pytest.raises(RuntimeError, match="synchronizing"):
        x.sum().item()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("default")
    assert x.sum().item() == 2


def test_captured_on_the_default_stream(card):
    with pytest.raises(RuntimeError, match="non-default stream"):
        torch.cuda.CUDAGraph().capture_begin()


def test_replayed_before_it_is_captured(card):
    with pytest.raises(RuntimeError, match="without a preceding successful capture"):
        torch.cuda.CUDAGraph().replay()
