"""Results for tests: a box or a grid sphere with UVs and a PNG, as a job's folder holds them."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np

from dreamflow_blender.contract import meshfile


def png(pixels: np.ndarray) -> bytes:
    """[H,W,3] uint8 as a PNG."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data))
            + name
            + data
            + struct.pack(">I", zlib.crc32(name + data) & 0xFFFFFFFF)
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows.tobytes(), 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


def ball(rings: int = 16, segments: int = 32) -> meshfile.MeshArrays:
    """A closed ball of radius 0.5 with 2 * segments * (rings - 1) faces."""
    around = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    up = np.linspace(-np.pi / 2, np.pi / 2, rings + 1)[1:-1]
    body = np.stack(
        [
            np.outer(np.cos(up), np.cos(around)).ravel(),
            np.outer(np.cos(up), np.sin(around)).ravel(),
            np.repeat(np.sin(up), segments),
        ],
        axis=1,
    )
    v = np.concatenate([[[0, 0, -1]], body, [[0, 0, 1]]]).astype(np.float32) * 0.5
    i = np.arange(segments)
    j = (i + 1) % segments
    faces = [np.stack([np.zeros_like(i), 1 + j, 1 + i], axis=1)]
    for ring in range(rings - 2):
        a, b = 1 + ring * segments, 1 + (ring + 1) * segments
        faces += [np.stack([a + i, a + j, b + j], axis=1), np.stack([a + i, b + j, b + i], axis=1)]
    last = 1 + (rings - 2) * segments
    faces.append(np.stack([last + i, last + j, np.full_like(i, len(v) - 1)], axis=1))
    t = np.concatenate(faces).astype(np.int32)
    uv = (v[:, [0, 2]] + 0.5).astype(np.float32)
    return meshfile.MeshArrays(v, t, uv, t.copy(), (v / 0.5).astype(np.float32))


def result(
    folder: Path,
    prompt: str = "a red mug",
    seed: int = 42,
    arrays: meshfile.MeshArrays | None = None,
    size=64,
) -> Path:
    """A finished job's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = arrays or ball()
    (folder / "mesh.npz").write_bytes(meshfile.to_bytes(arrays))
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[..., 0] = 200
    pixels[: size // 2, :, 1] = 40
    (folder / "albedo.png").write_bytes(png(pixels))
    (folder / "preview.png").write_bytes(png(pixels[:64, :64]))
    snapshot = meshfile.SnapshotArrays(
        arrays.v_pos, arrays.t_pos_idx, np.tile(np.float32([0.8, 0.1, 0.05]), (len(arrays.v_pos), 1))
    )
    (folder / "snapshot.npz").write_bytes(meshfile.to_bytes(snapshot))
    job = {"id": "j1", "kind": "generate", "prompt": prompt, "seed": seed, "folder": str(folder)}
    record = {"job": job, "models": {"prior": {"name": "exact", "sha256": "abc"}}, "versions": {}}
    (folder / "job.json").write_text(json.dumps(record), encoding="utf-8")
    return folder
