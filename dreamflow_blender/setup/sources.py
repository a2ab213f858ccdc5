"""Where the user's settings make pip and uv take packages from, and nothing else of those settings.

A `target`, `prefix`, `user`, `require-hashes` or `constraint` that is meant for other work would put our packages
elsewhere, or refuse them. So the pip that brings uv, and uv, read no file of the user's and get no PIP_* or UV_*
variable but these: indexes, folders of wheels, proxies, certificates. Where they stand is said when something fails.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..client.steps import hide

FOR_UV = {  # pip's name: uv's variable
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "retries": "UV_HTTP_RETRIES",
}
UV_KEPT = re.compile(
    r"UV_(DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|OFFLINE|INDEX_STRATEGY|INSECURE_HOST"
    r"|INDEX_\w+_(USERNAME|PASSWORD)|KEYRING_PROVIDER|HTTP_TIMEOUT|HTTP_RETRIES|NATIVE_TLS|SYSTEM_CERTS|LINK_MODE"
    r"|PYTHON_INSTALL_MIRROR|CONCURRENT_\w+)"
)
OF_UV = {  # a name in uv.toml: pip's name
    "index-url": "index-url",
    "extra-index-url": "extra-index-url",
    "find-links": "find-links",
    "no-index": "no-index",
    "allow-insecure-host": "trusted-host",
}
OLDER = {"UV_DEFAULT_INDEX": "UV_INDEX_URL", "UV_INDEX": "UV_EXTRA_INDEX_URL"}
RANKS = ("global", "user", "site", "env", "env_var")  # of pip's places, the last one wins
LISTS = ("extra-index-url", "find-links", "trusted-host")


class Setting(NamedTuple):
    name: str  # as pip calls it
    value: str  # of a list: with spaces between
    place: str  # a file or a variable


def read_pip(debug: str) -> list[Setting]:
    """What `pip config debug` has said, of the settings that are kept."""
    found: list[tuple[tuple[int, bool], Setting]] = []
    section = place = ""
    for line in debug.splitlines():
        if line.rstrip(":") in RANKS and line.endswith(":"):
            section = line.rstrip(":")
        elif file := re.fullmatch(r"  (.+), exists: (?:True|False)", line):
            place = file[1]
        elif variable := re.fullmatch(r"  (PIP_\w+)=(.*)", line):
            name = variable[1][4:].lower().replace("_", "-")
            setting = Setting(name, variable[2].strip("'\""), variable[1])
            found.append(((RANKS.index(section), False), setting))
        elif entry := re.fullmatch(r"    (global|install)\.([\w-]+): ?(.*)", line):
            setting = Setting(entry[2], entry[3].strip(), place)
            found.append(((RANKS.index(section), entry[1] == "install"), setting))
        elif found and line.strip():  # a list, one entry a line
            rank, last = found[-1]
            found[-1] = (rank, last._replace(value=f"{last.value} {line.strip()}".strip()))
    # a command's own section wins over [global] of any file, a variable over both
    found.sort(key=lambda one: (one[0][0] == RANKS.index("env_var"), one[0][1], one[0][0]))
    chosen = {setting.name: setting for _, setting in found if setting.name in FOR_UV}
    return [
        setting for setting in chosen.values() if setting.value.lower() not in ("", "false", "0", "no", "off")
    ]


def read_uv() -> list[Setting]:
    """The same of uv.toml: the user's, else the machine's."""
    home = os.environ.get("APPDATA") or os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()
    places = [Path(home) / "uv" / "uv.toml", Path(os.environ.get("PROGRAMDATA", "/etc")) / "uv" / "uv.toml"]
    stated = os.environ.get("UV_CONFIG_FILE")
    for place in [Path(stated)] if stated else places:
        try:
            table = tomllib.loads(place.read_text(encoding="utf-8"))
            table = {**table, **table.get("pip", {})}
            found = {ours: table[name] for name, ours in OF_UV.items() if name in table}
            for entry in table.get("index", []):
                if entry.get("default"):
                    found["index-url"] = entry["url"]
                elif not entry.get("explicit"):
                    found["extra-index-url"] = [*found.get("extra-index-url", []), entry["url"]]
        except (OSError, ValueError, KeyError, AttributeError):  # none, or not as uv wants it
            continue
        words = {name: " ".join(v) if isinstance(v, list) else str(v) for name, v in found.items()}
        return [Setting(name, value, str(place)) for name, value in words.items() if value != "False"]
    return []


def without_theirs(variables: dict[str, str]) -> dict[str, str]:
    """These environment variables without pip's, and with those of uv's that say where packages come from."""
    return {
        name: value
        for name, value in variables.items()
        if not name.startswith("PIP_") and (not name.startswith("UV_") or UV_KEPT.fullmatch(name))
    }


def for_pip(settings: list[Setting]) -> dict[str, str]:
    """As pip's environment variables; no file is read."""
    chosen = {f"PIP_{one.name.upper().replace('-', '_')}": one.value for one in settings}
    return {"PIP_CONFIG_FILE": os.devnull, **chosen}


def for_uv(settings: list[Setting]) -> dict[str, str]:
    """As uv's environment variables, but for those that the user has set."""
    chosen = {}
    for one in settings:
        name = FOR_UV[one.name]
        if name in os.environ or OLDER.get(name, name) in os.environ:
            continue
        words = one.value.split() if one.name in LISTS else [one.value]
        if one.name == "find-links":  # uv fails where pip passes over a folder that is gone
            words = [word for word in words if "://" in word or Path(word).exists()]
        if words:
            chosen[name] = ("," if one.name == "find-links" else " ").join(words)
    if "UV_INDEX" in chosen:  # pip takes the best version of all indexes, so uv shall do so too
        chosen.setdefault("UV_INDEX_STRATEGY", os.environ.get("UV_INDEX_STRATEGY", "unsafe-best-match"))
    if "UV_NO_INDEX" in chosen:
        chosen["UV_NO_INDEX"] = "1"
    return chosen


def as_text(settings: list[Setting]) -> str:
    """ "index-url = https://mine/simple (/etc/pip.conf)" and so on; empty where nothing was said."""
    return ", ".join(_told(settings))


def _told(settings: list[Setting]) -> Iterator[str]:
    for one in settings:
        if one.name in ("index-url", "extra-index-url", "find-links", "no-index", "proxy", "cert"):
            yield f"{one.name} = {' '.join(map(hide, one.value.split()))} ({one.place})"
    for name, value in sorted(os.environ.items()):
        if name.startswith("UV_") and UV_KEPT.fullmatch(name) and "PASSWORD" not in name:
            yield f"{name} = {' '.join(map(hide, value.split()))}"
