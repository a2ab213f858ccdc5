"""Texture coordinates: nothing lost, nothing mirrored, nothing overlapping, and no way to hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from backend.evidence.known_objects import true_mesh
from backend.objects.grammar import parse_object
from backend.objects.shapes import build
from backend.scene.isosurface import marching_tetrahedra, tetrahedral_grid
from backend.texture import charts, packing, unwrap
from benchmarks.unwraps import judged

pytest.importorskip("xatlas", reason="xatlas has no wheel for this platform")
raster = pytest.importorskip("backend.kernels.raster_warp", reason="Warp is not installed")


def blob(cells: int, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A ball with an arm through it, as marching tetrahedra make it: slivers and all. noise in cells."""
    grid = tetrahedral_grid(cells, (-0.6,) * 3, (0.6,) * 3)
    p = grid.vertices
    arm = torch.minimum(0.1 - (p[:, 1:] - 0.05).norm(dim=1), 0.5 - p[:, 0].abs())
    sdf = torch.maximum(0.33 - p.norm(dim=1), arm) + 0.01 * torch.sin(p * 25).prod(1)
    sdf += noise * grid.spacing * torch.randn(len(sdf), generator=torch.Generator().manual_seed(0))
    mesh = marching_tetrahedra(p, sdf, grid)
    return mesh.v_pos.numpy(), mesh.t_pos_idx.numpy()


def packed(v: np.ndarray, t: np.ndarray, size: int, padding: int) -> tuple[np.ndarray, np.ndarray]:
    return packing.pack(v, t, charts.cube_charts(v, t, size), size, padding)


def uv_area(uv: np.ndarray, corners: np.ndarray) -> np.ndarray:
    a, b, c = (uv[corners[:, k]].astype(np.float64) for k in range(3))
    return ((b - a)[:, 0] * (c - a)[:, 1] - (c - a)[:, 0] * (b - a)[:, 1]) / 2


def covered_and_shared(uv: np.ndarray, corners: np.ndarray, size: int = 2048) -> tuple[int, int]:
    """Texels in some triangle, and those in more than one: where the first and the last one differ."""
    flat = torch.tensor(uv) * 2 - 1
    pos = torch.cat((flat, torch.zeros(len(flat), 1), torch.ones(len(flat), 1)), 1)
    tri = torch.tensor(corners)
    first = raster.rasterize_ids(pos, tri, size, size)
    last = len(tri) - 1 - raster.rasterize_ids(pos, tri.flip(0), size, size)
    return int((first >= 0).sum()), int(((first >= 0) & (first != last)).sum())


def check(uv: np.ndarray, corners: np.ndarray, n_faces: int) -> None:
    assert uv.dtype == np.float32
    assert corners.dtype == np.int64
    assert corners.shape == (n_faces, 3)
    assert np.isfinite(uv).all()
    assert uv.min() >= 0
    assert uv.max() <= 1
    assert len(np.unique(corners)) == len(uv), "every row is used"


def test_a_clean_surface_has_no_overlap_and_keeps_its_faces() -> None:
    v, t = blob(24)
    uv, corners, method, reason = unwrap.unwrap(v, t, 2048)
    assert (method, reason) == ("charts", "")
    check(uv, corners, len(t))
    covered, shared = covered_and_shared(uv, corners)
    assert shared <= 2, "texels of 4 million: borders of one chart may touch within a texel"
    assert covered > 0.5 * 2048**2
    # corner by corner: a row of uv belongs to one vertex
    vertex = np.full(len(uv), -1)
    vertex[corners.reshape(-1)] = t.reshape(-1)
    assert np.array_equal(vertex[corners], t)
    # never mirrored, and the same density everywhere but for the slope against a chart's axis
    cross = np.cross(v[t[:, 1]] - v[t[:, 0]], v[t[:, 2]] - v[t[:, 0]])
    area, flat = np.linalg.norm(cross, axis=1) / 2, uv_area(uv, corners)
    big = area > 1e-6
    assert (flat[big] > 0).all()
    low, high = np.percentile((flat / area)[big], (5, 95))
    assert high / low < 2.5


