"""Wavefront OBJ with its MTL: faces, UVs, normals, vertex colours; of each material the colour and the image."""

from __future__ import annotations

import io
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.errors import InputError
from backend.images import clean
from backend.meshes.beside import Beside, Images, decode_text
from backend.meshes.parts import GREY, MOST_MATERIALS, WHITE, from_parts, refuse_more_faces
from dreamflow_blender.contract.meshfile import BadMeshFile, ObjectArrays

MOST_LIBRARIES = 512  # names of material files, and words of them, each looked for
MOST_LINE = 4096  # characters of a line that names a file

Statement = tuple[int, str, str, str]  # its line's number, its first word, the rest, and all of it as written


@dataclass
class Obj:
    """What an OBJ says; faces as fans of triangles, in the file's own axes (y up).

    v, vt, vn, rgb        rows of 3, 2, 3 and 3 numbers; rgb only where vertices have colours
    tri, tex, normal      rows of 3: of v, of vt and of vn; -1: none
    polygon, line         of each triangle: its face in the file, and the line
    material, names       of each triangle: its row in `names`; -1: before the first usemtl
    """

    v: array = field(default_factory=lambda: array("d"))
    vt: array = field(default_factory=lambda: array("d"))
    vn: array = field(default_factory=lambda: array("d"))
    rgb: array = field(default_factory=lambda: array("d"))
    tri: array = field(default_factory=lambda: array("q"))
    tex: array = field(default_factory=lambda: array("q"))
    normal: array = field(default_factory=lambda: array("q"))
    polygon: array = field(default_factory=lambda: array("q"))
    line: array = field(default_factory=lambda: array("q"))
    material: array = field(default_factory=lambda: array("q"))
    names: dict[str, int] = field(default_factory=dict)
    libraries: list[str] = field(default_factory=list)
    polygons: int = 0
    current: int = -1


@dataclass(frozen=True)
class Look:
    """A material of an MTL. colour: sRGB as written; scale, offset: of the image's UVs; options: as written."""

    colour: tuple[float, float, float] = (0.8, 0.8, 0.8)
    alpha: float = 1.0
    image: str = ""
    options: str = ""
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    clamp: bool = False


def statements(text: str) -> Iterator[Statement]:
    """Of an OBJ or MTL; lines that end in a backslash go on in the next. A comment's first word is "#"."""
    held, raw, first = "", "", 0
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        first, raw = first or number, raw + line
        line = line.rstrip()
        if line.endswith("\\"):
            held += line[:-1] + " "
            continue
        words = [*(held + line).split(None, 1), "", ""]
        yield (first, "#", "", raw) if words[0].startswith("#") else (first, words[0], words[1], raw)
        held, raw, first = "", "", 0


