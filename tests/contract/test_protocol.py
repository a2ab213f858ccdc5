"""Messages: whole over the wire, refused with a word when they are not what the table says."""

import dataclasses
import json

import pytest

from dreamflow_blender.contract import protocol as p

JOB = p.Job("1", "generate", "a red mug", "out/a-red-mug-42", overrides={"nerf.views": 2})
REFINE = {"kind": "refine", "stages": ("texture", "refine"), "mesh": "a.GLB"}
EVENTS = [
    p.Ready({"python": "3.11.7"}, ("CPU",), {"hashgrid": "warp"}, 2, 7.5),
    p.Ready({}, (), {}, 0),
    p.Started("nerf", 500),
    p.Progress("nerf", 3, 40, 31, 500, 12.5, 0.1, 0.41),
    p.Progress("nerf", 0, 40, 0, 500),
    p.Preview("out/é 🐟/preview.png"),
    p.Snapshot("snapshot.npz"),
    p.Checkpoint("checkpoint"),
    p.Refused("no such request"),
    p.Warning("two\nlines and \ud800 half a character"),
    p.Paused(),
    p.Finished({"mesh.glb": "mesh.glb"}, {"seconds": 192.0, "faces": 11204}),
    p.Cancelled({}),
    p.Failed("disk", "The disk is full.", "Free some space."),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
def test_an_event_comes_back_equal_from_one_ascii_line(event):
    line = p.encode(event)
    assert line.isascii() and "\n" not in line
    assert p.decode(line) == event == p.decode(line.encode())


def test_every_event_is_tried_and_in_the_docstring():
    assert {type(e) for e in EVENTS} == set(p.EVENTS.values())
    for name, cls in p.EVENTS.items():
        row = next(line for line in p.__doc__.splitlines() if line.startswith(f"    {name} "))
        first = [f.name for f in dataclasses.fields(cls)][:2]
        assert all(f in row for f in first), row


def test_a_job_comes_back_equal():
    assert p.decode_job(p.encode_job(JOB)) == JOB


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": ""}, "id: expected"),
        ({"kind": "paint"}, "generate or refine"),
        ({"prompt": ""}, "a few words"),
        ({"prompt": "x" * 10_000}, "at most 1,000 characters, got 10,000"),
        ({"prompt": "two\nlines"}, "one line"),
        ({"negative": "x" * 1_001}, "negative: expected at most 1,000"),
        ({"folder": " "}, "a path"),
        ({"folder": "a\0b"}, "a path"),
        ({"seed": -1}, "0 to 2,147,483,647, got -1"),
        ({"seed": 2**31}, "0 to 2,147"),
        ({"seed": 10**400}, "seed"),
        ({"seed": 1.5}, "seed: expected int"),
        ({"seed": True}, "seed: expected int"),
        ({"seed": "7"}, "seed: expected int"),
        ({"preset": "best"}, "paper or fast or draft, got 'best'"),
        ({"prior": ""}, "prior"),
        ({"device": "tpu"}, "auto or cuda or cpu or mps"),
        ({"threads": -1}, "threads"),
        ({"stages": ("nerf", "paint")}, "names of nerf, geometry, texture, refine, got 'paint'"),
        ({"stages": ("geometry", "nerf")}, "in the order"),
        ({"stages": ("nerf", "nerf")}, "at most once"),
        ({"stages": ("texture", "refine")}, "nerf as the first"),
        ({"stages": ()}, "nerf as the first"),
        ({"stages": ["nerf"]}, "stages: expected tuple"),
        ({"kind": "refine", "stages": ("geometry", "refine")}, "texture and refine only"),
        ({"mesh": "a.glb"}, "begin from nothing"),
        (REFINE | {"mesh": ""}, "path of a .glb"),
        (REFINE | {"mesh": "a.blend"}, "path of a .glb"),
        (REFINE | {"strength": 0.05}, "0.1 to 0.5"),
        (REFINE | {"strength": 1}, "0.1 to 0.5"),
        (REFINE | {"texture_size": 63}, "64 to 8,192"),
        (REFINE | {"front": 361.0}, "-360 to 360"),
        (REFINE | {"keep_uvs": 1}, "keep_uvs: expected bool"),
        ({"kind": "refine", "stages": ()}, "texture and refine only"),
        ({"overrides": {"nerf.lr": float("nan")}}, "finite"),
        ({"overrides": {"nerf.lr": object()}}, "finite"),
        ({"overrides": {1: 2}}, "overrides"),
    ],
)
def test_a_bad_job_is_refused_with_what_was_expected(change, words):
    with pytest.raises(p.BadMessage, match="expected") as caught:
        dataclasses.replace(JOB, **change)
    assert words in str(caught.value) and len(str(caught.value)) < 300


