"""Difficult meshes, each of which ends in a right result or in a clear refusal."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from backend.errors import InputError
from backend.jobs.refine import room_note
from backend.meshes.parts import from_parts
from backend.meshes.read import read_mesh
from dreamflow_blender.contract.meshfile import ObjectArrays
from dreamflow_blender.contract.words import without_commands
from tests.tools.made_meshes import grid_ball, painted_ball, stripes
from tests.tools.refine_run import run_arrays, run_file, shorten

V, TRI, UV, POLYGON = grid_ball()
FACES = len(TRI)


@pytest.fixture(autouse=True, scope="module")
def short():
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        yield


def test_a_texture_that_may_not_fit_is_said_to_the_panel_too():
    """Whose notes have no sentence with an option of the command line."""
    sheet = SimpleNamespace(height=4096, width=16384)
    assert room_note([sheet], 1000.0) == []
    (note,) = room_note([sheet], 1.0)
    assert "--texture-size" in note
    shown = without_commands(note)
    assert shown.startswith("A texture of 16,384 pixels takes about") and shown.endswith(
        "choose a smaller one."
    )


def plane(n: int) -> dict:
    at = np.stack(np.meshgrid(np.linspace(0, 1, n + 1), np.linspace(0, 1, n + 1)), -1).reshape(-1, 2)
    a = (np.arange(n)[:, None] * (n + 1) + np.arange(n)).reshape(-1, 1)
    tri = np.concatenate((a + np.array([0, 1, n + 2]), a + np.array([0, n + 2, n + 1])))
    v = np.stack((at[:, 0] - 0.5, 0 * at[:, 0], at[:, 1] - 0.5), 1)
    return {"v": v, "tri": tri, "uv": at[tri], "polygon": np.tile(np.arange(n * n), 2)}


def fan() -> dict:
    """Three sheets that share one edge: no manifold."""
    v = np.array([[0, 0, -0.4], [0, 0, 0.4], [0.4, 0, 0], [-0.3, 0.3, 0], [-0.3, -0.3, 0]])
    tri = np.array([[0, 2, 1], [0, 3, 1], [0, 4, 1]])
    uv = np.array([[[0, 0], [0.3, 0.5], [0, 1]]]) + np.array([0.33, 0])[None] * np.arange(3)[:, None, None]
    return {"v": v, "tri": tri, "uv": uv, "polygon": np.arange(3)}


def materials(count: int, images: bool) -> ObjectArrays:
    base = [(1.0, 1.0, 1.0, 1.0) if images else (0.1 * i, 0.8 - 0.1 * i, 0.3, 1.0) for i in range(count)]
    return painted_ball(
        material=np.arange(FACES) % count, base=base, names=[f"m{i}" for i in range(count)],
        image=list(range(count)) if images else [-1] * count, wrap=[(0, 0)] * count,
        images=tuple(stripes(32 + 8 * i) for i in range(count)) if images else (),
    )  # fmt: skip


def halves() -> ObjectArrays:
    two = np.concatenate((V * 0.4 - [0.25, 0, 0], V * 0.4 + [0.25, 0, 0]))
    uv = np.concatenate((UV * [0.5, 1], UV * [0.5, 1] + [0.5, 0]))
    return painted_ball(
        v=two,
        tri=np.concatenate((TRI, TRI + len(V))),
        uv=uv,
        polygon=np.concatenate((POLYGON, POLYGON + 1000)),
    )


def mirrored() -> ObjectArrays:
    side = V[:, 0][TRI].min(1) > -1e-9
    tri, uv = TRI[side], UV[side]
    return painted_ball(
        v=np.concatenate((V, V * [-1, 1, 1])), tri=np.concatenate((tri, (tri + len(V))[:, ::-1])),
        uv=np.concatenate((uv, uv[:, ::-1])), polygon=np.arange(2 * len(tri)),
    )  # fmt: skip


DIFFICULT = {  # name: the object, and whether it needs new UVs
    "a plane": (painted_ball(**plane(4)), False),
    "an open mesh": (painted_ball(tri=TRI[: FACES // 2], uv=UV[: FACES // 2], polygon=POLYGON[: FACES // 2]), False),
    "no manifold": (painted_ball(**fan()), False),
    "one triangle": (painted_ball(**{k: v[:1] if k != "v" else v for k, v in fan().items()}), False),
    "loose vertices": (painted_ball(v=np.concatenate((V, [[0.3, 0.3, 0.3], [9, 9, 9]]))), False),
    "faces without area": (
        painted_ball(tri=np.concatenate((TRI, [[0, 0, 1]] * 3)), uv=np.concatenate((UV, UV[:1].repeat(3, 0) * 0)),
                     polygon=np.concatenate((POLYGON, [900, 901, 902]))), False),
    "doubled faces": (
        painted_ball(tri=np.tile(TRI, (2, 1)), uv=np.tile(UV, (2, 1, 1)), polygon=np.arange(2 * FACES)), False),
    "inside out": (painted_ball(tri=TRI[:, ::-1], uv=UV[:, ::-1]), False),
    "a millimetre": (painted_ball(v=V * 1e-3), False),
    "a kilometre": (painted_ball(v=V * 1e3), False),
    "far from the origin": (painted_ball(v=V + np.array([300, -500, 40])), False),
    "two halves": (halves(), False),
    "no material, no UVs": (painted_ball(uv=None, image=[-1], images=(), base=[(0.8, 0.8, 0.8, 1.0)]), True),
    "five images": (materials(5, True), False),
    "five plain materials": (materials(5, False), False),
    "image on another UV map": (
        dataclasses.replace(painted_ball(), source_uv=(UV[:, :, ::-1] * 0.5).astype(np.float32)), False),
    "overlapping UVs": (painted_ball(uv=UV % 0.5), True),
    "UVs outside": (painted_ball(uv=UV * 3 - 1), True),
    "UVs that are no numbers": (painted_ball(uv=np.where(UV > 0.9, np.nan, UV)), True),
    "UVs without area": (painted_ball(uv=UV * [1, 0]), True),
    "vertex colours alone": (
        painted_ball(colour=np.abs(V)[TRI] * 2, image=[-1], images=(), base=[(1.0,) * 4]), False),
    "mirrored by a modifier": (mirrored(), False),
    "names in emoji": (painted_ball(names=["🦆 é \"x\""]), False),
    "an oblong image": (painted_ball(images=(stripes(96)[:32],)), False),
    "an image of one pixel": (painted_ball(images=(stripes(1),), base=[(1.0,) * 4]), False),
    "a repeated image": (painted_ball(uv=UV * 4), True),
    "polygons of many corners": (painted_ball(uv=None, polygon=np.arange(FACES) // 3), True),
    "a tinted image": (painted_ball(base=[(0.9, 0.4, 0.4, 1.0)]), False),
}  # fmt: skip

OFTEN = ("five images", "an image of one pixel", "polygons of many corners")  # the others where there is time


@pytest.mark.parametrize(
    "name", [n if n in OFTEN else pytest.param(n, marks=pytest.mark.slow) for n in DIFFICULT]
)
def test_ends_in_a_right_result(name: str, tmp_path: Path) -> None:
    arrays, needs_uvs = DIFFICULT[name]
    mesh, _, finished = run_arrays(tmp_path / "job", arrays)
    assert np.array_equal(mesh.v_pos, arrays.v_pos) and np.array_equal(mesh.t_pos_idx, arrays.t_pos_idx)
    assert bool(finished.figures["new_uvs"]) == needs_uvs
    uv = mesh.v_tex[mesh.t_tex_idx]
    assert uv.min() >= 0 and uv.max() <= 1
    if not needs_uvs and len(arrays.uv):
        assert np.array_equal(uv, np.clip(arrays.uv, 0, 1))
    if needs_uvs:  # a corner of a polygon has one place
        corner = arrays.polygon.repeat(3).astype(np.int64) * len(arrays.v_pos) + arrays.t_pos_idx.reshape(-1)
        pairs = np.unique(np.stack((corner, mesh.t_tex_idx.reshape(-1)), 1), axis=0)
        assert len(pairs) == len(np.unique(corner))
    assert finished.figures["share_changed"] > 0
    count = int(finished.figures["textures"])
    assert count == (5 if name == "five images" else 1)
    assert (tmp_path / "job" / "mesh.glb").stat().st_size > 0
    read_mesh(tmp_path / "job" / "mesh.glb")


@pytest.mark.slow
def test_three_hundred_thousand_faces(tmp_path: Path) -> None:
    arrays = painted_ball(**plane(388))
    mesh, _, finished = run_arrays(tmp_path / "job", arrays)
    assert finished.figures["faces"] > 300_000 and np.array_equal(mesh.v_tex[mesh.t_tex_idx], arrays.uv)


REFUSED = {  # name: the object, and what is said
    "no faces": (painted_ball(tri=TRI[:0], uv=UV[:0], polygon=POLYGON[:0]), "no faces"),
    "no area": (painted_ball(v=V * [1, 0, 0]), "no surface"),
    "all in one point": (painted_ball(v=V * 0 + 1), "no surface"),
    "too far for its numbers": (painted_ball(v=V + np.array([3e6, 0, 0])), "Move it nearer"),
    "nothing selected": (
        dataclasses.replace(painted_ball(), weight=np.zeros((FACES, 3), np.float32)),
        "Select",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str, tmp_path: Path) -> None:
    arrays, words = REFUSED[name]
    with pytest.raises(InputError, match=words):
        run_arrays(tmp_path / "job", arrays)
    assert not (tmp_path / "job" / "job.json").exists()


def write_obj(path: Path, image: str) -> None:
    text = ["mtllib a.mtl", "usemtl red"] + [f"v {x} {z} {-y}" for x, y, z in V]
    text += [f"vt {u} {v}" for u, v in UV.reshape(-1, 2)]
    text += ["f " + " ".join(f"{TRI[f, k] + 1}/{3 * f + k + 1}" for k in range(3)) for f in range(FACES)]
    path.write_text("\n".join(text), encoding="utf-8")
    (path.parent / "a.mtl").write_text(f"newmtl red\nKd 0.8 0.1 0.1\n{image}", encoding="utf-8")


def test_an_obj_whose_image_is_missing_has_its_plain_colour(tmp_path: Path) -> None:
    write_obj(tmp_path / "a.obj", "map_Kd gone.png")
    arrays, notes = read_mesh(tmp_path / "a.obj")
    assert np.allclose(arrays.v_pos[arrays.t_pos_idx], V[TRI], atol=1e-6) and np.allclose(arrays.uv, UV)
    assert np.allclose(arrays.base[0], (0.8, 0.1, 0.1, 1)) and any("gone.png" in note for note in notes)
    run_file(tmp_path / "job", tmp_path / "a.obj")


def test_a_ply_with_vertex_colours(tmp_path: Path) -> None:
    head = (
        "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = "0 0 0 255 0 0\n1 0 0 0 255 0\n1 0 1 0 0 255\n0 0 1 9 9 9\n4 0 1 2 3\n"
    (tmp_path / "a.ply").write_text(head + rows)
    arrays, _ = read_mesh(tmp_path / "a.ply")
    assert arrays.t_pos_idx.tolist() == [[0, 1, 2], [0, 2, 3]] and arrays.polygon.tolist() == [0, 0]
    assert np.allclose(arrays.colour[0, :, :3], np.eye(3)) and (arrays.colour[..., 3] == 1).all()
    run_file(tmp_path / "job", tmp_path / "a.ply")


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".npz"])
@pytest.mark.parametrize(
    "content", [b"", b"not a mesh at all", b"ply\nend_header\n", b"glTF\x02\0\0\0\xff\0\0\0"]
)
def test_a_file_that_is_no_mesh_is_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(InputError):
        read_mesh(tmp_path / f"a{suffix}")


def test_numbers_that_are_none_are_refused() -> None:
    from dreamflow_blender.contract.meshfile import BadMeshFile

    with pytest.raises(BadMeshFile, match="finite"):
        from_parts(np.full((3, 3), np.nan), np.array([[0, 1, 2]]))
