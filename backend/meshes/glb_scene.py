"""GLB: an artist's file read as an object, in its rest pose.

glTF's axes are y up, facing +Z; ours z up, facing -Y: its (x, y, z) is our (x, -z, y). A mesh that several nodes show
is taken where it is shown first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.meshes.beside import Images
from backend.meshes.glb import Glb, parse
from backend.meshes.glb_schema import BASISU, COMPONENTS, IMAGES_OF, SPECULAR, TRANSFORM
from backend.meshes.parts import MOST_MATERIALS, WHITE, from_parts, refuse_more_faces
from dreamflow_blender.contract.colour import to_srgb
from dreamflow_blender.contract.meshfile import BadMeshFile, ObjectArrays

WRAPS = {33071: 1, 33648: 2}  # glTF's numbers for ObjectArrays.wrap; anything else repeats
TRIANGLES, STRIP, FAN = 4, 5, 6
MOST_PARTS = 10_000
MOST_INFLUENCES = 4  # sets of JOINTS_n and WEIGHTS_n: 16 joints a vertex
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Shown:
    """A primitive of triangles in the scene. matrix: where its node stands; joints [J,4,4]: its skin's, or None."""

    primitive: dict[str, Any]
    matrix: Matrix
    joints: Matrix | None
    weights: list[float]  # of its morph targets


def read_glb(content: bytes, notes: list[str], folder: Path | None = None) -> ObjectArrays:
    """Of a .glb or .gltf; folder: where files that it names are. Raises BadMeshFile."""
    glb = parse(content, folder)
    with np.errstate(all="ignore"):  # what becomes an infinity is refused at the end
        return _read(glb, notes, sum(map(len, glb.blobs)))


def shown_primitives(glb: Glb, notes: list[str]) -> list[Shown]:
    """Each primitive of triangles that the scene shows, once. Raises BadMeshFile."""
    document = glb.document
    places = dict(_places(document))
    found: list[Shown] = []
    shown: set[int] = set()
    skins: dict[int, Matrix] = {}
    faces = 0
    for row, matrix in places.items():
        node = document["nodes"][row]
        mesh = node.get("mesh")
        if mesh is None:
            continue
        if mesh in shown:
            _note(
                notes,
                "A mesh that stands in several places shows one texture: it is painted as it is seen in the first.",
            )
            continue
        shown.add(mesh)
        skin = node.get("skin", -1)
        if skin >= 0 and skin not in skins:
            skins[skin] = _joints(glb, document["skins"][skin], places)
        weights = node.get("weights", document["meshes"][mesh].get("weights", []))
        for primitive in document["meshes"][mesh]["primitives"]:
            if primitive.get("mode", TRIANGLES) < TRIANGLES or "POSITION" not in primitive["attributes"]:
                _note(notes, "Points and lines in the file are left as they are.")
                continue
            faces += _count(glb, primitive) // (3 if primitive.get("mode", TRIANGLES) == TRIANGLES else 1)
            refuse_more_faces(faces)
            _check_rows(glb, primitive)
            found.append(Shown(primitive, matrix, skins.get(skin), weights))
            if len(found) > MOST_PARTS:
                raise BadMeshFile(f"it has more than {MOST_PARTS:,} parts: join some.")
    return found


def _note(notes: list[str], said: str) -> None:
    notes.extend([said] if said not in notes else [])


def _places(document: dict[str, Any]) -> Iterator[tuple[int, Matrix]]:
    """The scene's nodes, parents first, and where they stand."""
    nodes, scenes = document.get("nodes", []), document.get("scenes", [])
    if scenes:
        roots = scenes[document.get("scene", 0)].get("nodes", [])
    else:
        children = {c for node in nodes for c in node.get("children", [])}
        roots = [i for i in range(len(nodes)) if i not in children]
    left = [(i, np.eye(4)) for i in reversed(roots)]
    seen: set[int] = set()
    while left:
        i, above = left.pop()
        if i in seen:
            raise BadMeshFile(f"node {i} stands in the scene twice.")
        seen.add(i)
        here = above @ _local(nodes[i])
        yield i, here
        left += [(c, here) for c in reversed(nodes[i].get("children", []))]


