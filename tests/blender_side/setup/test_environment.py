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
from dreamflow_blender.client.steps import CommandFailed, Log, run
from dreamflow_blender.contract.protocol import Failed
from dreamflow_blender.contract.words import hide
from dreamflow_blender.setup import build as setup_build
from dreamflow_blender.setup import environment, packages, torch_build, uv
from dreamflow_blender.setup.environment import Options, SetupError
from dreamflow_blender.setup.torch_build import Card, Seen
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
        nothing = root / "nothing on PATH"
        nothing.mkdir()
        monkeypatch.setenv("PATH", str(nothing))  # no other uv
        for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(root))
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

    def python(self):
        return self.look().python

    def toy_version(self):
        python = self.python()
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
    return place.python()


@pytest.mark.slow
@posix
def test_set_up_again_and_newer(place):
    assert place.look().state == "absent" and place.python() is None
    steps = place.install()
    assert [s.fraction for s in steps] == sorted(s.fraction for s in steps) and steps[-1].fraction == 1.0
    assert {s.stage for s in steps} >= {"look", "python", "environment", "packages", "check"}
    assert any("toy, 12 MB" in s.line for s in steps)
    state = place.look()
    assert state.state == "ready" and state.python == place.python() and state.base
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


@pytest.mark.slow
@posix
def test_a_failure_leaves_the_old_one_at_work(place):
    python = working(place)
    place.want("toy==2.0", "nowhere==1.0")
    with pytest.raises(SetupError) as failed:
        place.install()
    assert "nowhere" in failed.value.log and failed.value.todo and "Traceback" not in failed.value.log
    assert place.python() == python and place.toy_version() == "1.0"
    assert place.look().state == "outdated"
    begun = place.environments()
    wheel(place.index, "nowhere")
    place.install()  # goes on in the folder that was begun
    assert place.toy_version() == "2.0" and place.environments() == begun[1:]


@pytest.mark.slow
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


@pytest.mark.slow
@posix
def test_repair_builds_anew(place):
    python = working(place)
    python.unlink()
    assert place.look().state == "broken" and place.look().why and place.python() is None
    place.install()
    assert place.look().state == "ready"
    before = place.environments()
    place.install(repair=True)
    assert place.environments() != before and place.toy_version() == "1.0"


@pytest.mark.slow
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
    assert python.is_file() and place.python() != python
    client.close()
    place.want("toy==2.0")
    place.install()
    assert len(place.environments()) == 1 and place.toy_version() == "2.0"


@pytest.mark.slow
@posix
def test_remove(place):
    working(place)
    (place.folder / "mine.txt").write_text("a user's file")
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
    assert place.python() == python and place.environments() == ["env-1"]


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@linux
def test_no_gigabytes_of_cuda_unasked(place, monkeypatch):
    torch(place, "2.0", "13.0", False)
    monkeypatch.setenv("TOY_UV", "nor another")
    with pytest.raises(
        SetupError, match=r"whl/cpu does not answer.*cu130 takes the build for CUDA, 2.6 GB"
    ) as failed:
        place.install()
    assert "set up again" in failed.value.todo and place.look().state == "absent"
    assert not [
        call for call in place.calls() if " torch==2.0" in call and "+cpu" not in call and "--dry" not in call
    ]
    place.options = Options(python=sys.executable, torch_index="cu130")  # asked for now
    monkeypatch.setenv("TOY_UV", "own torch is CUDA's")
    place.install()
    assert place.look().torch == "2.0" and "finds no NVIDIA card" in place.look().note


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_where_uv_cannot_be_had(tmp_path, monkeypatch):
    """The real pip, which is to bring it, and the user's own index, which has none: the setting is named."""
    place = Place(tmp_path, monkeypatch)
    monkeypatch.setenv("PIP_INDEX_URL", place.index.as_uri())
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(SetupError, match="could not be fetched") as failed:
        place.install()
    assert f"index-url = {place.index.as_uri()} (PIP_INDEX_URL)" in failed.value.message
    assert "uv" in failed.value.log and place.look().state == "absent"


