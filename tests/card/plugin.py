"""pytest -p tests.card.plugin: every test on a pretended card, which jobs with device "auto" take by themselves.

$DREAMFLOW_CARD_REPORT: a file for what each test made the card do.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.card.pretended import PretendedCard

REPORT = "DREAMFLOW_CARD_REPORT"  # an environment variable: a file for what was counted


def pytest_configure(config: pytest.Config) -> None:
    if torch.backends.cuda.is_built():
        pytest.exit("The pretended card stands on a torch without CUDA.", 0)
    config.stash[TOTAL] = []


TOTAL = pytest.StashKey[list[str]]()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    with PretendedCard() as card:
        try:
            return (yield)
        finally:
            if card.operators:
                pyfuncitem.config.stash[TOTAL].append(f"{pyfuncitem.nodeid}\n{card.report()}\n")


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = os.environ.get(REPORT)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write("\n".join(session.config.stash[TOTAL]))
