"""What of a glTF document is read, and what it must be: checked once, so that whoever reads it can rely on it.

glTF 2.0, section 5. What is not named here is left as it is and never looked at.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from typing import Any

from dreamflow_blender.contract.meshfile import BadMeshFile

DRACO = "KHR_draco_mesh_compression"
MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")
SPECULAR = "KHR_materials_pbrSpecularGlossiness"
TRANSFORM = "KHR_texture_transform"
IMAGES_OF = ("EXT_texture_webp", "EXT_texture_avif")  # extensions of a texture that name the image to read
BASISU = "KHR_texture_basisu"  # KTX2, which nothing here reads
COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
MOST_DEPTH = 64  # of lists and objects in each other
MOST_BYTES = 2**32

Document = dict[str, Any]
Rule = Callable[[Any, Document], str]  # "" or what was expected


def whole(low: int = 0, high: int = MOST_BYTES) -> Rule:
    def check(value: Any, _: Document) -> str:
        right = type(value) is int and low <= value <= high
        return "" if right else f"a whole number from {low} to {high:,}"

    return check


def row_of(name: str) -> Rule:
    def check(value: Any, document: Document) -> str:
        count = len(document.get(name) or ())
        return "" if type(value) is int and 0 <= value < count else f"one of the {count} {name}"

    return check


def numbers(count: int) -> Rule:
    def check(value: Any, _: Document) -> str:
        right = isinstance(value, list) and len(value) == count and all(map(_finite, value))
        return "" if right else f"{count} finite numbers"

    return check


def one_of(known: Any) -> Rule:
    def check(value: Any, _: Document) -> str:
        right = type(value) in (int, str) and value in known
        return "" if right else f"one of {', '.join(map(str, known))}"

    return check


def number(value: Any, _: Document) -> str:
    return "" if _finite(value) else "a finite number"


def text(value: Any, _: Document) -> str:
    return "" if isinstance(value, str) else "a text"


def flag(value: Any, _: Document) -> str:
    return "" if isinstance(value, bool) else "true or false"


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


_TEXTURE = {
    "index!": row_of("textures"), "texCoord": whole(0, 15),
    "extensions": {
        TRANSFORM: {"offset": numbers(2), "scale": numbers(2), "rotation": number, "texCoord": whole(0, 15)}
    },
}  # fmt: skip
_PACKED_VIEW = {
    "buffer!": row_of("buffers"), "byteOffset": whole(), "byteLength!": whole(1), "byteStride!": whole(1, 256),
    "count!": whole(1), "mode!": one_of(("ATTRIBUTES", "TRIANGLES", "INDICES")),
    "filter": one_of(("NONE", "OCTAHEDRAL", "QUATERNION", "EXPONENTIAL", "COLOR")),
}  # fmt: skip
_SPARSE = {
    "count!": whole(1),
    "indices!": {
        "bufferView!": row_of("bufferViews"), "byteOffset": whole(), "componentType!": one_of((5121, 5123, 5125)),
    },
    "values!": {"bufferView!": row_of("bufferViews"), "byteOffset": whole()},
}  # fmt: skip
_PRIMITIVE = {
    "attributes!": {"*": row_of("accessors")}, "indices": row_of("accessors"), "material": row_of("materials"),
    "mode": whole(0, 6), "targets": [{"*": row_of("accessors")}],
    "extensions": {DRACO: {"bufferView!": row_of("bufferViews"), "attributes!": {"*": whole()}}},
}  # fmt: skip
_SOURCE = {"source": row_of("images")}
# a name with "!" must be there; "*" is any name; a list has any number of the one kind that stands in it
RULES: dict[str, Any] = {
    "asset": {"version": text},
    "scene": row_of("scenes"),
    "scenes": [{"nodes": [row_of("nodes")]}],
    "nodes": [{
        "children": [row_of("nodes")], "mesh": row_of("meshes"), "skin": row_of("skins"), "matrix": numbers(16),
        "rotation": numbers(4), "scale": numbers(3), "translation": numbers(3), "weights": [number],
    }],
    "meshes": [{"primitives!": [_PRIMITIVE], "weights": [number]}],
    "skins": [{"joints!": [row_of("nodes")], "inverseBindMatrices": row_of("accessors")}],
    "materials": [{
        "name": text, "pbrMetallicRoughness": {"baseColorFactor": numbers(4), "baseColorTexture": _TEXTURE},
        "emissiveFactor": numbers(3), "emissiveTexture": _TEXTURE, "alphaMode": text,
        "extensions": {SPECULAR: {"diffuseFactor": numbers(4), "diffuseTexture": _TEXTURE}},
    }],
    "textures": [{
        "sampler": row_of("samplers"), "source": row_of("images"),
        "extensions": dict.fromkeys((*IMAGES_OF, BASISU), _SOURCE),
    }],
    "samplers": [{"wrapS": whole(), "wrapT": whole()}],
    "images": [{"uri": text, "bufferView": row_of("bufferViews"), "mimeType": text, "name": text}],
    "accessors": [{
        "bufferView": row_of("bufferViews"), "byteOffset": whole(), "componentType!": one_of(COMPONENTS),
        "normalized": flag, "count!": whole(), "type!": one_of(WIDTHS), "sparse": _SPARSE,
    }],
    "bufferViews": [{
        "buffer!": row_of("buffers"), "byteOffset": whole(), "byteLength!": whole(), "byteStride": whole(1, 252),
        "extensions": dict.fromkeys(MESHOPT, _PACKED_VIEW),
    }],
    "buffers": [{"byteLength": whole(), "uri": text, "extensions": {key: {"fallback": flag} for key in MESHOPT}}],
    "extensionsUsed": [text],
    "extensionsRequired": [text],
}  # fmt: skip


def check_document(document: Any) -> None:
    """Raises BadMeshFile, naming the place, what was expected and what is there."""
    if not isinstance(document, dict):
        raise BadMeshFile(f"its document is {_short(document)}, not an object.")
    _check_depth(document)
    for name in RULES:  # or else the rows of one that is no list could not be counted
        if isinstance(RULES[name], list) and not isinstance(document.get(name, []), list):
            raise BadMeshFile(f"it is damaged: {name} is {_short(document[name])}, expected a list.")
    _check(document, RULES, "", document)
    if not str(document.get("asset", {}).get("version", "2.0")).startswith("2."):
        raise BadMeshFile("it is not glTF 2.0: export it with a newer program.")


def _check(value: Any, rule: Any, place: str, document: Document) -> None:
    if isinstance(rule, list):
        if not isinstance(value, list):
            raise BadMeshFile(f"it is damaged: {place} is {_short(value)}, expected a list.")
        for number_, item in enumerate(value):
            _check(item, rule[0], f"{place}[{number_}]", document)
    elif isinstance(rule, dict):
        if not isinstance(value, dict):
            raise BadMeshFile(f"it is damaged: {place} is {_short(value)}, expected an object.")
        for key, of_key in rule.items():
            name = key.rstrip("!")
            if name == "*":
                for other, item in value.items():
                    _check(item, of_key, f"{place}.{_short(other)}", document)
            elif name in value:
                _check(value[name], of_key, f"{place}.{name}".lstrip("."), document)
            elif key != name:
                raise BadMeshFile(f"it is damaged: {place} has no {name}.")
    elif expected := rule(value, document):
        raise BadMeshFile(f"it is damaged: {place} is {_short(value)}, expected {expected}.")


def _check_depth(document: Document) -> None:
    level: list[Any] = [document]
    for _ in range(MOST_DEPTH):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise BadMeshFile(f"its document is nested more than {MOST_DEPTH} deep.")


def _short(value: Any) -> str:
    return reprlib.repr(value).encode("ascii", "backslashreplace").decode()
