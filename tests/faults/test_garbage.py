"""Lines that no client would write: each is answered, nothing grows, and then a real job runs.

LINES in the environment is how many (3,000).
"""

import json
import os
import random
import threading
import time

import psutil
import pytest

from dreamflow_blender.contract import protocol as p
from tests.tools.worker_client import fresh, start

__all__ = ["start"]  # a fixture

LINES = int(os.environ.get("LINES", "3000"))
GOOD = [
    p.encode_request(request)
    for request in (
        p.Hello(), p.Pause(), p.Continue(), p.Finish(), p.Cancel(), p.Shutdown(), p.Resume("out/a"),
        p.Generate(p.Job("1", "generate", "a mug", "out/a", overrides={"nerf.levels": 2})),
        p.Refine(p.Job("1", "refine", "a mug", "out/a", stages=("texture",), mesh="a.glb")),
    )
]  # fmt: skip
VALUES = [
    None, True, -1, 1e308, 2**70, 10**400, "", "\0", "\ud800", "../../etc", "x" * 2000, [], {}, [[]] * 50,
    {"a": {"b": 1}}, float("nan"), float("-inf"),
]  # fmt: skip


def mutated(chance):
    """A good request with one field replaced, removed or added; perhaps with a byte or two changed."""
    message = json.loads(chance.choice(GOOD))
    place = message.get("job", message)
    name = chance.choice([*place, "wings"])
    if chance.random() < 0.2:
        place.pop(name, None)
    else:
        place[name] = chance.choice(VALUES)
    line = bytearray(json.dumps(message).encode())
    for _ in range(chance.choice([0, 0, 1, 2])):
        line[chance.randrange(len(line))] = chance.randrange(256)
    return bytes(line)


def nested(chance):
    depth = chance.randrange(1, 30_000)
    opened, closed = chance.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'{"job":[', b"]}")])
    return opened * depth + closed * chance.choice([0, depth])


def bytes_at_random(chance):
    return chance.randbytes(chance.randrange(200))


def huge_number(chance):
    return (
        b'{"request": "hello", "protocol": '
        + chance.choice([b"", b"-", b"0."])
        + b"9" * chance.randrange(9000)
        + b"}"
    )


def half(chance):
    good = chance.choice(GOOD).encode()
    return good[: chance.randrange(len(good))]


def too_long(chance):
    return b" " * chance.choice([p.MAX_LINE - 1, p.MAX_LINE, p.MAX_LINE + 1, 3 * p.MAX_LINE])


KINDS = [mutated] * 60 + [bytes_at_random] * 20 + [half] * 10 + [huge_number] * 6 + [nested] * 3


def garbage(count):
    """Lines, none of which begins a job or ends the worker."""
    chance = random.Random(0)
    for number in range(count):
        while True:
            make = too_long if number % 1000 == 999 else chance.choice(KINDS)
            line = make(chance).replace(b"\n", b" ")
            try:
                if not isinstance(p.decode_request(line), p.Generate | p.Refine | p.Resume | p.Shutdown):
                    break
            except p.BadMessage:
                break
        yield line


@pytest.mark.slow
def test_garbage_changes_nothing(start, tmp_path):
    client = start()
    client.until(p.Ready)
    client.say(p.Generate(fresh(tmp_path / "before")))
    client.until(p.Finished)
    memory = psutil.Process(client.process.pid).memory_info
    before, began = memory().rss, time.monotonic()

    def write():
        for line in garbage(LINES):
            client.write(line + b"\n")

    writer = threading.Thread(target=write)
    writer.start()
    answers = {p.Refused: 0, p.Ready: 0}  # a few of them happen to be a hello or a question
    for _ in range(LINES):
        answers[type(client.next())] += 1
    writer.join()
    grown = (memory().rss - before) / 1e6
    print(f"{LINES} lines in {time.monotonic() - began:.0f} s, {grown:+.1f} MB, {answers[p.Refused]} refused")
    assert client.events.empty() and client.process.poll() is None
    assert grown < 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before"]
    client.say(p.Generate(fresh(tmp_path / "after")))
    assert "has begun before" in client.until(p.Refused).message
    job = fresh(tmp_path / "after")
    client.say(p.Generate(p.Job(**(vars(job) | {"id": "another"}))))
    client.until(p.Finished)
    for name in ("mesh.npz", "albedo.png"):
        assert (tmp_path / "after" / name).read_bytes() == (tmp_path / "before" / name).read_bytes()
