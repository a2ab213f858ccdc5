"""What a UNet that takes the camera is given as `class_labels`: MVDream's 16 numbers a view.

diffusers' UNet2DConditionModel with class_embed_type="projection" and projection_class_embeddings_input_dim=16
holds MVDream's camera embedding as its `class_embedding` (Linear, SiLU, Linear, added to the time embedding).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

CAMERA_NUMBERS = 16  # of a camera-to-world matrix, which such a UNet takes as its class labels
CAMERA_CONFIG: dict[str, Any] = {
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": CAMERA_NUMBERS,
}


def camera_label(c2w: Tensor) -> Tensor:
    """[B,4,4] camera-to-world matrices to [B,16]: row major, the translation made one long.

    The world is Blender's and so is MVDream's (azimuth 0 on -Y; columns right, up, back), so the matrices of
    scene/camera.py go in as they are. The distance is left out, only the direction counts.
    """
    label = c2w.clone()
    label[:, :3, 3] = nn.functional.normalize(c2w[:, :3, 3], dim=1)
    return label.flatten(1)


def silence_camera(unet: UNet2DConditionModel) -> None:
    """Zero the embedding's last layer, for a start of training: the UNet then predicts as if without a camera."""
    with torch.no_grad():
        unet.class_embedding.linear_2.weight.zero_()
        unet.class_embedding.linear_2.bias.zero_()
