"""The fetcher against a stand-in hub on loopback that misbehaves in every way the real one may."""

import os
import queue
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, file_download

from backend.errors import DiskError, ModelError
from backend.weights import fetch as fetcher
from backend.weights import transport
from backend.weights.fetch import fetch, make_plan, verify
from backend.weights.sources import RECORD, find, home_of, model_named, read_record
from tests.jobs.test_bad_disk import small_disk
from tests.tools.hub_server import Fault, HubServer, offer, weights

ROOT = Path(__file__).parents[2]
SD = model_named("sd")
MIRROR, ORIGINAL = (source.id for source in SD.sources)
UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """HF_HOME in a path with a space and an accent, no proxy, no token, no pauses."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "modèles à moi"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "modèles à moi" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 60)
    monkeypatch.setattr(transport, "PAUSES", (0.0,) * 5)
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda _: None))  # before it resumes
    monkeypatch.setattr(transport, "CHUNK", 1)  # every byte that came is kept, wherever the connection is cut
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return tmp_path


@pytest.fixture
def server(monkeypatch):
    with HubServer() as running:
        running.repos[MIRROR] = offer(SD)
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        yield running


def run(model=SD):
    """Fetch it all; the progress."""
    return list(fetch(make_plan(model)))


def assert_whole(server, repo=MIRROR):
    folder = find(SD)
    assert folder is not None
    record = read_record(folder)
    for name in record.sizes:
        assert (folder / name).read_bytes() == server.repos[repo][name]
    assert not list(folder.rglob("*.part"))
    return folder


def under(folder):
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_only_what_is_used_is_fetched_and_a_second_time_nothing(server, monkeypatch):
    progress = run()
    folder = assert_whole(server)
    assert under(folder) - {"fetch.lock"} == {
        RECORD,
        *SD.files,
        "tokenizer/special_tokens_map.json",
        *(f"{stem}.fp16.safetensors" for stem in SD.weights),
    }
    asked = [url.split("/")[-1] for url, _ in server.seen[1:]]
    assert not [name for name in asked if name.endswith((".bin", ".ckpt")) or "ema" in name]
    done = [p.done for p in progress]
    assert done == sorted(done) and done[-1] == progress[-1].total == sum(read_record(folder).sizes.values())
    assert all(problem == "" for _, problem in verify(folder))

    before = len(server.seen)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find(SD) == folder
    with pytest.raises(ModelError, match="offline mode is on"):
        make_plan(model_named("sdxl-refiner"))
    assert len(server.seen) == before


def test_full_precision_only_where_there_is_no_half(server):
    for stem in SD.weights[:2]:
        del server.repos[MIRROR][f"{stem}.fp16.safetensors"]
    run()
    assert {name.split("/")[1] for name in under(assert_whole(server)) if name.endswith(".safetensors")} == {
        "model.safetensors",
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.fp16.safetensors",
    }


def test_a_cut_anywhere_is_resumed_there(server):
    """At once, after a byte, every fifty bytes up to the end, and before the last byte: in one fetch."""
    content = server.repos[MIRROR][UNET]
    rest = [50] * ((len(content) - 2) // 50)
    last = len(content) - 1 - sum(rest) - 1
    server.faults[UNET] = [Fault(cut=n) for n in (0, 1, *rest, last)]
    progress = run()
    assert_whole(server)
    starts = [int(headers.get("Range", "bytes=0-")[6:-1]) for headers in server.asked_for(UNET)]
    assert starts == [0, 0, 1, *range(51, 51 + 50 * len(rest), 50), len(content) - 1]
    assert any("trying again" in step.note for step in progress)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, 687, -1])
def test_another_process_goes_on_at_the_byte_where_one_was_stopped(server, kept):
    plan = make_plan(SD)
    part = plan.part(next(file for file in plan.files if file.path == UNET))
    content = server.repos[MIRROR][UNET]
    part.parent.mkdir(parents=True)
    part.write_bytes(content[:kept])
    run()
    assert_whole(server)
    expected = [f"bytes={len(content[:kept])}-"] if kept else [None]
    assert [headers.get("Range") for headers in server.asked_for(UNET)] == expected


def test_a_stopped_fetch_keeps_its_part_and_lets_go_of_the_lock(server, monkeypatch):
    monkeypatch.setattr(transport, "CHUNK", 100)
    held = threading.Event()
    server.faults[UNET] = [Fault(wait=held)]  # halfway
    for step in (running := fetch(make_plan(SD))):
        if step.file == UNET and list(home_of(SD.sources[0]).rglob("diffusion*.part")):
            break
    running.close()
    folder = home_of(SD.sources[0])
    assert find(SD) is None and not (folder / UNET).exists()
    held.set()  # the rest comes, and nobody takes it
    kept = next(folder.rglob("*.part")).stat().st_size
    assert 0 < kept <= len(server.repos[MIRROR][UNET]) // 2 and kept % 100 == 0
    run()
    assert_whole(server)
    assert server.asked_for(UNET)[-1]["Range"] == f"bytes={kept}-"


def test_a_fetch_that_is_killed_goes_on_in_another_process(server, here, monkeypatch):
    """SIGKILL halfway through a file: at most one chunk comes twice."""
    held = threading.Event()
    server.faults[UNET] = [Fault(wait=held)]
    content = server.repos[MIRROR][UNET]
    folder = home_of(SD.sources[0])
    process = start_one(server, here)
    until = time.monotonic() + 100
    while not any(part.stat().st_size for part in folder.rglob("diffusion*.part")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    process.kill()
    process.wait()
    held.set()
    kept = next(folder.rglob("diffusion*.part")).stat().st_size
    assert 0 < kept <= len(content) // 2
    run()
    assert_whole(server)
    assert server.asked_for(UNET)[-1]["Range"] == f"bytes={kept}-"


def test_a_server_that_states_no_length(server):
    server.faults[UNET] = [
        Fault(no_length=True, cut=300),
        Fault(no_length=True, cut=200),
        Fault(no_length=True),
    ]
    run()
    assert_whole(server)
    assert [headers.get("Range") for headers in server.asked_for(UNET)] == [None, "bytes=300-", "bytes=500-"]


def test_a_server_that_falls_silent_is_left_and_asked_again(server, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    server.faults[UNET] = [Fault(wait=threading.Event())]
    run()
    assert_whole(server)
    assert "Range" in server.asked_for(UNET)[1]


def test_a_body_without_an_end_is_cut_off_at_the_listed_size(server):
    server.faults[UNET] = [Fault(no_length=True, body=weights(1) + bytes(1000))] * 2
    with pytest.raises(ModelError, match="more than the"):
        run()


def test_a_server_without_ranges_sends_the_whole_again(server):
    server.faults[UNET] = [Fault(cut=300), Fault(no_range=True)]
    progress = run()
    assert_whole(server)
    assert not any("once more" in step.note for step in progress)


def test_a_server_that_always_cuts_is_given_up_on_and_the_part_kept(server):
    server.faults[UNET] = [Fault(cut=300)] + [Fault(cut=0)] * 20
    with pytest.raises(ModelError, match=r"failed 6 times in a row.*fetch it again.*kept"):
        run()
    folder = home_of(SD.sources[0])
    assert not (folder / UNET).exists() and find(SD) is None
    server.faults.clear()
    run()
    assert_whole(server)


def changed(content):
    """The same length, another byte in the tensors' data."""
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (changed(weights(1)), "has another sha256"),
        (weights(1) + b"more", "more than the 704 bytes"),
    ],
    ids=["hash", "long"],
)
def test_wrong_bytes_are_fetched_once_more_and_never_kept(server, bad, message):
    server.faults[UNET] = [Fault(body=bad)]
    assert any(message in step.note for step in run())
    folder = assert_whole(server)
    (folder / UNET).unlink()
    server.faults[UNET] = [Fault(body=bad)] * 2
    with pytest.raises(ModelError, match=rf"{message}.*twice\. Nothing of it was kept"):
        run()
    assert not (folder / UNET).exists() and not list(folder.rglob("*.part")) and find(SD) is None