@pytest.mark.slow
@posix
@pytest.mark.parametrize("broken", ["diffusers", "warp-lang", "kernels"])
def test_set_up_is_said_only_when_everything_imports(place, broken):
    """A package may be installed and not work: a library of the system's is missing, a DLL, our own kernels."""
    torch(place, "2.0", "", False)
    place.want("torch==2.0", "toy==1.0", "diffusers==1.0", "warp-lang==1.0")
    for package, module in (("diffusers", "diffusers"), ("warp-lang", "warp")):
        code = "raise OSError('libGL.so.1 is missing')" if package == broken else ""
        wheel(place.index, package, "1.0", code=code, module=module)
    kernels = place.requirements.parent / "backend" / "kernels"
    kernels.mkdir(parents=True)
    (kernels.parent / "__init__.py").write_text("")
    (kernels / "__init__.py").write_text(
        "raise OSError('libGL.so.1 is missing')" if broken == "kernels" else ""
    )
    with pytest.raises(SetupError, match=r"installed and cannot be used.*libGL\.so\.1 is missing"):
        place.install()
    assert place.look().state == "absent"
    wheel(place.index, "diffusers", "1.0", module="diffusers")
    wheel(place.index, "warp-lang", "1.0", module="warp")
    (kernels / "__init__.py").write_text("")
    place.install()
    assert place.look().state == "ready" and not list(kernels.rglob("__pycache__"))


def real_uv():
    brought = ROOT / ".build" / "tools" / "uv" / "bin" / "uv"
    return shutil.which("uv") or (str(brought) if brought.is_file() else None)


