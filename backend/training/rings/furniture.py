"""The real things: which models of Debian's package sweethome3d-furniture show which kind, and who made them.

The package holds catalogues (.sh3f, ZIP files of OBJ models with a table of properties) under CC BY 3.0 or CC0. Nothing
of them is in this repository; `credits` writes the list of authors that goes with weights trained on them.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from backend.errors import InputError

CATALOGUES = {
    "BlendSwap-CC-0": "CC0 1.0",
    "BlendSwap-CC-BY": "CC BY 3.0",
    "KatorLegaz": "CC BY 3.0 US",
    "Scopia": "CC BY 3.0",
}
TABLE = "PluginFurnitureCatalog.properties"
INSTALL = "Unpack or install Debian's package sweethome3d-furniture, and name its folder share/sweethome3d/furniture."

# kind: the names that the catalogues give it
NAMES = {
    "chair": (
        "Chair", "Cafe chair", "Oak chair", "Osaka chair", "Chair with cushion", "Teck chair", "Plastic chair",
        "Children chair", "Child chair", "Folding chair",
    ),
    "armchair": ("Armchair", "Modern armchair", "Winchester armchair", "Rattan armchair"),
    "sofa": (
        "Sofa", "Couch", "Futon couch", "Winchester sofa", "Sofa 2 seats", "Sofa 3 seats", "Clear sofa", "Burlap sofa",
        "Rattan sofa",
    ),
    "table": (
        "Table", "Oak table", "Round table", "Coffee table", "Cafe table", "Folding table", "Black table",
        "Wooden table", "Wooden alder table", "Wooden teak table", "Rattan table", "Children table", "Glass table",
    ),
    "bed": ("Bed", "Iron bed", "Child bed", "Day bed"),
    "lamp": ("Lamp", "Little lamp", "Pedestal vase lamp"),
    "car": (
        "Concept Sedan 01", "Concept Sedan 02", "Concept Sedan 02 Sport", "VW new beetle", "Ford Focus", "Seat Leon",
        "Peugeot 308 CC", "Renault Scenic", "SUV", "Chevrolet", "Smart car", "Car model",
    ),
    "shelf": ("Shelves", "Bookcase", "Vertical shelves", "Full bookcase"),
    "plant": (
        "Plant", "Little plant", "Decorative plant", "Indoor plant", "Yucca", "Ficus", "Spathiphyllum", "Spider plant",
        "Succulent plant",
    ),
    "bench": ("Bench", "Concrete bench", "Painted bench", "Wood bank", "Little bank", "Piano bench"),
    "stool": ("Stool", "Bar stool", "Bar chair"),
    "vase": ("Vase", "Pottery", "Old jar"),
    "wardrobe": ("Wardrobe", "Cupboard", "High cabinet"),
    "desk": ("Desk", "Wooden desk", "Desk table"),
    "cabinet": (
        "Lower cabinet", "Drawers cabinet", "Bedside table", "Small lower cabinet", "Dresser with drawers",
        "Filing cabinet",
    ),
    "truck": ("Truck", "Van"),
}  # fmt: skip
# Looked at and left out: another thing than its name says, broken, or a texture that is noise at this size.
LEFT_OUT = frozenset(
    {
        "Blend Swap CC-0#armchair", "Blend Swap CC-0#bookcase", "Blend Swap CC-0#foldingChair", "Blend Swap CC-0#lamp2",
        "Blend Swap CC-0#pianoBench", "Blend Swap CC-BY#kitchenChair", "Scopia#ext_chair", "Scopia#living_lamp",
        "Scopia#office_furniture1", "Scopia#pottery", "Scopia#rattanArmchair", "Scopia#rattanSofa",
        "Scopia#rattanTable", "Scopia#vase5",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Furniture:
    """One model: its id and name in the catalogue, author, licence, and where it is.

    size      width, depth and height, centimetres
    rotation  [3,3] row major, of the OBJ's own axes, as the catalogue says
    """

    kind: str
    id: str
    name: str
    author: str
    licence: str
    archive: Path
    model: str
    size: tuple[float, float, float]
    rotation: tuple[float, ...]


def find_furniture(folder: Path) -> list[Furniture]:
    """Every model that shows a kind, by id. Raises InputError where a catalogue is missing."""
    kinds = {name: kind for kind, names in NAMES.items() for name in names}
    found = []
    for catalogue, licence in CATALOGUES.items():
        archive = folder / f"{catalogue}.sh3f"
        if not archive.is_file():
            raise InputError(f"There is no {archive.name} in {folder}.", INSTALL)
        for entry in _entries(archive):
            name, key = entry.get("name", ""), entry.get("id", "")
            if name not in kinds or key in LEFT_OUT:
                continue
            found.append(
                Furniture(
                    kinds[name],
                    key,
                    name,
                    entry.get("creator", catalogue),
                    licence,
                    archive,
                    entry["model"].lstrip("/"),
                    tuple(float(entry[side]) for side in ("width", "depth", "height")),  # type: ignore[arg-type]
                    tuple(float(x) for x in entry.get("modelRotation", "1 0 0 0 1 0 0 0 1").split()),
                )
            )
    return sorted(found, key=lambda item: item.id)


def _entries(archive: Path) -> Iterable[dict[str, str]]:
    with zipfile.ZipFile(archive) as opened:
        text = opened.read(TABLE).decode("latin-1")
    entries: dict[int, dict[str, str]] = {}
    for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*)$", text, re.MULTILINE):
        entries.setdefault(int(number), {})[key] = value.strip()
    return entries.values()


def held_out_instances(found: list[Furniture]) -> set[str]:
    """Ids that training never shows: every fifth of a kind with five models or more."""
    held = set()
    for kind in NAMES:
        ids = [item.id for item in found if item.kind == kind]
        held |= set(ids[4::5])
    return held


def credits(found: list[Furniture]) -> str:
    """Who made the models, by licence: the text that goes with weights trained on them."""
    lines = [
        "DreamFlow's built-in model was also trained on pictures of these models from the catalogues of",
        "Sweet Home 3D (Debian's package sweethome3d-furniture), rendered, fitted into a ball and partly recoloured.",
        "None of them is included.",
    ]
    for licence in sorted({item.licence for item in found}):
        lines += ["", f"{licence}:"]
        of_licence = [item for item in found if item.licence == licence]
        for author in sorted({item.author for item in of_licence}, key=str.casefold):
            names = sorted(f"{item.name} ({item.id})" for item in of_licence if item.author == author)
            lines.append(f"  {author}: {'; '.join(names)}")
    return "\n".join(lines) + "\n"
