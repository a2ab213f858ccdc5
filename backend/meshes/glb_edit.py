"""New base colour textures in an artist's GLB, with everything else in it as it was; and a GLB of several textures."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend import __version__
from backend.meshes.glb import TRANSFORM, Glb, corners_of, parse, primitives
from backend.scene.mesh import Sheet
from dreamflow_blender.contract.colour import to_linear
from dreamflow_blender.contract.meshfile import MeshArrays, ObjectArrays


def repainted(content: bytes, arrays: ObjectArrays, sheets: list[Sheet], pngs: list[bytes]) -> bytes:
    """The file `arrays` came from, with the sheets' PNGs as base colours. Old images stay in it, unused.

    A sheet with new UVs gets a further UV set, for which vertices on its seams are doubled with all that
    belongs to them. What was multiplied into a texture (the material's factor, vertex colours) is taken back.
    """
    glb = parse(content)
    document = glb.document
    taken = [primitive for primitive, _ in primitives(document, [])]
    counts = [len(corners_of(glb, primitive)) for primitive in taken]
    first = np.cumsum([0, *counts])
    sheet_of = np.full(len(arrays.t_pos_idx), -1)
    for number, sheet in enumerate(sheets):
        sheet_of[sheet.faces] = number
    materials = document.setdefault("materials", [])
    _spare_the_others(document, taken, {row for sheet in sheets for row in sheet.materials})
    for number, (sheet, png) in enumerate(zip(sheets, pngs, strict=True)):
        own = [i for i in range(len(taken)) if counts[i] and sheet_of[first[i]] == number]
        images = document.setdefault("images", [])
        images.append(
            {"name": f"refined {number + 1}", "mimeType": "image/png", "bufferView": glb.append(png)}
        )
        texture: dict[str, Any] = {"source": len(images) - 1}
        unit = 0
        if sheet.new_uvs:
            unit = max(_units(taken[i]) for i in own)
            rows = np.full((len(arrays.t_pos_idx), 3), -1, np.int64)
            rows[sheet.faces] = sheet.t_tex_idx
            for i in own:
                _add_uvs(glb, taken[i], sheet.v_tex, rows[first[i] : first[i + 1]], unit)
        for row in sheet.materials:
            if not any(taken[i].get("material", len(materials)) == row for i in own):
                continue
            if row == len(materials):  # primitives without a material
                materials.append({})
                for i in own:
                    taken[i].setdefault("material", row)
            _retarget(document, materials[row], texture, sheet, unit)
        if sheet.image is None:
            for i in own:
                attributes = taken[i]["attributes"]
                if "COLOR_0" in attributes and len(arrays.colour):
                    attributes["_COLOR_0"] = attributes.pop("COLOR_0")  # it is in the texture now
    return glb.content()


def _units(primitive: dict[str, Any]) -> int:
    return sum(name.startswith("TEXCOORD_") for name in primitive["attributes"])


def _spare_the_others(document: dict[str, Any], taken: list[dict[str, Any]], rows: set[int]) -> None:
    """Primitives that the scene does not show keep a copy of the material as it was."""
    materials = document["materials"]
    ours = {id(primitive) for primitive in taken}
    spare: dict[int, int] = {}
    original = len(materials)
    for mesh in document.get("meshes", []):
        for primitive in mesh["primitives"]:
            row = primitive.get("material")
            if id(primitive) in ours or row not in rows or row >= original:
                continue
            if row not in spare:
                spare[row] = -1
    if spare and original in rows:
        return  # the row after the last stands for "no material": nothing may be put there
    for mesh in document.get("meshes", []):
        for primitive in mesh["primitives"]:
            row = primitive.get("material")
            if id(primitive) not in ours and row in spare:
                if spare[row] < 0:
                    spare[row] = len(materials)
                    materials.append(copy.deepcopy(materials[row]))
                primitive["material"] = spare[row]


def _retarget(
    document: dict[str, Any], material: dict[str, Any], texture: dict[str, Any], sheet: Sheet, unit: int
) -> None:
    pbr = material.setdefault("pbrMetallicRoughness", {})
    used = dict(pbr.get("baseColorTexture", {}))
    textures = document.setdefault("textures", [])
    made = dict(texture)
    if used and "sampler" in textures[used["index"]]:
        made["sampler"] = textures[used["index"]]["sampler"]
    if made not in textures:
        textures.append(made)
    used["index"] = textures.index(made)
    if sheet.new_uvs:
        used["texCoord"] = unit
        extensions = {k: v for k, v in used.pop("extensions", {}).items() if k != TRANSFORM}
        if extensions:
            used["extensions"] = extensions
    pbr["baseColorTexture"] = used
    if sheet.image is None:
        pbr.pop("baseColorFactor", None)  # it is in the texture now


def _add_uvs(
    glb: Glb, primitive: dict[str, Any], v_tex: NDArray[np.float32], rows: NDArray[np.int64], unit: int
) -> None:
    """Vertices split where the new UVs are: every attribute's bytes are copied, none is computed."""
    corner = corners_of(glb, primitive)
    pair, index = np.unique(corner.reshape(-1) * len(v_tex) + rows.reshape(-1), return_inverse=True)
    vertex, place = pair // len(v_tex), pair % len(v_tex)
    groups = [primitive["attributes"], *primitive.get("targets", [])]
    for group in groups:
        for name, accessor in list(group.items()):
            group[name] = _gathered(glb, accessor, vertex)
    uv = v_tex[place].copy()
    uv[:, 1] = 1 - uv[:, 1]
    made = _new_accessor(glb, uv, {"componentType": 5126, "type": "VEC2"})
    for number in range(unit + 1):
        primitive["attributes"].setdefault(f"TEXCOORD_{number}", made)
    small = len(vertex) < 65535
    indices = index.reshape(-1, 1).astype("<u2" if small else "<u4")
    kind = {"componentType": 5123 if small else 5125, "type": "SCALAR"}
    primitive["indices"] = _new_accessor(glb, indices, kind)


def _gathered(glb: Glb, accessor: int, vertex: NDArray[np.int64]) -> int:
    old = glb.document["accessors"][accessor]
    facts = {k: v for k, v in old.items() if k not in ("bufferView", "byteOffset", "sparse", "count")}
    return _new_accessor(glb, glb.accessor(accessor)[vertex], facts)


def _new_accessor(glb: Glb, values: NDArray[Any], facts: dict[str, Any]) -> int:
    raw = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
    stride = raw.shape[1] if facts["type"] == "SCALAR" else -(-raw.shape[1] // 4) * 4
    if stride != raw.shape[1]:  # vertex data stands at multiples of four bytes
        raw = np.pad(raw, ((0, 0), (0, stride - raw.shape[1])))
    view = glb.append(raw.tobytes())
    if stride != values.dtype.itemsize * values.shape[1]:
        glb.document["bufferViews"][view]["byteStride"] = stride
    glb.document["accessors"].append({**facts, "bufferView": view, "count": len(values)})
    return len(glb.document["accessors"]) - 1


def glb_of_sheets(
    mesh: MeshArrays, arrays: ObjectArrays, sheets: list[Sheet], pngs: list[bytes], info: dict[str, Any]
) -> bytes:
    """A GLB with a primitive a texture, and one for each material that none of them is for."""
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": f"DreamFlow {__version__}", "extras": info},
        "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"name": "object", "mesh": 0}],
        "meshes": [{"name": "object", "primitives": []}], "materials": [], "textures": [], "images": [],
        "accessors": [], "bufferViews": [], "buffers": [{"byteLength": 0}],
    }  # fmt: skip
    glb = Glb(document, bytearray())
    left = np.ones(len(arrays.t_pos_idx), bool)
    for sheet, png in zip(sheets, pngs, strict=True):
        left[sheet.faces] = False
        names = ", ".join(str(arrays.names[row]) for row in sheet.materials)
        _add_group(glb, mesh, sheet.faces, names, png, (1.0, 1.0, 1.0, 1.0))
    for row in np.unique(arrays.material[left]):
        faces = np.nonzero(left & (arrays.material == row))[0]
        image, own = int(arrays.image[row]), None
        if image >= 0:
            buffer = io.BytesIO()
            Image.fromarray(arrays.images[image]).save(buffer, "PNG")
            own = buffer.getvalue()
        base = arrays.base[row].astype(np.float64)
        factor = (*to_linear(base[:3]).tolist(), float(base[3]))
        _add_group(glb, mesh, faces, str(arrays.names[row]), own, factor)
    return glb.content()


def _add_group(
    glb: Glb,
    mesh: MeshArrays,
    faces: NDArray[np.int64],
    name: str,
    png: bytes | None,
    factor: tuple[float, ...],
) -> None:
    document = glb.document
    pair = mesh.t_pos_idx[faces].astype(np.int64) * len(mesh.v_tex) + mesh.t_tex_idx[faces]
    pair, index = np.unique(pair.reshape(-1), return_inverse=True)
    vertex, place = pair // len(mesh.v_tex), pair % len(mesh.v_tex)
    position, normal = (
        v[vertex][:, [0, 2, 1]] * np.array((1, 1, -1), np.float32) for v in (mesh.v_pos, mesh.normal)
    )
    uv = mesh.v_tex[place].copy()
    uv[:, 1] = 1 - uv[:, 1]
    float3 = {"componentType": 5126, "type": "VEC3"}
    bounds = {"min": position.min(0).tolist(), "max": position.max(0).tolist()}
    attributes = {
        "POSITION": _new_accessor(glb, position, {**float3, **bounds}),
        "NORMAL": _new_accessor(glb, normal, float3),
        "TEXCOORD_0": _new_accessor(glb, uv, {"componentType": 5126, "type": "VEC2"}),
    }
    indices = _new_accessor(
        glb, index.reshape(-1, 1).astype("<u4"), {"componentType": 5125, "type": "SCALAR"}
    )
    pbr: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 0.8, "baseColorFactor": list(factor)}
    if png is not None:
        document["images"].append({"mimeType": "image/png", "bufferView": glb.append(png)})
        document["textures"].append({"source": len(document["images"]) - 1})
        pbr["baseColorTexture"] = {"index": len(document["textures"]) - 1}
    document["materials"].append({"name": name, "pbrMetallicRoughness": pbr})
    document["meshes"][0]["primitives"].append(
        {"attributes": attributes, "indices": indices, "material": len(document["materials"]) - 1}
    )
