"""Good mesh files with something changed in them, for fuzz.py. The same kind and seed always give the same files."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from backend.meshes.glb import Glb, write_glb
from backend.meshes.glb_schema import DRACO, MESHOPT
from backend.meshes.parts import from_parts
from dreamflow_blender.contract import meshfile

NUMBERS: list[Any] = [
    0, 1, 2, 3, -1, -4, 7, 255, 256, 65536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63, 10**9, 10**15, 10**30, 1e308,
    -1e308, 0.5, 1e-320, float("nan"), float("inf"),
]  # fmt: skip
OTHERS: list[Any] = [
    None, True, False, "", "a", "\ud800", "x" * 3000, [], [0], [[]], {}, {"a": 1}, [[[[[]]]]], "../../etc/passwd",
    "data:,", "data:image/png;base64,AAAA", "http://127.0.0.1:9/x", "/dev/zero", "C:\\a.png", "\\\\host\\share\\a.png",
]  # fmt: skip
WORDS = [
    "1e400", "nan", "-inf", "-1", "0", "9" * 20, "9" * 5000, "1/", "/1", "//", "1//1", "1/2/3/4", "", "\x1b[31m", "²",
    "\ud800", "../../etc/passwd", "/dev/zero", "1_0", "٣", "\\", "#", "-s", "-o 1 1", "\t", "\x00", "2147483648",
]  # fmt: skip
POSITION = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], "<f4")
PLACES = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], "<f4")
FACES = np.array([[0, 1, 2], [2, 1, 3]], "<u2")


def picture(chance: random.Random) -> bytes:
    out = io.BytesIO()
    size = (chance.choice([1, 4, 33]), 4)
    kind = chance.choice(["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF"])
    Image.new("RGB", size, (9, 99, 199)).save(out, kind)
    return damaged(out.getvalue(), chance, chance.choice([0, 0, 0, 1, 5]))


def damaged(content: bytes, chance: random.Random, times: int, cut: float = 0.05) -> bytes:
    """With bytes changed, and perhaps cut short."""
    changed = bytearray(content)
    for _ in range(times if changed else 0):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed[: chance.randrange(len(changed) + 1)] if chance.random() < cut else changed)


def good_document(chance: random.Random) -> tuple[dict[str, Any], list[bytes]]:
    """A glTF of two meshes: one textured, morphed and skinned, with a sparse accessor; one of a strip."""
    glb = Glb({"asset": {"version": "2.0"}})
    float3 = {"componentType": 5126, "type": "VEC3"}
    rows = [
        glb.add_accessor(POSITION, {**float3, "min": [0, 0, 0], "max": [1, 1, 0]}),
        glb.add_accessor(PLACES, {"componentType": 5126, "type": "VEC2"}),
        glb.add_accessor(FACES.reshape(-1, 1), {"componentType": 5123, "type": "SCALAR"}),
        glb.add_accessor(
            np.full((4, 4), 200, "u1"), {"componentType": 5121, "type": "VEC4", "normalized": True}
        ),
        glb.add_accessor(np.zeros((4, 4), "u1"), {"componentType": 5121, "type": "VEC4"}),
        glb.add_accessor(np.full((4, 4), 0.25, "<f4"), {"componentType": 5126, "type": "VEC4"}),
        glb.add_accessor(
            np.tile(np.eye(4, dtype="<f4").reshape(1, 16), (2, 1)), {"componentType": 5126, "type": "MAT4"}
        ),
    ]
    at, new = glb.append(np.array([1], "<u2").tobytes()), glb.append(np.array([2, 0, 0], "<f4").tobytes())
    sparse = {"count": 1, "indices": {"bufferView": at, "componentType": 5123}, "values": {"bufferView": new}}
    glb.document["accessors"].append({**float3, "count": 4, "sparse": sparse})
    attributes = dict(
        zip(("POSITION", "TEXCOORD_0", "COLOR_0", "JOINTS_0", "WEIGHTS_0"), (0, 1, 3, 4, 5), strict=True)
    )
    first: dict[str, Any] = {
        "attributes": attributes, "indices": 2, "material": 0, "mode": 4, "targets": [{"POSITION": len(rows)}]
    }  # fmt: skip
    if chance.random() < 0.1:
        packed = glb.append(damaged(_DRACO, chance, chance.choice([0, 0, 1, 3])))
        first["extensions"] = {DRACO: {"bufferView": packed, "attributes": {"POSITION": 0}}}
    transform = {"offset": [0, 0], "scale": [1, 1], "rotation": 0.1}
    used = {"index": 0, "texCoord": 0, "extensions": {"KHR_texture_transform": transform}}
    pbr = {"baseColorFactor": [1, 0.5, 0.5, 1], "baseColorTexture": used}
    old = {"diffuseFactor": [1, 1, 1, 1], "diffuseTexture": {"index": 1}}
    glb.document |= {
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [
            {"children": [1, 2, 3], "rotation": [0, 0, 0, 1], "scale": [1, 1, 1], "translation": [0, 0, 1]},
            {"mesh": 0, "skin": 0, "weights": [0.5]},
            {"mesh": 1, "matrix": np.eye(4).reshape(-1).tolist(), "children": []},
            {},
        ],
        "skins": [{"joints": [0, 3], "inverseBindMatrices": 6}],
        "meshes": [{"primitives": [first], "weights": [0]},
                   {"primitives": [{"attributes": {"POSITION": 0}, "material": 1, "mode": chance.choice([5, 6])}]}],
        "materials": [{"name": "a", "pbrMetallicRoughness": pbr},
                      {"name": "b", "extensions": {"KHR_materials_pbrSpecularGlossiness": old}}],
        "textures": [{"source": 0, "sampler": 0}, {"extensions": {"EXT_texture_avif": {"source": 1}}}],
        "samplers": [{"wrapS": 33071, "wrapT": 33648}],
        "images": [{"bufferView": glb.append(picture(chance)), "mimeType": "image/png", "name": "i"},
                   {"uri": "a.png"}],
        "extensionsRequired": ["KHR_texture_transform"],
        "buffers": [{"byteLength": 0}],
    }  # fmt: skip
    if chance.random() < 0.1:
        view = {"buffer": 0, "byteLength": 40, "byteStride": 12, "count": 4, "mode": "ATTRIBUTES"}
        glb.document["bufferViews"][0]["extensions"] = {chance.choice(MESHOPT): view}
    return glb.document, glb.blobs


# the square as Draco packs it: made by DracoPy 2.2.0, DracoPy.encode(POSITION, FACES, quantization_bits=8)
_DRACO = base64.b64decode(
    "RFJBQ08CAgEBAAAABAIAAgAAAR//AREB/wAAAQAJAwAAAgABAQADAwEgASADABCESqQAAAAAAP8AAAAAAAAAAAAAAAAAAAAAAIA/CA=="
)


def places(node: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Each container and key of a document."""
    for key, value in (
        node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    ):
        found.append((node, key))
        places(value, found)
    return found


