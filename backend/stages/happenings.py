"""What a run of stages reports: a class for each thing that can happen."""

from __future__ import annotations

from dataclasses import dataclass

from backend.scene.scene import Scene
from backend.stages.apfo import Step
from backend.stages.stages import Stage


@dataclass(frozen=True)
class Reached:
    """Where a run is, between two iterations: all that a checkpoint is taken of."""

    scene: Scene
    stage: Stage
    attempt: int  # at stage 1, counted from 0
    done: int  # iterations of the stage
    ended: bool = False  # the stage, with what comes after its last iteration


@dataclass(frozen=True)
class Restored:
    """A checkpoint's scene is there again, before anything is done with it."""

    scene: Scene
    stage: str
    ended: bool


@dataclass(frozen=True)
class StageBegan:
    """From its start, or from the iteration that a checkpoint was taken after."""

    at: Reached


@dataclass(frozen=True)
class Stepped:
    """One update."""

    at: Reached
    step: Step


@dataclass(frozen=True)
class StageEnded:
    """All of its iterations, and what comes after them."""

    at: Reached


@dataclass(frozen=True)
class Fitting:
    """A refine job's field learns the object's own colours; done 0 is the beginning."""

    done: int
    total: int


@dataclass(frozen=True)
class Note:
    """A sentence for the user, such as why stage 1 begins again."""

    message: str


Happening = Restored | StageBegan | Stepped | StageEnded | Fitting | Note
