"""An artist's object refined: what must change changes, and what must not stays as it was to the bit."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import InputError
from backend.jobs import refine, resume
from backend.scene.mesh import Mesh
from backend.texture.bake import sample_texture, texels_of
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.protocol import Cancelled, Finished, Started, Warning
from tests.tools.made_meshes import a_glb, painted_ball, stripes
from tests.tools.refine_run import refine_job, run_arrays, run_file, shorten


@pytest.fixture(autouse=True, scope="module")
def short():
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        yield


SIDE = 512  # texels: 3 mm each, and the change fades in over 40


def uv_mesh(arrays, which) -> Mesh:
    uv = torch.from_numpy(arrays.uv[which])
    tri = torch.from_numpy(arrays.t_pos_idx[which].astype(np.int64))
    return Mesh(torch.from_numpy(arrays.v_pos), tri, uv.view(-1, 2), torch.arange(3 * len(uv)).view(-1, 3))


def test_usable_uvs_and_the_geometry_stay_to_the_bit_and_the_colours_change(tmp_path: Path) -> None:
    arrays = painted_ball()
    mesh, albedo, finished = run_arrays(tmp_path / "job", arrays)
    assert np.array_equal(mesh.v_pos, arrays.v_pos) and np.array_equal(mesh.t_pos_idx, arrays.t_pos_idx)
    assert np.array_equal(mesh.v_tex[mesh.t_tex_idx], arrays.uv)
    assert finished.figures["new_uvs"] == 0 and finished.figures["fit_psnr"] > 15
    assert albedo.shape == (64, 64, 4) and (albedo[..., 3] == 255).all()
    assert np.abs(albedo[..., :3].astype(int) - stripes()[..., :3]).mean() > 3


def test_a_selection_changes_and_nothing_else_does(tmp_path: Path) -> None:
    arrays = painted_ball(images=(stripes(SIDE),))
    centre = arrays.v_pos[arrays.t_pos_idx].mean(1)
    selected = centre[:, 2] > 0
    weight = np.repeat(selected[:, None], 3, 1).astype(np.float32)
    _, albedo, finished = run_arrays(tmp_path / "job", dataclasses.replace(arrays, weight=weight))
    before = stripes(SIDE)
    kept = texels_of(uv_mesh(arrays, ~selected), SIDE).index.numpy()
    flat, old = albedo.reshape(-1, 4), before.reshape(-1, 4)
    assert np.array_equal(flat[kept], old[kept])  # every texel that an unselected face shows
    assert (flat != old).any() and 0.2 < finished.figures["share_changed"] < 0.6
    # no seam: a texel within the selection the change is hardly there yet, and it grows further in
    u = torch.linspace(0.01, 0.99, 400)
    change = []
    for texels in (0.5, 1.5, 60.0):
        where = torch.stack((u, torch.full_like(u, 0.5 + texels / SIDE)), 1)
        new, was = (
            sample_texture(torch.from_numpy(i[..., :3].astype(np.float32)), where) for i in (albedo, before)
        )
        change.append(float((new - was).abs().mean()))
    print(
        f"\nchange in /255 at 0.5, 1.5 and 60 texels from the border: {', '.join(f'{c:.2f}' for c in change)}"
    )
    assert change[0] <= 2 and change[1] <= 2 < change[2]


def test_alpha_stays_and_what_is_transparent_stays(tmp_path: Path) -> None:
    image = stripes()
    image[:, :20, 3] = 0
    image[:, 20:30, 3] = 131
    _, albedo, _ = run_arrays(tmp_path / "job", painted_ball(images=(image,)))
    assert np.array_equal(albedo[..., 3], image[..., 3])
    assert np.array_equal(albedo[:, :20], image[:, :20])  # the colours under it, too
    assert (albedo[:, 20:30] != image[:, 20:30]).any() and (albedo[:, 31:] != image[:, 31:]).any()


def test_transparent_all_over_changes_nothing(tmp_path: Path) -> None:
    image = stripes(alpha=0)
    _, albedo, finished = run_arrays(tmp_path / "job", painted_ball(images=(image,)))
    assert np.array_equal(albedo, image) and finished.figures["share_changed"] == 0


def test_an_image_beside_vertex_colours_keeps_its_untouched_bytes(tmp_path: Path) -> None:
    arrays = painted_ball()
    below = arrays.v_pos[arrays.t_pos_idx].mean(1)[:, 2] < 0
    colour = np.ones((len(below), 3, 4), np.float32)
    colour[below, :, :3] = (0.2, 0.6, 0.9)
    weight = np.repeat(~below[:, None], 3, 1).astype(np.float32)
    both = dataclasses.replace(
        arrays, material=below.astype(np.int32), base=np.ones((2, 4), np.float32), image=np.array([0, -1], np.int32),
        wrap=np.zeros((2, 2), np.int32), names=np.array(["image", "colours"]), colour=colour, weight=weight,
    )  # fmt: skip
    _, albedo, finished = run_arrays(tmp_path / "job", both)
    assert finished.figures["textures"] == 1
    assert np.array_equal(albedo[40:], stripes()[40:])  # the lower half of the UVs, and gutters
    assert (albedo[:28] != stripes()[:28]).any()


def test_what_no_camera_sees_stays(tmp_path: Path) -> None:
    outer, inner = painted_ball(), painted_ball()
    uv = np.concatenate((outer.uv * (0.5, 1), inner.uv * (0.45, 1) + (0.55, 0))).astype(np.float32)
    both = dataclasses.replace(
        outer,
        v_pos=np.concatenate((outer.v_pos, inner.v_pos * np.float32(0.5))),
        t_pos_idx=np.concatenate((outer.t_pos_idx, inner.t_pos_idx + len(outer.v_pos))).astype(np.int32),
        uv=uv, weight=np.tile(outer.weight, (2, 1)), polygon=np.tile(outer.polygon, 2),
        material=np.tile(outer.material, 2),
    )  # fmt: skip
    _, albedo, _ = run_arrays(tmp_path / "job", both)
    assert np.array_equal(albedo[:, 36:], stripes()[:, 36:])
    assert (albedo[:, :30] != stripes()[:, :30]).any()


def test_front_turns_the_object_and_nothing_of_its_mesh(tmp_path: Path) -> None:
    mesh, _, _ = run_arrays(tmp_path / "job", painted_ball(), front=90.0)
    assert np.array_equal(mesh.v_pos, painted_ball().v_pos)


def test_a_grey_object_gets_a_texture_first(tmp_path: Path) -> None:
    arrays = painted_ball(image=[-1], images=(), base=[(0.8, 0.8, 0.8, 1.0)])
    source = tmp_path / "grey.npz"
    source.write_bytes(meshfile.to_bytes(arrays))
    events = list(refine.refine(refine_job(tmp_path / "job", source)))
    assert [e.stage for e in events if isinstance(e, Started)] == ["fit", "texture", "refine", "deliver"]
    assert any("plain grey" in e.message for e in events if isinstance(e, Warning))


@pytest.fixture(scope="module")
def whole(short, tmp_path_factory):
    """A GLB that is refined without a break: its file, and what is delivered."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "a.glb").write_bytes(a_glb())
    run_file(folder / "job", folder / "a.glb")
    return folder / "a.glb", delivered(folder / "job")