UV = real_uv()
OF_USERS = {  # what a user may have told pip and uv for other work: (pip.conf, uv.toml, variables)
    "nothing": ("", "", {}),
    "user": ("[global]\nuser = true\n", "", {}),
    "target": ("[install]\ntarget = {here}/elsewhere\n", "", {}),
    "prefix": ("[install]\nprefix = {here}/elsewhere\n", "", {}),
    "hashes": ("[install]\nrequire-hashes = true\n", "", {}),
    "virtualenv": ("[global]\nrequire-virtualenv = true\n", "", {}),
    "constraint": ("[global]\nconstraint = {here}/constraints.txt\n", "", {}),
    "uv.toml": ("", "[pip]\nrequire-hashes = true\ntarget = '{here}/elsewhere'\n", {}),
    "PIP_*": ("", "", {"PIP_REQUIRE_HASHES": "1", "PIP_DRY_RUN": "1", "PIP_ROOT": "{here}/root", "PIP_NO_DEPS": "1"}),
    "UV_*": (
        "", "",
        {"UV_REQUIRE_HASHES": "1", "UV_CONSTRAINT": "{here}/constraints.txt", "UV_EXCLUDE_NEWER": "2020-01-01",
         "UV_PYTHON": "3.9", "UV_NO_BINARY": "1", "UV_TARGET": "{here}/elsewhere", "UV_DRY_RUN": "1",
         "UV_SYSTEM_PYTHON": "1", "UV_VENV_SEED": "1", "UV_TORCH_BACKEND": "cu128", "UV_CONFIG_FILE": "{here}/no.toml"},
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(UV is None, reason="no uv here")
@pytest.mark.parametrize("name", OF_USERS)
def test_what_the_user_has_told_pip_and_uv_for_other_work_is_not_in_the_way(tmp_path, monkeypatch, name):
    """The real uv, with a studio's folder of wheels and without any index: both are taken from pip.conf."""
    place = Place(tmp_path, monkeypatch)
    tools = place.folder / "tools" / "uv" / "bin"
    tools.mkdir(parents=True)
    (tools / ("uv.exe" if os.name == "nt" else "uv")).symlink_to(UV)
    wheel(place.index / "all", "toy", "1.0")
    (tmp_path / "constraints.txt").write_text("toy<1\n")
    pip, toml, variables = OF_USERS[name]
    house = f"[global]\nno-index = true\nfind-links = {place.index / 'all' / 'toy'}\n"
    (tmp_path / "pip.conf").write_text(house + pip.format(here=tmp_path).replace("[global]\n", ""))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv" / "uv.toml").write_text(toml.format(here=tmp_path))
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value.format(here=tmp_path))
    place.install()
    assert place.look().state == "ready" and place.toy_version() == "1.0"
    assert not (tmp_path / "elsewhere").exists() and not (tmp_path / "root").exists()


@pytest.mark.skipif(UV is None, reason="no uv here")
def test_a_folder_of_wheels_that_lacks_one_is_named_with_its_file(tmp_path, monkeypatch):
    place = Place(tmp_path, monkeypatch)
    tools = place.folder / "tools" / "uv" / "bin"
    tools.mkdir(parents=True)
    (tools / ("uv.exe" if os.name == "nt" else "uv")).symlink_to(UV)
    (tmp_path / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {tmp_path}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    with pytest.raises(SetupError, match="could not be fetched") as failed:
        place.install()
    for setting in ("no-index = true", f"find-links = {tmp_path}"):
        assert f"{setting} ({tmp_path / 'pip.conf'})" in failed.value.message


@pytest.mark.slow
@posix
def test_no_python_at_all(place, monkeypatch):
    place.options = Options(python="/nowhere/python3.11", fallback=sys.executable)
    with pytest.raises(SetupError, match="Name another one in the preferences"):
        place.install()
    place.options = Options(fallback="")
    monkeypatch.setenv("TOY_UV", "no python")
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


def test_what_uv_is_told(tmp_path):
    found = uv.Uv("uv", tmp_path / "cache", {})
    told = found.install(Path("py"), "toy==1.0")
    assert told[:4] == ["uv", "pip", "install", "--no-config"] and told[-1] == "toy==1.0"
    assert told[told.index("--python") + 1] == "py"


SAID = (
    "Resolved 3 packages in 1s;Downloading torch (590.0MiB);Downloading warp (142.0MiB);; Downloaded warp;"
    " Downloaded torch;Prepared 3 packages in 9s;Installed 3 packages in 1s;nonsense;Progress x of y z"
)


def test_the_meter_reads_uv():
    meter = packages.Meter("packages")
    fractions, lines = [], []
    for line in SAID.split(";"):
        meter.hear(line)
        fractions.append(meter.fraction)
        lines.append(meter.line)
    assert fractions == sorted(fractions) and 0.1 < fractions[4] < 0.2 and fractions[-1] == 1.0
    assert "torch, 590 MB" in lines and lines[-1] == "writing files"


@pytest.mark.parametrize(
    "said, told",
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "disk is full",
        ),
        ("ERROR: Could not find a version that satisfies the requirement toy==9", "could not be fetched"),
        ("SSLError(SSLCertVerificationError(1, 'certificate verify failed'", "could not be fetched"),
        ("  × No solution found when resolving dependencies:", "could not be fetched"),
        ("error: subprocess-exited-with-error", "could not be installed"),
    ],
)
def test_what_uv_and_pip_say_in_our_words(tmp_path, said, told):
    log = Log(tmp_path / "log")
    log.write(said)
    error = setup_build.explained(CommandFailed(1, said), log, "index-url = https://mine (pip.conf)")
    log.close()
    assert told in error.message and error.todo and said in error.log
    assert "disk" in told or "https://mine (pip.conf)" in error.message


def test_a_password_is_hidden():
    assert hide("http://user:word@host:80/simple") == "http://***@host:80/simple"
    assert (
        hide("at https://a.b/c, via http://u:p@ss@host:1/ and")
        == "at https://a.b/c, via http://***@host:1/ and"
    )
    assert hide("https://host/a@b") == "https://host/a@b" and hide("-r") == "-r"


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
    state = environment.look(tmp_path, tmp_path / "requirements.txt")
    assert state.state == "absent" and state.python is None
