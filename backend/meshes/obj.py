"""Wavefront OBJ with its MTL: faces, UVs, vertex colours; of each material the colour and the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backend.errors import InputError
from backend.meshes.parts import GREY, from_parts, read_image
from dreamflow_blender.contract.meshfile import BadMeshFile, ObjectArrays


def read_obj(path: Path, notes: list[str]) -> ObjectArrays:
    """Raises BadMeshFile, naming the line."""
    v: list[list[float]] = []
    vt: list[list[float]] = []
    rgb: list[list[float]] = []
    tri: list[tuple[int, int, int]] = []
    tex: list[tuple[int, int, int]] = []
    polygon: list[int] = []
    material: list[int] = []
    names: list[str] = []
    libraries: list[str] = []
    polygons, current = 0, -1
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        word, _, rest = line.strip().partition(" ")
        try:
            if word == "v":
                numbers = [float(x) for x in rest.split()]
                v.append(numbers[:3])
                if len(numbers) >= 6:
                    rgb.append(numbers[3:6])
                if len(numbers) < 3:
                    raise ValueError("three coordinates are needed")
            elif word == "vt":
                vt.append([float(x) for x in rest.split()[:2]])
            elif word == "f":
                corners = [_corner(text, len(v), len(vt)) for text in rest.split()]
                for i in range(1, len(corners) - 1):
                    picked = (corners[0], corners[i], corners[i + 1])
                    tri.append((picked[0][0], picked[1][0], picked[2][0]))
                    tex.append((picked[0][1], picked[1][1], picked[2][1]))
                    polygon.append(polygons)
                    material.append(current)
                polygons += 1
            elif word == "usemtl":
                name = rest.strip()
                if name not in names:
                    names.append(name)
                current = names.index(name)
            elif word == "mtllib":
                libraries.append(rest.strip())
        except ValueError as error:
            raise BadMeshFile(f"line {number}: {error}.") from error
    materials: dict[str, tuple[tuple[float, float, float], str]] = {}
    for library in libraries:
        file = path.parent / library
        if file.is_file():
            materials |= _read_mtl(file)
        else:
            notes.append(f"The material file {library} was not found: its colours are not known.")
    if -1 in material:
        names.append("")
    images, base, image = [], [], []
    for name in names:
        (r, g, b), file_name = materials.get(name, (GREY[:3], ""))
        found = -1
        if file_name:
            try:
                images.append(read_image(path.parent / file_name, file_name))
                found = len(images) - 1
            except InputError as error:
                notes.append(f"{error.message} The material's plain colour is used.")
        image.append(found)
        base.append((1.0, 1.0, 1.0, 1.0) if found >= 0 else (r, g, b, 1.0))
    rows = np.array(material, int)
    rows[rows < 0] = len(names) - 1
    faces, corners_of = np.array(tri, int).reshape(-1, 3), np.array(tex, int).reshape(-1, 3)
    with_uvs = len(corners_of) > 0 and (corners_of >= 0).any()
    uv = None
    if with_uvs:
        uv = np.array([*vt, [-9.0, -9.0]])[corners_of]  # a corner without one lies outside
    x, y, z = np.array(v, np.float32).reshape(-1, 3).T
    return from_parts(
        np.stack((x, -z, y), 1),
        faces,
        uv=uv,
        colour=np.array(rgb)[faces] if rgb and len(rgb) == len(v) else None,
        polygon=np.array(polygon, int),
        material=rows,
        base=[(1.0, 1.0, 1.0, 1.0)] * len(names) if rgb and not images and len(rgb) == len(v) else base,
        image=image,
        names=names,
        images=tuple(images),
    )


def _corner(text: str, vertices: int, places: int) -> tuple[int, int]:
    """ "3/1/2" as rows counted from 0; -1 for no UV. Negative numbers count from the end."""
    parts = text.split("/")
    vertex = int(parts[0])
    vertex = vertices + vertex if vertex < 0 else vertex - 1
    place = int(parts[1]) if len(parts) > 1 and parts[1] else 0
    place = places + place if place < 0 else place - 1
    if not 0 <= vertex < vertices or place >= places:
        raise ValueError(f"{text} names a vertex or UV that is not there")
    return vertex, place


def _read_mtl(path: Path) -> dict[str, tuple[tuple[float, float, float], str]]:
    """Name to its diffuse colour, sRGB as written, and its image's path or ""."""
    found: dict[str, tuple[tuple[float, float, float], str]] = {}
    name = ""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if word == "newmtl":
            name = rest
            found[name] = ((0.8, 0.8, 0.8), "")
        elif word == "Kd" and name:
            try:
                r, g, b = (float(x) for x in rest.split()[:3])
            except ValueError:
                continue  # a spectrum, or nothing: the default stands
            found[name] = ((r, g, b), found[name][1])
        elif word == "map_Kd" and name:
            file = rest.split(" ")[-1] if rest.startswith("-") else rest  # options go before the name
            found[name] = (found[name][0], file.replace("\\", "/"))
    return found
