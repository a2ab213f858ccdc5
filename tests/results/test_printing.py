"""What goes to a printer encloses a volume, by our own count and by trimesh's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import ConvexHull

from backend.errors import InputError
from backend.meshes.write import write_result
from backend.results.export import Placing
from backend.results.printing import Print, export_print, unpaired_edges
from backend.scene.mesh import Mesh
from dreamflow_blender.contract.job import Job

BALL = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
CUT = trimesh.intersections.mesh_plane(BALL, (0, 0, 1), (0, 0, -0.5 + 0.02))[..., :2].reshape(-1, 2)
BASE = ConvexHull(CUT).volume * 100**2  # square millimetres, of a ball of 100 mm


def job_of(folder: Path, faces: np.ndarray) -> Job:
    """A ball of half a metre's radius with these faces."""
    uv = torch.rand(3, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([[0, 1, 2]] * len(faces))
    mesh = Mesh(torch.tensor(BALL.vertices, dtype=torch.float32), torch.tensor(faces), *uv)
    write_result(folder, mesh, torch.full((8, 8, 3), 0.5), {"prompt": "a ball"})
    record = {"job": {"id": "1", "kind": "generate", "prompt": "a ball", "folder": "x"}}
    (folder / "job.json").write_text(json.dumps(record))
    return Job("1", "generate", "a ball", str(folder))


@pytest.mark.parametrize("flat_base", [False, True])
@pytest.mark.parametrize("inside_out", [False, True])
def test_both_files_are_closed_in_millimetres_and_on_the_bed(
    tmp_path: Path, flat_base: bool, inside_out: bool
) -> None:
    faces = np.array(BALL.faces[:, ::-1] if inside_out else BALL.faces)
    made = export_print(
        job_of(tmp_path, faces), Print(flat_base=flat_base), Placing(height=0.1), tmp_path / "out"
    )
    assert [path.name for path in made.paths] == ["a-ball.stl", "a-ball.3mf"]
    for path in made.paths:
        mesh = trimesh.load(path, force="mesh")
        assert mesh.is_watertight and mesh.is_winding_consistent
        assert unpaired_edges(np.asarray(mesh.faces)) == 0
        assert mesh.volume == pytest.approx(made.volume * 1000, rel=1e-4)  # cubic millimetres
        assert mesh.bounds[0, 2] == pytest.approx(0, abs=1e-4)
        assert mesh.bounds[1, 2] == pytest.approx(98 if flat_base else 100, abs=1e-3)
        on_the_bed = mesh.triangles[:, :, 2].max(1) < 1e-4
        assert mesh.area_faces[on_the_bed].sum() == pytest.approx(BASE if flat_base else 0, rel=1e-3)
    assert made.volume == pytest.approx(BALL.volume * 1000, rel=0.01)


def test_an_open_mesh_is_refused_with_what_to_do(tmp_path: Path) -> None:
    for faces in (BALL.faces[1:], np.concatenate((BALL.faces[1:], BALL.faces[:1, ::-1]))):
        with pytest.raises(InputError, match=r"not closed: [36] edges") as refused:
            export_print(job_of(tmp_path, np.array(faces)), Print(), Placing(), tmp_path / "out")
        assert "Fill Holes" in refused.value.todo
        assert not (tmp_path / "out").exists()


def test_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from backend.__main__ import main

    job_of(tmp_path, np.array(BALL.faces))
    assert main(["export", str(tmp_path), "--profile", "print", "--height", "0.05", "--flat-base"]) == 0
    assert capfd.readouterr().out.splitlines()[-1].endswith("x 49.0 mm, 63.2 cm3, closed")
    assert main(["export", str(tmp_path), "--format", "stl", "--flat-base"]) == 2
    assert main(["export", str(tmp_path), "--profile", "print", "--faces", "900"]) == 2
    assert "Add --deliver game" in capfd.readouterr().err