def delivered(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("albedo.png", "mesh.npz", "mesh.glb")}


@pytest.mark.parametrize("place", ["fit", "refine", "deliver"])
def test_cancelled_then_resumed_gives_the_same_bytes(whole, tmp_path: Path, place: str) -> None:
    source = tmp_path / "a.glb"
    source.write_bytes(whole[0].read_bytes())
    said: list[str] = []

    def asked() -> str | None:
        return "cancel" if said else None

    for event in refine.refine(refine_job(tmp_path / "half", source, checkpoint_seconds=0.0), asked):
        if isinstance(event, Started) and event.stage == place:
            said.append("now")
    assert isinstance(event, Cancelled)
    source.unlink()  # the job has kept what it needs
    events = list(resume.resume(tmp_path / "half"))
    assert isinstance(events[-1], Finished)
    assert (Started("fit", 40) in events) == (place == "fit")
    assert delivered(tmp_path / "half") == whole[1]


def test_stopped_before_its_first_checkpoint_it_goes_on_with_the_object_that_it_has_kept(
    whole, tmp_path: Path
) -> None:
    source, folder = tmp_path / "a.glb", tmp_path / "job"
    source.write_bytes(whole[0].read_bytes())
    events = refine.refine(refine_job(folder, source))
    next(events)
    events.close()
    assert not (folder / "checkpoints").exists()
    source.write_bytes(meshfile.to_bytes(painted_ball()))  # something else, under its name
    assert isinstance(list(resume.resume(folder))[-1], Finished)
    assert delivered(folder) == whole[1]


@pytest.mark.parametrize("name", ["object.npz", "object.glb"])
def test_another_object_in_its_folder_is_refused(whole, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "job"
    events = refine.refine(refine_job(folder, whole[0]))
    next(events)
    events.close()
    if name == "object.npz":
        (folder / name).write_bytes(meshfile.to_bytes(painted_ball()))
    else:
        (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name} is not the object.*--overwrite"):
        list(resume.resume(folder))


def test_finished_early_while_the_field_learns_it_delivers_the_object_s_own_colours(
    whole, tmp_path: Path
) -> None:
    events = list(refine.refine(refine_job(tmp_path / "job", whole[0]), lambda: "finish"))
    assert isinstance(events[-1], Finished)
    assert [e.stage for e in events if isinstance(e, Started)] == ["fit", "refine", "deliver"]


def test_a_named_material_alone(tmp_path: Path) -> None:
    arrays = painted_ball()
    material = (arrays.v_pos[arrays.t_pos_idx].mean(1)[:, 2] > 0).astype(np.int32)
    two = dataclasses.replace(
        arrays, material=material, base=np.ones((2, 4), np.float32), image=np.zeros(2, np.int32),
        wrap=np.zeros((2, 2), np.int32), names=np.array(["below", "above 🦆"]),
    )  # fmt: skip
    _, albedo, _ = run_arrays(tmp_path / "job", two, material="above 🦆")
    kept = texels_of(uv_mesh(arrays, material == 0), 64).index.numpy()
    assert np.array_equal(albedo.reshape(-1, 4)[kept], stripes().reshape(-1, 4)[kept])
    with pytest.raises(InputError, match="no material 'side'"):
        run_arrays(tmp_path / "other", two, material="side")
