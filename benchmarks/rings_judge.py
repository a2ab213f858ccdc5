"""Does the embedded prior know where the camera stands? Against true renders of 24 azimuths, during training.

For a kind: D_p's mean squared error in latents by noise level, view by view and jointly; and of 24 samples at asked
azimuths, how often the true picture of that azimuth is the nearest of all 24 (rank 1), or among the best three.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from backend.diffusion.camera_label import camera_label
from backend.diffusion.convention import CONVENTIONS, scale_in
from backend.diffusion.joint_attention import join_frames
from backend.diffusion.schedule import NoiseLevel, noise_levels
from backend.objects.sphere_trace import Views
from backend.scene.camera import Camera, orbit
from backend.training.dataset import POSES, random_background
from backend.training.export import GUIDANCE
from backend.training.rings.__main__ import Trainer
from backend.training.rings.rings import FRAMES, RING_SIZE
from backend.training.train_unet import Sentences

AZIMUTHS, ELEVATION, STEPS = 24, 20.0, 20
LEVELS = (0.98, 0.8, 0.65, 0.5, 0.2)


def judged_cameras() -> Camera:
    """AZIMUTHS cameras, ring by ring: the first four are 0, 90, 180 and 270 degrees."""
    step = 360.0 / AZIMUTHS
    azimuth = (torch.arange(FRAMES) * 360.0 / FRAMES)[None] + (torch.arange(AZIMUTHS // FRAMES) * step)[
        :, None
    ]
    azimuth = azimuth.flatten()
    full = torch.full_like
    distance = sum(POSES.distance) / 2
    return orbit(
        azimuth, full(azimuth, ELEVATION), full(azimuth, distance), full(azimuth, 45.0), RING_SIZE, RING_SIZE
    )


class Judge:
    """The trained average, and what it says of a prompt at AZIMUTHS cameras; `frames` 1 or FRAMES at once."""

    def __init__(self, trainer: Trainer) -> None:
        trainer.run.put_average()
        self.unet, self.encoder, self.vae = trainer.unet.eval(), trainer.encoder.eval(), trainer.vae
        self.sentences = Sentences(trainer.tokenizer)
        self.cameras = judged_cameras()
        self.label = camera_label(self.cameras.c2w)

    @torch.no_grad()
    def denoise(self, z: Tensor, level: NoiseLevel, prompt: str, frames: int, guidance: float) -> Tensor:
        """D_p(z) for one row a camera."""
        join_frames(self.unet, frames)
        texts = [prompt] if guidance == 1 else [prompt, ""]
        found = []
        for text in texts:
            hidden = self.encoder(self.sentences([text])).last_hidden_state.expand(len(z), -1, -1)
            t = torch.full((len(z),), level.timestep)
            v = self.unet(
                z * scale_in(level), t, encoder_hidden_states=hidden, class_labels=self.label
            ).sample
            found.append(CONVENTIONS["v_prediction"].denoised(v, z, level))
        return found[0] if guidance == 1 else found[1] + guidance * (found[0] - found[1])

    def sample(self, prompt: str, frames: int, seed: int) -> Tensor:
        """[AZIMUTHS,H,W,3], by Euler steps of the probability flow."""
        levels = noise_levels(1.0, 0.0, STEPS)
        z = levels[0].sigma * torch.randn(AZIMUTHS, 4, 16, 16, generator=Generator().manual_seed(seed))
        for level in levels:
            z = z + level.kappa * (self.denoise(z, level, prompt, frames, GUIDANCE) - z)
        with torch.no_grad():
            pixels = self.vae.decode(z / self.vae.config.scaling_factor).sample
        return (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)

    @torch.no_grad()
    def errors(self, truth: Views, prompt: str, frames: int) -> list[float]:
        """Mean squared error of D_p at true renders, unguided, one for each of LEVELS; rings share a background."""
        generator = Generator().manual_seed(1)
        ground = torch.stack([random_background(generator) for _ in range(AZIMUTHS // FRAMES)])
        ground = ground.repeat_interleave(FRAMES, 0)[:, None, None]
        image = truth.colour * truth.alpha + (1 - truth.alpha) * ground
        x = (
            self.vae.encode(image.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode()
            * self.vae.config.scaling_factor
        )
        found = []
        for t in LEVELS:
            level = noise_levels(t, t - 0.01, 1)[0]
            z = x + level.sigma * torch.randn(x.shape, generator=generator)
            found.append(float((self.denoise(z, level, prompt, frames, 1.0) - x).square().mean()))
        return found


def azimuth_match(images: Tensor, truth: Views) -> dict[str, float]:
    """Of samples at the judged cameras: shares of rank 1 and of rank 3 or better, mean degrees off, rmse."""
    border = torch.cat((images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]), 1).median(1).values
    wanted = (truth.colour * truth.alpha)[None] + (1 - truth.alpha[None]) * border[:, None, None, None]
    distance = (images[:, None] - wanted).square().mean((2, 3, 4))
    own = distance.diagonal()
    rank = (distance < own[:, None]).sum(1) + 1
    azimuth = judged_cameras().azimuth
    off = (azimuth[distance.argmin(1)] - azimuth + 180) % 360 - 180
    spread = border.view(-1, FRAMES, 3).std(1).mean()
    return {
        "rank 1": float((rank == 1).float().mean()),
        "rank <= 3": float((rank <= 3).float().mean()),
        "degrees off": float(off.abs().mean()),
        "rmse": float(own.mean().sqrt()),
        "background spread": float(spread),
    }
