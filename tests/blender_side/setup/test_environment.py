"""The backend's own Python, with toy packages: made, repaired, removed, and everything that can go wrong."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from dreamflow_blender.client.background import Background, Stop, Stopped
from dreamflow_blender.client.client import Client
from dreamflow_blender.client.steps import CommandFailed, Log, hide, run
from dreamflow_blender.contract.protocol import Failed
from dreamflow_blender.setup import build as setup_build
from dreamflow_blender.setup import environment, packages, pythons, torch_build
from dreamflow_blender.setup.environment import Options, SetupError
from dreamflow_blender.setup.torch_build import Card, Choice, Seen
from tests.test_build import wheel

ROOT = Path(__file__).parents[3]
posix = pytest.mark.skipif(os.name == "nt", reason="the toy uv is a script")
TORCH = """__version__ = {!r}
class version: cuda = {!r}
class cuda:
    is_available = staticmethod(lambda: {!r})
    device_count = staticmethod(lambda: 1)
    get_device_name = staticmethod(lambda n: "Toy 4090")
    get_device_capability = staticmethod(lambda n: (8, 9))
    get_arch_list = staticmethod(lambda: ["sm_80", "sm_86"])
"""
CARD = Seen((Card("Toy 4090", (8, 9)),), "580.95.05", (13, 0))


class Place:
    """A folder for environments, requirements, and an index with toys."""

    def __init__(self, root, monkeypatch):
        self.folder, self.index = root / "own Python é", root / "index"
        self.requirements = root / "requirements.txt"
        self.index.mkdir()
        wheel(self.index, "toy", "1.0")
        wheel(self.index, "toy", "2.0")
        self.want("toy==1.0")
        self.options = Options(python=sys.executable)
        monkeypatch.setenv("TOY_INDEX", str(self.index))
        monkeypatch.delenv("TOY_UV", raising=False)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setattr(torch_build, "look", lambda watch: self.seen)
        monkeypatch.setattr(setup_build, "SPACE_CUDA_GB", 1.0)
        self.seen = Seen()

    def want(self, *pins):
        self.requirements.write_text("# toys\n" + "".join(f"{pin}\n" for pin in pins))

    def toy_uv(self):
        """As if pip had brought uv."""
        path = self.folder / "tools" / "uv" / "bin" / "uv"
        path.parent.mkdir(parents=True)
        path.write_text(
            f"#!/bin/sh\nexec '{sys.executable}' '{ROOT / 'tests' / 'tools' / 'toy_uv.py'}' \"$@\"\n"
        )
        path.chmod(0o755)

    def install(self, stop=None, **options):
        """Every Progress."""
        return list(
            environment.install(self.folder, self.requirements, self.options, stop or Stop(), **options)
        )

    def look(self):
        return environment.look(self.folder, self.requirements)

    def toy_version(self):
        python = environment.python_of(self.folder)
        code = "import toy; print(toy.__version__)"
        return subprocess.run(
            [python, "-I", "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()

    def environments(self):
        return sorted(path.name for path in self.folder.glob("env-*"))

    def calls(self):
        return (self.index / "calls.txt").read_text().splitlines()


@pytest.fixture
def place(tmp_path, monkeypatch):
    made = Place(tmp_path, monkeypatch)
    made.toy_uv()
    return made


def working(place):
    place.install()
    assert place.toy_version() == "1.0"
    return environment.python_of(place.folder)


@posix
def test_set_up_again_and_newer(place):
    assert place.look().state == "absent" and environment.python_of(place.folder) is None
    steps = place.install()
    assert [s.fraction for s in steps] == sorted(s.fraction for s in steps) and steps[-1].fraction == 1.0
    assert {s.stage for s in steps} >= {"look", "python", "environment", "packages", "check"}
    assert any("toy, 12 MB" in s.line for s in steps)
    state = place.look()
    assert state.state == "ready" and state.python == environment.python_of(place.folder) and state.base
    assert place.toy_version() == "1.0"
    assert "Installed 1 packages" in (place.folder / "setup.log").read_text()
    calls = len(place.calls())
    assert place.install()[-1].line == "everything is there"
    assert len(place.calls()) == calls

    place.want("toy==2.0")
    assert place.look().state == "outdated" and place.look().python  # which goes on working
    place.install()
    assert place.look().state == "ready" and place.toy_version() == "2.0"
    assert place.environments() == ["env-2"] and not (place.folder / "cache").exists()


@posix
def test_a_failure_leaves_the_old_one_at_work(place):
    python = working(place)
    place.want("toy==2.0", "nowhere==1.0")
    with pytest.raises(SetupError) as failed:
        place.install()
    assert "nowhere" in failed.value.log and failed.value.todo and "Traceback" not in failed.value.log
    assert environment.python_of(place.folder) == python and place.toy_version() == "1.0"
    assert place.look().state == "outdated"
    begun = place.environments()
    wheel(place.index, "nowhere")
    place.install()  # goes on in the folder that was begun
    assert place.toy_version() == "2.0" and place.environments() == begun[1:]


@posix
def test_cancel_while_it_downloads(place, monkeypatch):
    working(place)
    place.want("toy==2.0")
    monkeypatch.setenv("TOY_UV", "hangs")
    work = Background(lambda stop: environment.install(place.folder, place.requirements, place.options, stop))
    said = []
    until = time.monotonic() + 30
    while not any("800 MB" in step.line for step in said) and time.monotonic() < until:
        said += work.poll()
        time.sleep(0.02)
    began = time.monotonic()
    work.cancel()
    assert work.wait(5) and time.monotonic() - began < 2
    assert isinstance(work.error, Stopped)
    assert place.toy_version() == "1.0"


@posix
def test_repair_builds_anew(place):
    python = working(place)
    python.unlink()
    assert place.look().state == "broken" and place.look().why and environment.python_of(place.folder) is None
    place.install()
    assert place.look().state == "ready"
    before = place.environments()
    place.install(repair=True)
    assert place.environments() != before and place.toy_version() == "1.0"


@posix
def test_a_worker_keeps_its_environment(place):
    """A repair while a job runs: the old files stay as long as the worker does."""
    python = working(place)
    fake = [str(python), str(ROOT / "tests" / "tools" / "fake_backend.py"), "slow"]
    client = Client(python, ROOT, place.folder / "jobs", command=fake)
    client.warm_up()
    until = time.monotonic() + 60
    while client.ready is None and time.monotonic() < until:
        assert not [event for event in client.poll() if isinstance(event, Failed)]
        time.sleep(0.02)
    place.install(repair=True)
    assert python.is_file() and environment.python_of(place.folder) != python
    client.close()
    place.want("toy==2.0")
    place.install()
    assert len(place.environments()) == 1 and place.toy_version() == "2.0"


@posix
def test_remove(place):
    working(place)
    (place.folder / "mine.txt").write_text("a user's file")
    (place.folder / "accelerators.log").write_text("of an earlier version of ours")
    assert [s.fraction for s in environment.remove(place.folder, Stop())][-1] == 1.0
    assert place.look().state == "absent"
    assert [path.name for path in place.folder.iterdir()] == ["mine.txt"]
    list(environment.remove(place.folder / "nowhere", Stop()))  # nothing to do


@posix
def test_a_disk_that_is_too_small(place, monkeypatch):
    python = working(place)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1e9))
    place.want("toy==2.0")
    with pytest.raises(SetupError, match=r"needs 4 GB, and 1.0 GB are free"):
        place.install()
    assert environment.python_of(place.folder) == python and place.environments() == ["env-1"]


@posix
def test_a_disk_that_fills_up(place, monkeypatch):
    monkeypatch.setenv("TOY_UV", "full")
    with pytest.raises(SetupError, match=r"The disk is full\. Free some space"):
        place.install()


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    place = Place(tmp_path, monkeypatch)
    place.folder.write_text("a file")
    with pytest.raises(SetupError, match="Choose another folder"):
        place.install()
    with pytest.raises(SetupError, match="cannot be written or read"):
        list(environment.install(tmp_path / "x", tmp_path / "no requirements", place.options, Stop()))


@posix
def test_two_blenders_at_once(place):
    held = threading.Event()
    done = threading.Event()

    def hold():
        with building_alone(place.folder):
            held.set()
            done.wait(30)

    from dreamflow_blender.setup.folder import alone as building_alone

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    try:
        with pytest.raises(SetupError, match="Another Blender"):
            place.install()
    finally:
        done.set()
        thread.join()


linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux's registry has the build for CUDA")


@linux
@pytest.mark.parametrize(
    ("own", "card", "build", "asked"),
    [
        ("", False, "cpu", "torch==2.0"),  # the user's own source has it
        ("own torch is CUDA's", False, "cpu", "torch==2.0+cpu"),  # never gigabytes of CUDA unasked
        ("own torch is CUDA's", True, "cu130", "torch==2.0"),
        ("", True, "cu130", "torch==2.0+cu130"),
    ],
)
def test_torch_comes_in_the_build_that_fits(place, monkeypatch, own, card, build, asked):
    version = "2.0" + ("" if asked == "torch==2.0" else f"+{build}")
    torch(place, version, "13.0" if card else "", card)
    place.seen = CARD if card else Seen()
    monkeypatch.setenv("TOY_UV", own)
    steps = place.install()
    state = place.look()
    assert state.torch == version and state.note == ""
    chosen = (
        "the build for CUDA 13.0 (about 2.6 GB): Toy 4090 (8.9), driver 580.95.05"
        if card
        else "no NVIDIA card"
    )
    assert any(chosen in step.line for step in steps if step.stage == "torch")
    assert chosen in (place.folder / "setup.log").read_text()
    [call] = [call for call in place.calls() if " torch==2.0" in call and "--dry-run" not in call]
    assert (
        call.endswith(asked)
        and ("--default-index" in call) == (asked != "torch==2.0")
        and "--no-deps" in call
    )
    assert f"{torch_build.TORCH_INDEX}/{build} " in call or asked == "torch==2.0"


@linux
def test_no_gigabytes_of_cuda_unasked(place, monkeypatch):
    torch(place, "2.0", "13.0", False)
    monkeypatch.setenv("TOY_UV", "nor another")
    with pytest.raises(
        SetupError, match=r"whl/cpu does not answer.*cu130 takes the build for CUDA, 2.6 GB"
    ) as failed:
        place.install()
    assert "Set up again" in failed.value.todo and place.look().state == "absent"
    assert not [
        call for call in place.calls() if " torch==2.0" in call and "+cpu" not in call and "--dry" not in call
    ]
    place.options = Options(python=sys.executable, torch_index="cu130")  # asked for now
    monkeypatch.setenv("TOY_UV", "own torch is CUDA's")
    place.install()
    assert place.look().torch == "2.0" and "finds no NVIDIA card" in place.look().note


@posix
def test_another_driver_wants_another_build(place):
    """After the driver was mended, Set up brings the card's build; before, nothing happens twice."""
    torch(place, "2.0", "", False)
    place.seen = Seen(trouble='nvidia-smi says "Driver/library version mismatch"')
    place.install()
    assert place.look().note.startswith("Restart the computer until nvidia-smi lists the card")
    assert place.install()[-1].line == "everything is there"
    wheel_of_torch(place, "2.0+cu130", "13.0", True)
    place.seen = CARD
    place.install()
    assert place.look().torch == "2.0+cu130" and place.look().note == ""


