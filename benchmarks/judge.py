"""Does a picture show what its caption says? The nearest true picture says it.

A sample is compared with true views of every kind in every colour, before the sample's own background: the
mean of its border, which no object reaches. The squared distances are expanded into products of all samples
with all views, ||y - (o + a b)||^2, so 200 samples against 17,000 true pictures take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backend.diffusion.view_words import view_words
from backend.objects.kinds import COLOURS
from backend.objects.shapes import build
from backend.scene.camera import orbit
from backend.training.dataset import Album
from dreamflow_blender.contract.language.reading import Description

TOLERANCE = 1.1  # of two distances that count as equal: a ball's front is its back
MARGIN = 12.0  # degrees by which a view may miss what its word means


@dataclass(frozen=True)
class Truth:
    """N true pictures of one kind in one colour, P pixels each.

    added    [N,3P] what the object adds
    clear    [N,P] how much of a pixel is background
    squares  [N,5] ||added||^2, ||clear||^2, and clear times each channel of added, summed
    words    that a view may be called, MARGIN degrees allowed
    """

    kind: str
    colour: str
    added: Tensor
    clear: Tensor
    squares: Tensor
    words: list[set[str]]


def true_pictures(albums: list[Album]) -> list[Truth]:
    """Every kind in every colour, its parts in their own."""
    truths = []
    for album in albums:
        clear = 1 - album.alpha.flatten(1).float() / 255
        shade = album.shade.float() / 255
        words = lenient_words(album.angles)
        for colour in COLOURS:
            colours = build(Description(album.kind, colour)).colours
            added = torch.einsum("nphw,pc->nchw", shade, colours).flatten(1)
            cross = torch.einsum("ncp,np->nc", added.view(len(added), 3, -1), clear)
            squares = torch.cat((added.square().sum(1, True), clear.square().sum(1, True), cross), 1)
            truths.append(Truth(album.kind, colour, added, clear, squares, words))
    return truths


def lenient_words(angles: Tensor) -> list[set[str]]:
    """What views at these azimuths and elevations [N,2] may be called: the words of all within MARGIN."""
    found: list[set[str]] = [set() for _ in angles]
    one = torch.ones(len(angles))
    for around in (-MARGIN, 0.0, MARGIN):
        for up in (-MARGIN, 0.0, MARGIN):
            camera = orbit(angles[:, 0] + around, angles[:, 1] + up, one, 45 * one, 1, 1)
            for words, word in zip(found, view_words(camera), strict=True):
                words.add(word)
    return found


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
    views: set[str]
    right_kind: bool
    right_colour: bool
    right_view: bool


def judge(images: Tensor, asked: list[Description], truths: list[Truth]) -> list[Verdict]:
    """A verdict a sample [S,H,W,3]; a view is right where one of its word is as near as any."""
    all_distances = torch.stack([distances(images, truth) for truth in truths], 1)  # [S,T,N]
    verdicts = []
    for nearest, wanted in zip(all_distances, asked, strict=True):
        best = int(nearest.amin(1).argmin())
        right = next(i for i, t in enumerate(truths) if (t.kind, t.colour) == (wanted.kind, wanted.colour))
        own = nearest[right]
        as_near = (own <= TOLERANCE * own.min()).nonzero()[:, 0].tolist()
        views = set().union(*(truths[right].words[i] for i in as_near))
        found = truths[best]
        verdicts.append(
            Verdict(
                found.kind,
                found.colour,
                views,
                found.kind == wanted.kind,
                found.colour == wanted.colour,
                wanted.view in views,
            )
        )
    return verdicts
