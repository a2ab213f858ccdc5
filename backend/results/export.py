"""A finished job's mesh for other programs: OBJ, PLY, STL, 3MF, USDZ, USD, FBX, or a GLB of another size or origin.

Made from mesh.npz and albedo.png, so that no number is rounded twice. The same job gives the same bytes (USD: of the
same usd-core).
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from plyfile import PlyData, PlyElement

from backend.errors import DiskError, InputError
from backend.files import disk_errors, write_files
from backend.meshes.write import glb_bytes, split_seams, y_up
from backend.results.export_fbx import check_blender, fbx_files
from backend.results.export_usd import check_usd_core, usd_files
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.files import is_file, read_plain
from dreamflow_blender.contract.job import Job
from dreamflow_blender.contract.jobfolder import JobFolder, slug
from dreamflow_blender.contract.meshfile import BadMeshFile, MeshArrays

FBX = "fbx-through-blender"
ORIGINS = ("keep", "base", "centre", "middle")
# what each format's readers expect
UP = {"glb": "y", "obj": "y", "ply": "z", "stl": "z", "3mf": "z", "usdz": "y", "usd": "y", FBX: "y"}
FIXED_UP = {
    "glb": "the standard says so",
    "3mf": "a printer's bed is below",
    "usdz": "viewers expect it",
    "usd": "its stage says so",
    FBX: "its readers turn it",
}
LEAST, MOST = 1e-3, 1e4  # metres
MILLIMETRES = 1000.0  # STL has no unit and slicers take it for these; a 3MF says so
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest date that a zip file can hold


@dataclass(frozen=True)
class Placing:
    """Where the object stands, and how large it is.

    height  metres from its lowest to its highest point; None: as it is
    origin  keep; base: below the middle of it, on the ground; centre: the middle of its bounds; middle: the centre of
            mass of its surface
    up      y or z; "": as the format's readers expect
    """

    height: float | None = None
    origin: str = "keep"
    up: str = ""

    def __post_init__(self) -> None:
        if self.height is not None and not LEAST <= self.height <= MOST:  # nan is neither
            raise InputError(
                f"The height has to be {LEAST} to {MOST:,.0f} metres, got {self.height}.",
                "Give --height in metres.",
            )
        if self.origin not in ORIGINS:
            raise InputError(f"There is no origin {self.origin!r}.", f"Choose of {', '.join(ORIGINS)}.")
        if self.up not in ("", "y", "z"):
            raise InputError(f"The axis that points up is y or z, got {self.up!r}.", "Choose one with --up.")


@dataclass(frozen=True)
class Exported:
    """What was written, its size [3] in metres (x, y, z; z up), and the edges that not just two faces share."""

    paths: list[Path]
    size: tuple[float, float, float]
    open_edges: int


def check_formats(formats: list[str], placing: Placing, blender: str) -> None:
    """Raises InputError for an unknown one, for what one cannot hold, and where its library or program is missing."""
    for name in formats:
        if name not in UP:
            raise InputError(f"There is no format {name!r}.", f"Choose of {', '.join(UP)}.")
        if name in FIXED_UP and placing.up not in ("", UP[name]):
            raise InputError(
                f"{name.upper()} is always {UP[name]} up: {FIXED_UP[name]}.", "Leave out --up, or the format."
            )
    if {"usd", "usdz"}.intersection(formats):
        check_usd_core()
    if FBX in formats:
        check_blender(blender)


def export(job: Job, formats: list[str], placing: Placing, out: Path, blender: str = "blender") -> Exported:
    """Writes the job's mesh into `out` in each format, as PROMPT.FORMAT with what belongs to it.

    blender  the program that writes FBX

    Raises InputError for a job that has no mesh, an unknown format, or what a format cannot hold, before anything is
    written; DiskError.
    """
    check_formats(formats, placing, blender)
    mesh = place(read_mesh(job, formats), placing)
    png = read_texture(job)
    write: dict[str, Callable[[MeshArrays, bytes, str], dict[str, bytes]]] = {
        "glb": lambda mesh, png, name: {f"{name}.glb": glb_bytes(mesh, png, about(job))},
        "obj": lambda mesh, png, name: obj_files(mesh, png, name, job.prompt),
        "ply": lambda mesh, png, name: ply_files(mesh, png, name),
        "stl": lambda mesh, _, name: {f"{name}.stl": stl_bytes(mesh)},
        "3mf": lambda mesh, _, name: {f"{name}.3mf": threemf_bytes(mesh, job.prompt)},
        "usdz": lambda mesh, png, name: usd_files(mesh, png, name, packed=True),
        "usd": lambda mesh, png, name: usd_files(mesh, png, name, packed=False),
        FBX: lambda mesh, png, name: fbx_files(glb_bytes(mesh, png, about(job)), name, blender),
    }
    files: dict[str, bytes] = {}
    for name in formats:  # all of them before the first is written
        by_its_writer = name in ("glb", FBX)
        turn = (placing.up or UP[name]) == "y" and not by_its_writer
        upright = turned(mesh) if turn else mesh
        files |= write[name](upright, png, slug(job.prompt))
    paths = write_files(out, files)
    x, y, z = (mesh.v_pos.max(0) - mesh.v_pos.min(0)).tolist()
    return Exported(paths, (x, y, z), open_edges(mesh.t_pos_idx))


def about(job: Job) -> dict[str, Any]:
    """What a GLB says of where it comes from."""
    return {"prompt": job.prompt, "seed": job.seed, "preset": job.preset, "prior": job.prior}


def read_mesh(job: Job, formats: list[str]) -> MeshArrays:
    """Raises InputError where there is none, or one that has more than its one texture says."""
    files = JobFolder(job.folder)
    if not is_file(files.mesh_npz) or not is_file(files.albedo):
        raise InputError(
            f"{job.folder} has no finished mesh.", f"Finish it: python -m backend resume {job.folder}"
        )
    try:
        with disk_errors(files.mesh_npz):
            mesh = meshfile.read(files.mesh_npz)
    except BadMeshFile as error:
        raise DiskError(f"{files.mesh_npz} cannot be used: {error}", "Make the object again.") from error
    if job.kind == "refine":
        why = ""
        try:
            textures = json.loads(_read(files.materials))["textures"]
            if len(textures) != 1 or textures[0]["faces"] != len(mesh.t_pos_idx):
                why = "not all of it has one texture"
        except (ValueError, KeyError, TypeError, IndexError):
            why = f"{files.materials.name} is damaged"
        if "glb" in formats:
            why = "mesh.glb is the object's own file, with all that was in it"
        if why:
            raise InputError(
                f"This refined object cannot be exported so: {why}.",
                f"Import {files.mesh_glb} into Blender and export it there.",
            )
    return mesh


def read_texture(job: Job) -> bytes:
    """Its PNG. Raises DiskError."""
    return _read(JobFolder(job.folder).albedo)


def _read(path: Path) -> bytes:
    with disk_errors(path):
        return read_plain(path, meshfile.MOST_BYTES)


def place(mesh: MeshArrays, placing: Placing) -> MeshArrays:
    """Scaled about its base or centre, then moved. Raises InputError for an object without a height."""
    v = mesh.v_pos.astype(np.float64)
    low, high = v.min(0), v.max(0)
    if placing.height is not None:
        if high[2] - low[2] <= 0:
            raise InputError("The object is flat: it cannot have a height.", "Leave out --height.")
        v *= placing.height / (high[2] - low[2])
        low, high = v.min(0), v.max(0)
    if placing.origin == "middle":
        corners = v[mesh.t_pos_idx]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        v -= np.average(corners.mean(1), axis=0, weights=np.maximum(area, 1e-30))
    elif placing.origin != "keep":
        middle = (low + high) / 2
        v -= (middle[0], middle[1], low[2] if placing.origin == "base" else middle[2])
    return replace(mesh, v_pos=v.astype(np.float32))


def turned(mesh: MeshArrays) -> MeshArrays:
    """From z up to y up."""
    return replace(mesh, v_pos=y_up(mesh.v_pos), normal=y_up(mesh.normal))


def open_edges(faces: NDArray[np.int32]) -> int:
    """How many edges are not shared by just two faces: 0 for what a printer can fill."""
    edges = np.sort(np.concatenate((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]])), 1)
    return int((np.unique(edges, axis=0, return_counts=True)[1] != 2).sum())


# One format each


def obj_files(mesh: MeshArrays, png: bytes, name: str, title: str) -> dict[str, bytes]:
    """The OBJ, its materials and its texture. Wavefront's format, v upwards, indices from 1."""
    lines = [f"mtllib {name}.mtl", f"o {title}"]
    for word, rows in (("v", mesh.v_pos), ("vt", mesh.v_tex), ("vn", mesh.normal)):
        lines += [f"{word} " + " ".join(f"{value:.9g}" for value in row) for row in rows.tolist()]
    lines.append("usemtl albedo")
    corners = zip((mesh.t_pos_idx + 1).tolist(), (mesh.t_tex_idx + 1).tolist(), strict=True)
    lines += ["f " + " ".join(f"{v}/{vt}/{v}" for v, vt in zip(at, uv, strict=True)) for at, uv in corners]
    material = f"newmtl albedo\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {name}.png\n"
    text = "\n".join(lines) + "\n"
    return {f"{name}.obj": text.encode(), f"{name}.mtl": material.encode(), f"{name}.png": png}


