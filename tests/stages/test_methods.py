"""The baselines' updates against their own papers' formulas, and how often each draws which level."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import pairwise

import pytest
import torch
from diffusers import DDPMScheduler

from backend.config import DRAFT
from backend.diffusion.prior import Phi
from backend.diffusion.schedule import NoiseLevel, noise_levels, sigma_table
from backend.scene.mesh import Mesh
from backend.scene.scene import Scene, new_scene
from backend.stages.guides import Guide
from backend.stages.methods import (
    CENTRE,
    HIGHEST,
    LOWEST,
    WIDTH,
    distillation_step,
    dreamtime_timesteps,
    method_levels,
    walk,
)
from backend.stages.stages import texture_stage
from backend.stages.update import euler_step
from dreamflow_blender.contract.settings import METHODS
from tests.tools.oracle import Oracle, generator
from tests.tools.tiny_models import BETAS


def eps(z: torch.Tensor) -> torch.Tensor:
    """Some prediction of the noise in a latent that is scaled as Stable Diffusion's are."""
    return torch.sin(3 * z) + 0.2 * z.roll(1, -1)


@pytest.mark.parametrize("timestep", [50, 400, 950])
def test_sds_is_dreamfusions_gradient(timestep: int) -> None:
    """Eq. 3 with w = 1 - alpha_bar, and Stable Diffusion's noised latents, written as its scheduler does."""
    draw = torch.Generator().manual_seed(timestep)
    x, n = torch.randn(2, 1, 4, 6, 6, generator=draw, dtype=torch.float64)
    scheduler = DDPMScheduler(**BETAS)
    alpha_bar = scheduler.alphas_cumprod[timestep].double()
    noised = scheduler.add_noise(x, n, torch.tensor([timestep]))
    gradient = (1 - alpha_bar) * (eps(noised) - n)

    level = distillation_step(timestep)
    z = x + level.sigma * n
    d_p = z - level.sigma * eps(z / (1 + level.sigma**2) ** 0.5)
    assert torch.allclose(x - euler_step(x, d_p, x, level), gradient, atol=1e-5)