def test_a_short_answer_is_a_cut(server):
    """What is missing is asked for, as after any other."""
    server.faults[UNET] = [Fault(body=weights(1)[:-10])]
    run()
    assert_whole(server)
    assert server.asked_for(UNET)[-1]["Range"] == "bytes=694-"


def test_small_files_are_compared_by_gits_hash(server):
    server.faults["unet/config.json"] = [Fault(body=b"[]")] * 2
    with pytest.raises(ModelError, match=r"unet/config\.json has another hash"):
        run()


def test_a_damaged_part_is_found_and_fetched_anew(server):
    server.faults[UNET] = [Fault(body=bytes(len(weights(1))), cut=500)]
    assert any("another sha256" in step.note for step in run())
    assert_whole(server)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [(UNET, b"\x80\x04\x95 a pickle", "is not safetensors"), ("vae/config.json", b"<html>", "is not json")],
)
def test_what_is_not_what_its_name_says_is_refused_unopened(server, path, content, message):
    server.repos[MIRROR][path] = content
    with pytest.raises(ModelError, match=message):
        run()
    assert not (home_of(SD.sources[0]) / path).exists()


def test_a_source_of_pickles_alone_is_refused(server):
    server.repos[MIRROR] = {k: v for k, v in offer(SD).items() if not k.endswith(".safetensors")}
    with pytest.raises(ModelError, match=r"lacks text_encoder/model\.safetensors"):
        run()
    assert len(server.seen) == 2  # the lists of the two sources, no file


