"""What every test runs under. Nothing of torch is imported here: some tests run in Blender's Python."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cuda_calls import CudaCalls


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Embeddings of tiny random encoders do not belong in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """Threads and deterministic algorithms, which a job sets, change the last bits of the tests after it."""
    if "torch" not in sys.modules:
        yield
        return
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    matmul, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if torch.are_deterministic_algorithms_enabled() != deterministic:
        torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolutions


@pytest.fixture
def cuda_calls(monkeypatch: pytest.MonkeyPatch) -> CudaCalls:
    """A card below torch.cuda's own Python."""
    from tests.cuda_calls import CudaCalls

    return CudaCalls().install(monkeypatch)