@posix
def test_a_build_that_there_is_not(place):
    torch(place, "2.0", "", False)
    place.options = Options(python=sys.executable, torch_index="cu128")
    with pytest.raises(SetupError, match="no build 'cu128' of torch: name cpu, cu130, cu126, or an address"):
        place.install()


@posix
def test_a_card_beside_a_torch_for_the_processor(place):
    torch(place, "2.0", "", False)
    place.seen = CARD
    place.options = Options(python=sys.executable, torch_index="https://mine/whl")
    place.install()
    assert "the NVIDIA card is not used" in place.look().note
    torch(place, "2.0", "13.0", True)
    place.install(repair=True)
    assert place.look().note == ""


@posix
def test_a_torch_that_does_not_load(place):
    torch(place, "2.0", "", False, "raise OSError('[WinError 126] c10.dll')")
    with pytest.raises(SetupError, match="Visual C") as failed:
        place.install()
    assert "c10.dll" in failed.value.log
    assert place.look().state == "absent"


def torch(place, version, cuda, usable, code=""):
    """A toy torch in the index."""
    place.want("torch==2.0", "toy==1.0")
    shutil.rmtree(place.index / "torch", ignore_errors=True)
    wheel_of_torch(place, version, cuda, usable, code)


def wheel_of_torch(place, version, cuda, usable, code=""):
    wheel(place.index, "torch", version)
    path = place.index / "torch" / f"torch-{version}-py3-none-any.whl"
    import zipfile

    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["torch.py"] = (TORCH.format(version, cuda or None, usable) + code).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def test_with_pip_where_uv_cannot_be_had(tmp_path, monkeypatch):
    """The whole way with the machine's own pip: no uv in the index, so pip does it; and a failing one after it."""
    place = Place(tmp_path, monkeypatch)
    for name, value in {"PIP_INDEX_URL": place.index.as_uri(), "PIP_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    place.install()
    assert place.toy_version() == "1.0"
    log = (place.folder / "setup.log").read_text()
    assert "going on with pip" in log and "Successfully installed toy" in log
    place.want("toy==2.0", "nowhere==1.0")
    with pytest.raises(SetupError, match="could not be fetched") as failed:
        place.install()
    assert "nowhere==1.0" in str(failed.value) and place.toy_version() == "1.0"


@pytest.mark.slow
def test_with_the_real_uv(tmp_path, monkeypatch):
    """Needs a package source that has uv, idna and certifi."""
    place = Place(tmp_path, monkeypatch)
    monkeypatch.delenv("PIP_CONFIG_FILE")
    place.want("idna==3.20", "certifi==2026.10.18")
    try:
        place.install()
    except SetupError as error:
        pytest.skip(f"no package source: {error}")
    assert "uv installs" in (place.folder / "setup.log").read_text()
    subprocess.run([environment.python_of(place.folder), "-I", "-c", "import idna, certifi"], check=True)


@posix
def test_no_python_at_all(place, monkeypatch):
    place.options = Options(python="/nowhere/python3.11")
    with pytest.raises(SetupError, match="Name another one in the preferences"):
        place.install()
    place.options = Options(fallback="")
    monkeypatch.setattr(pythons, "_candidates", lambda version: iter(()))
    with pytest.raises(SetupError, match=r"python.org") as failed:
        place.install()
    assert "error sending request" in failed.value.log
    place.options = Options(fallback=sys.executable)  # Blender's own, as the last resort
    place.install()
    assert place.toy_version() == "1.0"


def test_a_proxy_that_never_answers(tmp_path, monkeypatch):
    """Its word is hidden in the log, and Cancel is heard while pip waits for it."""
    place = Place(tmp_path, monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = f"http://user:secret@127.0.0.1:{server.getsockname()[1]}"
        place.options = Options(python=sys.executable, proxy=proxy)
        for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_INDEX_URL", "https://packages.invalid/simple")
        server.settimeout(60)
        work = Background(
            lambda stop: environment.install(place.folder, place.requirements, place.options, stop)
        )
        connection, _ = server.accept()
        asked = connection.recv(1000)
        work.cancel()
        assert work.wait(5) and isinstance(work.error, Stopped)
        connection.close()
    assert b"packages.invalid" in asked
    assert "secret" not in (place.folder / "setup.log").read_text()


# the parts


def test_what_uv_and_pip_are_told(tmp_path):
    [way] = torch_build.ways(Choice("cu126", ""), "win32")
    uv = packages.Installer("py", Path("uv"), tmp_path, {})
    pip = packages.Installer("py", None, tmp_path, {})
    for installer, name in ((uv, "--default-index"), (pip, "--index-url")):
        told = installer.install(*installer.from_index(way, "torch==2.13.0"))
        assert told[-4:] == ["--no-deps", name, f"{torch_build.TORCH_INDEX}/cu126", "torch==2.13.0+cu126"]
    own = torch_build.ways(Choice("cpu", ""), "win32")[0]
    assert pip.from_index(own, "torch==2.13.0") == ["--no-deps", "torch==2.13.0"]


UV = (
    "Resolved 3 packages in 1s;Downloading torch (590.0MiB);Downloading warp (142.0MiB);; Downloaded warp;"
    " Downloaded torch;Prepared 3 packages in 9s;Installed 3 packages in 1s"
)
PIP = (
    "Collecting torch==2.13.0;  Downloading torch-2.13.0-cp311-cp311-win_amd64.whl (590.1 MB);"
    "Progress 312000000 of 590100000;Collecting toy;Progress 10 of 20;nonsense;Progress x of y z;"
    "Installing collected packages: torch, toy;Successfully installed torch-2.13.0 toy-1.0"
)


def test_the_meter_reads_uv_and_pip():
    uv = packages.Meter(3, "packages")
    fractions = []
    for line in UV.split(";"):
        uv.hear(line)
        fractions.append(uv.fraction)
    assert fractions == sorted(fractions) and 0.1 < fractions[4] < 0.2 and fractions[-1] == 1.0
    pip = packages.Meter(2, "packages")
    said = []
    for line in PIP.split(";"):
        pip.hear(line)
        said.append(pip.line)
    assert "torch, 312 of 590 MB" in said and said[-1] == "writing files" and pip.fraction == 1.0


@pytest.mark.parametrize(
    "said, told",
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "disk is full",
        ),
        ("ERROR: Could not find a version that satisfies the requirement toy==9", "could not be fetched"),
        ("SSLError(SSLCertVerificationError(1, 'certificate verify failed'", "could not be fetched"),
        ("/usr/bin/python3: No module named ensurepip", "cannot make environments"),
        ("error: subprocess-exited-with-error", "could not be installed"),
    ],
)
def test_what_pip_says_in_our_words(tmp_path, said, told):
    log = Log(tmp_path / "log")
    log.write(said)
    error = setup_build.explained(CommandFailed(1, said), log)
    log.close()
    assert told in error.message and error.todo and said in error.log