def test_a_noisy_surface_overlaps_under_one_per_cent() -> None:
    v, t = blob(24, noise=0.6)
    uv, corners, method, _ = unwrap.unwrap(v, t, 2048)
    assert method == "charts"
    check(uv, corners, len(t))
    covered, shared = covered_and_shared(uv, corners)
    assert shared < 0.01 * covered
    assert (uv_area(uv, corners) > 0).mean() > 0.99


def test_folds_get_charts_of_their_own() -> None:
    """A ramp that winds three times round an axis: every face looks up, and lies under the next turn."""
    turn = np.linspace(0, 6 * np.pi, 120)
    rim = np.stack((np.cos(turn), np.sin(turn), 0.02 * turn), 1)
    v = np.concatenate((rim * (0.2, 0.2, 1), rim * (0.5, 0.5, 1))).astype(np.float32)
    i = np.arange(119)
    t = np.concatenate((np.stack((i, i + 120, i + 1), 1), np.stack((i + 1, i + 120, i + 121), 1)))
    uv, corners = packed(v, t, 512, 2)
    covered, shared = covered_and_shared(uv, corners, 512)
    assert covered > 5e4
    assert shared == 0


def test_padding_separates_charts() -> None:
    mesh = trimesh.creation.box()
    uv, corners = packed(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces), 256, 4)
    along = mesh.face_normals @ np.array([1, 2, 3])  # two faces a side
    side = [uv[corners[np.isclose(along, k)]].reshape(-1, 2) for k in (-3, -2, -1, 1, 2, 3)]
    low, high = np.array([s.min(0) for s in side]), np.array([s.max(0) for s in side])
    gap = np.maximum(low[:, None] - high[None], low[None] - high[:, None]).max(-1)
    assert (gap + np.eye(6) * 9).min() * 256 >= 2


def odd_meshes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    ball = trimesh.creation.icosphere(subdivisions=2)
    v, t = np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.int64)
    n = len(v)
    pieces = np.concatenate([t + k * n for k in range(4)])
    fan = np.array([[0, 1, 2 + k] for k in range(5)])  # five faces on one edge
    g = np.random.default_rng(0)
    return {
        "open": (v, t[::2]),
        "pieces": (np.concatenate([v + 3 * k for k in range(4)]).astype(np.float32), pieces),
        "non-manifold": (g.random((7, 3)).astype(np.float32), fan),
        "zero area": (v, np.concatenate((t, [[0, 0, 1], [5, 5, 5]], t[:3, [0, 1, 1]]))),
        "repeated": (v, np.concatenate((t, t))),
        "inside out": (v, t[:, ::-1].copy()),
        "one triangle": (np.eye(3, dtype=np.float32), np.array([[0, 1, 2]])),
        "tiny": (v * np.float32(1e-5), t),
        "soup": (g.random((900, 3)).astype(np.float32), np.arange(900).reshape(-1, 3)),
        "unused vertices": (np.concatenate((v, v + 9)), t),
    }


@pytest.mark.parametrize("name", odd_meshes())
def test_odd_meshes(name: str) -> None:
    v, t = odd_meshes()[name]
    uv, corners = packed(v, t, 512, 2)
    check(uv, corners, len(t))
    _, shared = covered_and_shared(uv, corners, 512)
    assert shared <= 0.001 * 512**2
    cross = np.linalg.norm(np.cross(v[t[:, 1]] - v[t[:, 0]], v[t[:, 2]] - v[t[:, 0]]), axis=1)
    assert (uv_area(uv, corners)[cross > cross.max() * 1e-3] > 0).all()


def test_without_any_area_triangles_get_places() -> None:
    v, t = np.zeros((3, 3), np.float32), np.array([[0, 1, 2], [2, 1, 0]])
    uv, corners, method, reason = unwrap.unwrap(v, t, 64)
    check(uv, corners, 2)
    assert method == "per-triangle"
    assert "no face has an area" in reason


def test_an_empty_mesh() -> None:
    made = unwrap.unwrap(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64), 64)
    assert made.v_tex.shape == (0, 2)
    assert made.t_tex_idx.shape == (0, 3)


