"""Compiles nvdiffrast and tiny-cuda-nn into the environment of this Python: `python build.py accelerators`.

Both are optional, for NVIDIA cards, and built from their authors' sources with a CUDA toolkit and a C++ compiler. What
is missing is told before anything is compiled; what fails, or cannot be imported afterwards, is not left behind.
"""

from __future__ import annotations

import argparse
import ctypes.util
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

ROOT = Path(__file__).resolve().parents[1]
WINDOWS = os.name == "nt"
LICENCE = (
    "nvdiffrast may be used for research and evaluation only, not commercially. tiny-cuda-nn is BSD-licensed."
)
FROM = "a folder that holds `nvdiffrast` and `tiny-cuda-nn` with their submodules, instead of fetching them with git"


@dataclass(frozen=True)
class Accelerator:
    title: str  # as its authors call it, and its folder in --from
    distribution: str  # as pip calls it
    module: str  # as it is imported
    commit: str
    subdirectory: str = ""

    @property
    def source(self) -> str:
        inside = f"#subdirectory={self.subdirectory}" if self.subdirectory else ""
        return f"git+https://github.com/NVlabs/{self.title}@{self.commit}{inside}"


NVDIFFRAST = Accelerator(  # v0.4.0
    "nvdiffrast", "nvdiffrast", "nvdiffrast.torch", "253ac4fcea7de5f396371124af597e6cc957bfae"
)
TINY_CUDA_NN = Accelerator(  # of April 2026: its last release knows neither CUDA 13 nor today's setuptools
    "tiny-cuda-nn", "tinycudann", "tinycudann", "02919511e152ee1059b51b7825bd9a4de659645c", "bindings/torch"
)
# a wheel that pip has kept may be built for another torch: none is taken
INSTALL = ("install", "--no-build-isolation", "--no-deps", "--no-cache-dir", "--force-reinstall")
TOOLS = ("setuptools", "packaging", "ninja")


def stop(message: str) -> NoReturn:
    print(f"{message}\nEverything works without accelerators, more slowly.", file=sys.stderr)
    raise SystemExit(1)


