"""Files that are made to do harm are refused in a sentence, before memory or time is spent on them."""

from __future__ import annotations

import io
import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.errors import InputError
from backend.images import read_image
from backend.meshes import read
from backend.meshes.beside import Beside
from backend.meshes.glb import Glb, write_glb
from benchmarks.fuzz_files import KINDS, make
from dreamflow_blender.contract import meshfile
from tests.tools.made_meshes import painted_ball

TRIANGLE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4")


def a_triangle() -> Glb:
    glb = Glb({"asset": {"version": "2.0"}})
    glb.add_accessor(TRIANGLE, {"componentType": 5126, "type": "VEC3"})
    mesh = {"primitives": [{"attributes": {"POSITION": 0}}]}
    glb.document |= {"meshes": [mesh], "nodes": [{"mesh": 0}], "scenes": [{"nodes": [0]}]}
    return glb


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read.read_mesh(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("table", "change", "words"),
    [
        (
            "bufferViews",
            {"byteStride": -(1 << 20)},
            "byteStride is -1048576",
        ),  # read before the file: a crash
        ("bufferViews", {"byteStride": -4}, "byteStride is -4"),  # heap bytes as vertices
        ("bufferViews", {"byteStride": 8}, "rows of 12 bytes are 8 bytes apart"),
        ("bufferViews", {"byteOffset": -8}, "byteOffset is -8"),
        ("bufferViews", {"byteOffset": 2**31}, "reaches beyond the file's data"),
        ("bufferViews", {"byteLength": 10**6}, "reaches beyond the file's data"),
        ("accessors", {"count": 30_000}, "reaches beyond the file's data"),
        ("accessors", {"count": 10**9}, "333,333,333 triangles, more than 2,000,000"),
        ("accessors", {"count": 2**64}, "accessors[0].count is 18446744073709551616"),
        ("accessors", {"count": True}, "accessors[0].count is True"),
        ("accessors", {"count": "3"}, "accessors[0].count is '3'"),
        ("accessors", {"byteOffset": 1 << 31}, "reaches beyond the file's data"),
        ("accessors", {"bufferView": 7}, "expected one of the 1 bufferViews"),
        ("accessors", {"type": "VEC2"}, "POSITION has 2 numbers a vertex, expected 3"),
        ("nodes", {"children": [0]}, "stands in the scene twice"),
        ("nodes", {"matrix": [1e308] * 16}, "finite"),
        ("nodes", {"translation": [1, 2]}, "expected 3 finite numbers"),
        ("meshes", {"primitives": {}}, "expected a list"),
    ],
)
def test_a_number_that_leads_out_of_the_file(table: str, change: dict, words: str, tmp_path: Path) -> None:
    glb = a_triangle()
    glb.document[table][0] |= change
    (tmp_path / "a.glb").write_bytes(glb.content())
    assert words in refusal(tmp_path / "a.glb")


def test_zeros_without_a_buffer_are_no_more_than_the_file_has_bytes(tmp_path: Path) -> None:
    glb = a_triangle()
    del glb.document["accessors"][0]["bufferView"]
    glb.document["accessors"][0]["count"] = 90_000
    (tmp_path / "a.glb").write_bytes(glb.content())
    assert "more than the file has bytes" in refusal(tmp_path / "a.glb")


def test_a_document_nested_ten_thousand_deep(tmp_path: Path) -> None:
    text = b'{"extras":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    (tmp_path / "a.gltf").write_bytes(text)
    assert "damaged" in refusal(tmp_path / "a.gltf") or "nested" in refusal(tmp_path / "a.gltf")
    (tmp_path / "a.gltf").write_bytes(b'{"extras":' + b"[" * 100 + b"]" * 100 + b"}")
    assert "nested more than 64 deep" in refusal(tmp_path / "a.gltf")