def test_a_password_is_hidden():
    assert hide("http://user:word@host:80/simple") == "http://***@host:80/simple"
    assert hide("https://host/a@b") == "https://host/a@b" and hide("-r") == "-r"


def test_the_user_s_own_settings_of_pip_reach_uv(monkeypatch):
    told = "global.index-url='https://mine/simple'\nglobal.extra-index-url='https://a https://b'\n:env:.retries='3'"
    monkeypatch.setattr(pythons, "pip_of", lambda python, stop: ["pip"])
    monkeypatch.setattr(pythons, "ask", lambda *_: told)
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX"):
        monkeypatch.delenv(name, raising=False)
    assert pythons.pip_settings("python", Stop()) == {
        "UV_DEFAULT_INDEX": "https://mine/simple", "UV_INDEX": "https://a https://b",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }  # fmt: skip
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://theirs")
    assert "UV_DEFAULT_INDEX" not in pythons.pip_settings("python", Stop())


def test_a_folder_of_wheels_that_is_gone(monkeypatch, tmp_path):
    """pip passes over it with a warning, uv would fail."""
    monkeypatch.setattr(pythons, "pip_of", lambda python, stop: ["pip"])
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    for value, expected in (
        ("/no/such/wheels", {}),
        (f"\\n/no/such/wheels\\n{tmp_path}\\nhttps://a/w", {"UV_FIND_LINKS": f"{tmp_path},https://a/w"}),
    ):
        monkeypatch.setattr(pythons, "ask", lambda *_, value=value: f"global.find-links='{value}'")
        assert pythons.pip_settings("python", Stop()) == expected


