"""A Ray cluster of three nodes on loopback, and what goes wrong in it: `ray_faults.py ROOT FAULT HOW_OFTEN`.

    worker   a worker process that has a job is killed, again and again, in one stage after the other
    actor    the same of Ray's process that drives it
    raylet   a node is lost, with all that runs on it
    driver   the driver is killed, and started again
    term     the driver is sent SIGTERM, and started again
    disk     the disk of one node is full

Run in a network namespace (tools/network_alone.py), with the list in ROOT/l.txt. Prints how often, and the exit codes.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_worker_niceness": "0",
}
from ray.cluster_utils import Cluster

from dreamflow_blender.contract.protocol import STAGES
from tests.tools.pretend_worker import STEPS

HERE = Path(__file__).parent
NODES, SECONDS, MOST = 3, "2.4", 300.0


def running(root: Path, since: float) -> dict[int, str]:
    """Process ids of the workers that have got a job since then, and which stage that is in."""
    log = root / "log"
    found = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    last = {pid: (what, prompt) for what, prompt, pid, when in found if when > since}
    return {
        pid: stage_of(root, prompt)
        for pid, (what, prompt) in last.items()
        if what != "Finished" and psutil.pid_exists(pid)
    }


def stage_of(root: Path, prompt: str) -> str:
    """By its checkpoint; the last one while the result is written."""
    places = list(root.glob(f"out/{prompt.replace(' ', '-')}-42-*/checkpoints/place.json"))
    done = len(json.loads(places[0].read_text())) if places else 0
    return STAGES[min(done // STEPS, len(STAGES) - 1)]


def main(root: Path, fault: str, times: int) -> None:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "node_ip_address": "127.0.0.1", "include_dashboard": False},
    )
    more = {"env_vars": {"DISK_FULL": "1"}} if fault == "disk" else {}
    nodes = [cluster.add_node(num_cpus=1, **(more if n == 0 else {})) for n in range(NODES)]
    cluster.wait_for_nodes()
    command = [
        sys.executable,
        HERE / "ray_child.py",
        root,
        SECONDS,
        "--ray",
        cluster.address,
        "--workers",
        NODES,
    ]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*map(str, command)], stdout=(root / "said").open("ab"), stderr=subprocess.STDOUT
        )

    draw, codes, done, stages = random.Random(24), [], 0, Counter[str]()
    driver, began, until = start(), time.time(), time.monotonic() + MOST
    faults: dict[str, Callable[[int], None]] = {
        "worker": lambda pid: os.kill(pid, signal.SIGKILL),
        "actor": lambda pid: os.kill(psutil.Process(pid).ppid(), signal.SIGKILL),
        "raylet": lambda _: cluster.remove_node(nodes.pop(), allow_graceful=False),
        "driver": lambda _: driver.kill(),
        "term": lambda _: driver.terminate(),
    }
    while time.monotonic() < until:
        time.sleep(draw.uniform(0.05, 0.15))
        if driver.poll() is not None:
            codes.append(driver.returncode)
            if driver.returncode in (0, 1):
                break
            driver, began = start(), time.time()
        pids = running(root, began)
        if fault in ("worker", "actor"):
            pids = {pid: stage for pid, stage in pids.items() if stage == STAGES[done % len(STAGES)]}
        if done < times and pids and fault in faults:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):  # it has ended since
                pid = draw.choice([*pids])
                faults[fault](pid)
                done += 1
                stages[pids[pid]] += 1
                if fault in ("driver", "term"):
                    codes.append(driver.wait())
                    driver, began = start(), time.time()
    driver.kill()
    cluster.shutdown()
    print(json.dumps({"fault": fault, "times": done, "codes": codes, "stages": stages}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
