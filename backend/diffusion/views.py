"""The words that tell a prior from which side it sees the object. One function for data and product."""

from __future__ import annotations

from backend.scene.camera import Camera

VIEWS = ("front", "side", "back", "overhead")

OVERHEAD_FROM = 60.0  # degrees of elevation
FRONT_WITHIN = 30.0  # degrees of azimuth round 0; likewise back round 180


def view_words(camera: Camera) -> list[str]:
    """One of VIEWS for each of the B views."""
    words = []
    for azimuth, elevation in zip(camera.azimuth.tolist(), camera.elevation.tolist(), strict=True):
        if elevation > OVERHEAD_FROM:
            words.append("overhead")
        elif abs(azimuth) <= FRONT_WITHIN:
            words.append("front")
        elif abs(azimuth) >= 180 - FRONT_WITHIN:
            words.append("back")
        else:
            words.append("side")
    return words