def ply_files(mesh: MeshArrays, png: bytes, name: str) -> dict[str, bytes]:
    """A binary PLY with the texture's colours at the vertices too, for programs that do not read a texture."""
    corner, position, texcoord, normal = split_seams(mesh, np.arange(len(mesh.t_pos_idx)))
    pixels = np.asarray(Image.open(io.BytesIO(png), formats=["PNG"]).convert("RGB"))
    height, width = pixels.shape[:2]
    u, v = texcoord.T % 1  # an artist's own may tile
    column = np.minimum((u * width).astype(int), width - 1)
    row = np.minimum(((1 - v) * height).astype(int), height - 1)
    names = ["x", "y", "z", "nx", "ny", "nz", "s", "t"]
    vertices = np.empty(
        len(position),
        [(n, "<f4") for n in names] + [(n, "u1") for n in ("red", "green", "blue")],
    )
    for n, values in zip(names, np.concatenate((position, normal, texcoord), 1).T, strict=True):
        vertices[n] = values
    for channel, n in enumerate(("red", "green", "blue")):
        vertices[n] = pixels[row, column, channel]
    faces = np.empty(len(mesh.t_pos_idx), [("vertex_indices", "<i4", (3,))])
    faces["vertex_indices"] = corner.reshape(-1, 3)
    elements = [PlyElement.describe(vertices, "vertex"), PlyElement.describe(faces, "face")]
    buffer = io.BytesIO()
    PlyData(elements, byte_order="<", comments=[f"TextureFile {name}.png"]).write(buffer)
    return {f"{name}.ply": buffer.getvalue(), f"{name}.png": png}


