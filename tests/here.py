"""Where tests run that leave it to the product: on a card where there is one, pretended or not."""

from __future__ import annotations

import torch

from backend.device import pick_device


def here() -> torch.device:
    return pick_device("auto")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator(here()).manual_seed(seed)
