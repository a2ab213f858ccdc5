"""Tiny model folders, built once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.diffusion.tiny_models import build


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SD 2.1-base's shape: epsilon, native 64 pixels, 8 x 8 latents."""
    return build(tmp_path_factory.mktemp("models") / "sd21-base", "sd21-base")


@pytest.fixture(scope="session")
def v_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SD 2.1's shape: v prediction. Another seed, so another text encoder too."""
    return build(tmp_path_factory.mktemp("models") / "sd21", "sd21", seed=1)


@pytest.fixture(scope="session")
def refiner_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SDXL refiner's shape."""
    return build(tmp_path_factory.mktemp("models") / "refiner", "refiner", seed=2)
