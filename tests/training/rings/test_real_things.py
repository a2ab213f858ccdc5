"""Real things from a made-up catalogue: an L of two materials, which face -Y, and what is said of it."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from backend.errors import InputError
from backend.objects.grammar import canonical_prompt
from backend.objects.kinds import COLOURS
from backend.objects.shapes import RADIUS
from backend.training.rings import furniture
from backend.training.rings.real_things import colour_number, open_real_albums, read_model
from backend.training.rings.rings import Drawer, describe_real
from dreamflow_blender.contract.language.reading import read
from dreamflow_blender.contract.language.unknown import NotUnderstood
from dreamflow_blender.contract.language.vocabulary import OF_MATERIALS, REAL, THINGS

WORDS = list(COLOURS)
# A seat from z = 0 to 4, x = -1 to 1, y = 0 to 2 of the OBJ's axes (y up, front +z), and a board behind it.
BOX = """mtllib thing.mtl
usemtl oak
{seat}
usemtl blue
{board}
"""
FACES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
MTL = "newmtl oak\nKd 0.45 0.26 0.13\nnewmtl blue\nKd 0.13 0.27 0.82\n"


def box(low: tuple[float, ...], high: tuple[float, ...], first: int) -> str:
    corners = [[(low, high)[i >> axis & 1][axis] for axis in range(3)] for i in range(8)]
    lines = [f"v {x} {y} {z}" for x, y, z in corners]
    return "\n".join([*lines, *("f " + " ".join(str(first + c) for c in face) for face in FACES)])


def catalogue(folder: Path, name: str, entries: list[tuple[str, str]], oak: str = "oak") -> None:
    """An archive with the same L-shaped model for every (id, name)."""
    text = ["id=Test", "name=Test"]
    obj = BOX.format(seat=box((-1, 0, 0), (1, 1, 4), 1), board=box((-1, 1, 0), (1, 3, 0.5), 9))
    with zipfile.ZipFile(folder / f"{name}.sh3f", "w") as archive:
        for i, (key, called) in enumerate(entries, 1):
            path = f"things/{i}/thing"
            text += [
                f"id#{i}={key}",
                f"name#{i}={called}",
                f"model#{i}=/{path}.obj",
                f"creator#{i}=Maker {i % 2}",
            ]
            text += [f"width#{i}=100", f"depth#{i}=200.0", f"height#{i}=150"]
            archive.writestr(f"{path}.obj", obj.replace("usemtl oak", f"usemtl {oak}"))
            archive.writestr(f"things/{i}/thing.mtl", MTL.replace("newmtl oak", f"newmtl {oak}"))
        archive.writestr(furniture.TABLE, "\n".join(text))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    chairs = [(f"Test#chair{i}", "Chair") for i in range(6)]
    catalogue(
        tmp_path,
        "BlendSwap-CC-0",
        [*chairs, ("Test#door", "Door"), ("Blend Swap CC-0#foldingChair", "Chair")],
    )
    for name in ("BlendSwap-CC-BY", "KatorLegaz", "Scopia"):
        catalogue(tmp_path, name, [(f"{name}#sofa", "Sofa")])
    return tmp_path


def test_models_are_found_by_name_and_every_fifth_is_held_out(folder: Path) -> None:
    found = furniture.find_furniture(folder)
    assert [item.id for item in found if item.kind == "chair"] == [f"Test#chair{i}" for i in range(6)]
    assert sum(item.kind == "sofa" for item in found) == 3 and len(found) == 9
    assert furniture.held_out_instances(found) == {"Test#chair4"}
    (folder / "Scopia.sh3f").unlink()
    with pytest.raises(InputError, match=r"There is no Scopia\.sh3f"):
        furniture.find_furniture(folder)


def test_every_author_is_credited_under_the_licence(folder: Path) -> None:
    text = furniture.credits(furniture.find_furniture(folder))
    free, by = text[text.index("CC0 1.0:") :], text[text.index("CC BY 3.0:") : text.index("CC BY 3.0 US:")]
    assert "Maker 0: Chair (Test#chair1)" in free and "Maker 1: Chair (Test#chair0)" in free
    assert "Sofa (BlendSwap-CC-BY#sofa)" in by and "Sofa (Scopia#sofa)" in by


def test_a_model_stands_upright_in_the_ball_at_the_catalogues_size_facing_minus_y(folder: Path) -> None:
    model = read_model(furniture.find_furniture(folder)[-1])
    extent = model.v_pos.amax(0) - model.v_pos.amin(0)
    assert torch.allclose(extent / extent[0], torch.tensor([1.0, 2.0, 1.5]), atol=1e-5)
    assert float(model.v_pos.norm(dim=1).max()) == pytest.approx(RADIUS, abs=1e-5)
    board = model.v_pos[model.tri[model.material == 1].unique()]
    assert float(board[:, 1].min()) > 0 and float(board[:, 2].max()) == pytest.approx(
        float(model.v_pos[:, 2].max())
    )


def test_albums_show_colours_tint_the_body_and_are_drawn_once(folder: Path) -> None:
    albums = open_real_albums(folder, folder / "cache", ["chair"], count=1)
    assert len(albums) == 5 and len(open_real_albums(folder, folder / "cache", ["chair"], True, 1)) == 1
    album = albums[0]
    assert (album.colour, album.material, album.tint, album.rings) == ("brown", "wooden", True, 1)
    solid = album.alpha > 250
    blue = album.made[:, 2].float() > 1.5 * album.made[:, 0].float()
    assert 0.05 < float((blue & solid).sum() / solid.sum()) < 0.6
    both = album.made.float().sum(1) - album.fixed.float().sum(1)  # what is left is the body
    assert float(both[blue & solid].abs().mean()) < 10
    assert float(album.shade[:, 0][solid & ~blue].float().mean()) > 120
    normal = album.normal[:, 2].float()[solid] / 255 * 2 - 1
    assert float(normal.min()) > -0.2  # every normal faces the camera, whichever way the faces are wound
    again = open_real_albums(folder, folder / "cache", ["chair"], count=1)[0]
    assert torch.equal(again.made, album.made)
    stools = Drawer([replace(album, kind="stool") for album in albums], {})
    drawn = [stools.draw(torch.Generator().manual_seed(i)).description for i in range(40)]
    assert {d.colour for d in drawn} > {None, "brown"} and {d.material for d in drawn} == {None, "wooden"}
    assert all(d.material is None or d.colour is None for d in drawn)


def test_a_colour_means_the_procedural_object_where_there_is_one(folder: Path) -> None:
    """Twenty-seven real chairs to one of ours, all of them "a brown chair", taught a chair of no form at all."""
    chairs = open_real_albums(folder, folder / "cache", ["chair"], count=1)
    generator = torch.Generator().manual_seed(0)
    ours = replace(chairs[0], made=None)
    drawer = Drawer([ours, *chairs], {"chair": 2.0})
    share = sum(drawer.pick_album(generator) is ours for _ in range(400)) / 400
    assert share == pytest.approx(1 / 1.3, abs=0.06)
    said = {(d.colour, d.material) for d in (describe_real(chairs[0], generator)[0] for _ in range(20))}
    assert said == {(None, "wooden")}
    for oak, count in (("oak", 1), ("plain", 0)):
        catalogue(folder, "BlendSwap-CC-0", [(f"Test#{oak}", "Chair")], oak)
        assert len(open_real_albums(folder, folder / "cache", ["chair"], count=1)) == count


@pytest.mark.parametrize(
    ("rgb", "word"),
    [((0.5, 0.5, 0.5), "grey"), ((0.9, 0.9, 0.9), "white"), ((0.75, 0.1, 0.12), "red"), ((0.6, 0.65, 0.85), None),
     ((0.45, 0.28, 0.15), "brown"), ((0.9, 0.85, 0.7), None), ((0.1, 0.1, 0.1), "black"), ((0.2, 0.5, 0.2), "green")],
)  # fmt: skip
def test_a_colour_is_named_where_its_word_fits(rgb: tuple[float, float, float], word: str | None) -> None:
    number = colour_number(torch.tensor(rgb))
    assert (WORDS[number] if number >= 0 else None) == word


def test_materials_and_real_kinds_are_words_of_the_prompts_language() -> None:
    assert set(furniture.NAMES) == OF_MATERIALS
    described = read("a normal map of a wooden sofa", tuple(THINGS))
    assert (described.kind, described.colour, described.material) == ("sofa", None, "wooden")
    assert canonical_prompt("Sofa.", "", REAL) == "a grey sofa"
    assert canonical_prompt("the wooden bench", "", REAL) == "a wooden bench"
    with pytest.raises(NotUnderstood, match="no known kind"):
        read("a red sofa")  # no formula makes one
