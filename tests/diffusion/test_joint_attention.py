"""Joint attention and the camera's label on diffusers' own UNet, as MVDream's weights will meet them."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from backend.diffusion.camera_label import CAMERA_CONFIG, camera_label, silence_camera
from backend.diffusion.joint_attention import JointAttention, join_frames
from backend.errors import InputError
from backend.scene.camera import orbit
from tests.tools.mvdream_reference import joined_frames

FRAMES = 4


def small_unet(camera: bool) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=4,
        norm_num_groups=4,
        use_linear_projection=True,
        **(CAMERA_CONFIG if camera else {}),
    ).eval()


def ring() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, timesteps, text and camera labels of two rings."""
    generator = torch.Generator().manual_seed(1)
    azimuth = torch.arange(2 * FRAMES) * 90.0
    ones = torch.ones_like(azimuth)
    camera = orbit(azimuth, 20 * ones, 1.5 * ones, 45 * ones, 8, 8)
    x = torch.randn(2 * FRAMES, 4, 8, 8, generator=generator)
    text = torch.randn(2 * FRAMES, 5, 12, generator=generator)
    return x, torch.full((2 * FRAMES,), 500), text, camera_label(camera.c2w)


def test_label_is_the_matrix_row_by_row_with_a_direction_instead_of_a_place() -> None:
    camera = orbit(*(torch.tensor([v]) for v in (90.0, 0.0, 1.5, 45.0)), 8, 8)
    # on +X, looking at the origin: right is +Y, up is +Z, back is +X
    wanted = [0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    assert torch.allclose(camera_label(camera.c2w)[0], torch.tensor(wanted).float(), atol=1e-6)
    assert float(camera.c2w[0, 0, 3]) == pytest.approx(1.5)  # the camera itself is not moved


def test_a_silent_camera_and_single_frames_are_the_plain_unet() -> None:
    x, t, text, label = ring()
    plain, told = small_unet(False), small_unet(True)
    told.load_state_dict(plain.state_dict(), strict=False)
    silence_camera(told)
    join_frames(told, 1)
    with torch.no_grad():
        a = plain(x, t, encoder_hidden_states=text).sample
        b = told(x, t, encoder_hidden_states=text, class_labels=label).sample
    assert torch.equal(a, b)


def test_joint_attention_is_softmax_over_all_tokens_of_a_ring() -> None:
    unet = small_unet(False)
    attn = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    processor = JointAttention(attn.processor, FRAMES)
    hidden = torch.randn(2 * FRAMES, 9, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        got = processor(attn, hidden)
        for ring_number in range(2):
            tokens = torch.cat(list(hidden[ring_number * FRAMES : (ring_number + 1) * FRAMES]))
            heads = []
            wide = attn.to_q.weight.shape[0] // attn.heads
            for head in range(attn.heads):
                rows = slice(head * wide, (head + 1) * wide)
                q, k, v = (tokens @ layer.weight[rows].T for layer in (attn.to_q, attn.to_k, attn.to_v))
                scores = q @ k.T / math.sqrt(wide)
                share = scores.exp() / scores.exp().sum(1, keepdim=True)
                heads.append(share @ v)
            wanted = torch.cat(heads, 1) @ attn.to_out[0].weight.T + attn.to_out[0].bias
            mine = got[ring_number * FRAMES : (ring_number + 1) * FRAMES].reshape(-1, 32)
            assert torch.allclose(mine, wanted, atol=1e-5)


@pytest.mark.parametrize("frames", [1, FRAMES])
def test_one_views_latent_changes_the_others_of_its_ring_and_no_other_ring(frames: int) -> None:
    x, t, text, label = ring()
    unet = small_unet(True)
    join_frames(unet, frames)
    moved = x.clone()
    moved[0] += 1
    with torch.no_grad():
        change = (
            unet(moved, t, encoder_hidden_states=text, class_labels=label).sample
            - unet(x, t, encoder_hidden_states=text, class_labels=label).sample
        )
    changed = (change.abs().amax((1, 2, 3)) > 1e-6).tolist()
    assert changed == [i < frames for i in range(2 * FRAMES)]


def test_the_camera_changes_the_picture() -> None:
    x, t, text, label = ring()
    unet = small_unet(True)
    with torch.no_grad():
        a = unet(x, t, encoder_hidden_states=text, class_labels=label).sample
        b = unet(x, t, encoder_hidden_states=text, class_labels=label.roll(1, 0)).sample
    assert not torch.allclose(a, b)


def test_joining_again_replaces() -> None:
    unet = small_unet(True)
    join_frames(unet, 2)
    join_frames(unet, FRAMES)
    assert joined_frames(unet) == FRAMES
    assert all(isinstance(p, JointAttention) == ("attn1" in name) for name, p in unet.attn_processors.items())


def test_a_torn_ring_is_refused() -> None:
    unet = small_unet(True)
    join_frames(unet, FRAMES)
    x, t, text, label = ring()
    with pytest.raises(InputError, match="no whole number of rings of 4"):
        unet(x[:6], t[:6], encoder_hidden_states=text[:6], class_labels=label[:6])