@pytest.mark.parametrize("status", [401, 403, 404])
def test_the_next_source_stands_in(server, status):
    server.repos[ORIGINAL] = offer(SD)
    server.faults[MIRROR] = [Fault(status)]
    plan = make_plan(SD)
    assert plan.source.id == ORIGINAL
    list(fetch(plan))
    assert_whole(server, ORIGINAL)
    assert find(SD) == home_of(SD.sources[1])


def test_no_source_at_all_names_each_with_its_reason(server):
    server.repos.clear()
    with pytest.raises(ModelError, match=rf"{MIRROR}: it is gone, private or gated \(HTTP 401\); {ORIGINAL}"):
        make_plan(SD)


@pytest.mark.parametrize(
    ("status", "message"), [(401, "gated"), (403, "gated"), (404, "gone"), (418, "it is refused .HTTP 418")]
)
def test_a_file_that_is_not_given_ends_in_an_error(server, status, message):
    server.faults[UNET] = [Fault(status)]
    with pytest.raises(ModelError, match=message):
        run()
    assert find(SD) is None and not list(home_of(SD.sources[0]).glob(f"{UNET}*"))
    run()
    assert_whole(server)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_hub_that_is_busy_is_asked_again(server, status):
    server.faults |= {MIRROR: [Fault(status)], UNET: [Fault(status)] * 3}
    assert any(f"HTTP {status}" in step.note for step in run())
    assert_whole(server)


def test_a_hub_that_stays_busy_or_asks_for_long_is_told(server):
    server.faults[UNET] = [Fault(503)] * 10
    with pytest.raises(ModelError, match="failed 6 times in a row: HTTP 503"):
        run()
    server.faults[UNET] = [Fault(429, {"Retry-After": "600"})]
    with pytest.raises(ModelError, match="asks to wait 600 seconds"):
        run()
    server.faults[MIRROR] = [Fault(429, {"RateLimit": '"api";r=0;t=290'})]
    with pytest.raises(ModelError, match="asks to wait 290 seconds"):
        run()
    server.faults[MIRROR] = [Fault(429, {"Retry-After": "9" * 40})]
    with pytest.raises(ModelError, match="asks to wait 86400 seconds"):
        run()


