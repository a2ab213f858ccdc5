"""A mesh for other programs: what another library reads is the job's mesh, as large and turned as was asked for."""

import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from plyfile import PlyData

from backend.errors import InputError
from backend.meshes.write import write_result
from backend.results.export import UP, Placing, export
from backend.scene.mesh import Mesh
from dreamflow_blender.contract.job import Job

V = [(0, 0, 0), (2, 0, 0), (0, 1, 0), (0, 0, 4), (0, -3, 0)]  # a spike forward (-Y), another up
T = [(1, 2, 3), (0, 3, 2), (0, 2, 1), (0, 1, 4), (1, 3, 4), (0, 4, 3)]
UV = [(0.1, 0.9), (0.3, 0.9), (0.1, 0.7)] * 6  # in the image's upper left quarter, which is red


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Closed, 2 x 4 x 4 metres, one chart a face; its texture is red in the upper left quarter, else blue."""
    albedo = torch.zeros(8, 8, 3)
    albedo[..., 2] = 1.0
    albedo[:4, :4] = torch.tensor([1.0, 0.0, 0.0])
    uv = torch.tensor(UV), torch.arange(18).reshape(6, 3)
    mesh = Mesh(torch.tensor(V, dtype=torch.float32), torch.tensor(T), *uv)
    folder = tmp_path / "jöb 1"
    folder.mkdir()
    write_result(folder, mesh, albedo, {"prompt": "a <red> & blue thing"})
    return Job("1", "generate", "a <red> & blue thing", str(folder))


def written(job: Job, name: str, **placing: object) -> Path:
    out = Path(job.folder) / "out"
    return export(job, [name], Placing(**placing), out).paths[0]  # type: ignore[arg-type]


def read(path: Path) -> trimesh.Trimesh:
    return trimesh.load(path, force="mesh", process=False)


def bounds(points: np.ndarray) -> np.ndarray:
    return np.stack((points.min(0), points.max(0)))


Z_UP = np.array([[0, -3, 0], [2, 1, 4]], float)
Y_UP = np.array([[0, 0, -1], [2, 4, 3]], float)


@pytest.mark.parametrize("name", ["glb", "obj", "ply", "stl", "3mf"])
def test_another_library_reads_it(job, name):
    mesh = read(written(job, name))
    assert len(mesh.faces) == 6
    wanted = (Y_UP if UP[name] == "y" else Z_UP) * (1000 if name in ("stl", "3mf") else 1)
    np.testing.assert_allclose(mesh.bounds, wanted, rtol=1e-6)
    volume = 2 * 1 * 4 / 6 + 2 * 3 * 4 / 6  # two pyramids
    assert mesh.volume == pytest.approx(volume * (1e9 if name in ("stl", "3mf") else 1), rel=1e-5)


@pytest.mark.parametrize("name", ["usdz", "usd"])
def test_a_usdz_opens_in_usd(job, name):
    pxr = pytest.importorskip("pxr.Usd"), pytest.importorskip("pxr.UsdGeom")
    path = written(job, name, height=0.5)
    stage = pxr[0].Stage.Open(str(path))
    assert pxr[1].GetStageUpAxis(stage) == "Y" and pxr[1].GetStageMetersPerUnit(stage) == 1.0
    shape = pxr[1].Mesh(stage.GetPrimAtPath("/object/mesh"))
    points = np.array(shape.GetPointsAttr().Get())
    np.testing.assert_allclose(bounds(points), Y_UP / 8, atol=1e-6)
    uv = pxr[1].PrimvarsAPI(shape).GetPrimvar("st").ComputeFlattened()
    np.testing.assert_allclose(np.array(uv), UV, atol=1e-6)
    if name == "usd":
        assert path.with_suffix(".png").read_bytes() == albedo(job)
        return
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert names[0].endswith(".usdc")
        assert archive.read(next(n for n in names if n.endswith(".png"))) == albedo(job)


def albedo(job: Job) -> bytes:
    return (Path(job.folder) / "albedo.png").read_bytes()


def test_an_obj_brings_its_texture(job):
    path = written(job, "obj")
    mesh = read(path)
    assert sorted(p.name for p in path.parent.iterdir()) == [
        f"{path.stem}.{e}" for e in ("mtl", "obj", "png")
    ]
    assert path.with_suffix(".png").read_bytes() == albedo(job)
    np.testing.assert_allclose(mesh.visual.uv[mesh.faces].reshape(-1, 2), UV, atol=1e-6)
    assert f"map_Kd {path.stem}.png" in path.with_suffix(".mtl").read_text()


def test_a_ply_has_the_textures_colours(job):
    path = written(job, "ply")
    ply = PlyData.read(path)
    red = np.stack([ply["vertex"][c] for c in ("red", "green", "blue")], 1)
    assert (red == (255, 0, 0)).all()
    assert ply.comments == [f"TextureFile {path.stem}.png"]
    assert Image.open(path.with_suffix(".png")).size == (8, 8)


def test_height_origin_and_up(job):
    np.testing.assert_allclose(
        read(written(job, "ply", height=2.0, origin="base")).bounds, [(-0.5, -1, 0), (0.5, 1, 2)]
    )
    np.testing.assert_allclose(read(written(job, "ply", origin="centre")).bounds, [(-1, -2, -2), (1, 2, 2)])
    middle = read(written(job, "ply", origin="middle"))
    mass = np.average(middle.triangles_center, axis=0, weights=middle.area_faces)
    np.testing.assert_allclose(mass, 0, atol=1e-6)
    np.testing.assert_allclose(read(written(job, "ply", up="y")).bounds, Y_UP)
    np.testing.assert_allclose(read(written(job, "obj", up="z")).bounds, Z_UP)
    np.testing.assert_allclose(read(written(job, "stl", height=0.05)).bounds[1, 2], 50.0, rtol=1e-6)


def test_the_same_job_gives_the_same_bytes(job):
    formats = [name for name in UP if not name.startswith(("usd", "fbx"))]
    first = {p.name: p.read_bytes() for p in export(job, formats, Placing(), Path(job.folder, "a")).paths}
    again = {p.name: p.read_bytes() for p in export(job, formats, Placing(), Path(job.folder, "b")).paths}
    assert first == again and len(first) == 7


def test_open_edges_are_counted(job):
    assert export(job, ["stl"], Placing(), Path(job.folder, "a")).open_edges == 0
    mesh = Mesh(
        torch.tensor(V).float(), torch.tensor(T[1:]), torch.tensor(UV), torch.arange(15).reshape(5, 3)
    )
    write_result(Path(job.folder), mesh, torch.zeros(4, 4, 3), {})
    assert export(job, ["stl"], Placing(), Path(job.folder, "a")).open_edges == 3


@pytest.mark.parametrize(
    ("formats", "placing", "said"),
    [
        (["obj", "fbx"], {}, "no format 'fbx'"),
        (["obj", "glb"], {"up": "z"}, "GLB is always y up"),
        (["3mf"], {"up": "y"}, "3MF is always z up"),
        (["obj"], {"up": "x"}, "is y or z, got 'x'"),
        (["obj"], {"height": float("nan")}, "got nan"),
        (["obj"], {"height": 0.0}, "got 0.0"),
        (["obj"], {"origin": "above"}, "no origin 'above'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(job, formats, placing, said):
    with pytest.raises(InputError, match=said):
        export(job, formats, Placing(**placing), Path(job.folder, "a"))
    assert not Path(job.folder, "a").exists()


def test_a_job_without_a_mesh_says_how_to_finish_it(tmp_path):
    with pytest.raises(InputError) as refused:
        export(Job("1", "generate", "x", str(tmp_path)), ["obj"], Placing(), tmp_path / "a")
    assert "resume" in refused.value.todo and not (tmp_path / "a").exists()


def test_a_refined_object_goes_out_where_one_texture_is_all_of_it(job):
    folder = Path(job.folder)
    refined = Job("1", "refine", "x", job.folder, mesh="x.obj", stages=("refine",))

    def textures(*faces: int) -> None:
        (folder / "materials.json").write_text(json.dumps({"textures": [{"faces": n} for n in faces]}))

    textures(6)
    assert export(refined, ["obj"], Placing(), folder / "a").paths[0].name == "x.obj"
    for faces, formats, said in (
        ((3, 3), "obj", "one texture"),
        ((4,), "obj", "one"),
        ((6,), "glb", "own file"),
    ):
        textures(*faces)
        with pytest.raises(InputError, match=said):
            export(refined, [formats], Placing(), folder / "b")
    (folder / "materials.json").write_text("[")
    with pytest.raises(InputError, match="damaged"):
        export(refined, ["obj"], Placing(), folder / "b")


def test_without_usd_core_it_says_what_to_install(job, monkeypatch):
    monkeypatch.setitem(sys.modules, "pxr", None)
    with pytest.raises(InputError) as refused:
        export(job, ["obj", "usdz"], Placing(), Path(job.folder, "a"))
    assert "pip install usd-core==" in refused.value.todo and not Path(job.folder, "a").exists()


def test_the_command_line(job, capfd):
    from backend.__main__ import main
    from backend.cli.export import FORMATS

    folder = Path(job.folder)
    (folder / "job.json").write_text(
        json.dumps({"job": {"id": "1", "kind": "generate", "prompt": "a mug", "folder": "x"}})
    )
    assert main(["export", job.folder, "--format", "OBJ, stl", "--height", "1"]) == 0
    said = capfd.readouterr().out.splitlines()
    assert [Path(line).name for line in said[:4]] == ["a-mug.obj", "a-mug.mtl", "a-mug.png", "a-mug.stl"]
    assert said[-1] == "0.500 x 1.000 x 1.000 m, closed"
    assert main(["export", job.folder, "--format", "obj", "--height", "1", "--json"]) == 0
    assert json.load(io.StringIO(capfd.readouterr().out))["open_edges"] == 0
    assert tuple(FORMATS.split(",")) == tuple(UP)  # what --help names
    assert main(["export", job.folder, "--format", "fbx"]) == 2
    assert "no format 'fbx'" in capfd.readouterr().err


def test_a_link_in_the_jobs_folder_leads_nothing_elsewhere(job, tmp_path, capsys):
    from backend.__main__ import main

    folder, mine = Path(job.folder), tmp_path / "mine"
    mine.mkdir()
    (folder / "export").symlink_to(mine, target_is_directory=True)
    said = {"job": {"id": "1", "kind": "generate", "prompt": "a mug", "folder": "x"}}
    (folder / "job.json").write_text(json.dumps(said))
    assert main(["export", job.folder, "--format", "obj"]) == 2
    assert "link" in capsys.readouterr().err and list(mine.iterdir()) == []