def test_refine_may_run_its_own_stages():
    assert dataclasses.replace(JOB, **REFINE).kind == "refine"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{",
        b"{}",
        b'{"event": null}',
        b'{"event": ["started"]}',
        b'{"event": "launched"}',
        b'{"event": "started"}',
        b'{"event": "started", "stage": "nerf", "total": "many"}',
        b'{"event": "started", "stage": "nerf", "total": 1e3}',
        b'{"event": "started", "stage": "nerf", "total": 1, "extra": 1}',
        b'{"event": "ready", "versions": {"a": 1}, "devices": [], "kernels": {}, "threads": 1}',
        b'{"event": "finished", "paths": {}, "figures": {"faces": NaN}}',
        b'{"event": "finished", "paths": {}, "figures": {"faces": 1e999}}',
        b'{"event": "finished", "paths": {}, "figures": {"faces": 1' + b"0" * 5000 + b"}}",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"event": "warning", "message": "' + b"x" * p.MAX_LINE + b'"}',
    ],
    ids=range(20),
)
def test_garbage_is_refused_with_a_short_word(line):
    with pytest.raises(p.BadMessage) as caught:
        p.decode(line)
    assert len(str(caught.value)) < 300
    with pytest.raises(p.BadMessage):
        p.decode_job(line)


def test_a_nan_never_leaves():
    with pytest.raises(p.BadMessage, match="loss"):
        p.encode(p.Progress("nerf", 0, 1, 0, 1, loss=float("nan")))
    with pytest.raises(p.BadMessage, match="less than"):
        p.encode(p.Warning("x" * p.MAX_LINE))


def test_text_is_one_line_and_keeps_what_means_something():
    assert p.clean_text("  a\tred\r\n\x00mug\u2028 \ud83d ") == "a red mug"
    family = "👨\u200d👩\u200d👧 fish é"
    assert p.clean_text(family) == family
    assert p.clean_text("\n\t ") == ""


def test_standard_library_only():
    import ast
    import sys
    from pathlib import Path

    names = set()
    for file in ("protocol.py", "wire.py"):
        tree = ast.parse(Path(p.__file__).with_name(file).read_text(encoding="utf-8"))
        names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 0}
        names |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert {n.split(".")[0] for n in names} <= sys.stdlib_module_names


def test_json_of_anyone_elses_making_is_read():
    pretty = json.dumps({"total": 3, "event": "started", "stage": "nerf"}, indent=1)
    assert p.decode(pretty) == p.Started("nerf", 3)


REQUESTS = [
    p.Hello(), p.Generate(JOB),
    p.Refine(dataclasses.replace(JOB, **REFINE)), p.Resume("out/a"),
    p.Pause(), p.Continue(), p.Finish(), p.Cancel(), p.Shutdown(),
]  # fmt: skip


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: type(r).__name__)
def test_requests_travel(request_):
    line = p.encode_request(request_)
    assert p.decode_request(line) == request_
    assert json.loads(line)["request"] in (p.__doc__ or "")


def test_every_request_is_tried():
    assert {type(r) for r in REQUESTS} == set(p.REQUESTS.values())


@pytest.mark.parametrize(
    "line",
    [
        b"", b"[]", b"null", b"{}", b'{"request": []}', b'{"request": "dance"}', b'{"request": "pause", "now": 1}',
        b'{"request": "generate"}', b'{"request": "generate", "job": 7}', b'{"request": "generate", "job": {}}',
        b'{"request": "generate", "job": {"id": "1", "kind": "refine", "prompt": "a", "folder": "b"}}',
        b'{"request": "resume", "folder": ""}', b'{"request": "resume", "folder": NaN}', b"\xff" * 9,
        b"[" * 100_000, b'{"request": "hello", "protocol": true}', b'{"event": "paused"}',
    ],
)  # fmt: skip
def test_bad_requests_are_refused(line):
    with pytest.raises(p.BadMessage):
        p.decode_request(line)


def test_the_examples_of_the_docstring_can_be_sent():
    words = " ".join((p.__doc__ or "").split())
    request = words[words.index('{"request"') : words.index("; an event is")]
    event = words[words.index('{"event"') : words.index(". The first event")]
    assert isinstance(p.decode_request(request), p.Generate) and isinstance(p.decode(event), p.Preview)
