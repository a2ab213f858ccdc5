"""nvdiffrast and tiny-cuda-nn, built into the backend's environment where that is possible. No `bpy`.

Both are optional, and compiled from their authors' sources with the machine's own CUDA toolkit. Where that is not
there, or fails, or gives something that cannot be imported, the environment is as it was: the backend falls back
to its own kernels by itself.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import pythons
from .background import Stop
from .packages import Installer
from .process import WINDOWS, clean_environment, proxy_variables
from .steps import CommandFailed, Log, Progress, SetupError, ask, run

LICENCE = (
    "nvdiffrast is licensed by NVIDIA for non-commercial use only (research and evaluation)."
    " tiny-cuda-nn is BSD-licensed. Both are fetched from GitHub and compiled here, which takes some minutes."
)


@dataclass(frozen=True)
class Accelerator:
    name: str  # as it is imported
    title: str
    source: str


TINY_CUDA_NN = "02919511e152ee1059b51b7825bd9a4de659645c"  # a commit: its last release does not know CUDA 13
ACCELERATORS = (
    Accelerator("nvdiffrast.torch", "nvdiffrast", "git+https://github.com/NVlabs/nvdiffrast@v0.4.0"),
    Accelerator(
        "tinycudann",
        "tiny-cuda-nn",
        f"git+https://github.com/NVlabs/tiny-cuda-nn@{TINY_CUDA_NN}#subdirectory=bindings/torch",
    ),
)


def obstacle(python: Path, stop: Stop) -> str:
    """Why nothing can be built here, one sentence; empty where it can be tried."""
    said = ask([str(python), "-c", "import json, torch; print(json.dumps(torch.version.cuda))"], stop, 120)
    cuda = json.loads(said) if said else None
    if not cuda:
        return "This backend's torch is not built for CUDA: accelerators would have nothing to run on."
    nvcc = find_nvcc()
    if nvcc is None:
        return f"There is no CUDA toolkit (nvcc): install NVIDIA's CUDA toolkit {cuda}, and try again."
    version = ask([str(nvcc), "--version"], stop, 30) or ""
    if f"release {cuda.split('.')[0]}." not in version:
        return (
            f"The CUDA toolkit ({nvcc}) is not of version {cuda.split('.')[0]}, as torch's build is ({cuda})."
        )
    compiler = shutil.which("cl") if WINDOWS else shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        what = (
            "Visual Studio's C++ build tools, in whose command prompt Blender is started"
            if WINDOWS
            else "g++"
        )
        return f"There is no C++ compiler: install {what}."
    if shutil.which("git") is None:
        return "There is no git, which fetches the sources: install it."
    return ""


def find_nvcc() -> Path | None:
    """CUDA's compiler: where CUDA_HOME says, on the path, or in its usual place."""
    name = "nvcc.exe" if WINDOWS else "nvcc"
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    found = [Path(home) / "bin" / name for home in homes if home]
    on_path = shutil.which("nvcc")
    return next((path for path in [*found, *([Path(on_path)] if on_path else [])] if path.is_file()), None)


def build(folder: Path, python: Path, stop: Stop, proxy: str = "") -> Iterator[Progress]:
    """Build both into the environment of `python`, whose tools lie in `folder`. Raises SetupError and Stopped.

    proxy: of the sources and tools; empty: as the system has it.
    """
    yield Progress(0.0, "looking for the CUDA toolkit", "look")
    reason = obstacle(python, stop)
    if reason:
        raise SetupError(reason, "Everything works without accelerators, more slowly.")
    log = Log(folder / "accelerators.log")
    failed: list[str] = []
    try:
        for number, accelerator in enumerate(ACCELERATORS):
            start = 0.05 + 0.95 * number / len(ACCELERATORS)
            yield Progress(start, f"compiling {accelerator.title}", "packages")
            try:
                yield from _build_one(accelerator, folder, python, stop, log, start, proxy)
            except (CommandFailed, OSError) as error:
                failed.append(f"{accelerator.title} ({error})")
        if failed:
            raise SetupError(
                f"Not built: {'; '.join(failed)}.",
                "Everything works as before. The log says more.",
                log.tail(),
            )
    finally:
        log.close()
    yield Progress(1.0, "ready", "check")


def _build_one(
    accelerator: Accelerator, folder: Path, python: Path, stop: Stop, log: Log, start: float, proxy: str
) -> Iterator[Progress]:
    nvcc = find_nvcc()
    assert nvcc is not None, "obstacle"
    path = f"{nvcc.parent}{os.pathsep}{os.environ.get('PATH', '')}"  # tiny-cuda-nn's build looks for it there
    toolkit = {"CUDA_HOME": str(nvcc.parents[1]), "PATH": path, "MAX_JOBS": "2"}
    variables = clean_environment(**toolkit, **proxy_variables(proxy))
    installer = Installer(str(python), pythons.find_uv(folder / "tools"), folder / "cache", variables)
    for what in (("setuptools", "wheel", "ninja"), ("--no-build-isolation", "--no-deps", accelerator.source)):
        for line in run(installer.install(*what), stop, log, variables):
            if line.strip():
                yield Progress(start, f"{accelerator.title}: {line.strip()[:80]}", "packages")
    if ask([str(python), "-c", f"import {accelerator.name}"], stop, 300) is None:
        with suppress(CommandFailed):  # a package that cannot be imported would only be a worry
            removal = installer.install()
            removal = [*removal[: removal.index("install")], "uninstall", accelerator.title.replace("-", "_")]
            removal += ["--python", str(python)] if installer.uv else ["--yes"]
            for _ in run(removal, stop, log, variables):
                pass
        raise CommandFailed(1, "it was compiled, but cannot be imported")
