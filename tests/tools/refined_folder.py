"""What a refine job leaves in its folder, without a job: one plain colour in the UVs asked for. numpy alone."""

import dataclasses
import json
import struct
import zlib
from pathlib import Path

import numpy as np

from dreamflow_blender.contract import meshfile


def begin(folder, arrays, new_uvs=False, split=False):
    """What a job writes before its first snapshot. arrays: object.npz's. split: a texture for each material."""
    folder.mkdir(parents=True, exist_ok=True)
    bare = dataclasses.replace(arrays, images=(), image=arrays.image * 0 - 1)
    (folder / "object.npz").write_bytes(meshfile.to_bytes(bare))
    (folder / "uvs.npz").write_bytes(meshfile.to_bytes(chosen(arrays, new_uvs)))
    used = [str(name) for name in arrays.names[np.unique(arrays.material)]]
    groups = [[name] for name in used] if split else [used]
    names = ["albedo.png", *(f"albedo_{n}.png" for n in range(2, len(groups) + 1))]
    textures = [
        {"file": file, "materials": group, "new_uvs": new_uvs, "faces": len(arrays.t_pos_idx)}
        for file, group in zip(names, groups, strict=True)
    ]
    said = {"textures": textures, "new_uvs": new_uvs}
    (folder / "materials.json").write_text(json.dumps(said), encoding="utf-8")
    return names


def chosen(arrays, new_uvs):
    faces = len(arrays.t_pos_idx)
    uv = arrays.uv if len(arrays.uv) and not new_uvs else np.zeros((faces, 3, 2), np.float32)
    if new_uvs:  # a corner of a polygon has one place
        key = arrays.polygon[:, None].astype(np.int64) * (len(arrays.v_pos) + 1) + arrays.t_pos_idx
        uv = np.stack((key % 97 / 97, key % 89 / 89), -1).astype(np.float32)
    normal = arrays.v_pos - arrays.v_pos.mean(0)  # of something round
    normal = (normal / np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-9)).astype(np.float32)
    index = np.arange(3 * faces, dtype=np.int32).reshape(-1, 3)
    return meshfile.MeshArrays(arrays.v_pos, arrays.t_pos_idx, uv.reshape(-1, 2), index, normal)


def snapshot(folder, names, colour):
    for name in names:
        write_png(folder / name.replace("albedo", "snapshot"), colour)


def deliver(folder, arrays, new_uvs=False, split=False, colour=(10, 200, 30)):
    """All of it."""
    names = begin(folder, arrays, new_uvs, split)
    (folder / "mesh.npz").write_bytes(meshfile.to_bytes(chosen(arrays, new_uvs)))
    for number, name in enumerate(names):
        write_png(folder / name, (*colour[:2], colour[2] + number), 8)
    job = {"id": "r1", "kind": "refine", "prompt": "a cube", "seed": 1, "folder": str(folder)}
    if not (folder / "job.json").exists():
        (folder / "job.json").write_text(json.dumps({"job": job}), encoding="utf-8")
    return folder


def write_png(path: Path, colour: tuple[int, int, int], size: int = 64) -> None:
    """One colour, 0 to 255."""
    rows = (b"\0" + bytes(colour) * size) * size
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    temporary.replace(path)