def test_a_ply_that_promises_more_than_it_has(tmp_path: Path) -> None:
    head = b"ply\nformat ascii 1.0\nelement nothing 1000000000000\nelement vertex 0\nproperty float x\nend_header\n"
    (tmp_path / "a.ply").write_bytes(head)
    assert "cut short: its header promises 1,000,000,000,000 rows" in refusal(tmp_path / "a.ply")


def test_an_object_file_does_not_grow(tmp_path: Path) -> None:
    """A megabyte of deflated zeros would be a gigabyte."""
    plain = meshfile.to_bytes(painted_ball())
    with zipfile.ZipFile(io.BytesIO(plain)) as archive, zipfile.ZipFile(tmp_path / "a.npz", "w") as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name), zipfile.ZIP_DEFLATED)
    assert "holds more than it can" in refusal(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(plain)
    read.read_mesh(tmp_path / "a.npz")


def test_images_by_their_header_and_by_five_formats_alone() -> None:
    def written(kind: str, side: int) -> bytes:
        out = io.BytesIO()
        Image.new("L", (side, 8), 7).save(out, kind)
        return out.getvalue()

    for kind in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF"):
        assert read_image(written(kind, 16), "it").shape == (8, 16, 4)
    out = io.BytesIO()
    Image.new("1", (9000, 8000)).save(out, "PNG")
    with pytest.raises(InputError, match=r"too large .9,000 x 8,000 pixels"):
        read_image(out.getvalue(), "it")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    for content in (eps, written("GIF", 16), b"", b"no"):
        with pytest.raises(InputError, match="none of PNG, JPEG, WEBP, AVIF, TIFF"):
            read_image(content, "it")
    with pytest.raises(meshfile.BadMeshFile, match="KTX2"):
        read_image(b"\xabKTX 20\xbb\r\n\x1a\n" + bytes(90), "it")


def test_sixteen_bits_are_rounded_to_eight() -> None:
    out = io.BytesIO()
    levels = np.array([[0, 65535, 257 * 100, 257 * 100 + 128, 257 * 100 + 129]], np.uint16)
    Image.fromarray(levels).save(out, "PNG")
    assert read_image(out.getvalue(), "it")[0, :, 0].tolist() == [0, 255, 100, 100, 101]


@pytest.mark.parametrize(
    "name",
    ["{out}/secret.png", "../secret.png", "..\\secret.png", "sub/../../secret.png", "C:\\x\\secret.png",
     "\\\\host\\share\\secret.png", "//host/share/secret.png", "link.png", "nul", "sub/com1.png", "a.png:stream",
     "\x00", "", "http://127.0.0.1/secret.png", "x" * 5000],
)  # fmt: skip
def test_a_file_names_no_file_outside_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(b"private")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError):
        Beside(tmp_path / "in").find(name.format(out=tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "C:\\work\\tex\\Skin.PNG",
        "/home/a/skin.png",
        "../tex/skin.png",
        '"skin.png"',
        "\\\\host\\tex\\skin.png",
    ],
)
def test_a_file_that_was_sent_along_is_found_by_its_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "skin.png").write_bytes(b"x")
    assert Beside(tmp_path).find(name) == tmp_path / "skin.png"


def test_windows_separators_lead_into_folders(tmp_path: Path) -> None:
    (tmp_path / "tex").mkdir()
    (tmp_path / "tex" / "a é.png").write_bytes(b"x")
    assert Beside(tmp_path).find("tex\\a é.png") == tmp_path / "tex" / "a é.png"


def test_a_gltf_reads_its_buffer_in_its_folder_alone(tmp_path: Path) -> None:
    glb = a_triangle()
    for name, there in (("a.bin", True), ("../a.bin", False), ("file:///etc/passwd", False)):
        folder = tmp_path / str(there)
        folder.mkdir(exist_ok=True)
        glb.document["buffers"] = [{"byteLength": 36, "uri": name}]
        (folder / "a.gltf").write_text(json.dumps(glb.document))
        (tmp_path / "a.bin").write_bytes(TRIANGLE.tobytes())
        if there:
            (folder / "a.bin").write_bytes(TRIANGLE.tobytes())
            assert read.read_mesh(folder / "a.gltf")[0].v_pos.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 1]]
        else:
            assert "its data is in another file" in refusal(folder / "a.gltf")