@pytest.mark.parametrize("timestep", [50, 400, 950])
def test_sds_is_sjc_in_score_form(timestep: int) -> None:
    """Score Jacobian Chaining moves x along its perturb-and-average score (D(x + sigma n) - x) / sigma^2 (Eq. 9)."""
    x, n = torch.randn(2, 1, 4, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    level = distillation_step(timestep)
    d_p = torch.tanh(x + level.sigma * n)
    step = euler_step(x, d_p, x, level) - x
    score = (d_p - x) / level.sigma**2
    assert torch.allclose(step, level.sigma**3 / (1 + level.sigma**2) * score, atol=1e-12)


def test_vsd_and_apfo_move_along_the_same_line() -> None:
    """VSD's w (eps_p - eps_phi) differs from Eq. 12 by its weight alone."""
    x, d_p, d_phi = torch.randn(
        3, 1, 4, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    level = distillation_step(600)
    z = x + level.sigma * torch.randn(
        x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    alpha_bar = 1 / (1 + level.sigma**2)
    eps_p, eps_phi = (z - d_p) / level.sigma, (z - d_phi) / level.sigma
    expected = x - (1 - alpha_bar) * (eps_p - eps_phi)
    assert torch.allclose(euler_step(x, d_p, d_phi, level), expected, atol=1e-12)


def test_random_levels_are_drawn_from_two_to_ninety_eight_percent() -> None:
    levels = method_levels("sds", 1.0, 0.0, 20_000, seed=7)
    timesteps = torch.tensor([level.timestep for level in levels])
    assert timesteps.min() >= LOWEST and timesteps.max() <= HIGHEST
    assert abs(timesteps.mean() - 500) < 10 and abs(timesteps.std() - 960 / 12**0.5) < 5
    assert levels == method_levels("vsd", 1.0, 0.0, 20_000, seed=7)
    assert levels[:10] != method_levels("sds", 1.0, 0.0, 10, seed=8)
    assert all(0 < level.kappa <= 0.5 for level in levels)


def test_falling_methods_fall() -> None:
    linear = [level.timestep for level in method_levels("vsd-linear", 1.0, 0.0, 500, seed=0)]
    assert linear[0] == 999 and all(a - b == pytest.approx(999 / 500) for a, b in pairwise(linear))
    assert method_levels("sdedit", 1.0, 0.199, 30, seed=0) == noise_levels(1.0, 0.199, 30)
    assert method_levels("apfo", 1.0, 0.199, 30, seed=0) == noise_levels(1.0, 0.199, 30)


def test_dreamtime_spends_iterations_by_its_weights() -> None:
    """The share of iterations in each tenth of the timesteps is that of W(t)'s sum."""
    timesteps = dreamtime_timesteps(10_000)
    assert all(a >= b for a, b in pairwise(timesteps))
    t = torch.arange(1000, dtype=torch.float64)
    weights = sigma_table() * torch.exp(-((t - CENTRE) ** 2) / (2 * WIDTH**2))
    share = weights.view(10, 100).sum(1) / weights.sum()
    counted = Counter(int(timestep) // 100 for timestep in timesteps)
    for tenth in range(10):
        assert counted[tenth] / 10_000 == pytest.approx(float(share[tenth]), abs=2e-3)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown method 'ism'"):
        method_levels("ism", 1.0, 0.0, 10, seed=0)


def test_methods_of_single_draws_have_a_level_for_every_update() -> None:
    for method in METHODS:
        stage = dataclasses.replace(DRAFT.texture, method=method)
        levels, views = walk(stage, seed=3)
        assert len(levels) * views == stage.iterations
        assert views == (stage.views if method in ("apfo", "sdedit") else 1), method


def plain_scene() -> Scene:
    """A tetrahedron under an untaught field."""
    scene = new_scene(dataclasses.replace(DRAFT.nerf, occupancy=4, grid_log2_size=8), torch.device("cpu"), 0)
    corners = torch.tensor([(1.0, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]) * 0.3
    scene.mesh = Mesh(corners, torch.tensor([(0, 1, 2), (0, 2, 3), (0, 3, 1), (1, 3, 2)]))
    return scene


@pytest.mark.parametrize("method", METHODS)
def test_a_stage_takes_its_method(method: str) -> None:
    """Its levels are the method's, with the job's seed, and D_phi is learnt where the method has one."""

    class WithPhi(Oracle):
        def phi(self, *_: object) -> Phi:  # type: ignore[override]
            return phi

    phi = object()
    settings = dataclasses.replace(DRAFT.texture, levels=2, views=2, size=16, phi="prior", method=method)
    learnt = WithPhi()
    learnt.spec = dataclasses.replace(Oracle.spec, lora=True)
    scene = plain_scene()
    stage = texture_stage(scene, Guide(learnt, "colour", 1.0), settings, generator(5), seed=5)
    assert (stage.phi is phi) == (method not in ("sdedit", "sds"))
    seen = [step.level for step in texture_stage(
        scene, Guide(Oracle(), "colour", 1.0), settings, generator(5), seed=5).steps(0)]  # fmt: skip
    levels, views = walk(settings, 5)
    assert seen == [level for level in levels for _ in range(views)]


def test_constant_steps_are_the_mean_of_the_levels_own() -> None:
    stage = dataclasses.replace(DRAFT.refine, levels=7)
    own, constant = (walk(dataclasses.replace(stage, weight=w), 0)[0] for w in ("kappa", "constant"))
    assert [(a.timestep, a.sigma) for a in own] == [(a.timestep, a.sigma) for a in constant]
    mean = sum(level.kappa for level in own) / 7
    assert [level.kappa for level in constant] == pytest.approx([mean] * 7)
    assert own[-1].kappa == 1 and mean < 0.5


def test_phi_learns_at_a_random_level_where_it_is_asked_to() -> None:
    fitted: list[float] = []
    called: list[float] = []

    class Spy:
        def fit(self, x: torch.Tensor, level: NoiseLevel, *_: object) -> torch.Tensor:
            fitted.append(level.timestep)
            return x.new_zeros(())

        def __call__(self, z: torch.Tensor, level: NoiseLevel, camera: object) -> torch.Tensor:
            called.append(level.timestep)
            return z

    class WithPhi(Oracle):
        spec = dataclasses.replace(Oracle.spec, lora=True)

        def phi(self, *_: object) -> Phi:  # type: ignore[override]
            return Spy()  # type: ignore[return-value]

    for phi_level in ("same", "random"):
        fitted.clear(), called.clear()
        settings = dataclasses.replace(DRAFT.texture, levels=3, views=2, size=16, phi_level=phi_level)
        stage = texture_stage(plain_scene(), Guide(WithPhi(), "colour", 1.0), settings, generator(5), seed=5)
        own = [step.level.timestep for step in stage.steps(0)]
        assert called == own and len(fitted) == 6
        assert (fitted == own) == (phi_level == "same")
        assert len(set(fitted)) == (3 if phi_level == "same" else 6)


def test_the_noise_of_texture_is_as_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """What D_p is shown is the render and the noise of the setting; two runs differ in that alone."""

    def first_z(noise: str, seed: int = 5) -> list[torch.Tensor]:
        shown: list[torch.Tensor] = []

        class Keeping(Oracle):
            def encode(self, image: torch.Tensor) -> torch.Tensor:
                return super().encode(image) * 0

            def denoise(self, z: torch.Tensor, level: NoiseLevel, *_: object, **__: object) -> torch.Tensor:
                shown.append(z / level.sigma)
                return z

        settings = dataclasses.replace(DRAFT.texture, levels=2, views=1, size=16, noise=noise)
        guide = Guide(Keeping(), "colour", 1.0)
        list(texture_stage(plain_scene(), guide, settings, generator(seed), seed=5).steps(0))
        return shown

    carried, surface, plain = first_z("carried"), first_z("surface"), first_z("fresh")
    assert torch.allclose(carried[0], carried[1]) and not torch.allclose(plain[0], plain[1])
    assert torch.equal(surface[0], first_z("surface")[0])
    assert not torch.equal(carried[0], first_z("carried", seed=6)[0])
    air = (surface[0] == plain[0]).all(
        1
    )  # the generator is at the same place, so what lies beside the mesh is fresh
    assert 0.2 < float(air.float().mean()) < 0.98
