"""OBJ and PLY as they are found: tabs, marks, continued lines, options, forward references, textures in comments."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.errors import InputError
from backend.meshes.obj import parse_obj, read_mtl, rows_of
from backend.meshes.obj_edit import corner_normals, kept_obj, repainted_obj
from backend.meshes.read import read_mesh
from tests.meshes.test_others_write import png, whole_sheet
from tests.tools.refine_run import run_file, shorten

BODY = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
BODY += "vn 0 0 2\nusemtl red\nf 1/1/1 2/2/1 3/3/1 4/4/1\n"
TEXT = "# made by hand\nmtllib a.mtl\n" + BODY


def read(folder: Path, text: str | bytes, mtl: str = "newmtl red\nmap_Kd red.png\n", image: str = "red.png"):
    (folder / image).write_bytes(png())
    (folder / "a.mtl").write_bytes(mtl.encode("latin-1"))
    (folder / "a.obj").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_mesh(folder / "a.obj")


@pytest.mark.parametrize(
    "text",
    [
        TEXT, TEXT.replace(" ", "\t"), "\ufeff" + TEXT.replace("\n", "\r\n"), TEXT.replace(" 3/3", " \\\n 3/3"),
        TEXT.replace("mtllib a.mtl", "mtllib gone.mtl a.mtl"), TEXT.replace("vt 0 0\n", "vt 0\n"),
        "mtllib a.mtl\nusemtl red\nf 1/1/1 2/2/1 3/3/1 4/4/1\n" + BODY.partition("usemtl")[0],
        TEXT.replace("1/1/1 2/2/1 3/3/1 4/4/1", "-4/-4/-1 -3/-3/-1 -2/-2/-1 -1/-1/-1 # all"),
    ],
    ids=["plain", "tabs", "mark", "continued", "two libraries", "one number", "forward", "backward"],
)  # fmt: skip
def test_the_same_square_however_it_is_written(text: str, tmp_path: Path) -> None:
    arrays, notes = read(tmp_path, text)
    assert arrays.t_pos_idx.tolist() == [[0, 1, 2], [0, 2, 3]] and arrays.polygon.tolist() == [0, 0]
    assert arrays.v_pos.tolist() == [[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]]
    assert arrays.uv[0].tolist() == [[0, 0], [1, 0], [1, 1]] and not notes
    assert arrays.images[arrays.image[0]][0, 0].tolist() == [200, 10, 10, 255]


@pytest.mark.parametrize(
    ("line", "image"),
    [
        ("map_Kd red.png", "red.png"), ("MAP_KD\tred.png", "red.png"), ('map_kd "red.png"', "red.png"),
        ("map_Kd -clamp on -bm 1 my red.png", "my red.png"), ("map_Kd C:\\work\\red.png", "red.png"),
        ("map_Kd r\xe9d.png", "r\xe9d.png"), ("map_Kd -mm 0 1 -o 0 -s 1 1 1 red.png", "red.png"),
    ],
)  # fmt: skip
def test_map_kd_names_its_image(line: str, image: str, tmp_path: Path) -> None:
    arrays, notes = read(tmp_path, TEXT, f"newmtl red\n{line}\n", image)
    assert arrays.image[0] == 0 and not notes
    assert arrays.wrap[0].tolist() == ([1, 1] if "clamp" in line else [0, 0])


def test_scaled_and_moved_uvs_and_transparency(tmp_path: Path) -> None:
    arrays, _ = read(tmp_path, TEXT, "newmtl red\nd 0.25\nmap_Kd -s 2 3 1 -o 0.5 0.25 red.png\n")
    assert arrays.uv[0].tolist() == [[0.5, 0.25], [2.5, 0.25], [2.5, 3.25]] and arrays.base[0, 3] == 0.25
    looks = read_mtl("newmtl a\nTr 0.25\nKd 0.1 0.2 0.3\nnewmtl b\nmap_Kd -s -o a.png\n")
    assert looks["a"].alpha == 0.75 and looks["a"].colour == (0.1, 0.2, 0.3) and looks["b"].image == "a.png"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("f 1/1", "f 9/1"), "line 13 names vertex 9, and there are 4"),
        (("f 1/1", "f 1/9"), "line 13 names UV 9"),
        (("f 1/1", "f -9/1"), "line 13: -9/1/1 counts back"),
        (("f 1/1", "f x"), r"line 13: x\S* names no vertex"),
        (("f 1/1", "f \x1b[31mred"), r"line 13: \?\[31mred\S* names no vertex"),
        (("v 1 0 0", "v 1 zero 0"), "line 4: 1 zero 0 is no row of numbers"),
        (("v 1 0 0", "v 1 0"), "line 4: 3 numbers are needed"),
        (("v 1 0 0", "v 1e400 0 0"), "finite"),
        (("v 1 0 0", "v " + "9" * 5000 + " x 0"), "line 4"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(change: tuple[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path, TEXT.replace(*change))


def test_an_obj_comes_back_as_it_was_but_for_its_texture(tmp_path: Path) -> None:
    arrays, _ = read(
        tmp_path, TEXT, "newmtl red\nNs 10\nKd 0.5 0.5 0.5\nd 0.5\nmap_Kd red.png\nmap_Bump bump.png\n"
    )
    kept = kept_obj(tmp_path / "a.obj")
    same = repainted_obj(
        kept["object.obj"], kept["object.mtl"], arrays, [whole_sheet(arrays, False)], ["albedo.png"]
    )
    assert same["mesh.obj"].decode() == "mtllib mesh.mtl\n" + TEXT.replace("mtllib a.mtl\n", "")
    lines = same["mesh.mtl"].decode().split("\n")
    assert lines[:6] == ["newmtl red", "Ns 10", "d 0.5", "map_Bump bump.png", "Kd 1 1 1", "map_Kd albedo.png"]
    assert np.allclose(corner_normals(kept["object.obj"]), (0, -1, 0))

    sheet = whole_sheet(arrays, True)
    corner = np.array([[0, 1, 2], [0, 2, 3]])
    new = repainted_obj(
        kept["object.obj"], kept["object.mtl"], arrays,
        [type(sheet)(**(vars(sheet) | {"v_tex": sheet.v_tex[:4], "t_tex_idx": corner}))], ["albedo.png"],
    )  # fmt: skip
    obj = parse_obj(new["mesh.obj"].decode())
    assert new["mesh.obj"].decode().count("\nf ") == 1 and obj.polygons == 1  # still one quad
    uv = np.array(obj.vt).reshape(-1, 2)[rows_of(obj.tex)]
    assert np.allclose(uv, sheet.v_tex[corner], atol=1e-6) and rows_of(obj.normal).tolist() == [[0, 0, 0]] * 2


def test_a_refined_obj_lies_beside_the_glb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    ball = "".join(f"v {x} {y} {z}\n" for x in (-1, 1) for y in (-1, 1) for z in (-1, 1))
    faces = "f 1 2 4 3\nf 5 7 8 6\nf 1 5 6 2\nf 3 4 8 7\nf 1 3 7 5\nf 2 6 8 4\n"
    (tmp_path / "a.obj").write_text(ball + faces)
    run_file(tmp_path / "job", tmp_path / "a.obj")
    arrays, notes = read_mesh(tmp_path / "job" / "mesh.obj")
    assert len(np.unique(arrays.polygon)) == 6 and len(arrays.t_pos_idx) == 12 and not notes
    with Image.open(tmp_path / "job" / "albedo.png") as albedo:
        assert np.array_equal(arrays.images[0], np.asarray(albedo.convert("RGBA")))


PLY = (
    "ply\nformat ascii 1.0\ncomment TextureFile r\xe9d.png\nelement vertex 4\nproperty float x\nproperty float y\n"
    "property float z\nproperty float s\nproperty float t\nelement face 1\nproperty list uchar int vertex_indices\n"
    "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    "0 0 0 0 0\n1 0 0 1 0\n1 0 1 1 1\n0 0 1 0 1\n4 0 1 2 3 255 51 0\n"
)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_ply_names_its_texture_and_colours_its_faces(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "r\xe9d.png").write_bytes(png())
    (tmp_path / "a.ply").write_bytes(PLY.encode(encoding))
    arrays, notes = read_mesh(tmp_path / "a.ply")
    assert arrays.t_pos_idx.tolist() == [[0, 1, 2], [0, 2, 3]] and arrays.uv[1].tolist() == [
        [0, 0],
        [1, 1],
        [0, 1],
    ]
    assert np.allclose(arrays.colour, (1, 0.2, 0, 1)) and arrays.image.tolist() == [0] and not notes


def test_a_ply_of_triangles_alone_is_read_at_once(tmp_path: Path) -> None:
    rows = np.zeros(2, [("n", "u1"), ("i", "<i4", 3)])
    rows["n"], rows["i"] = 3, [[0, 1, 2], [0, 2, 3]]
    head = (
        b"ply\nformat binary_little_endian 1.0\nelement vertex 4\nproperty float x\nproperty float y\n"
        b"property float z\n"
        b"element face 2\nproperty list uchar int vertex_indices\nend_header\n"
    )
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]], "<f4")
    for content in (
        corners.tobytes() + rows.tobytes(),
        corners.tobytes() + rows[:1].tobytes() + b"\4" + bytes(16),
    ):
        (tmp_path / "a.ply").write_bytes(head + content)
        assert read_mesh(tmp_path / "a.ply")[0].t_pos_idx[0].tolist() == [0, 1, 2]
    assert io.BytesIO(head).readline() == b"ply\n"