@pytest.mark.parametrize("name", ["a.bin", "a.png", "a.mtl"])
def test_what_lies_beside_is_no_larger_than_a_mesh_may_be(name: str, tmp_path: Path) -> None:
    """A terabyte of nothing, which takes no room on the disk, was read whole."""
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 40)
    glb = a_triangle()
    if name == "a.mtl":
        (tmp_path / "a.obj").write_text("mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    elif name == "a.png":
        glb.document["images"] = [{"uri": name}]
        (tmp_path / "a.glb").write_bytes(glb.content())
    else:
        glb.document["buffers"] = [{"byteLength": 36, "uri": name}]
        (tmp_path / "a.gltf").write_text(json.dumps(glb.document))
    path = next(tmp_path.glob("a.[go]*"))
    assert "the files that it names are larger than 2 GB together" in refusal(path)


def test_an_image_that_is_named_a_thousand_times_is_taken_in_once(tmp_path: Path) -> None:
    glb = a_triangle()
    (tmp_path / "a.png").write_bytes(bytes(10_000))
    glb.document["images"] = [{"uri": name} for name in ("a.png", "./a.png", "%61.png", "A.PNG") * 250]
    (tmp_path / "a.glb").write_bytes(glb.content())
    kept = read.kept_source(tmp_path / "a.glb")["object.glb"]
    assert len(kept) < 120_000
    glb.document["images"] = [{"uri": "a.png"}] * 4097
    (tmp_path / "a.glb").write_bytes(glb.content())
    assert "4,097 images, more than 4,096" in refusal(tmp_path / "a.glb")


def test_names_by_the_hundred_are_looked_for_in_one_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each was looked for in a listing of its own, and each had a note: 70,000 of them took 8 s."""
    body = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n"
    looks = "".join(f"newmtl m{i}\nmap_Kd {i}.png\n" for i in range(300))
    (tmp_path / "a.mtl").write_text(looks)
    faces = "".join(f"usemtl m{i}\nf 1/1 2/2 3/3\n" for i in range(300))
    (tmp_path / "a.obj").write_text(f"mtllib a.mtl\n{body}{faces}")
    listings: list[Path] = []
    real = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: listings.append(path) or real(path))
    _, notes = read.read_mesh(tmp_path / "a.obj")
    assert len(listings) == 1 and len(notes) == 21 and "more of its images" in notes[-1]
    for names in ("\n".join(f"mtllib {i}" for i in range(300)), "mtllib " + " ".join(map(str, range(600)))):
        (tmp_path / "a.obj").write_text(f"{names}\n{body}f 1 2 3\n")
        assert "names more than 512 material files" in refusal(tmp_path / "a.obj")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_changed_files_end_in_a_mesh_or_a_sentence(kind: str, tmp_path: Path) -> None:
    """A few of those that benchmarks/fuzz.py tries by the ten thousand."""
    ends = {"read": 0, "refused": 0}
    for number in range(40):
        for name, content in make(kind, f"test/{number}").items():
            (tmp_path / name).write_bytes(content)
        try:
            read.read_mesh(tmp_path / f"a{kind}")
            read.kept_source(tmp_path / f"a{kind}")
            ends["read"] += 1
        except InputError as error:
            assert 10 < len(str(error)) < 600 and "\n" not in str(error)
            ends["refused"] += 1
    assert min(ends.values()) > 0


def test_fuzz_files_repeat() -> None:
    assert make(".glb", "1/2") == make(".glb", "1/2") != make(".glb", "1/3")
    assert (
        random.Random(0).random() == random.Random(0).random() and write_glb({"asset": {}}, [])[:4] == b"glTF"
    )
