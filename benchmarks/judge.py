"""Does a picture show what its caption says? The nearest true picture says it.

A sample is compared with true views of every kind in every colour, before the sample's own background: the
mean of its border, which no object reaches. The squared distances are expanded into products of all samples
with all views, ||y - (o + a b)||^2, so 200 samples against 17,000 true pictures take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backend.objects.kinds import COLOURS
from backend.objects.shapes import build
from backend.training.dataset import Album
from dreamflow_blender.contract.language.reading import Description


@dataclass(frozen=True)
class Truth:
    """N true pictures of one kind in one colour, P pixels each.

    added    [N,3P] what the object adds
    clear    [N,P] how much of a pixel is background
    squares  [N,5] ||added||^2, ||clear||^2, and clear times each channel of added, summed
    """

    kind: str
    colour: str
    added: Tensor
    clear: Tensor
    squares: Tensor


def true_pictures(albums: list[Album]) -> list[Truth]:
    """Every kind in every colour, its parts in their own."""
    truths = []
    for album in albums:
        clear = 1 - album.alpha.flatten(1).float() / 255
        shade = album.shade.float() / 255
        for colour in COLOURS:
            colours = build(Description(album.kind, colour)).colours
            added = torch.einsum("nphw,pc->nchw", shade, colours).flatten(1)
            cross = torch.einsum("ncp,np->nc", added.view(len(added), 3, -1), clear)
            squares = torch.cat((added.square().sum(1, True), clear.square().sum(1, True), cross), 1)
            truths.append(Truth(album.kind, colour, added, clear, squares))
    return truths


def distances(images: Tensor, truth: Truth) -> Tensor:
    """[S,N] mean squared differences of samples [S,H,W,3] in [0,1] to a truth's pictures."""
    border = torch.cat((images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]), 1)
    ground = border.median(1).values  # [S,3]
    y = images.permute(0, 3, 1, 2).flatten(2)  # [S,3,P]
    behind = torch.einsum("scp,sc->sp", y, ground)
    square = y.square().sum((1, 2))[:, None] + truth.squares[:, 0]
    square = square - 2 * (y.flatten(1) @ truth.added.T + behind @ truth.clear.T)
    square = square + 2 * ground @ truth.squares[:, 2:].T
    square = square + ground.square().sum(1)[:, None] * truth.squares[:, 1]
    return square / y[0].numel()


@dataclass(frozen=True)
class Verdict:
    """What a sample shows, and whether that is what was asked for."""

    kind: str
    colour: str
    right_kind: bool
    right_colour: bool


def judge(images: Tensor, asked: list[Description], truths: list[Truth]) -> list[Verdict]:
    """A verdict a sample [S,H,W,3]."""
    all_distances = torch.stack([distances(images, truth) for truth in truths], 1)  # [S,T,N]
    verdicts = []
    for nearest, wanted in zip(all_distances, asked, strict=True):
        best = int(nearest.amin(1).argmin())
        found = truths[best]
        verdicts.append(
            Verdict(
                found.kind,
                found.colour,
                found.kind == wanted.kind,
                found.colour == wanted.colour,
            )
        )
    return verdicts
