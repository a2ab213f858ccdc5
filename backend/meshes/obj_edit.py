"""An artist's OBJ with new textures: its lines as they were, but for the UVs and the materials that changed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.meshes.beside import Beside, decode_text
from backend.meshes.obj import (
    Look,
    Obj,
    corner_rows,
    find_libraries,
    parse_obj,
    read_mtl,
    rows_of,
    statements,
    table,
    z_up,
)
from backend.scene.mesh import Sheet
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.meshfile import ObjectArrays

UNNAMED = "refined"  # the material of faces that had none


def kept_obj(path: Path) -> dict[str, bytes]:
    """What a job keeps of an OBJ: the file, and its material files as one. Raises BadMeshFile."""
    content = path.read_bytes()
    libraries = find_libraries(parse_obj(decode_text(content)), Beside(path.parent), [])
    texts = (decode_text(library) for library in libraries)
    kept = JobFolder("")
    return {kept.object_obj.name: content, kept.object_mtl.name: "\n".join(texts).encode("utf-8", "replace")}


def corner_normals(content: bytes) -> NDArray[np.float32] | None:
    """[F,3,3] of each corner, z up; None where a corner of the OBJ has none or one without a length."""
    obj = parse_obj(decode_text(content))
    rows, vn = rows_of(obj.normal), table(obj.vn, 3)
    if not len(rows) or rows.min() < 0 or rows.max() >= len(vn):
        return None
    normal = z_up(vn)[rows]
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    if not np.isfinite(length).all() or length.min() < 1e-6:
        return None
    return (normal / length).astype(np.float32)


def repainted_obj(
    content: bytes, mtl: bytes, arrays: ObjectArrays, sheets: list[Sheet], files: list[str]
) -> dict[str, bytes]:
    """mesh.obj, mesh.mtl and the images of materials that keep theirs.

    content, mtl  as kept_obj gave them; files: the names of the sheets' images
    """
    text = decode_text(content)
    obj = parse_obj(text)
    new = np.full((len(obj.line), 3), -1, np.int64)
    v_tex: list[NDArray[np.float32]] = []
    for sheet in sheets:
        if sheet.new_uvs:
            new[sheet.faces] = sheet.t_tex_idx + sum(map(len, v_tex))
            v_tex.append(sheet.v_tex)
    made = np.concatenate(v_tex) if v_tex else np.zeros((0, 2), np.float32)
    materials, images = _materials(mtl.decode("utf-8", "replace"), arrays, list(obj.names), sheets, files)
    lines = _lines(text, obj, new, made)
    return {
        JobFolder("").mesh_obj.name: "".join(lines).encode("utf-8", "replace"),
        JobFolder("").mesh_mtl.name: materials.encode("utf-8", "replace"),
        **images,
    }


def _lines(text: str, obj: Obj, new: NDArray[np.int64], v_tex: NDArray[np.float32]) -> list[str]:
    """The OBJ's lines. New UVs come before the first face; where there are any, faces count from the beginning."""
    first_of = {polygon: row for row, polygon in reversed(list(enumerate(obj.polygon)))}
    lines = ["mtllib mesh.mtl\n"]
    counts = {"v": 0, "vt": 0, "vn": 0}
    polygon, before, named = 0, -1, False
    for _, word, rest, raw in statements(text):
        if word in counts:
            counts[word] += 1
        named = named or word == "usemtl"
        if word in ("f", "fo"):
            if before < 0:
                before = counts["vt"]
                lines += [f"vt {u:.7g} {v:.7g}\n" for u, v in v_tex.tolist()]
            if not named:
                lines.append(f"usemtl {UNNAMED}\n")
                named = True
            if len(v_tex):
                so_far = counts["v"], counts["vt"], counts["vn"]
                raw = f"{word} {_corners(rest, so_far, before, new, first_of.get(polygon, -1), len(v_tex))}\n"
            polygon += 1
        if word != "mtllib":
            lines.append(raw if raw.endswith("\n") else raw + "\n")
    return lines


def _corners(
    rest: str, counts: tuple[int, int, int], before: int, new: NDArray[np.int64], first: int, added: int
) -> str:
    """A face's corners with new UVs, or with its old ones counted past those that were put between them."""
    words = []
    for nth, word in enumerate(rest.partition("#")[0].split()):
        v, vt, vn = corner_rows(word, counts)
        if first >= 0 and new[first, 0] >= 0:
            vt = before + int(new[first, nth] if nth < 2 else new[first + nth - 2, 2])
        elif vt >= before:
            vt += added
        words.append(
            f"{v + 1}"
            + (f"/{vt + 1 if vt >= 0 else ''}" if vt >= 0 or vn >= 0 else "")
            + (f"/{vn + 1}" if vn >= 0 else "")
        )
    return " ".join(words)


def _materials(
    mtl: str, arrays: ObjectArrays, names: list[str], sheets: list[Sheet], files: list[str]
) -> tuple[str, dict[str, bytes]]:
    """mesh.mtl, and images by name for the materials that no sheet is for."""
    looks = read_mtl(mtl)
    blocks: dict[str, list[str]] = {}
    name = ""
    for _, word, rest, raw in statements(mtl):
        if word.lower() == "newmtl":
            name = rest
            blocks[name] = []
        elif name in blocks and raw.strip():
            blocks[name].append(raw.strip() + "\n")
    sheet_of = {row: number for number, sheet in enumerate(sheets) for row in sheet.materials}
    images: dict[str, bytes] = {}
    lines: list[str] = []
    for row in range(len(arrays.names)):
        name = names[row] if row < len(names) else UNNAMED
        look = looks.get(name, Look())
        own = blocks.get(name, ["Kd 0.8 0.8 0.8\n"])
        image, options = int(arrays.image[row]), look.options
        file = f"original_{image + 1}.png" if image >= 0 else ""
        if row in sheet_of:
            file = files[sheet_of[row]]
            options = "" if sheets[sheet_of[row]].new_uvs else options
        elif file and file not in images:
            buffer = io.BytesIO()
            Image.fromarray(arrays.images[image]).save(buffer, "PNG")
            images[file] = buffer.getvalue()
        if file:
            own = [line for line in own if line.split()[0].lower() not in ("map_kd", "kd")]
            own += ["Kd 1 1 1\n", f"map_Kd {options} {file}\n".replace("  ", " ")]
        lines += [f"newmtl {name}\n", *own, "\n"]
    return "".join(lines), images
