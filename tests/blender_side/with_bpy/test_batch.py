"""Headless: lists of prompts, exit codes, the report, and that one failure stops nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import bpy
import pytest

from dreamflow_blender import batch
from dreamflow_blender.api import generate
from dreamflow_blender.backlog import work
from dreamflow_blender.scene import objects
from dreamflow_blender.session import service
from tests.blender_side.with_bpy import fake

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def backend(tmp_path, monkeypatch):
    def use(behaviour: str = "good", seconds: float = 0.2) -> None:
        monkeypatch.setenv(service.PYTHON, str(fake.python(tmp_path, behaviour, seconds)))
        service.forget_state()

    use()
    yield use
    service.forget_state()


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def test_a_list_and_again(tmp_path, backend, capsys):
    out = tmp_path / "öut put"
    (tmp_path / "prompts.txt").write_text("# mugs\n\na red mug\n  a blue mug  \n", encoding="utf-8-sig")
    arguments = ["--prompts", str(tmp_path / "prompts.txt"), "--out", str(out), "--blend", "--height", "0.1"]
    assert batch.main(arguments) == batch.OK
    said = capsys.readouterr().out
    assert "[1/2] a red mug: nerf" in said and "2 of 2 done" in said
    rows = report(out)["prompts"]
    assert [row["state"] for row in rows] == ["done", "done"]
    for row in rows:
        assert Path(row["folder"]).parent == out.resolve()
        bpy.ops.wm.open_mainfile(filepath=row["files"]["object.blend"])
        (made,) = bpy.context.scene.objects
        assert made["dreamflow_prompt"] == row["prompt"] and made.asset_data
        assert made.dimensions.z == pytest.approx(0.1, abs=1e-3)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("mesh.npz")}
    assert batch.main(arguments) == batch.OK
    assert [row["state"] for row in report(out)["prompts"]] == ["skipped", "skipped"]
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("mesh.npz")}


def test_csv_with_settings(tmp_path, backend):
    table = "prompt,seed,preset,nerf.levels\na red mug,7,fast,40\n# no\na red mug,,,\na blue mug,8,,\n"
    (tmp_path / "p.csv").write_text(table)
    assert batch.main(["--prompts", str(tmp_path / "p.csv"), "--out", str(tmp_path / "o")]) == 0
    rows = report(tmp_path / "o")["prompts"]
    jobs = [work.read_job(Path(row["folder"])) for row in rows]
    assert [(j.seed, j.preset, j.overrides) for j in jobs] == [
        (7, "fast", {"nerf.levels": 40}),
        (42, "draft", {}),
        (8, "draft", {}),
    ]


def test_the_same_prompt_with_other_settings_gets_its_own_folder(tmp_path, backend):
    out = tmp_path / "o"
    assert batch.main(["--prompt", "a mug", "--out", str(out)]) == 0
    assert batch.main(["--prompt", "a mug", "--out", str(out), "--preset", "fast"]) == 0
    assert sorted(p.name for p in out.iterdir() if p.is_dir() and p.name[0] != ".") == [
        "a-mug-42",
        "a-mug-42-2",
    ]


@pytest.mark.parametrize("behaviour", ["dies in between", "exits", "fails", "dies at start", "garbage"])
def test_one_failure_stops_nothing(tmp_path, backend, behaviour):
    backend(behaviour, 0.05)
    out = tmp_path / "o"
    assert batch.main(["--prompt", "a mug", "--prompt", "a duck", "--out", str(out)]) == batch.SOME_FAILED
    rows = report(out)["prompts"]
    assert [row["state"] for row in rows] == ["failed", "failed"]
    assert all(row["error"]["message"] and row["error"]["kind"] for row in rows)


def test_goes_on_after_a_failure(tmp_path, backend):
    backend("dies once", 0.05)
    out = tmp_path / "o"
    assert batch.main(["--prompt", "a mug", "--out", str(out)]) == batch.SOME_FAILED
    assert batch.main(["--prompt", "a mug", "--out", str(out)]) == batch.OK
    assert [p.name for p in out.iterdir() if p.is_dir() and p.name[0] != "."] == ["a-mug-42"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--prompt", "a mug"],
        ["--prompt", "a mug", "--prompt", "a corgi", "--out", "o"],
        ["--out", "o"],
        ["--prompt", "a mug", "--out", "o", "--preset", "best"],
        ["--prompt", "a mug", "--out", "o", "--seed", "-1"],
        ["--prompt", "a mug", "--out", "o", "--stages", "texture"],
        ["--prompt", "a mug", "--out", "o", "--set", "nerf.levels=many"],
        ["--prompts", "nowhere.txt", "--out", "o"],
        ["--prompt", "a mug", "--out", "o", "--height", "-2"],
        ["--prompt", "a mug", "--out", "o", "--height", "0"],
        ["--prompt", "a mug", "--out", "o", "--height", "nan"],
        ["--nonsense"],
    ],
)
def test_bad_input(tmp_path, backend, arguments, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert batch.main(arguments) == batch.BAD_INPUT
    assert capsys.readouterr().err.startswith("dreamflow: ")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "seed\n1\n",
        "prompt,colour\na mug,red\n",
        "prompt,seed\na mug,x\n",
        "prompt\na,b\n",
        "prompt,seed\n,1\n",
    ],
)
def test_bad_csv(tmp_path, backend, text):
    (tmp_path / "p.csv").write_text(text)
    assert batch.main(["--prompts", str(tmp_path / "p.csv"), "--out", str(tmp_path / "o")]) == batch.BAD_INPUT


def test_command_line_words(backend, capsys):
    assert batch.command([]) == 0 and batch.command(["help"]) == 2
    assert batch.command(["generate", "--help"]) == 0
    assert "--prompts" in capsys.readouterr().out


def test_as_a_bare_script(tmp_path):
    """As `blender -b -P` runs it, from a clone, with the add-on absent."""
    environment = {
        **os.environ,
        service.PYTHON: str(fake.python(tmp_path)),
        "BLENDER_USER_RESOURCES": str(tmp_path),
    }
    code = (
        "import bpy, runpy, sys; sys.argv = ['blender', '-b', '-P', 'batch.py', '--', *sys.argv[1:]];"
        f"runpy.run_path({str(ROOT / 'dreamflow_blender' / 'batch.py')!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", code, "--prompt", "a mug", "--out", str(tmp_path / "o"), "--blend"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "o" / "a-mug-42" / "object.blend").is_file()
    command[-3:] = ["--out"]
    assert (
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120).returncode
        == 2
    )


def nodes(path):
    content = path.read_bytes()
    size = int.from_bytes(content[12:16], "little")
    assert int.from_bytes(content[8:12], "little") == len(content)
    return json.loads(content[20 : 20 + size])["nodes"]


def test_the_height_reaches_mesh_glb_and_an_older_blend(tmp_path, backend):
    """A GLB from 0.25 to 0.75 along y: at 2 m it is four times as large, and stands on the ground."""
    document = {
        "asset": {"version": "2.0"}, "nodes": [{"mesh": 0}], "accessors": [{"min": [0, 0.25, 0], "max": [1, 0.75, 1]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
    }  # fmt: skip
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    head = b"glTF" + (2).to_bytes(4, "little") + (28 + len(text) + 4).to_bytes(4, "little")
    out = tmp_path / "o"
    arguments = ["--prompt", "a mug", "--out", str(out), "--blend", "--height"]
    assert batch.main([*arguments, "1"]) == 0
    glb = out / "a-mug-42" / "mesh.glb"
    glb.write_bytes(head + len(text).to_bytes(4, "little") + b"JSON" + text + b"\4\0\0\0BIN\0abcd")
    assert batch.main([*arguments, "2"]) == 0
    assert nodes(glb) == [{"mesh": 0, "scale": [4.0] * 3, "translation": [-2.0, -1.0, -2.0]}]
    assert glb.read_bytes().endswith(b"BIN\0abcd")
    blend = out / "a-mug-42" / "object.blend"
    bpy.ops.wm.open_mainfile(filepath=str(blend))
    (made,) = bpy.context.scene.objects
    assert made.dimensions.z == pytest.approx(2, abs=1e-3)
    stamp = blend.stat().st_mtime_ns
    assert batch.main([*arguments, "2"]) == 0 and blend.stat().st_mtime_ns == stamp  # nothing has changed


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGTERM)])
def test_one_signal_keeps_the_work_and_ends_it(tmp_path, number):
    environment = {
        **os.environ,
        service.PYTHON: str(fake.python(tmp_path, "good", 60.0)),
        "BLENDER_USER_RESOURCES": str(tmp_path),
    }
    code = (
        "import bpy, os, signal, sys; sys.path.insert(0, sys.argv[1]); from dreamflow_blender import batch;"
        "hasattr(signal, 'SIGHUP') and signal.signal(signal.SIGHUP, signal.SIG_DFL);"  # as not below nohup
        "code = batch.main(sys.argv[2:]); sys.stdout.flush(); os._exit(code)"
    )
    out = tmp_path / "o"
    command = [
        sys.executable,
        "-c",
        code,
        str(ROOT),
        "--prompt",
        "a mug",
        "--prompt",
        "a duck",
        "--out",
        str(out),
    ]
    ran = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in ran.stdout:
        if "nerf" in line:
            break
    began = time.monotonic()
    ran.send_signal(number)
    _, errors = ran.communicate(timeout=60)
    assert ran.returncode == 128 + number, errors
    assert "resumes" in errors
    said = report(out)
    assert said["stopped"] == 1 and [row["state"] for row in said["prompts"]] == ["stopped"]
    assert (Path(said["prompts"][0]["folder"]) / "job.json").is_file()
    print(f"ended {time.monotonic() - began:.1f} s after the signal (promised: 5 s)")


def test_generate_returns_the_object(tmp_path, backend):
    heard = []
    made = generate("a mug", out=tmp_path / "mug", height=0.2, location=(1, 0, 0), heard=heard.append)
    assert made.name == "Mug" and made.location.x == 1 and heard
    again = generate("a mug", out=tmp_path / "mug", heard=heard.clear)
    assert again.name == "Mug.001" and heard  # taken from the folder, nothing was run
    with pytest.raises(ValueError, match="preset"):
        generate("a mug", preset="best")
    for height in (-2, float("nan"), float("inf")):  # before the job, not at its end
        with pytest.raises(ValueError, match="0 to 1000 metres"):
            generate("a mug", out=tmp_path / "no", height=height)
    assert not (tmp_path / "no").exists()
    backend("fails", 0.05)
    with pytest.raises(work.JobFailed, match="out of memory"):
        generate("a mug", out=tmp_path / "other")
    (tmp_path / "mug" / "albedo.png").write_bytes(b"")
    with pytest.raises(objects.CannotImport):
        generate("a mug", out=tmp_path / "mug")
