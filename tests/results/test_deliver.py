"""Delivery: where its charts are cut."""

import numpy as np
import torch
import trimesh

from backend.results.deliver import seam_weight
from backend.texture import charts


def test_a_seam_goes_round_a_spot_and_not_through_it() -> None:
    """A black ball with a white spot of 0.15 radians just where its charts for +x and +y meet."""
    ball = trimesh.creation.icosphere(4)
    v, t = np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.int64)
    white = np.arccos(np.clip(v @ [0.5**0.5, 0.5**0.5, 0], -1, 1)) < 0.15
    colour = torch.from_numpy(np.repeat(white[:, None], 3, 1)).float()
    weight = seam_weight(colour[torch.from_numpy(t)]).numpy()
    assert weight.min() == 1 and weight.max() == 3  # from black to white, a length counts three times

    def into_the_spot(weight: np.ndarray | None) -> int:
        a, b, ends, _ = pairs = charts.adjacency(t, len(v))
        label = charts.labels(v, t, pairs, weight)
        seam = ends[label[a] != label[b]]
        return int((white[seam[:, 0]] != white[seam[:, 1]]).sum())

    assert (into_the_spot(None), into_the_spot(weight)) == (2, 0)
