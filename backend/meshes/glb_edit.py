"""New base colour textures in an artist's GLB, with everything else in it as it was."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.meshes.glb import Glb, parse
from backend.meshes.glb_scene import colour_of, corners_of, shown_primitives
from backend.meshes.glb_schema import SPECULAR, TRANSFORM
from backend.scene.mesh import Sheet
from dreamflow_blender.contract.meshfile import BadMeshFile, ObjectArrays


def repainted(content: bytes, arrays: ObjectArrays, sheets: list[Sheet], pngs: list[bytes]) -> bytes:
    """The file `arrays` came from, with the sheets' PNGs as base colours. Old images stay in it, unused.

    A sheet with new UVs gets a further UV set, for which vertices on its seams are doubled with all that
    belongs to them. What was multiplied into a texture (the material's factor, vertex colours) is taken back.
    """
    glb = parse(content)
    document = glb.document
    taken = [shown.primitive for shown in shown_primitives(glb, [])]
    counts = [len(corners_of(glb, primitive)) for primitive in taken]
    first = np.cumsum([0, *counts])
    if first[-1] != len(arrays.t_pos_idx):
        raise BadMeshFile(f"it has {first[-1]} triangles, and the object has {len(arrays.t_pos_idx)}.")
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
    others = [
        primitive
        for mesh in document.get("meshes", [])
        for primitive in mesh["primitives"]
        if id(primitive) not in ours and primitive.get("material") in rows
    ]
    if len(materials) in rows:
        return  # the row after the last stands for "no material": nothing may be put there
    spare: dict[int, int] = {}
    for primitive in others:
        row = primitive["material"]
        if row not in spare:
            spare[row] = len(materials)
            materials.append(json.loads(json.dumps(materials[row])))
        primitive["material"] = spare[row]


def _retarget(
    document: dict[str, Any], material: dict[str, Any], texture: dict[str, Any], sheet: Sheet, unit: int
) -> None:
    """The texture where the base colour is looked up: in the old material model too, where a file has that."""
    used = dict(colour_of(material)[0])
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
    places = [(material.setdefault("pbrMetallicRoughness", {}), "baseColorTexture", "baseColorFactor")]
    if SPECULAR in material.get("extensions", {}):
        places.append((material["extensions"][SPECULAR], "diffuseTexture", "diffuseFactor"))
    for holder, texture_key, factor_key in places:
        holder[texture_key] = used
        if sheet.image is None:
            holder.pop(factor_key, None)  # it is in the texture now


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
    made = glb.add_accessor(uv, {"componentType": 5126, "type": "VEC2"})
    for number in range(unit + 1):
        primitive["attributes"].setdefault(f"TEXCOORD_{number}", made)
    small = len(vertex) < 65535
    indices = index.reshape(-1, 1).astype("<u2" if small else "<u4")
    primitive["indices"] = glb.add_accessor(
        indices, {"componentType": 5123 if small else 5125, "type": "SCALAR"}
    )
    primitive.pop("mode", None)  # a strip or a fan is triangles now


def _gathered(glb: Glb, accessor: int, vertex: NDArray[np.int64]) -> int:
    old = glb.document["accessors"][accessor]
    facts = {k: v for k, v in old.items() if k not in ("bufferView", "byteOffset", "sparse", "count")}
    return glb.add_accessor(glb.accessor(accessor)[vertex], facts)