def parse_obj(text: str) -> Obj:
    """Raises BadMeshFile, naming the line."""
    obj = Obj()
    for number, word, rest, _ in statements(text):
        try:
            if word == "v":
                _vertex(obj, rest)
            elif word == "vt":  # one number is a place in a strip
                obj.vt.extend(([*_numbers(rest, 1), 0.0])[:2])
            elif word == "vn":
                obj.vn.extend(_numbers(rest, 3)[:3])
            elif word in ("f", "fo"):
                _face(obj, rest, number)
            elif word == "usemtl":
                obj.current = obj.names.setdefault(rest, len(obj.names))
            elif word == "mtllib":
                obj.libraries.append(rest)
        except (ValueError, OverflowError) as error:
            raise (
                error if isinstance(error, BadMeshFile) else BadMeshFile(f"line {number}: {clean(error)}.")
            ) from error
    for rows, count, what in ((obj.tri, len(obj.v) // 3, "vertex"), (obj.tex, len(obj.vt) // 2, "UV")):
        bad = np.nonzero(np.array(rows, np.int64) >= count)[0].tolist()
        if bad:
            raise BadMeshFile(
                f"line {obj.line[bad[0] // 3]} names {what} {rows[bad[0]] + 1}, and there are {count}."
            )
    return obj


def _numbers(rest: str, least: int) -> list[float]:
    try:
        found = [float(x) for x in rest.partition("#")[0].split()]
    except ValueError:
        raise ValueError(f"{clean(rest)[:60]} is no row of numbers") from None
    if len(found) < least:
        raise ValueError(f"{least} numbers are needed")
    return found


def _vertex(obj: Obj, rest: str) -> None:
    found = _numbers(rest, 3)
    obj.v.extend(found[:3])
    if len(found) >= 6:
        obj.rgb.extend(found[-3:])


def _face(obj: Obj, rest: str, number: int) -> None:
    counts = len(obj.v) // 3, len(obj.vt) // 2, len(obj.vn) // 3
    corners = [corner_rows(text, counts) for text in rest.partition("#")[0].split()]
    for i in range(1, len(corners) - 1):
        for rows, a, b, c in zip(
            (obj.tri, obj.tex, obj.normal), corners[0], corners[i], corners[i + 1], strict=True
        ):
            rows.extend((a, b, c))
        obj.polygon.append(obj.polygons)
        obj.line.append(number)
        obj.material.append(obj.current)
    obj.polygons += 1
    refuse_more_faces(len(obj.line))


def corner_rows(text: str, counts: tuple[int, int, int]) -> tuple[int, int, int]:
    """ "3/1/2" as rows counted from 0 of v, vt and vn; -1: none. Negative numbers count from the last before it."""
    parts = text.split("/")
    rows = []
    for part, count in zip((*parts, "", "")[:3], counts, strict=True):
        try:
            row = int(part) if part else 0
        except ValueError:
            raise ValueError(f"{clean(text)[:60]} names no vertex") from None
        rows.append(count + row if row < 0 else row - 1)
        if row < 0 and rows[-1] < 0:
            raise ValueError(f"{clean(text)} counts back to before the first")
    if rows[0] < 0 or len(parts) > 3:
        raise ValueError(f"{clean(text)} names no vertex")
    return rows[0], rows[1], rows[2]


def table(values: array, width: int) -> NDArray[np.float64]:
    return np.array(values, np.float64).reshape(-1, width)


def rows_of(values: array) -> NDArray[np.int64]:
    return np.array(values, np.int64).reshape(-1, 3)


def z_up(v: NDArray[np.float64]) -> NDArray[np.float64]:
    return v[..., [0, 2, 1]] * (1, -1, 1)


def read_obj(path: Path, notes: list[str]) -> ObjectArrays:
    """Raises BadMeshFile, naming the line."""
    content = path.read_bytes()
    obj = parse_obj(decode_text(content))
    names, material = list(obj.names), np.array(obj.material, np.int64)
    if (material < 0).any():
        material[material < 0] = len(names)
        names.append("")
    if len(names) > MOST_MATERIALS:
        raise BadMeshFile(f"it has {len(names):,} materials, more than {MOST_MATERIALS:,}: join some.")
    looks: dict[str, Look] = {}
    beside = Beside(path.parent)
    for library in find_libraries(obj, beside, notes):
        looks |= read_mtl(decode_text(library))
    coloured = 0 < len(obj.rgb) == len(obj.v)
    unknown = [name for name in names if name and name not in looks]
    if unknown and not coloured:
        shown = ", ".join(repr(clean(name)) for name in unknown[:8])
        notes.append(f"No material file says what {shown} looks like: it counts as plain grey.")
    images = Images(notes, len(content))
    tri, tex = rows_of(obj.tri), rows_of(obj.tex)
    uv = np.concatenate((table(obj.vt, 2), [[-9.0, -9.0]]))[tex]  # a corner without one lies outside
    base: list[tuple[float, float, float, float]] = []
    image, wrap = [], []
    for row, name in enumerate(names):
        look = looks.get(name, Look(GREY[:3]))
        found = images.row_beside(beside, look.image) if look.image else -1
        if found >= 0 and (look.scale, look.offset) != ((1, 1), (0, 0)):
            here = material == row
            with np.errstate(all="ignore"):
                uv[here] = uv[here] * look.scale + look.offset
        image.append(found)
        wrap.append((1, 1) if look.clamp else (0, 0))
        base.append(
            (*(WHITE[:3] if found >= 0 or (coloured and not look.image) else look.colour), look.alpha)
        )
    return from_parts(
        z_up(table(obj.v, 3)), tri, uv=uv if (tex >= 0).any() else None,
        colour=table(obj.rgb, 3)[tri] if coloured else None, polygon=np.array(obj.polygon, np.int64),
        material=material, base=base, image=image, wrap=wrap, names=names, images=images.arrays,
    )  # fmt: skip


def find_libraries(obj: Obj, beside: Beside, notes: list[str]) -> list[bytes]:
    """The MTL files beside the OBJ: each line names one, whose name may have spaces, or several.

    Raises BadMeshFile where they are too many, or too large.
    """
    found: dict[Path, bytes] = {}
    lines = {line: (line, *line.split()) for line in obj.libraries}
    if sum(map(len, lines.values())) > MOST_LIBRARIES:
        raise BadMeshFile(f"it names more than {MOST_LIBRARIES} material files: join them.")
    for line, names in lines.items():
        missing = True
        for name in names:
            try:
                place = beside.find(name)
            except InputError:
                continue
            missing = False
            if place not in found:
                found[place] = beside.read(place)
            if name == line:
                break
        if missing:
            notes.append(
                f"The material file {clean(line)} was not found beside it: its colours are not known."
            )
    return list(found.values())


def read_mtl(text: str) -> dict[str, Look]:
    """Name -> what the material looks like. Keywords count in any case; what cannot be read leaves the default."""
    found: dict[str, Look] = {}
    name = None
    for _, word, rest, _ in statements(text):
        key = word.lower()
        if key == "newmtl":
            name = rest
            found[name] = Look()
        elif name is not None and key in ("kd", "d", "tr", "map_kd"):
            found[name] = _described(found[name], key, rest)
    return found


def _described(look: Look, key: str, rest: str) -> Look:
    if key == "map_kd":
        return _mapped(look, rest)
    try:
        values = [float(x) for x in rest.replace("-halo", "").split()[:3]]
    except ValueError:
        return look  # a spectrum, or nothing
    if not values or not all(map(math.isfinite, values)):
        return look
    if key == "kd":  # one number stands for all three
        red, green, blue = values if len(values) == 3 else values[:1] * 3
        return replace(look, colour=(red, green, blue))
    alpha = values[0] if key == "d" else 1 - values[0]
    return replace(look, alpha=min(max(alpha, 0.0), 1.0))


_WORDS_OF = {"-mm": 2, "-blendu": 1, "-blendv": 1, "-cc": 1, "-clamp": 1, "-imfchan": 1, "-boost": 1, "-texres": 1,
             "-bm": 1, "-type": 1}  # fmt: skip


def _mapped(look: Look, rest: str) -> Look:
    """map_Kd: options, and the name of a file, which may have spaces."""
    if len(rest) > MOST_LINE:
        return look
    left = rest
    numbers: dict[str, list[float]] = {"-s": [], "-o": [], "-t": []}
    clamp = False
    while left.startswith("-") and len(words := left.split(None, 1)) == 2:
        option, left = words
        for _ in range(3 if option in numbers else _WORDS_OF.get(option, 0)):
            words = left.split(None, 1)
            if len(words) < 2 or (option in numbers and not _is_number(words[0])):
                break
            if option in numbers:
                numbers[option].append(float(words[0]))
            clamp = words[0] == "on" if option == "-clamp" else clamp
            left = words[1]
    across, up = (numbers["-s"] + [1.0, 1.0][len(numbers["-s"]) :])[:2]
    right, above = (numbers["-o"] + [0.0, 0.0][len(numbers["-o"]) :])[:2]
    return replace(
        look, image=left, options=rest[: len(rest) - len(left)].strip(), clamp=clamp, scale=(across, up),
        offset=(right, above),
    )  # fmt: skip


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False
