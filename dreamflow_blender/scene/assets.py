"""A result in the asset library: who made it, its license, catalog, tags from its prompt, its own picture."""

from __future__ import annotations

import uuid
from pathlib import Path

import bpy

from ..contract import files
from ..settings import addon

CATALOGS = "blender_assets.cats.txt"  # Blender's name for it, in the library's folder
CATALOG = str(uuid.uuid5(uuid.NAMESPACE_URL, "dreamflow-for-blender/assets"))  # the same in every library
_HEAD = "# This is an Asset Catalog Definition file for Blender.\n\nVERSION 1\n"
_SMALL_WORDS = {"a", "an", "the", "of", "with", "and", "in", "on", "at", "to"}


def tags(prompt: str) -> list[str]:
    """The prompt's words that say something, each once, in order."""
    words = (word.strip(".,;:!?\"'()").lower() for word in prompt.split())
    return list(dict.fromkeys(word for word in words if word and word not in _SMALL_WORDS))


def mark(obj: bpy.types.Object, prompt: str, picture: Path) -> None:
    """Mark as asset; a second time renews description, tags and thumbnail.

    picture  a whole path; a relative one, as of a job that is forgotten, would be anybody's
    Raises OSError where the catalog cannot be written into the library that holds the open file.
    """
    obj.asset_mark()
    data = obj.asset_data
    data.description = prompt
    data.author = addon.setting("asset_author", "") or data.author
    data.license = addon.setting("asset_license", "") or data.license
    file = Path(bpy.data.filepath).resolve() if bpy.data.filepath else Path()
    library = next((place for place in libraries().values() if file.is_relative_to(place.resolve())), None)
    data.catalog_id = add_catalog(library) if library else CATALOG
    there = {tag.name for tag in data.tags}
    for tag in ["DreamFlow", *tags(prompt)]:
        if tag not in there:
            data.tags.new(tag)
    if picture.is_absolute() and picture.is_file():
        with bpy.context.temp_override(id=obj):
            bpy.ops.ed.lib_id_load_custom_preview(filepath=str(picture))


def libraries() -> dict[str, Path]:
    """The asset libraries of Blender's preferences that are folders here: name -> folder."""
    stated = bpy.context.preferences.filepaths.asset_libraries
    return {library.name: Path(library.path) for library in stated if library.path}


def add_catalog(folder: Path) -> str:
    """The UUID of the catalog "DreamFlow" of the library in `folder`; it is added where there is none.

    Raises OSError, and ValueError for a file of catalogs that is none.
    """
    path = folder / CATALOGS
    text = path.read_text(encoding="utf-8") if path.exists() else _HEAD
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines or not lines[0].startswith("VERSION 1"):
        raise ValueError(f"{path} is of another version of Blender: no catalog was added")
    for line in lines[1:]:
        identity, name = [*line.split(":"), ""][:2]
        if name == "DreamFlow" or identity == CATALOG:  # moved in Blender, it keeps its UUID
            return identity
    files.write_atomic(path, f"{text.rstrip()}\n{CATALOG}:DreamFlow:DreamFlow\n")
    return CATALOG


def save_copy(obj: bpy.types.Object, library: str) -> Path:
    """The marked object in a .blend of its own in this library's folder, under a name that is free there.

    Raises ValueError where the library is gone, OSError where its folder cannot be written.
    """
    folder = libraries().get(library)
    if folder is None or not folder.is_dir():
        raise ValueError(f"The folder of the asset library {library!r} is not there")
    data = obj.asset_data
    before, data.catalog_id = data.catalog_id, add_catalog(folder)
    path = _reserve(folder, bpy.path.clean_name(obj.name))
    written = False
    try:
        with files.replacing(path, sync=False) as temporary:
            bpy.data.libraries.write(str(temporary), {obj}, path_remap="ABSOLUTE", compress=True)
        written = True
    finally:
        data.catalog_id = before
        if not written:
            path.unlink()
    return path


def _reserve(folder: Path, name: str) -> Path:
    """An empty file that was not there before: nobody else takes its name meanwhile."""
    number = 1
    while True:
        path = folder / f"{name}{f'_{number}' if number > 1 else ''}.blend"
        try:
            path.open("x").close()
        except FileExistsError:
            number += 1
        else:
            return path
