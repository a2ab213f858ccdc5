"""Drives the backend with nothing but Python's standard library: python examples/minimal_client.py PROMPT FOLDER

Run it with the backend's Python, at the root of the repository. Ctrl-C stops the job and keeps its checkpoint.
It knows what the docstring of dreamflow_blender/contract/protocol.py says, and nothing else.
"""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

WORKER = (sys.executable, "-m", "backend", "worker")
ENDS = ("finished", "cancelled", "failed", "refused")


def generate(
    prompt: str, folder: str, command: Sequence[str] = WORKER, **settings: Any
) -> Iterator[dict[str, Any]]:
    """The events of a job, the last of which is one of ENDS; `settings` are other fields of Job."""
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert worker.stdin is not None and worker.stdout is not None

    def say(request: dict[str, Any]) -> None:
        assert worker.stdin is not None
        worker.stdin.write(json.dumps(request).encode() + b"\n")
        worker.stdin.flush()

    job = {"id": uuid.uuid4().hex, "kind": "generate", "prompt": prompt, "folder": folder, **settings}
    say({"request": "generate", "job": job})
    event = {"event": "none"}
    while event["event"] not in ENDS:
        try:
            line = worker.stdout.readline()
            event = json.loads(line) if line else {"event": "failed", "message": "The backend is gone."}
            yield event
        except KeyboardInterrupt:
            say({"request": "cancel"})
    worker.stdin.close()  # it ends by itself
    worker.wait()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/minimal_client.py PROMPT FOLDER")
    for event in generate(sys.argv[1], sys.argv[2]):
        print(" ".join(f"{name}={value}" for name, value in event.items()), flush=True)
    sys.exit(event["event"] != "finished")
