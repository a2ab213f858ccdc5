"""A stand-in for uv that installs toy wheels from the folder $TOY_INDEX, and notes how it was called.

$TOY_UV says what is different: "own torch is CUDA's" (as the registry's on Linux), "nor another" (and PyTorch's index
does not answer), "hangs", "full", "no python" (can be found or fetched).
"""

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

called = sys.argv[1:]
index = Path(os.environ["TOY_INDEX"])
with (index / "calls.txt").open("a") as calls:
    calls.write(" ".join(called) + "\n")
trouble = os.environ.get("TOY_UV", "")
if called[0] == "--version":
    sys.exit(print("uv 0.13.9 (a toy)"))
if called[0] == "venv":
    base = called[called.index("--python") + 1]
    if trouble == "no python" and base.startswith(">"):
        sys.exit("error: error sending request for url (https://example.org/)")
    shutil.rmtree(called[-1], ignore_errors=True)
    base = sys.executable if base.startswith(">") else base
    sys.exit(subprocess.call([base, "-m", "venv", "--without-pip", called[-1]]))
if trouble == "hangs":
    print("Downloading toy (800.0MiB)", flush=True)
    time.sleep(1000)
if trouble == "full":
    sys.exit("error: failed to write to file: No space left on device (os error 28)")
if trouble == "nor another" and "--default-index" in called:
    sys.exit("error: Failed to fetch: `https://example.org/whl/cpu/torch/`\n  Caused by: dns error")
if "--dry-run" in called:
    print(f"Would download 1 package\nWould install 1 package\n + {called[-1]}")
    if trouble in ("own torch is CUDA's", "nor another"):
        print(" + nvidia-cudnn-cu13==9.20.0.48\n + triton==3.7.1")
    sys.exit()
python = Path(called[called.index("--python") + 1])
[site] = python.parent.parent.glob("lib/python*/site-packages")
wanted = [word for word in called if re.match(r"[a-z-]+==", word)]
for file in (called[n + 1] for n, word in enumerate(called) if word == "-r"):
    wanted += [line for line in Path(file).read_text().splitlines() if "==" in line]
print(f"Resolved {len(wanted)} packages in 2ms", flush=True)
for pin in wanted:
    name, version = pin.split(";")[0].strip().split("==")
    if name == "torch" and (site / "torch.py").is_file():
        continue
    found = sorted(index.glob(f"{name}/{name.replace('-', '_')}-{version}*.whl"))
    if not found:
        sys.exit(f"  × No solution found when resolving dependencies:\n  ╰─▶ Because {pin} cannot be found")
    print(f"Downloading {name} (12.0MiB)\n Downloaded {name}", flush=True)
    with zipfile.ZipFile(found[-1]) as wheel:
        wheel.extractall(site)
print(f"Prepared {len(wanted)} packages in 1ms\nInstalled {len(wanted)} packages in 1ms", flush=True)