def _local(node: dict[str, Any]) -> Matrix:
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = (float(n) for n in node.get("rotation", (0, 0, 0, 1)))
    made = np.eye(4)
    turn = np.array(
        (
            (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
            (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
            (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
        )
    )
    made[:3, :3] = turn * np.array(node.get("scale", (1, 1, 1)), np.float64)
    made[:3, 3] = node.get("translation", (0, 0, 0))
    return made


def _joints(glb: Glb, skin: dict[str, Any], places: dict[int, Matrix]) -> Matrix:
    """[J,4,4]: from the mesh's own space to the scene, for each joint of a skin at rest (glTF 2.0, 3.7.3)."""
    stand = np.array([places.get(joint, np.eye(4)) for joint in skin["joints"]]).reshape(-1, 4, 4)
    if "inverseBindMatrices" not in skin:
        return stand
    row = skin["inverseBindMatrices"]
    if (
        glb.document["accessors"][row]["count"] < len(stand)
        or glb.document["accessors"][row]["type"] != "MAT4"
    ):
        raise BadMeshFile("a skin has fewer inverse bind matrices than joints.")
    bind = glb.floats(row, np.arange(len(stand))).reshape(-1, 4, 4).transpose(0, 2, 1)
    return stand @ bind


def _count(glb: Glb, primitive: dict[str, Any]) -> int:
    row = primitive.get("indices", primitive["attributes"]["POSITION"])
    return glb.document["accessors"][row]["count"]


def _check_rows(glb: Glb, primitive: dict[str, Any]) -> None:
    """Everything that belongs to its vertices is there: what is not read now is copied when the file is written."""
    count = glb.document["accessors"][primitive["attributes"]["POSITION"]]["count"]
    for row in {
        row for group in (primitive["attributes"], *primitive.get("targets", [])) for row in group.values()
    }:
        if len(glb.accessor(row)) != count:
            raise BadMeshFile(f"accessor {row} has not {count} rows, as its primitive has vertices.")


def corners_of(glb: Glb, primitive: dict[str, Any]) -> NDArray[np.int64]:
    """[N,3] rows of the primitive's own vertices, of triangles, a strip or a fan. Raises BadMeshFile."""
    count = glb.document["accessors"][primitive["attributes"]["POSITION"]]["count"]
    if "indices" in primitive:
        values = glb.accessor(primitive["indices"])
        if values.shape[1] != 1 or values.dtype.kind != "u":
            raise BadMeshFile("the indices of its faces are no whole numbers.")
        rows = values[:, 0].astype(np.int64)
    else:
        rows = np.arange(count)
    if len(rows) and rows.max() >= count:
        raise BadMeshFile(f"faces name vertex {rows.max()}, and there are {count}.")
    mode, number = primitive.get("mode", TRIANGLES), np.arange(max(len(rows) - 2, 0))
    if mode == STRIP:  # every second triangle is turned round
        return rows[np.stack((number, number + 1 + number % 2, number + 2 - number % 2), 1)]
    if mode == FAN:
        return rows[np.stack((number + 1, number + 2, np.zeros_like(number)), 1)]
    return rows[: len(rows) // 3 * 3].reshape(-1, 3)


def attribute(
    glb: Glb, group: dict[str, Any], name: str, widths: tuple[int, ...], rows: NDArray[np.int64]
) -> Matrix:
    """[len(rows), K] of a vertex attribute. Raises BadMeshFile where it has another shape than glTF gives it."""
    values = glb.accessor(group[name])
    if values.shape[1] not in widths:
        raise BadMeshFile(f"{name} has {values.shape[1]} numbers a vertex, expected {widths[0]}.")
    return glb.floats(group[name], rows)


def _at_rest(glb: Glb, shown: Shown, rows: NDArray[np.int64]) -> Matrix:
    """[len(rows),3] where the primitive's vertices are in the scene: morphed by its default weights, then skinned."""
    attributes = shown.primitive["attributes"]
    position = attribute(glb, attributes, "POSITION", (3,), rows)
    for weight, target in zip(shown.weights, shown.primitive.get("targets", []), strict=False):
        if weight and "POSITION" in target:
            position = position + weight * attribute(glb, target, "POSITION", (3,), rows)
    if shown.joints is None or "JOINTS_0" not in attributes:
        return position @ shown.matrix[:3, :3].T + shown.matrix[:3, 3]
    placed, total = np.zeros_like(position), np.zeros((len(position), 1))
    for number in range(MOST_INFLUENCES):
        if not {f"JOINTS_{number}", f"WEIGHTS_{number}"} <= set(attributes):
            break
        if (
            COMPONENTS[glb.document["accessors"][attributes[f"JOINTS_{number}"]]["componentType"]][-2]
            not in "u"
        ):
            raise BadMeshFile(f"JOINTS_{number} are no whole numbers.")
        joint = attribute(glb, attributes, f"JOINTS_{number}", (4,), rows).astype(np.int64)
        weight_of = attribute(glb, attributes, f"WEIGHTS_{number}", (4,), rows)
        if len(joint) and joint.max() >= len(shown.joints):
            raise BadMeshFile(
                f"JOINTS_{number} name joint {joint.max()}, and the skin has {len(shown.joints)}."
            )
        for column in range(4):
            share = weight_of[:, column : column + 1]
            matrix = shown.joints[joint[:, column]]
            placed += share * (np.einsum("nij,nj->ni", matrix[:, :3, :3], position) + matrix[:, :3, 3])
            total += share
    return placed / np.where(total > 1e-6, total, 1)


def colour_of(material: dict[str, Any]) -> tuple[dict[str, Any], list[float]]:
    """How a material uses a texture for its base colour ({}: it has none), and the factor."""
    old = material.get("extensions", {}).get(SPECULAR)
    if old is not None:
        return old.get("diffuseTexture", {}), old.get("diffuseFactor", list(WHITE))
    pbr = material.get("pbrMetallicRoughness", {})
    return pbr.get("baseColorTexture", {}), pbr.get("baseColorFactor", list(WHITE))


def _image_of(glb: Glb, texture: dict[str, Any], images: Images) -> int:
    """Raises BadMeshFile where its only image is KTX2."""
    extensions = texture.get("extensions", {})
    for name in IMAGES_OF:
        if "source" in extensions.get(name, {}):
            return glb.image(extensions[name]["source"], images)
    if "source" in texture:
        return glb.image(texture["source"], images)
    if BASISU in extensions:
        raise BadMeshFile("its textures are KTX2 (KHR_texture_basisu): export with PNG or JPEG images.")
    images.miss(f"A texture names no image that can be read ({', '.join(extensions) or 'nothing'}).")
    return -1


def _look(glb: Glb, material: dict[str, Any], images: Images) -> tuple[int, tuple[int, int]]:
    """The image of a material's base colour, or -1, and how it wraps."""
    used, _ = colour_of(material)
    if "index" not in used:
        if "emissiveTexture" in material:
            name = material.get("name", "")
            _note(
                images.notes,
                f"What {name!r} shows is emission, which is left as it is: its base colour is refined.",
            )
        return -1, (0, 0)
    texture = glb.document["textures"][used["index"]]
    sampler = glb.document["samplers"][texture["sampler"]] if "sampler" in texture else {}
    wrap = tuple(WRAPS.get(sampler.get(key, 0), 0) for key in ("wrapS", "wrapT"))
    return _image_of(glb, texture, images), (wrap[0], wrap[1])


def _read(glb: Glb, notes: list[str], file_bytes: int) -> ObjectArrays:
    materials = [*glb.document.get("materials", []), {}]  # the last: of primitives without one
    if len(materials) > MOST_MATERIALS:
        raise BadMeshFile(f"it has {len(materials):,} materials, more than {MOST_MATERIALS:,}: join some.")
    all_shown = shown_primitives(glb, notes)
    if not all_shown:
        raise BadMeshFile("there is no mesh in its scene.")
    images = Images(notes, file_bytes)
    worn = {shown.primitive.get("material", len(materials) - 1) for shown in all_shown}
    looks = [_look(glb, m, images) if row in worn else (-1, (0, 0)) for row, m in enumerate(materials)]
    factors = [np.array(colour_of(m)[1], np.float64) for m in materials]
    parts: list[tuple[Any, ...]] = []
    offset, any_uv, any_colour = 0, False, False
    for shown in all_shown:
        attributes = shown.primitive["attributes"]
        row = shown.primitive.get("material", len(materials) - 1)
        rows, corner = np.unique(corners_of(glb, shown.primitive), return_inverse=True)
        tri = corner.reshape(-1, 3)
        used, _ = colour_of(materials[row])
        name = f"TEXCOORD_{_transform(used).get('texCoord', used.get('texCoord', 0))}"
        uv = np.full((len(tri), 3, 2), -9.0)
        if name in attributes:
            uv, any_uv = _moved(attribute(glb, attributes, name, (2,), rows), used)[tri], True
        colour = np.ones((len(tri), 3, 4))
        if "COLOR_0" in attributes:
            values = attribute(glb, attributes, "COLOR_0", (3, 4), rows)
            colour[..., :3] = to_srgb(values[:, :3])[tri]
            if values.shape[1] == 4:
                colour[..., 3] = values[:, 3][tri]
            any_colour |= bool((colour != 1).any())
        parts.append(
            (
                _at_rest(glb, shown, rows)[:, [0, 2, 1]] * (1, -1, 1),
                tri + offset,
                uv,
                colour,
                np.full(len(tri), row),
            )
        )
        offset += len(rows)
    v_pos, tri, uv, colour, material_rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    return from_parts(
        v_pos, tri, uv=uv if any_uv else None, colour=colour if any_colour else None, material=material_rows,
        base=[(*to_srgb(f[:3]).tolist(), float(f[3])) for f in factors], image=[look[0] for look in looks],
        wrap=[look[1] for look in looks], names=[m.get("name", "") for m in materials], images=images.arrays,
    )  # fmt: skip


def _transform(used: dict[str, Any]) -> dict[str, Any]:
    return used.get("extensions", {}).get(TRANSFORM, {})


def _moved(uv: Matrix, used: dict[str, Any]) -> Matrix:
    """glTF's UVs, v downwards, as the image is read by them: transformed, and v upwards."""
    t = _transform(used)
    x, y = (uv * np.array(t.get("scale", (1, 1)), np.float64)).T
    c, s = np.cos(t.get("rotation", 0.0)), np.sin(t.get("rotation", 0.0))
    dx, dy = t.get("offset", (0, 0))
    return np.stack((c * x + s * y + dx, 1 - (c * y - s * x + dy)), 1)