def changed_document(chance: random.Random) -> tuple[dict[str, Any], list[bytes]]:
    document, blobs = good_document(chance)
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3])):
        holder, key = chance.choice(places(document, []))
        what = chance.random()
        old = holder[key]
        if what < 0.1:
            del holder[key]
        elif what < 0.6:
            holder[key] = chance.choice(NUMBERS[:6] if chance.random() < 0.5 else NUMBERS)
        elif what < 0.85:
            holder[key] = chance.choice(OTHERS)
        elif isinstance(old, list):
            holder[key] = (old * chance.choice([0, 2, 500]))[:2000]
        else:
            holder[key] = [old, {"x": old}]
    return document, blobs


def make_glb(chance: random.Random) -> dict[str, bytes]:
    document, blobs = changed_document(chance)
    content = _written(document, blobs, chance)
    return {"a.glb": damaged(content, chance, chance.choice([0, 0, 0, 1, 4])), "a.png": picture(chance)}


def _written(document: dict[str, Any], blobs: list[bytes], chance: random.Random) -> bytes:
    """write_glb refuses numbers that are none and buffers that are no list: those are written by hand."""
    good = write_glb({"asset": {"version": "2.0"}}, blobs)
    binary = good[20 + struct.unpack_from("<I", good, 12)[0] :]
    if chance.random() < 0.9 and isinstance(document.get("buffers"), list) and document["buffers"]:
        document["buffers"][0] = {"byteLength": len(binary) - 8}
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 20 + len(text) + len(binary))
    return head + struct.pack("<I4s", len(text), b"JSON") + text + binary


def make_gltf(chance: random.Random) -> dict[str, bytes]:
    document, blobs = changed_document(chance)
    binary = b"".join(blob + b"\0" * (-len(blob) % 4) for blob in blobs)
    uri = chance.choice(
        [
            "a.bin",
            "a.bin",
            "a.bin",
            "a.bin",
            "./a.bin",
            "%61.bin",
            "../a.bin",
            "/etc/passwd",
            "sub/a.bin",
            "nul",
        ]
    )
    if chance.random() < 0.3:
        uri = "data:application/octet-stream;base64," + base64.b64encode(binary).decode()
    document["buffers"] = [{"byteLength": len(binary), "uri": uri}]
    text = damaged(json.dumps(document).encode(), chance, chance.choice([0, 0, 1]))
    return {"a.gltf": text, "a.bin": damaged(binary, chance, 0), "a.png": picture(chance)}