def test_a_short_wait_that_the_hub_asks_for_is_kept(server):
    server.faults[UNET] = [Fault(429, {"Retry-After": "1"})]
    began = time.monotonic()
    run()
    assert time.monotonic() - began >= 1


def test_no_hub_at_all(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"no connection to http://127\.0\.0\.1:9"):
        make_plan(SD)


@pytest.mark.parametrize("answer", [b"<html>Please log in</html>", b"[]", b'{"sha": "main", "siblings": []}'])
def test_an_answer_that_is_no_list_of_files(server, answer):
    server.faults[MIRROR] = [Fault(body=answer)]
    with pytest.raises(ModelError, match="something else than a model's list"):
        make_plan(SD)


@pytest.mark.parametrize(
    "name",
    [
        "../escaped.json",
        "unet/../../x.json",
        "/etc/x.json",
        "C:/x.json",
        "unet\\..\\x.json",
        "a//b.json",
        "\0.json",
    ],
)
def test_a_list_with_a_path_that_leaves_the_folder_is_refused(server, name, here):
    server.repos[MIRROR][name] = b"{}"
    with pytest.raises(ModelError, match="may leave its folder"):
        run()
    assert not (here / "modèles à moi").exists()


@pytest.mark.parametrize(
    "entry", [{"lfs": None, "blobId": None}, {"size": None, "lfs": None}, {"size": 10**30, "lfs": None}]
)
def test_a_file_without_a_hash_or_a_size_is_refused(server, entry):
    server.overrides[UNET] = entry
    with pytest.raises(ModelError, match="gives no possible size and hash of unet"):
        make_plan(SD)


