"""mesh.npz: the same bytes for the same arrays, and nothing but arrays is ever read."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.meshfile import BadMeshFile, MeshArrays, ObjectArrays


def quad(**changes):
    arrays = {
        "v_pos": np.array([[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]], np.float32),
        "t_pos_idx": np.array([[0, 1, 2], [0, 2, 3]], np.int32),
        "v_tex": np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32),
        "t_tex_idx": np.array([[0, 1, 2], [0, 2, 3]], np.int32),
        "normal": np.tile(np.array([[0, -1, 0]], np.float32), (4, 1)),
    }
    return MeshArrays(**(arrays | changes))


def test_read_back_and_the_same_bytes_twice(tmp_path):
    path = tmp_path / "é mesh.npz"
    path.write_bytes(meshfile.to_bytes(quad()))
    back = meshfile.read(path)
    for name in ("v_pos", "t_pos_idx", "v_tex", "t_tex_idx", "normal"):
        assert np.array_equal(getattr(back, name), getattr(quad(), name)), name
    assert meshfile.to_bytes(quad()) == meshfile.to_bytes(back) == path.read_bytes()


def test_any_numpy_reads_it(tmp_path):
    path = tmp_path / "mesh.npz"
    path.write_bytes(meshfile.to_bytes(quad()))
    with np.load(path, allow_pickle=False) as npz:
        assert set(npz.files) == {"v_pos", "t_pos_idx", "v_tex", "t_tex_idx", "normal"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"v_pos": np.zeros((4, 2), np.float32)}, "v_pos: expected [N,3] float32, got [4, 2]"),
        ({"v_pos": np.zeros((4, 3))}, "float64"),
        ({"v_pos": np.full((4, 3), np.nan, np.float32)}, "finite"),
        ({"t_pos_idx": np.array([[0, 1, 4], [0, 1, 2]], np.int32)}, "rows below 4, got 0 to 4"),
        ({"t_tex_idx": np.array([[0, 1, -1], [0, 1, 2]], np.int32)}, "got -1 to 2"),
        ({"t_tex_idx": np.array([[0, 1, 2]], np.int32)}, "expected 2 rows, got 1"),
        ({"normal": np.zeros((3, 3), np.float32)}, "expected 4 rows, got 3"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, words):
    with pytest.raises(BadMeshFile) as caught:
        quad(**change)
    assert words in str(caught.value)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    whole = meshfile.to_bytes(quad())
    path = tmp_path / "mesh.npz"
    for content in (b"", b"not a zip", whole[: len(whole) // 2], whole.replace(b"v_tex.npy", b"x_tex.npy")):
        path.write_bytes(content)
        with pytest.raises(BadMeshFile):
            meshfile.read(path)
    flipped = bytearray(whole)
    flipped[200] ^= 1  # inside the first array: the archive's checksum tells
    path.write_bytes(flipped)
    with pytest.raises(BadMeshFile):
        meshfile.read(path)
    with pytest.raises(OSError, match="No such file"):
        meshfile.read(tmp_path / "none.npz")


def test_objects_are_refused_unopened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([Trap()], dtype=object), allow_pickle=True)
    path = tmp_path / "mesh.npz"
    for content in (buffer.getvalue(), pickle.dumps(Trap())):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("v_pos.npy", content)
        with pytest.raises(BadMeshFile):
            meshfile.read(path)


def an_object(**changes):
    arrays = {
        "v_pos": np.array([[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]], np.float32),
        "t_pos_idx": np.array([[0, 1, 2], [0, 2, 3]], np.int32),
        "uv": np.zeros((2, 3, 2), np.float32),
        "source_uv": np.zeros((0, 3, 2), np.float32),
        "colour": np.zeros((0, 3, 4), np.float32),
        "weight": np.ones((2, 3), np.float32),
        "polygon": np.zeros(2, np.int32),
        "material": np.zeros(2, np.int32),
        "base": np.ones((1, 4), np.float32),
        "image": np.zeros(1, np.int32),
        "wrap": np.zeros((1, 2), np.int32),
        "names": np.array(["Paint é 🦆"]),
        "images": (np.full((2, 3, 4), 7, np.uint8),),
    }
    return ObjectArrays(**(arrays | changes))


def test_an_object_is_read_back_with_its_images(tmp_path):
    path = tmp_path / "object.npz"
    path.write_bytes(meshfile.to_bytes(an_object()))
    back = meshfile.read_object(path)
    assert back.names[0] == "Paint é 🦆" and np.array_equal(back.images[0], np.full((2, 3, 4), 7))
    assert meshfile.to_bytes(back) == path.read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"uv": np.zeros((1, 3, 2), np.float32)}, "uv: expected 2 rows, got 1"),
        ({"weight": np.full((2, 3), 1.5, np.float32)}, "weight: expected 0 to 1, got 1.5"),
        ({"material": np.ones(2, np.int32)}, "material: expected 0 to 0, got 1 to 1"),
        ({"image": np.ones(1, np.int32)}, "image: expected -1 to 0"),
        ({"base": np.ones((2, 4), np.float32)}, "base: expected 1 rows, got 2"),
        ({"names": np.zeros(0, "U1")}, "at least one name"),
        ({"images": (np.zeros((2, 2, 3), np.uint8),)}, "image: expected [H,W,4] uint8"),
        ({"v_pos": np.full((4, 3), np.inf, np.float32)}, "finite"),
        ({"polygon": np.full(2, -1, np.int32)}, "polygon"),
    ],
)
def test_what_an_object_must_be(change, words):
    with pytest.raises(BadMeshFile) as error:
        an_object(**change)
    assert words in str(error.value)