def find_toolkit() -> Path:
    """The folder of the CUDA toolkit. Ends the program if there is none of the version that torch is built for."""
    if not torch.version.cuda:
        stop(
            f"This torch ({torch.__version__}) is not built for CUDA: accelerators would have nothing to run on."
        )
    on_path = shutil.which("nvcc")
    places = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    homes = [
        *(Path(place) for place in places if place),
        *([Path(on_path).resolve().parents[1]] if on_path else []),
    ]
    nvcc = "nvcc.exe" if WINDOWS else "nvcc"
    home = next((home for home in homes if (home / "bin" / nvcc).is_file()), None)
    if home is None:
        stop(f"There is no CUDA toolkit (nvcc): install NVIDIA's CUDA toolkit {torch.version.cuda}.")
    said = subprocess.run([home / "bin" / nvcc, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"release (\d+)\.", said)
    major = torch.version.cuda.split(".")[0]
    if found is None or found[1] != major:
        version = found[1] if found else "unknown"
        stop(f"The CUDA toolkit in {home} is of version {version}; torch is built for {torch.version.cuda}.")
    return home


def toolkit_variables(home: Path, links: Path) -> dict[str, str]:
    """What the compilers need to know. links: an empty folder, for names that the linker looks for.

    A toolkit that is only the compiler lacks headers that torch's own headers include, and libnvrtc. On Linux torch's
    packages bring both, in `nvidia/*/include` and `nvidia/*/lib`. Ends the program where they are missing.
    """
    own = Path(sysconfig.get_path("purelib")) / "nvidia"
    variables = {"CUDA_HOME": str(home), "PATH": f"{home / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"}
    if not (home / "include" / "cusparse.h").is_file():
        if WINDOWS or not any(own.glob("*/include/cusparse.h")):
            stop(
                f"The CUDA toolkit in {home} is only its compiler (no cusparse.h): install the whole toolkit."
            )
        variables["CPATH"] = joined(*sorted(own.glob("*/include")), os.environ.get("CPATH"))
    if WINDOWS:
        return {**variables, "DISTUTILS_USE_SDK": "1"}  # or torch refuses Visual Studio's own command prompt
    for library in sorted(own.glob("*/lib/libnvrtc.so.*"))[:1]:
        (links / "libnvrtc.so").symlink_to(library)
    driver = ctypes.util.find_library("cuda")  # a name without its folder
    folders = map(
        Path, ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib/wsl/lib", "/usr/lib/aarch64-linux-gnu")
    )
    for folder in [folder for folder in folders if driver and (folder / driver).exists()][:1]:
        (links / "libcuda.so").symlink_to(folder / str(driver))
    variables["LIBRARY_PATH"] = joined(os.environ.get("LIBRARY_PATH"), home / "lib64" / "stubs", links)
    return variables


def joined(*places: Path | str | None) -> str:
    return os.pathsep.join(str(place) for place in places if place)


def check_compiler(variables: dict[str, str], links: Path) -> None:
    """Ends the program where there is no C++ compiler, or where it would find a library missing after minutes."""
    if WINDOWS:
        if shutil.which("cl") is None:
            stop("There is no C++ compiler: run this in Visual Studio's x64 Native Tools command prompt.")
        return
    if shutil.which("c++") is None:
        stop("There is no C++ compiler: install g++.")
    trial = [
        "c++",
        "-shared",
        "-x",
        "c++",
        os.devnull,
        f"-L{variables['CUDA_HOME']}/lib64",
        "-o",
        str(links / "trial"),
    ]
    for library in ("cudart", "nvrtc", "cuda"):
        if subprocess.run([*trial, f"-l{library}"], env=variables, capture_output=True).returncode:
            stop(f"The linker finds no lib{library}: install the whole CUDA toolkit, and NVIDIA's driver.")


def architectures() -> dict[str, str]:
    """For which cards to compile, in the words of both builds."""
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if not wanted and torch.cuda.is_available():
        wanted = ".".join(map(str, torch.cuda.get_device_capability()))
    found = re.findall(r"(\d+)\.(\d)", wanted)
    if not found:
        stop(
            "There is no card here: TORCH_CUDA_ARCH_LIST says for which one (RTX 30: 8.6, RTX 40: 8.9, RTX 50: 12.0)."
        )
    return {"TORCH_CUDA_ARCH_LIST": wanted, "TCNN_CUDA_ARCHITECTURES": ",".join(a + b for a, b in found)}


def source_of(accelerator: Accelerator, folder: Path | None) -> str:
    """What pip is told: a repository, or a folder that is there already."""
    if folder is None:
        if shutil.which("git") is None:
            stop(
                "There is no git, which fetches the sources: install it, or give a folder of them with --from."
            )
        return accelerator.source
    inside = folder.resolve() / accelerator.title / accelerator.subdirectory
    if not (inside / "setup.py").is_file():
        stop(f"{inside} holds no sources of {accelerator.title}: clone it there, with its submodules.")
    return str(inside)


def build(accelerator: Accelerator, source: str, pip: list[str], variables: dict[str, str]) -> str:
    """Builds and imports one. Returns why it is not there, or an empty string."""
    print(f"\n{accelerator.title}, from {source}:", flush=True)
    if subprocess.run([*pip, *INSTALL, source], env=variables).returncode:
        return "it could not be compiled (the reason is above)"
    if accelerator is TINY_CUDA_NN and not torch.cuda.is_available():
        print("It is built. It cannot be imported without a card, so it is tried when there is one.")
        return ""
    tried = subprocess.run(
        [sys.executable, "-c", f"import {accelerator.module}"], capture_output=True, text=True
    )
    if tried.returncode == 0:
        return ""
    subprocess.run([*pip, "uninstall", "--yes", accelerator.distribution])
    return f"it was compiled, but cannot be imported ({(tried.stderr.strip().splitlines() or ['no reason given'])[-1]})"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="build.py accelerators", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--from", dest="folder", type=Path, metavar="FOLDER", help=FROM)
    with tempfile.TemporaryDirectory() as links:
        return build_both(parser.parse_args().folder, Path(links))


def build_both(folder: Path | None, links: Path) -> int:
    both = (NVDIFFRAST, TINY_CUDA_NN)
    home = find_toolkit()
    variables = {"MAX_JOBS": "2", **os.environ, **toolkit_variables(home, links), **architectures()}
    check_compiler(variables, links)
    sources = [source_of(accelerator, folder) for accelerator in both]
    if importlib.util.find_spec("pip") is None:  # uv makes environments without it
        subprocess.run([sys.executable, "-m", "ensurepip"], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    print(
        f"{LICENCE}\nCompiling for {variables['TORCH_CUDA_ARCH_LIST']} with {home}: ten minutes or more.",
        flush=True,
    )
    tools = [*pip, "install", "--quiet", "-c", str(ROOT / "requirements.txt"), *TOOLS]
    if subprocess.run(tools).returncode:
        stop("The tools to compile with could not be installed (the reason is above).")
    told = {a.title: build(a, source, pip, variables) for a, source in zip(both, sources, strict=True)}
    failed = [f"{title}: {why}" for title, why in told.items() if why]
    if failed:
        stop(f"\nNot built: {'; '.join(failed)}.")
    print("\nBoth are built. `python -m backend doctor` says what is in use.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