def test_a_disk_too_small_is_told_before_anything_is_fetched(server, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(fetcher.shutil, "disk_usage", lambda path: usage(10, 10, 10))
    with pytest.raises(DiskError, match=r"needs 0\.00 GB more.*HF_HOME"):
        run()
    assert len(server.seen) == 1


def test_a_disk_that_fills_up_on_the_way_keeps_what_there_is(server, here, monkeypatch):
    """A real one of 64 kB, and weights of 80 kB; then it grows."""
    server.repos[MIRROR][UNET] = weights(1, 40_000)
    monkeypatch.setattr(transport, "CHUNK", 1000)
    monkeypatch.setattr(fetcher, "SPARE", -(1 << 20))  # it says so beforehand, if it is let
    with small_disk(here / "disk", "64k"):
        monkeypatch.setattr(constants, "HF_HOME", str(here / "disk"))
        with pytest.raises(DiskError, match=r"No space left.*What has been fetched is kept"):
            run()
        kept = next((here / "disk").rglob("diffusion*.part")).stat().st_size
        assert kept > 10_000
        subprocess.run(["mount", "-o", "remount,size=5m", str(here / "disk")], check=True)
        run()
        assert_whole(server)
        assert server.asked_for(UNET)[-1]["Range"] == f"bytes={kept}-"


def start_one(server, here):
    """A process that fetches it, a chunk being 100 bytes, and says what it does."""
    code = "\n".join(
        [
            "from backend.weights import transport",
            "from backend.weights.fetch import fetch, make_plan",
            "from backend.weights.sources import model_named",
            "transport.CHUNK = 100",
            "for step in fetch(make_plan(model_named('sd'))): print(step.file, step.note, flush=True)",
        ]
    )
    environment = os.environ | {"HF_HOME": constants.HF_HOME, "HF_ENDPOINT": server.endpoint}
    environment["DREAMFLOW_MODELS_TOML"] = str(here / "none.toml")
    (here / "none.toml").write_text("")
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_two_processes_at_once_make_one_whole_folder(server, here):
    """One of them is held halfway through a file until the other has come to wait for it."""
    go_on = threading.Event()
    server.faults[UNET] = [Fault(wait=go_on)]
    pair = [start_one(server, here) for _ in range(2)]
    said: queue.Queue[str] = queue.Queue()
    readers = [
        threading.Thread(target=lambda p=p: [said.put(line) for line in p.stdout], daemon=True) for p in pair
    ]
    for reader in readers:
        reader.start()
    while "another process is fetching" not in said.get(timeout=120):
        pass
    go_on.set()
    assert [process.wait(timeout=120) for process in pair] == [0, 0]
    for reader in readers:
        reader.join()
    assert not any("another process is fetching" in said.get() for _ in range(said.qsize()))  # one of the two
    assert len(server.asked_for(UNET)) == 1
    assert_whole(server)


def test_the_token_goes_to_the_hub_and_not_where_it_leads(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with HubServer() as elsewhere:
        elsewhere.repos = server.repos
        server.elsewhere = elsewhere.endpoint
        run()
        assert_whole(server)
        assert {headers.get("Authorization") for _, headers in server.seen} == {"Bearer hf_secret"}
        assert len(elsewhere.seen) == 3
        assert all("Authorization" not in headers for _, headers in elsewhere.seen)


def test_a_saved_token_is_used_and_none_is_made_up(server, here):
    make_plan(SD)
    assert "Authorization" not in server.seen[-1][1]
    (here / "token").write_text("hf_saved\n")
    make_plan(SD)
    assert server.seen[-1][1]["Authorization"] == "Bearer hf_saved"


def test_the_hub_is_asked_for_the_model_alone_and_hears_nothing_of_this_machine(server):
    run()
    assert len(server.seen) > 3 and all(MIRROR in url for url, _ in server.seen)
    for _, headers in server.seen:
        said = {part.split("/")[0].strip() for part in headers["User-Agent"].split(";")}
        assert said == {"dreamflow", "hf_hub", "python"}


def test_a_proxy_is_used(server, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("HTTP_PROXY", server.endpoint)
    run()
    assert_whole(server)
    assert all(url.startswith("http://hub.invalid/") for url, _ in server.seen)


def test_an_unprotected_address_is_refused(monkeypatch, server):
    """An https hub may not lead to http, where anybody on the way could change the list."""
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    transport.open_transport()
    with pytest.raises(ModelError, match="unprotected"):
        transport.read_text(f"{server.endpoint}/api/models/{MIRROR}/revision/main", 10_000, 9.0)
    assert server.seen == []


def test_a_list_is_bounded_in_bytes_depth_and_time(server, monkeypatch):
    server.faults[MIRROR] = [Fault(body=b"[" * 100_000)]
    with pytest.raises(ModelError, match="something else than a model's list"):
        make_plan(SD)
    monkeypatch.setattr(fetcher, "LIST_BYTES", 1000)
    with pytest.raises(ModelError, match="a list of more than"):
        make_plan(SD)
    monkeypatch.setattr(fetcher, "LIST_BYTES", 8 << 20)
    monkeypatch.setattr(fetcher, "LIST_SECONDS", 0.1)
    held = threading.Event()
    server.faults[MIRROR] = [Fault(wait=held)] * 3
    with pytest.raises(ModelError, match="no answer within 0 s"):
        make_plan(SD)
    held.set()


def test_verify_finds_what_has_changed_and_a_new_fetch_mends_it(server):
    run()
    folder = assert_whole(server)
    path = folder / UNET
    path.write_bytes(changed(path.read_bytes()))
    (folder / "tokenizer/merges.txt").write_text("short")
    (folder / "vae/config.json").unlink()
    assert {name: problem.split()[0] for name, problem in verify(folder) if problem} == {
        UNET: "has",
        "tokenizer/merges.txt": "has",
        "vae/config.json": "is",
    }
    before = len(server.seen)
    run()
    assert_whole(server)
    assert len(server.seen) - before == 4  # the list and three files


def test_a_newer_commit_replaces_only_what_changed(server, monkeypatch):
    run()
    server.repos[MIRROR][UNET] = weights(77)
    monkeypatch.setattr("tests.tools.hub_server.COMMIT", "f" * 40)
    before = len(server.seen)
    run()
    assert read_record(assert_whole(server)).commit == "f" * 40
    assert len(server.seen) - before == 2
