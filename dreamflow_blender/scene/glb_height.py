"""The height of a delivered mesh.glb, which is made about 1 m across: written into its node, nothing else changes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from ..contract.files import write_atomic
from .objects import CannotImport


def stand(path: Path, height: float) -> bool:
    """Have the file's one node stand on the ground, `height` metres tall (glTF's y is up); False where it does already.

    Raises CannotImport where the file is no such GLB, and OSError.
    """
    content = path.read_bytes()
    try:
        magic, version, _ = struct.unpack_from("<4sII", content)
        size, kind = struct.unpack_from("<I4s", content, 12)
        document = json.loads(content[20 : 20 + size])
        position = document["meshes"][0]["primitives"][0]["attributes"]["POSITION"]
        low, high = (document["accessors"][position][name] for name in ("min", "max"))
        (node,) = document["nodes"]
    except (struct.error, ValueError, KeyError, IndexError, TypeError) as error:
        raise CannotImport(f"{path} is not a GLB of ours: {error!r}") from error
    if (magic, version, kind) != (b"glTF", 2, b"JSON"):
        raise CannotImport(f"{path} is not a GLB of ours.")
    scale = height / max(high[1] - low[1], 1e-9)
    middle = [(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2]
    placed: dict[str, Any] = {"scale": [scale] * 3, "translation": [-scale * value for value in middle]}
    if all(node.get(name) == value for name, value in placed.items()):
        return False
    node.update(placed)
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    rest = content[20 + size :]
    head = struct.pack("<4sII", b"glTF", 2, 20 + len(text) + len(rest))
    write_atomic(path, head + struct.pack("<I4s", len(text), b"JSON") + text + rest)
    return True
