"""pytest -p tests.card.plugin: all tests and their fixtures on one pretended card; jobs with device "auto" take it.

$DREAMFLOW_CARD_REPORT: a file for what the card was made to do.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.card.pretended import PretendedCard

REPORT = "DREAMFLOW_CARD_REPORT"


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, Any, Any]:
    if torch.backends.cuda.is_built():
        pytest.exit("The pretended card stands on a torch without CUDA.", 1)
    if session.config.getoption(
        "numprocesses", None
    ):  # the tests run in other processes, which come here, too
        return (yield)
    with PretendedCard() as card:
        result = yield
    if path := os.environ.get(REPORT):
        Path(path).write_text(card.report(), "utf-8")
    print(f"\non a pretended card: {card.operators.total()} operators, {card.waits.total()} waits")
    if not card.operators and not hasattr(session.config, "workerinput"):
        pytest.exit("Nothing was done on the pretended card.", 1)
    return result
