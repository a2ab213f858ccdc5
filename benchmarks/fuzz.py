"""Damaged input for all that reads it: nothing but the project's own errors, no process lost, none slow or large.

    python -m benchmarks.fuzz --seconds 600 [--first-seed 1]
    python -m benchmarks.fuzz --seconds 600 --what meshes | jobs | wire | checkpoints

Every kind gets its share of the time. Each seed is a child process that reads 100 of one kind (meshes: .glb, .gltf,
.obj, .ply, .npz; a job's folder; a request to the worker; a checkpoint to resume from), each a good one of which
numbers, names, lines or bytes were changed. It prints what became of them, and of whatever is a fault the seed that
repeats it; the exit code is 1 where there is one. What is smaller than 1 MB may take 5 s of processor time and 1 GB.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from backend.errors import DiskError, InputError, NumericsError
from benchmarks.fuzz_files import KINDS, make

PER_SEED = 100
MOST_SECONDS, MOST_BYTES = 5.0, 1 << 30
HANGS = 300.0  # seconds: what waits longer is lost; on a busy machine torch alone is imported for 60
WHAT = {"meshes": sorted(KINDS), "jobs": ["job"], "wire": ["wire"], "checkpoints": ["checkpoint"]}
WHAT["all"] = [kind for kinds in WHAT.values() for kind in kinds]
ROOT = Path(__file__).parents[1]
ROOM = 4 << 30  # of address space in a child: an allocation beyond it is a fault


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", choices=sorted(WHAT), default="all")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted(KINDS), help="one kind of file")
    parser.add_argument("--child", nargs=3, metavar=("KIND", "SEED", "FOLDER"), help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.child:
        kind, seed, folder = said.child
        try_all(kind, int(seed), Path(folder))
        return 0
    return drive(said.seconds, said.first_seed, [said.only] if said.only else WHAT[said.what])


def drive(seconds: float, first: int, kinds: list[str]) -> int:
    began = time.monotonic()
    found: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in kinds}
    seeds, spent = dict.fromkeys(kinds, first), dict.fromkeys(kinds, 0.0)  # the next seed; seconds so far
    slowest, largest = dict.fromkeys(kinds, 0.0), dict.fromkeys(kinds, 0)
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() - began < seconds:
            kind = min(kinds, key=lambda kind: spent[kind])
            seed, started = seeds[kind], time.monotonic()
            command = [sys.executable, "-m", "benchmarks.fuzz", "--child", kind, str(seed), folder]
            ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
            lines = [json.loads(line) for line in ran.stdout.splitlines()]
            for line in lines:
                found[kind][line["end"]] += 1
                slowest[kind] = max(slowest[kind], line["seconds"])
                largest[kind] = max(largest[kind], line["grown"])
                if line["fault"]:
                    faults.append(f"{kind} seed {seed} file {line['file']}: {line['end']} {line['said']}")
            if ran.returncode:
                faults.append(
                    f"{kind} seed {seed} file {len(lines)}: the process ended with {ran.returncode}"
                )
            seeds[kind] += 1
            spent[kind] += time.monotonic() - started
    for kind, ends in found.items():
        print(
            f"{kind:10} seeds {first} to {seeds[kind] - 1}: {sum(ends.values()):,} tried;",
            ", ".join(f"{end} {count:,}" for end, count in ends.most_common()) + ";",
            f"slowest {slowest[kind]:.2f} s of processor, largest {largest[kind] / 1e6:.0f} MB",
        )
    print(f"{len(faults)} faults", *faults[:50], sep="\n")
    return 1 if faults else 0


def try_all(kind: str, seed: int, folder: Path) -> None:
    """A line of JSON for each trial of a seed."""
    attempt = {"job": _folder, "wire": _request, "checkpoint": _checkpoint}.get(kind, _mesh)
    warnings.simplefilter("ignore")
    limit_memory()
    if kind == "checkpoint":
        from benchmarks.fuzz_checkpoints import make_checkpoints

        make_checkpoints(folder)
    for number in range(PER_SEED):
        before, began = peak(), time.process_time()
        end, said, fault = "read", "", False
        faulthandler.dump_traceback_later(HANGS, exit=True)
        try:
            attempt(kind, f"{seed}/{number}", folder)
        except (InputError, DiskError, NumericsError) as error:
            end, said = "refused", str(error)
            fault = not re.fullmatch(r"[^\n\x00-\x1f]{10,600}", said)  # a sentence that can be shown
        except Exception as error:  # noqa: BLE001 - what this program looks for
            end, said, fault = type(error).__name__, str(error)[:200], True
        faulthandler.cancel_dump_traceback_later()
        seconds, grown = time.process_time() - began, peak() - before
        fault = fault or seconds > MOST_SECONDS or grown > MOST_BYTES
        print(
            json.dumps(
                {"file": number, "end": end, "said": said, "fault": fault, "seconds": seconds, "grown": grown}
            )
        )


def _mesh(kind: str, seed: str, folder: Path) -> None:
    from backend.meshes.read import kept_source, read_mesh

    for name, content in make(kind, seed).items():
        (folder / name).write_bytes(content)
    read_mesh(folder / f"a{kind}")
    kept_source(folder / f"a{kind}")


def _folder(kind: str, seed: str, folder: Path) -> None:
    from benchmarks.fuzz_jobs import try_folder

    try_folder(seed, folder)


def _request(kind: str, seed: str, folder: Path) -> None:
    from benchmarks.fuzz_jobs import try_request

    try_request(seed, folder)


def _checkpoint(kind: str, seed: str, folder: Path) -> None:
    from benchmarks.fuzz_checkpoints import try_checkpoint

    try_checkpoint(seed, folder)


def limit_memory() -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))


def peak() -> int:
    """Bytes of memory that this process has had at most."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