@pytest.mark.parametrize(("n_faces", "size"), [(1, 64), (2, 64), (7, 256), (1000, 512), (30_000, 512)])
def test_single_triangles_never_touch(n_faces: int, size: int) -> None:
    uv, corners = charts.single_triangles(n_faces, size, 2)
    check(uv, corners, n_faces)
    area = uv_area(uv, corners)
    assert (area > 0).all()
    assert np.ptp(area) < 1e-3 * area.max()
    fine = min(4 * size, 2048)
    covered, shared = covered_and_shared(uv, corners, fine)
    assert shared == 0
    assert covered == pytest.approx(area.sum() * fine**2, rel=0.1)
    if n_faces == 1000:  # there is room for two texels everywhere
        pos = torch.tensor(np.concatenate((uv * 2 - 1, uv * 0, uv[:, :1] * 0 + 1), 1)[:, [0, 1, 2, 4]])
        ids = raster.rasterize_ids(pos, torch.tensor(corners), size, size)
        for shift in ((1, 0), (0, 1), (1, 1)):
            other = ids.roll(shift, (0, 1))
            assert not ((ids >= 0) & (other >= 0) & (ids != other)).any()


@pytest.fixture
def slow_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    child = tmp_path / "slow.py"
    child.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(unwrap, "CHILD", child)
    return child


def test_a_time_out_leads_to_single_triangles(slow_child: Path) -> None:
    v, t = blob(8)
    start = time.monotonic()
    uv, corners, method, reason = unwrap.unwrap(v, t, 512, timeout=0.3)
    assert time.monotonic() - start < 10
    assert method == "per-triangle"
    assert "longer than 0.3 s" in reason
    check(uv, corners, len(t))


def test_cancelling_stops_the_child(slow_child: Path) -> None:
    asked = []
    made = unwrap.unwrap(*blob(8), 512, cancelled=lambda: len(asked) > 2 or asked.append(1))
    assert made.method == "per-triangle"
    assert "cancelled" in made.reason


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("raise SystemExit('no xatlas here')", "no xatlas here"),
        ("import os; os.abort()", "code"),
        ("", "no result"),
        ("print('nonsense')", "no result"),
    ],
)
def test_a_broken_child_leads_to_single_triangles(
    code: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    child.write_text(code)
    monkeypatch.setattr(unwrap, "CHILD", child)
    v, t = blob(8)
    uv, corners, method, reason = unwrap.unwrap(v, t, 512)
    assert method == "per-triangle"
    assert word in reason
    check(uv, corners, len(t))


def test_any_folder_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    odd = tmp_path / "Ein Ordner für Zoë"
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    monkeypatch.chdir(odd)
    v, t = blob(8)
    assert unwrap.unwrap(v, t, 512).method == "charts"
    assert list(odd.iterdir()) == []
    assert capfd.readouterr().out == ""


def test_the_child_does_not_load_torch() -> None:
    code, folder = "import sys, charts; print('torch' in sys.modules)", Path(unwrap.__file__).parent
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "False"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("busy", ["time.sleep(100)", "ctypes.PyDLL(None).sleep(100)"])
def test_the_child_dies_with_its_parent(busy: str, tmp_path: Path) -> None:
    """Also while a C function holds the interpreter's lock, as xatlas does."""
    child = tmp_path / "child.py"
    child.write_text(
        textwrap.dedent(f"""
            import ctypes, os, sys, time
            from backend.texture import unwrap_child
            unwrap_child.die_with_parent(90)
            open({str(tmp_path / "pid")!r} + ".part", "w").write(str(os.getpid()))
            os.rename({str(tmp_path / "pid")!r} + ".part", {str(tmp_path / "pid")!r})
            {busy}
        """)
    )
    script = textwrap.dedent(f"""
        from pathlib import Path
        import numpy as np
        from backend.texture import unwrap
        unwrap.CHILD = Path({str(child)!r})
        unwrap.unwrap(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]]), 64)
    """)
    root = Path(unwrap.__file__).parents[2]
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(root)}
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=root, env=environment)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        pid = int((tmp_path / "pid").read_text())
        assert Path(f"/proc/{pid}").exists()
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 5
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(pid)
    assert {path.name for path in tmp_path.iterdir()} == {"child.py", "pid"}, "a temporary file is left"


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # a zombie waits for whoever inherited it


def test_the_watchdog_ends_a_child_without_a_parent_to_time_it() -> None:
    code = (
        "import ctypes; from backend.texture import unwrap_child; "
        "unwrap_child.die_with_parent(0.3); ctypes.PyDLL(None).sleep(30)"
    )
    if sys.platform == "win32":
        pytest.skip("sleep is called otherwise on Windows")
    root = Path(unwrap.__file__).parents[2]
    start = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.wait(20) != 0
    assert time.monotonic() - start < 20
    child.stdin.close()