OBJ = (
    "mtllib a.mtl\nv 0 0 0 1 0 0\nv 1 0 0 1 0 0\nv 0 1 0 1 0 0\nv 1 1 0 1 1 1\nvt 0 0\nvt 1 0\nvt 0\nvn 0 0 1\n"
    "usemtl red\nf 1/1/1 2/2/1 3/3/1\nusemtl blue\nf -1/-1 -2/-2 \\\n -3/-3\nf 1 2 3 4\no a\ns off\n"
)
MTL = "newmtl red\nKd 1 0 0\nd 0.5\nmap_Kd -s 2 2 1 -clamp on a.png\nnewmtl blue\n\tKd 0 0 1\nTr 0.2\nmap_kd a.png\n"


def changed_text(good: str, chance: random.Random, most: int = 3) -> bytes:
    lines = good.split("\n")
    for _ in range(chance.randrange(most + 1)):
        row = chance.randrange(len(lines))
        words = lines[row].split(" ")
        what = chance.randrange(5)
        if what == 0:
            words[chance.randrange(len(words))] = chance.choice(WORDS)
        elif what == 1:
            del words[chance.randrange(len(words))]
        elif what == 2:
            words.insert(chance.randrange(len(words) + 1), chance.choice(WORDS))
        elif what == 3:
            words = words * chance.choice([2, 1000])
        else:
            lines.insert(row, chance.choice(lines))
        if what != 4:
            lines[row] = " ".join(words)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def make_obj(chance: random.Random) -> dict[str, bytes]:
    text = damaged(changed_text(OBJ, chance), chance, chance.choice([0, 0, 0, 2]))
    return {"a.obj": text, "a.mtl": changed_text(MTL, chance, 2), "a.png": picture(chance)}


HEAD = (
    "ply\nformat {} 1.0\ncomment TextureFile a.png\nelement vertex 4\nproperty float x\n"
    "property float y\nproperty float z\n"
    "property uchar red\nproperty uchar green\nproperty uchar blue\nproperty float s\nproperty float t\n"
    "element face 2\n"
    "property list uchar int vertex_indices\nproperty list uchar float texcoord\nend_header"
)
BODY = (
    "0 0 0 255 0 0 0 0\n1 0 0 255 0 0 1 0\n0 1 0 9 9 9 0 1\n1 1 0 9 9 9 1 1\n"
    "3 0 1 2 6 0 0 1 0 0 1\n3 2 1 3 6 0 1 1 0 1 1\n"
)


def make_ply(chance: random.Random) -> dict[str, bytes]:
    order = chance.choice(["ascii", "binary_little_endian", "binary_big_endian"])
    head = changed_text(HEAD.format(order), chance, 2) + b"\n"
    if order == "ascii":
        return {"a.ply": head + changed_text(BODY, chance, 2), "a.png": picture(chance)}
    end = "<" if "little" in order else ">"
    rows = [[float(word) for word in line.split()] for line in BODY.splitlines()]
    body = b"".join(struct.pack(f"{end}3f3B2f", *r[:3], *map(int, r[3:6]), *r[6:]) for r in rows[:4])
    body += b"".join(struct.pack(f"{end}B3iB6f", 3, *map(int, r[1:4]), 6, *r[5:]) for r in rows[4:])
    return {"a.ply": head + damaged(body, chance, chance.choice([0, 1, 2, 5]), 0.2), "a.png": picture(chance)}


HEADERS = [
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}", "((((((" * 40, "-" * 3000 + "1", "{",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    "{'descr': '<U400000000', 'fortran_order': False, 'shape': ()}",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (" + "1," * 40 + ")}",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3)}",
]  # fmt: skip


def make_npz(chance: random.Random) -> dict[str, bytes]:
    image = np.full((2, 2, 4), 255, np.uint8)
    arrays = from_parts(POSITION, FACES, uv=PLACES[FACES], image=[0], names=["a"], images=(image,))
    content = meshfile.to_bytes(arrays)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(chance.choice([0, 1, 1, 2])):
        victim, what = chance.choice(list(parts)), chance.randrange(5)
        if what == 0:
            del parts[victim]
            continue
        if what == 1:
            text = chance.choice(HEADERS).encode() + b"\n"
            parts[victim] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(40)
        elif what == 2:
            parts[victim] = parts[chance.choice(list(parts))]
        else:
            parts[victim] = damaged(parts[victim], chance, 3, 0.2)
    out = io.BytesIO()
    method = chance.choice([zipfile.ZIP_STORED] * 6 + [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, part in parts.items():
            archive.writestr(zipfile.ZipInfo(name), part, method)
    return {"a.npz": damaged(out.getvalue(), chance, chance.choice([0, 0, 1, 3]))}


KINDS: dict[str, Callable[[random.Random], dict[str, bytes]]] = {
    ".glb": make_glb, ".gltf": make_gltf, ".obj": make_obj, ".ply": make_ply, ".npz": make_npz,
}  # fmt: skip


def make(kind: str, seed: str) -> dict[str, bytes]:
    """The files of one trial by name; the mesh is a.glb, a.obj and so on."""
    return KINDS[kind](random.Random(f"{kind} {seed}"))
