"""Warp starts in silence, and only what is known to be harmless is kept from the user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("warp", reason="warp-lang is not installed")

from backend.kernels.warp_start import NO_CARD, kept_from_output

ROOT = Path(__file__).parents[2]


def test_both_kernels_start_without_a_word():
    code = "import backend.kernels.hashgrid_warp, backend.kernels.raster_warp"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_other_words_reach_standard_error(capfd):
    with kept_from_output(NO_CARD):
        os.write(1, b"on one\n")
        os.write(2, f"Warp CUDA warning: {NO_CARD}. Proceeding in CPU-only mode.\nworse\n".encode())
    out, err = capfd.readouterr()
    assert out == ""
    assert sorted(err.splitlines()) == ["on one", "worse"]


def test_output_comes_back_after_an_error(capfd):
    with pytest.raises(ZeroDivisionError), kept_from_output(NO_CARD):
        os.write(2, b"the reason\n")
        raise ZeroDivisionError
    os.write(1, b"here again\n")
    assert capfd.readouterr() == ("here again\n", "the reason\n")


@pytest.mark.slow
def test_a_process_without_output_starts_too():
    code = "import os; os.close(1); os.close(2); import backend.kernels.hashgrid_warp; os._exit(7)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=300).returncode == 7
