"""Other programs' notation in a prompt: weights, which are read, and LoRAs and options, which are not.

A text encoder takes its signs and numbers for words, so a model that reads any words would make something else than
was asked. It is refused, with what to write instead; (brackets) as in a sentence are words. Standard library only.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path

from .unknown import NotUnderstood

OWN_WORDS = (
    "mini",
    "mini-refiner",
    "exact",
    "exact-compass",
)  # priors whose language is reading.py's, which leaves notation out

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
MOST_STATED = 1 << 20  # bytes of a dreamflow.json
HEAVIEST = 2.0  # of a weight
STEP = 1.1  # of one more pair of brackets
WEIGHTED = re.compile(  # (a red mug:1.3), ((red)), [red]: in none of them another bracket
    rf"\((?P<text>[^()\[\]]{{0,200}}[^\W\d]\d*)\s*:\s*(?P<weight>{_NUMBER})\s*\)"
    r"|(?P<more>\({2,4})(?P<louder>[^()\[\]]+)\){2,4}|(?P<less>\[{1,4})(?P<softer>[^()\[\]:|]+)\]{1,4}"
)
_WEIGHTS = "Write (red mug:1.3), with a weight from 0 to 2 and no brackets in it, or the words alone."
NOTATIONS = tuple(  # what it looks like, what it is, what to write instead
    (re.compile(pattern), what, todo)
    for pattern, what, todo in (
        (
            r"<\s*(?:lora|lyco)\s*:[^>]*>",
            "names a LoRA",
            "Leave it out and give the LoRA's file: in Blender under Additions, else with --lora FILE:WEIGHT.",
        ),
        (
            r"<\s*(?:hypernet|embedding)\s*:[^>]*>|\bembedding:\S+",
            "names a file that is not read",
            "Leave it out; of such files only LoRAs are read.",
        ),
        (r"\([^()]{0,80}[^\W\d]\d*\s*:\s*" + _NUMBER + r"\s*\)", "is a weight", _WEIGHTS),
        (r"[^\W\d]\d*\s*:\s*" + _NUMBER + r"\s*\)", "is a weight", _WEIGHTS),  # ((a mug), red:1.3)
        (
            r"\({2}[^()]*\)+|\([^()]*\)(?:[+-]+|\d*\.\d+)(?=[\s,.;]|$)",
            "is a weight",
            _WEIGHTS,
        ),  # ((red)), (red)++
        (r"\[+[^\[\]]*\]+", "changes half way, or is a weight", _WEIGHTS),  # [red:blue:8], [red|blue]
        (r"\\[()\[\]]", "is a bracket of another program", "Write the bracket alone."),
        (
            r"(?:^|(?<=\s))(?:--[a-zA-Z]\w*(?:\s+[\d.:]+)?|[—–][a-z]+\s+[\d.:]+(?=\s|$))",
            "is another program's option",
            "Leave it out: all views are square, and the seed, what is not wanted and the settings have places of their"
            " own.",
        ),
        (r"[^\s:]+::(?:-?[\d.]+)?(?=\s|$)", "is a weight", _WEIGHTS),  # mug::2
        (r"__\w+__|\{[^{}]*\|[^{}]*\}", "stands for several words", "Write one, or a list of prompts."),
        (r"\b(?:BREAK|AND)\b", "joins two prompts", "Write one sentence."),
    )
)


def weighted(prompt: str) -> list[tuple[str, float]]:
    """The prompt in parts, each with its weight, 1 for what has none: (text:1.3), ((text)) 1.21, [text] 1 / 1.1."""
    parts: list[tuple[str, float]] = []
    end = 0
    for at in WEIGHTED.finditer(prompt):
        opened = len(at["more"] or at["less"] or "")
        weight = float(at["weight"]) if at["weight"] else STEP ** (opened if at["more"] else -opened)
        if not 0 <= weight <= HEAVIEST or (
            opened and not at.group().endswith((")" if at["more"] else "]") * opened)
        ):
            continue  # refused, as what is left
        parts += [(prompt[end : at.start()], 1.0), (at["text"] or at["louder"] or at["softer"], weight)]
        end = at.end()
    found = [(text, weight) for text, weight in (*parts, (prompt[end:], 1.0)) if text.strip()]
    return found or [(prompt, 1.0)]


def refuse_notation(prompt: str, negative: str = "") -> None:
    """NotUnderstood for the first notation of another program in either of the two that `weighted` does not read."""
    for text in (prompt, negative):
        parts = [part for part, _ in weighted(text)]
        left = " ".join(parts)
        if len(parts) > 1 and any(part.count("(") != part.count(")") for part in parts):
            raise NotUnderstood(f"“{text[:60]}” has a weight inside other brackets.", _WEIGHTS)
        loud = text == text.upper()  # "A MUG AND A SPOON" joins no two prompts
        found = [
            (at.start(), -len(at.group()), at.group(), what, todo)
            for pattern, what, todo in NOTATIONS
            if (at := pattern.search(left)) and not (loud and at.group().isalpha())
        ]
        if found:
            _, _, written, what, todo = min(found)
            raise NotUnderstood(
                f"“{written.strip()[:60]}” {what}, and this model would read it as words.", todo
            )


def refuse_for(priors: tuple[str, ...], prompt: str, negative: str = "") -> None:
    """The same where one of these priors, by name or path, takes any words; no model is opened."""
    if any(_takes_any_words(prior) for prior in priors):
        refuse_notation(prompt, negative)


@lru_cache(maxsize=64)
def _takes_any_words(prior: str) -> bool:
    """False for those of OWN_WORDS, for "", and for a folder whose dreamflow.json states kinds."""
    if prior in ("", *OWN_WORDS):
        return False
    try:
        path = Path(prior).expanduser() / "dreamflow.json"
        if not path.is_file() or path.stat().st_size > MOST_STATED:
            return True
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, RuntimeError):  # the last: ~ of an unknown user
        return True
    return not (isinstance(stated, dict) and stated.get("kinds"))
