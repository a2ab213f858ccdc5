"""What every test runs under. Nothing of torch is imported here: some tests run in Blender's Python."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.tools.short import SHORT

if TYPE_CHECKING:
    from tests.tools.cuda_calls import CudaCalls


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Embeddings of tiny random encoders do not belong in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def short_jobs() -> Iterator[None]:
    """Fewer and smaller pictures of what a job makes than people want to see."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in SHORT:
            if module in sys.modules:  # the tests that need it have imported it by now
                patch.setattr(sys.modules[module], name, value)
        yield


@contextmanager
def as_before() -> Iterator[None]:
    """Threads and deterministic algorithms, which a job sets, change the last bits of the tests after it."""
    resident = sys.modules.get("backend.weights.resident")
    keeping = resident is not None and resident.RESIDENT.keeping
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
        torch.set_deterministic_debug_mode("error" if deterministic else "default")
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolutions
    if resident is not None:
        resident.RESIDENT.keeping = keeping


@pytest.fixture(autouse=True, scope="module")
def process_as_before_the_file() -> Iterator[None]:
    """What a file's own fixtures do, as the jobs that several tests look at."""
    with as_before():
        yield


@pytest.fixture(autouse=True)
def process_as_before(process_as_before_the_file: None) -> Iterator[None]:
    with as_before():
        yield


@pytest.fixture
def cuda_calls(monkeypatch: pytest.MonkeyPatch) -> CudaCalls:
    """A card below torch.cuda's own Python."""
    from tests.tools.cuda_calls import CudaCalls

    return CudaCalls().install(monkeypatch)


def build(folder: Path, kind: str, **more: Any) -> Path:
    """A tiny model's folder. Imported late: the Python of a bpy has no torch."""
    from tests.tools import tiny_models

    return tiny_models.build(folder, kind, **more)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SD 2.1-base's shape: epsilon, native 64 pixels, 8 x 8 latents."""
    return build(tmp_path_factory.mktemp("models") / "sd21-base", "sd21-base")


@pytest.fixture(scope="session")
def v_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SD 2.1's shape: v prediction. Another seed, so another text encoder too."""
    return build(tmp_path_factory.mktemp("models") / "sd21", "sd21", seed=1)


@pytest.fixture(scope="session")
def refiner_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SDXL refiner's shape."""
    return build(tmp_path_factory.mktemp("models") / "refiner", "refiner", seed=2)