def test_blenders_own_python_is_passed_over(tmp_path):
    inside = tmp_path / "4.5" / "python" / "bin" / "python3.11"
    inside.parent.mkdir(parents=True)
    inside.write_text("")
    (tmp_path / "4.5" / "scripts").mkdir()
    assert pythons.is_blenders(str(inside)) and not pythons.is_blenders(sys.executable)
    assert pythons.probe([sys.executable], Stop())[0] == sys.version_info[:2]
    assert pythons.probe(["/nowhere/python"], Stop()) is None
    assert pythons.find_python(sys.executable, Stop())


def test_a_command_that_talks_forever(tmp_path):
    """Lines with carriage returns, silence shown, and an end at Cancel, with its own children."""
    log, stop = Log(tmp_path / "log"), Stop()
    code = "import sys, time; sys.stdout.write('one\\rtwo\\n'); sys.stdout.flush(); time.sleep(100)"
    lines = run([sys.executable, "-c", code], stop, log, dict(os.environ))
    assert [next(lines), next(lines)] == ["one", "two"]
    assert next(lines) == ""
    stop.ask()
    with pytest.raises(Stopped):
        list(lines)
    log.close()
    with pytest.raises(Stopped):
        list(run([sys.executable, "-c", ""], stop, log, dict(os.environ)))


def test_background():
    def work(stop):
        yield 1
        yield 2
        return "result"

    done = Background(work)
    assert done.wait(5) and done.poll() == [1, 2] and done.result == "result" and done.error is None
    failed = Background(lambda stop: iter([1 // 0]))
    assert failed.wait(5) and isinstance(failed.error, ZeroDivisionError) and not failed.running


@pytest.mark.parametrize(
    "nonsense", ["", "{", "[]", '{"folder": "../../etc"}', '{"folder": 3}', '{"folder": "env-1/.."}']
)
def test_a_record_that_is_nonsense(tmp_path, nonsense):
    (tmp_path / "environment.json").write_text(nonsense)
    (tmp_path / "requirements.txt").write_text("")
    assert environment.look(tmp_path, tmp_path / "requirements.txt").state == "absent"
    assert environment.python_of(tmp_path) is None
