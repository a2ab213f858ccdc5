"""A stand-in is worth what it refuses: all that CUDA would, with the type that torch raises there."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import numpy as np
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


def here(*size: int) -> Tensor:
    return torch.ones(*size)


def there(*size: int) -> Tensor:
    return torch.ones(*size, device="cuda")


MIXED: dict[str, Callable[[], object]] = {
    "a sum": lambda: there(3) + here(3),
    "a number of the card and a tensor of the host": lambda: here(3) * there(3).sum(),
    "a stack of numbers": lambda: torch.stack((there(1).sum(), here(1).sum())),
    "cat": lambda: torch.cat((there(2), here(2))),
    "a product of matrices": lambda: there(2, 2) @ here(2, 2),
    "an index of the card into the host": lambda: here(3)[torch.tensor([0], device="cuda")],
    "index_select": lambda: there(3).index_select(0, torch.tensor([0])),
    "gather": lambda: there(3).gather(0, torch.tensor([0])),
    "scatter": lambda: there(3).scatter(0, torch.tensor([0]), there(1)),
    "where": lambda: torch.where(there(3) > 0, there(3), here(3)),
    "a mask of the card set on the host": lambda: here(3).masked_fill(there(3) > 0, 0.0),
    "a number of the host written from the card": lambda: here(1).sum().add_(there(1).sum()),
    "a list of tensors": lambda: torch._foreach_add([there(2)], [here(2)]),
    "lerp": lambda: there(2).lerp(here(2), 0.5),
    "a layer": lambda: torch.nn.functional.linear(there(2, 2), here(2, 2)),
    "a convolution": lambda: torch.nn.functional.conv2d(there(1, 1, 3, 3), here(1, 1, 1, 1)),
    "an embedding": lambda: torch.nn.functional.embedding(torch.tensor([0]), there(2, 2)),
    "a picture and where to sample it": lambda: torch.nn.functional.grid_sample(
        there(1, 1, 2, 2), here(1, 1, 1, 2)
    ),
    "values set by an index": lambda: there(3).index_put_((torch.tensor([0]),), here(2)),
}


@pytest.mark.parametrize("name", MIXED)
def test_both_sides_in_one_operator(card, name):
    with pytest.raises(RuntimeError, match="device"):
        MIXED[name]()
    assert card.refused.total() == 1


def test_in_a_backward_pass(card):
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g + torch.ones(3)

    loss = Wrong.apply(there(3).requires_grad_()).sum()
    with pytest.raises(RuntimeError, match="same device"):
        loss.backward()


def test_what_cuda_lets_through(card):
    assert (there(3) + here(1).sum()).device == torch.device("cuda", 0)  # a number of the host
    assert there(3)[[0, 1]].is_cuda and torch.where(there(3) > 0, there(3), -1).is_cuda
    assert there(3).index_put_((torch.tensor([0]),), torch.tensor(4.0)).is_cuda
    moved = here(3).cuda()
    moved.copy_(here(3))
    assert moved.cpu().numpy().sum() == 3 and not moved.cpu().is_cuda
    assert there(2).new_zeros(3).is_cuda and torch.zeros_like(there(2)).is_cuda
    assert not torch.zeros_like(there(2), device="cpu").is_cuda
    with torch.device("cuda"):
        assert torch.zeros(2).is_cuda
    assert card.refused.total() == 0


TO_NUMPY: dict[str, Callable[[], object]] = {
    "numpy()": lambda: there(2).numpy(),
    "np.asarray": lambda: np.asarray(there(2)),
    "np.array of a number": lambda: np.array(there(1).sum()),
}


@pytest.mark.parametrize("name", TO_NUMPY)
def test_numpy_of_the_card(card, name):
    with pytest.raises(TypeError, match="copy the tensor to host memory first"):
        TO_NUMPY[name]()


GENERATORS: dict[str, Callable[[], object]] = {
    "the host's for the card": lambda: torch.rand(2, device="cuda", generator=torch.Generator()),
    "the card's for the host": lambda: torch.rand(2, generator=torch.Generator("cuda")),
    "in place": lambda: there(2).normal_(generator=torch.Generator()),
    "randperm": lambda: torch.randperm(3, generator=torch.Generator("cuda")),
    "randint": lambda: torch.randint(3, (2,), device="cuda", generator=torch.Generator()),
    "multinomial": lambda: torch.multinomial(there(3), 1, generator=torch.Generator()),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_of_the_other_side(card, name):
    with pytest.raises(RuntimeError, match="device type for generator"):
        GENERATORS[name]()


def test_a_cards_generator_has_a_state_of_its_own(card):
    generator = torch.Generator("cuda").manual_seed(3)
    first = torch.rand(4, generator=generator, device="cuda")
    state = generator.get_state()
    second = torch.rand(4, generator=generator, device="cuda")
    generator.set_state(state)
    assert torch.equal(second, torch.rand(4, generator=generator, device="cuda")) and not torch.equal(
        first, second
    )
    assert state.shape == (16,) and not state.is_cuda
    with pytest.raises(RuntimeError, match="wrong size"):
        generator.set_state(torch.Generator().get_state())


def test_memory_is_pinned_on_the_host_alone(card):
    with pytest.raises(RuntimeError, match="cannot pin"):
        there(2).pin_memory()
    with pytest.raises(RuntimeError, match="can be pinned"):
        torch.zeros(2, device="cuda", pin_memory=True)


def test_integers_have_no_product(card):
    with pytest.raises(NotImplementedError, match="not implemented for"):
        there(2, 2).long() @ there(2, 2).long()


def test_a_second_card_is_not_there(card):
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(1, device="cuda:1")
    with pytest.raises((RuntimeError, AssertionError)):
        torch.cuda.get_device_properties(1)


def test_a_device_without_an_index_where_torch_wants_one(card):
    with pytest.raises(ValueError, match="specified index"):
        torch.cuda.set_per_process_memory_fraction(0.5, torch.device("cuda"))


DETERMINISTIC: dict[str, Callable[[], object]] = {
    "cumsum": lambda: there(3).cumsum(0),
    "bincount": lambda: torch.bincount(there(3).long()),
    "enlarging, backwards": lambda: (
        torch.nn.functional.interpolate(there(1, 1, 2, 2).requires_grad_(), (4, 4), mode="bilinear")
        .sum()
        .backward()
    ),
    "grid_sample, backwards": lambda: (
        torch.nn.functional.grid_sample(there(1, 1, 2, 2).requires_grad_(), there(1, 1, 1, 2))
        .sum()
        .backward()
    ),
}


@pytest.fixture
def deterministic(monkeypatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_what_is_not_deterministic(card, deterministic, name):
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        DETERMINISTIC[name]()


def test_what_is_deterministic(card, deterministic):
    there(3).long().cumsum(0)
    there(3).index_add(0, torch.tensor([0, 0], device="cuda"), there(2))
    there(2, 2) @ there(2, 2)
    del os.environ["CUBLAS_WORKSPACE_CONFIG"]
    with pytest.raises(RuntimeError, match="CUBLAS_WORKSPACE_CONFIG"):
        there(2, 2) @ there(2, 2)


WAITS: dict[str, Callable[[], object]] = {
    "item": lambda: there(1).item(),
    "float": lambda: float(there(1).sum()),
    "if": lambda: bool(there(1) > 0),
    "int": lambda: int(there(1)),
    "tolist": lambda: there(2).tolist(),
    "cpu": lambda: there(2).cpu(),
    "to the host": lambda: there(2).to("cpu"),
    "to the card": lambda: here(2).to("cuda"),
    "a tensor made on the card": lambda: torch.tensor([1.0], device="cuda"),
    "copy_": lambda: there(2).copy_(here(2)),
    "a list as index": lambda: there(3)[[0, 1]],
    "nonzero": lambda: there(2).nonzero(),
    "a mask as index": lambda: there(2)[there(2) > 0],
    "masked_select": lambda: there(2).masked_select(there(2) > 0),
    "where without values": lambda: torch.where(there(2) > 0),
    "unique": lambda: there(2).unique(),
    "repeat_interleave": lambda: there(2).repeat_interleave(there(2).long()),
    "equal": lambda: torch.equal(there(2), there(2)),
    "inv": lambda: torch.linalg.inv(torch.eye(3, device="cuda")),
    "synchronize": lambda: torch.cuda.synchronize(),
}
NO_WAITS: dict[str, Callable[[], object]] = {
    "arithmetic": lambda: (there(2) * 2).sum(),
    "to the card, later": lambda: here(2).to("cuda", non_blocking=True),
    "a mask set to a number": lambda: there(2).index_put_((there(2) > 0,), torch.tensor(0.0)),
    "where": lambda: torch.where(there(2) > 0, there(2), -1),
    "repeat_interleave by a number": lambda: there(2).repeat_interleave(3),
    "repeat_interleave of a known size": lambda: there(2).repeat_interleave(there(2).long(), output_size=2),
    "a slice": lambda: there(3)[1:],
    "made on the card": lambda: torch.full((2,), 3.0, device="cuda"),
    "inv_ex": lambda: torch.linalg.inv_ex(torch.eye(3, device="cuda")),
    "a device": lambda: there(2).device,
}


@pytest.mark.parametrize("name", WAITS)
def test_python_waits(card, name):
    WAITS[name]()
    assert card.waits.total() == 1, card.report()
    (where,) = card.waits
    assert (where.file, where.line > 0) == ("tests/card/test_refusals.py", True)


@pytest.mark.parametrize("name", NO_WAITS)
def test_python_does_not_wait(card, name):
    NO_WAITS[name]()
    assert card.waits.total() == 0, card.report()


def test_memory_ends(card):
    megabyte = 2**18  # float32
    torch.cuda.set_per_process_memory_fraction(8e6 / card.memory.total, 0)
    kept = [there(megabyte) for _ in range(7)]
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        there(megabyte)
    assert torch.cuda.memory_allocated() == 7 * 2**20
    del kept[:3]
    assert torch.cuda.memory_allocated() == 4 * 2**20
    assert torch.cuda.max_memory_reserved() == torch.cuda.max_memory_allocated() == 7 * 2**20
    view = kept[0][1:]  # and what shares a storage holds it
    kept.clear()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == 2**20 and len(view) == megabyte - 1


def test_a_sticky_error_stays(card):
    ones = there(2)
    card.break_down()
    for _ in range(2):
        with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
            ones + 1


def test_a_card_without_kernels_in_torch():
    with PretendedCard(capability=(6, 1)), pytest.warns(UserWarning, match="6.1"):
        assert torch.cuda.is_available()
        with pytest.raises(torch.AcceleratorError, match="no kernel image"):
            there(1)


def test_no_bfloat16_before_ampere():
    with PretendedCard(capability=(7, 5)):
        assert not torch.cuda.is_bf16_supported(including_emulation=False)


def test_another_thread_sees_the_card(card):
    found: list[object] = []
    tensor = there(2)

    def look() -> None:
        found.append(tensor.device)
        try:
            tensor.numpy()
        except TypeError as error:
            found.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found[0] == torch.device("cuda", 0) and isinstance(found[1], TypeError)


def test_everything_is_as_before_afterwards():
    before = torch.Generator, threading.Thread.run, torch.version.cuda
    with PretendedCard():
        tensor = there(2)
    assert (torch.Generator, threading.Thread.run, torch.version.cuda) == before
    assert not torch.cuda.is_available() and not torch.cuda.is_initialized()
    assert tensor.device.type == "cpu"
    with pytest.raises(RuntimeError):
        torch.cuda.Stream()


def test_a_module_that_is_on_the_card_stays_there(card: PretendedCard) -> None:
    module = torch.nn.Linear(3, 3).to(dtype=torch.bfloat16, device="cuda")
    assert module.weight.device.type == "cuda"
    assert module.to(dtype=torch.bfloat16, device=module.weight.device).weight.device.type == "cuda"
    assert module.to(device="cpu").weight.device.type == "cpu"