def stl_bytes(mesh: MeshArrays) -> bytes:
    """A binary STL in millimetres: 80 bytes, the number of faces, then 50 bytes a face."""
    corners = (mesh.v_pos * np.float32(MILLIMETRES))[mesh.t_pos_idx]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    rows = np.zeros(len(corners), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("unused", "<u2")])
    rows["normal"], rows["corners"] = normal, corners
    return b"DreamFlow, millimetres".ljust(80) + len(rows).to_bytes(4, "little") + rows.tobytes()


def threemf_bytes(mesh: MeshArrays, title: str) -> bytes:
    """A 3MF package (core specification 1.3) with one object, in millimetres."""
    vertices = "".join(
        f'<vertex x="{x:.7g}" y="{y:.7g}" z="{z:.7g}"/>' for x, y, z in (mesh.v_pos * MILLIMETRES).tolist()
    )
    faces = "".join(f'<triangle v1="{a}" v2="{b}" v3="{c}"/>' for a, b, c in mesh.t_pos_idx.tolist())
    xml = '<?xml version="1.0" encoding="UTF-8"?>\n'
    package = "http://schemas.openxmlformats.org/package/2006"
    parts = {
        "[Content_Types].xml": f'{xml}<Types xmlns="{package}/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="model" '
        'ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/></Types>',
        "_rels/.rels": f'{xml}<Relationships xmlns="{package}/relationships"><Relationship Id="model" '
        'Target="/3D/3dmodel.model" Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/>'
        "</Relationships>",
        "3D/3dmodel.model": f'{xml}<model unit="millimeter" xml:lang="en-US" '
        'xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02">'
        f'<metadata name="Title">{escape(title)}</metadata><resources><object id="1" type="model"><mesh><vertices>'
        f"{vertices}</vertices><triangles>{faces}</triangles></mesh></object></resources><build>"
        '<item objectid="1"/></build></model>',
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in parts.items():
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.create_system, entry.compress_type = 3, zipfile.ZIP_DEFLATED
            archive.writestr(entry, text)
    return buffer.getvalue()
