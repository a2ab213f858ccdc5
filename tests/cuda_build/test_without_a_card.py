"""torch's build for CUDA on a machine without a card: what its own code refuses, and what DreamFlow makes of it.

`.ci/cuda_build` brings that build and runs this; with another build, or with a card, all of it is skipped.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.device import pick_device, prepare_device
from backend.errors import DeviceError
from dreamflow_blender.setup import torch_build
from dreamflow_blender.setup.torch_build import BUILDS, Choice
from tests.tools.cuda_calls import CudaCalls
from tests.tools.nvidia_smi import MACHINES

ROOT = Path(__file__).parents[2]
CARD = "RTX 4090, driver 580"

pytestmark = [
    pytest.mark.skipif(torch.version.cuda is None, reason="needs torch's build for CUDA: see .ci/cuda_build"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a card"),
]


def test_it_is_the_build_that_is_chosen_for_a_new_card() -> None:
    """torch_build's table says what this build was compiled for, so that the choice holds."""
    build = BUILDS[0]
    assert torch.version.cuda == f"{build.cuda[0]}.{build.cuda[1]}"
    assert torch.cuda.get_arch_list() == [f"sm_{major}{minor}" for major, minor in build.kernels]


def test_auto_is_the_processor_and_a_card_is_refused() -> None:
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(DeviceError, match="torch sees no card"):
        pick_device("cuda")


def test_a_device_without_an_index_is_refused_by_torch(cuda_calls: CudaCalls) -> None:
    bare = torch.device("cuda")
    with pytest.raises(ValueError, match="specified index"):
        torch.cuda.set_per_process_memory_fraction(0.5, bare)
    with pytest.raises(ValueError, match="Invalid fraction value"):
        torch.cuda.set_per_process_memory_fraction(1.5, 0)
    with pytest.raises(ValueError, match="specified index"):  # so that it cannot come back unseen
        prepare_device(bare, 1)
    assert cuda_calls.fractions == []
    assert pick_device("auto") == torch.device("cuda", 0)


def test_every_call_that_is_stood_in_for_exists() -> None:
    class Looks:
        def setattr(self, where: Any, name: str, what: Any, raising: bool = True) -> None:
            if where is torch._C:
                assert hasattr(where, name) and callable(what), name
                seen.append(name)

    seen: list[str] = []
    CudaCalls().install(Looks())  # type: ignore[arg-type]
    assert "_cuda_setMemoryFraction" in seen


def test_c_wants_a_number_for_a_card() -> None:
    """As the stand-in does."""
    for index in ("0", torch.device("cuda", 0)):
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            torch._C._cuda_setMemoryFraction(0.5, index)  # type: ignore[attr-defined]


def doctor(path: str) -> tuple[int, list[dict[str, Any]]]:
    ran = subprocess.run(
        [sys.executable, "-m", "backend", "doctor", "--json"], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PATH": path},
    )  # fmt: skip
    return ran.returncode, [json.loads(line) for line in ran.stdout.splitlines()]


def smi(folder: Path) -> str:
    """A folder with an nvidia-smi that sees a card."""
    script = folder / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 4090, 580.105.08, 8.9'\n")
    script.chmod(0o755)
    return str(folder)


def test_doctor_without_a_driver(tmp_path: Path) -> None:
    _, said = doctor(str(tmp_path))
    about = {(check.get("name"), check.get("state")): check.get("message", "") for check in said}
    assert about["torch", "good"].startswith(f"{torch.__version__}, built for {torch.version.cuda}")
    assert "no NVIDIA driver" in about["driver", "good"] and ("GPU", "problem") not in about
    [report] = [line for line in said if line["event"] == "report"]
    assert report["torch"]["gpus"] == [] and not report["kernels"].get("error")


def test_doctor_with_a_card_that_torch_cannot_use(tmp_path: Path) -> None:
    code, said = doctor(smi(tmp_path))
    [problem] = [check for check in said if check.get("name") == "GPU"]
    assert code == 1 and problem["state"] == "problem" and problem["todo"]
    assert "torch cannot use the NVIDIA GeForce RTX 4090" in problem["message"]


def test_what_set_up_says_of_it() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", torch_build.PROBE], capture_output=True, text=True, check=True
    )
    said = ran.stdout.strip().splitlines()[-1]
    chosen = torch_build.choose(torch_build.read(MACHINES[CARD].ask))
    version, note = torch_build.verdict(chosen, said, "X")
    assert version == torch.__version__ and "finds no NVIDIA card: see whether nvidia-smi lists it" in note
    assert "and cu126 was wanted" in torch_build.verdict(Choice("cu126", ""), said, "X")[1]


@pytest.mark.parametrize("name", ["raster_warp", "march_warp"])
@pytest.mark.parametrize("architecture", [75, 86, 89, 90, 120])
def test_warp_compiles_machine_code_beside_torch(name: str, architecture: int, tmp_path: Path) -> None:
    """What a card runs, not only PTX, in a process that has torch's own CUDA libraries."""
    wp = pytest.importorskip("warp", reason="warp-lang is not installed")
    import importlib

    module = importlib.import_module(f"backend.kernels.{name}")
    kernels = [kernel.key for kernel in wp.get_module(module.__name__).kernels.values()]
    [written] = wp.compile_aot_module(module, arch=[architecture], module_dir=tmp_path, use_ptx=False)
    code = written.read_bytes()
    machine, flags = struct.unpack("<H", code[18:20])[0], struct.unpack("<I", code[48:52])[0]
    assert code[:4] == b"\x7fELF" and machine == 190  # EM_CUDA
    assert flags >> 8 & 0xFF == architecture
    sections = set(re.findall(rb"\.text\.(\w+)", code))
    assert kernels and all(any(kernel.encode() in section for section in sections) for kernel in kernels)