def test_borders_are_short_and_the_square_is_full() -> None:
    """A mushroom of 6,500 triangles had 14 charts, seams of 8.0 diagonals in saw teeth, and 57 % of the square."""
    shape = build(parse_object("a red mushroom"))
    mesh = true_mesh(shape, 26)
    v, t = mesh.v_pos.numpy(), mesh.t_pos_idx.numpy()
    uv, corners = packed(v, t, 512, 4)
    found = judged(v.astype(np.float64), t, uv.astype(np.float64), corners)
    assert found["charts"] <= 12
    assert found["use"] >= 70
    assert found["seam"] < 7.2
    assert found["overlap"] == 0


@pytest.mark.slow
def test_frames_are_cut_to_fill_the_square() -> None:
    """Four of them leave most of the square free inside of them; halves lie in one another."""
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float64)
    frame = np.concatenate((square, square * 0.8 + 0.1))
    side = np.array([(k, (k + 1) % 4, (k + 1) % 4 + 4, k + 4) for k in range(4)])
    v = np.c_[np.concatenate([frame + np.array([2 * k, 0]) for k in range(4)]), np.zeros(32)]
    t = np.concatenate([side[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3) + 8 * k for k in range(4)])
    for _ in range(3):
        v, t = trimesh.remesh.subdivide(v, t)
    flat = charts.cube_charts(v.astype(np.float32), t, 1024)
    whole = packing.pack(v, t, flat, 1024, 4)
    cut = packing.pack_well(v, t, flat, 1024, 4, charts.halved)
    assert packing.islands(*whole)[0] == 4 < packing.islands(*cut)[0] <= 4 + 3 * packing.CUTS
    assert packing.covered(*whole) < 0.37 and packing.covered(*cut) > 0.57
    assert covered_and_shared(*cut)[1] == 0


def test_shapes_that_interlock_are_found_to() -> None:
    """Two equal right triangles fill a square, and an L takes a square into its corner: a box for each would not."""
    steps = np.triu(np.ones((64, 64), np.float32))
    corner = np.ones((64, 64), np.float32)
    corner[32:, 32:] = 0
    for masks in (
        [steps, np.triu(np.ones((64, 64), np.float32), 4)],
        [corner, np.ones((32, 32), np.float32)],
    ):
        side, placed = packing.layout(masks)
        assert side <= 68, "two boxes side by side take 96 or 128"
        turned = [[np.rot90(mask, turn) for turn in range(4)] for mask in masks]
        assert not packing.overlaps(turned, placed).any()


def test_a_balls_charts_are_cut_to_fill_the_square() -> None:
    """Its six equal ones cover 65 % at best; two straight cuts fill it."""
    ball = trimesh.creation.icosphere(subdivisions=4)
    v, t = np.asarray(ball.vertices), np.asarray(ball.faces)
    made = unwrap.unwrap(v.astype(np.float32), t, 512)
    found = judged(v, t, made.v_tex.astype(np.float64), made.t_tex_idx)
    assert found["charts"] == 8
    assert found["use"] >= 70
    assert found["seam"] < 5.5, "each cut is a quarter of its circumference, 0.46 diagonals; 4.38 before"
    assert found["overlap"] == 0


def test_a_chart_of_one_face_stays_whole() -> None:
    flat = charts.cube_charts(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]]), 64)
    uv, corners, vertex = charts.halved(flat, np.array([0]))
    assert np.array_equal(uv[corners], flat[0][flat[1]])
    assert np.array_equal(vertex[corners], [[0, 1, 2]])


def test_a_sliver_stays_in_its_chart() -> None:
    """The normal of a face next to nothing may point anywhere: it cut a mushroom's cap in pieces."""
    v = np.array([(0, 0, 0), (1, 0, 0), (0.5, 1, 0), (0.5, -1, 0), (0.5, 0, 1e-3)], np.float32)
    t = np.array([(0, 4, 2), (4, 1, 2), (0, 3, 1), (0, 1, 4)])  # the last stands upright between the others
    assert packing.islands(*charts.cube_charts(v, t, 256)[:2])[0] == 1
