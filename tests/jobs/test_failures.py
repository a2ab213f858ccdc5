"""A card that fails in the middle, and one that cannot begin: what is said, and what goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backend import errors
from backend.errors import ModelError, card_error
from backend.jobs.failures import failure_event
from dreamflow_blender.contract import protocol as p

ILLEGAL = (
    "CUDA error: an illegal memory access was encountered\n"
    "CUDA kernel errors might be asynchronously reported at some other API call."
)
STICKY = [
    torch.AcceleratorError(ILLEGAL),
    torch.AcceleratorError("CUDA error: unspecified launch failure"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
    torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("Error launching kernel: encode, CUDA error 700: an illegal memory access was encountered"),
]
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", STICKY, ids=str)
def test_a_card_that_fails_is_no_bug_of_ours(error: Exception, tmp_path: Path) -> None:
    said = failure_event(error, tmp_path)
    assert said.kind == "card" and str(error).splitlines()[0] in said.message
    assert "goes on from its newest checkpoint" in said.todo and str(tmp_path / "log.txt") in said.todo
    assert not errors.is_out_of_memory(error)
    assert str(error).splitlines()[0] in (tmp_path / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_a_full_card_is_not_a_broken_one(error: Exception, tmp_path: Path) -> None:
    assert errors.is_out_of_memory(error) and card_error(error) == ""
    assert failure_event(error, tmp_path).kind == "memory"


def test_what_fails_because_of_it_does_not_hide_it(tmp_path: Path) -> None:
    """Setting memory free, say, on the way out."""
    try:
        try:
            raise torch.AcceleratorError(ILLEGAL)
        finally:
            raise ValueError("not on this device")
    except ValueError as error:
        assert "illegal memory access" in failure_event(error, tmp_path).message


def test_an_error_of_ours_that_came_from_it_does_not_hide_it_either(tmp_path: Path) -> None:
    error = ModelError("The weights are damaged.")
    error.__cause__ = torch.AcceleratorError(ILLEGAL)
    assert failure_event(error, tmp_path).kind == "card"
    assert failure_event(ModelError("The weights are damaged."), tmp_path).kind == "model"


def test_other_errors_are_bugs_as_before(tmp_path: Path) -> None:
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("CUDA error")):
        said = failure_event(error, tmp_path)
        assert said.kind == "internal" and "bug in DreamFlow" in said.todo


@pytest.mark.slow  # two workers; .ci/run has a step for it
def test_a_worker_whose_card_failed_ends_and_the_client_starts_another(tmp_path: Path) -> None:
    """The real worker and the real client; the stand-in is below the denoiser, where the card's error comes from."""
    import os
    import sys

    from dreamflow_blender.client.client import Client
    from tests.tools.tiny import tiny_job

    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "tests" / "tools" / "worker_child.py")]
    client = Client(
        sys.executable, root, tmp_path, command=command,
        environment={"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "CARD_FAILS": str(tmp_path / "fails")},
        start_seconds=600,
    )  # fmt: skip
    try:
        (tmp_path / "fails").touch()
        client.submit(tiny_job(tmp_path / "first", stages=("nerf",)))
        *_, end = client.events()
        assert isinstance(end, p.Failed) and end.kind == "card", end
        first = client.pid
        assert first is not None
        (tmp_path / "fails").unlink()
        client.submit(tiny_job(tmp_path / "second", stages=("nerf",)))  # at once: it may be ending still
        *_, end = client.events()
        assert isinstance(end, p.Finished), end
        assert client.pid != first
        if os.name == "posix":
            assert not Path(f"/proc/{first}").exists()
    finally:
        client.close(2.0)
