"""Talks to the model hub: what a model offers, and its files from any byte on.

The hub's settings are huggingface_hub's (HF_ENDPOINT, HF_TOKEN and the saved token, time-outs); proxies,
redirects and certificates are `requests`'s, which shows the token to no other host.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import requests
import urllib3
from huggingface_hub import constants, get_token

from backend import __version__
from backend.errors import ModelError
from backend.weights.sources import Hub, Refused, is_safe

CHUNK = 1 << 18  # bytes
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds between attempts that bring nothing new
LONGEST_PAUSE = 120.0  # seconds; a server that asks for more is told to the user instead
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that are worth another attempt


@dataclass(frozen=True)
class RemoteFile:
    path: str
    size: int  # bytes
    sha256: str | None  # of files in the hub's large storage
    git: str  # sha1 of git's blob, for all others

    @property
    def digest(self) -> str:
        return self.sha256 or self.git


class Passing(Exception):
    """A failure that another attempt may not meet. `after`: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float = 0) -> None:
        super().__init__(reason)
        self.after = after


def open_session() -> requests.Session:
    """With the user's token, if there is one. Nothing is sent yet."""
    session = requests.Session()
    # no compression on the way: a part must be a part of the file itself
    session.headers.update({"User-Agent": f"dreamflow/{__version__}", "Accept-Encoding": "identity"})
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if token:
        session.auth = lambda request: _with_token(request, token)
    return session


def _with_token(request: requests.PreparedRequest, token: str) -> requests.PreparedRequest:
    request.headers["Authorization"] = f"Bearer {token}"  # requests drops it where a redirect leaves the host
    return request


def send(session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
    """A response of status 200 or 206, its body still to come. Raises Passing, Refused or ModelError."""
    try:
        response = session.get(url, headers=headers, stream=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
        raise ModelError(
            f"There is no trusted way to {constants.ENDPOINT}: {_root(error)}.",
            "Check the proxy settings (HTTPS_PROXY, NO_PROXY) and the certificates (REQUESTS_CA_BUNDLE).",
        ) from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise Passing(f"no connection to {constants.ENDPOINT} ({_root(error)})") from error
    except requests.RequestException as error:
        raise ModelError(f"{url} cannot be fetched: {error}.", "Check HF_ENDPOINT.") from error
    hops = [*response.history, response]
    if constants.ENDPOINT.startswith("https:") and not all(hop.url.startswith("https:") for hop in hops):
        response.close()
        raise ModelError(f"{url} leads to an unprotected address.", "Try again from another network.")
    status = response.status_code
    if status in (200, 206):
        return response
    response.close()
    if status in PASSING:
        raise Passing(f"HTTP {status}", _seconds_asked(response))
    if status in (401, 403):
        raise Refused(
            f"it is gone, private or gated (HTTP {status})",
            "Accept the model's terms on the hub, if it has any, and set HF_TOKEN.",
        )
    if status in (404, 410):
        raise Refused(f"it is not there (HTTP {status})", "Name another source.")
    raise ModelError(f"{url} answered HTTP {status}.", "Try again later.")


def _seconds_asked(response: requests.Response) -> float:
    asked = response.headers.get("Retry-After", "")
    limit = re.search(r"\bt=(\d+)", response.headers.get("RateLimit", ""))  # "api";r=0;t=55
    return float(asked) if asked.isdecimal() else float(limit[1]) if limit else 0.0


def _root(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return str(error) or type(error).__name__


def pause_after(failure: Passing, failures: int, most: int = 5) -> float:
    """Seconds to wait after so many failures in a row; ModelError after more than `most`."""
    if failure.after > LONGEST_PAUSE:
        raise ModelError(
            f"The hub asks to wait {failure.after:.0f} seconds ({failure}).",
            "Fetch it again then: what has been fetched is kept.",
        ) from failure
    if failures > most:
        raise ModelError(
            f"The hub failed {failures} times in a row: {failure}.",
            "Check the connection and fetch it again: what has been fetched is kept.",
        ) from failure
    return max(PAUSES[failures - 1], failure.after)


def list_files(session: requests.Session, source: Hub) -> tuple[str, dict[str, RemoteFile | None]]:
    """The revision's commit and its files by path; None for a file whose size or hash the hub does not give.

    Raises Refused where this source does not give its list, or one with paths that leave their folder.
    """
    url = f"{constants.ENDPOINT}/api/models/{source.id}/revision/{quote(source.revision, safe='')}?blobs=true"
    failures = 0
    while True:
        try:
            with send(session, url, {}) as response:
                answer = b"".join(chunks(response))
            break
        except Passing as failure:
            failures += 1
            time.sleep(pause_after(failure, failures, most=2))
    try:
        listed = json.loads(answer)
        commit = _hex(listed["sha"], 40)
        files = {entry["rfilename"]: _remote_file(entry) for entry in listed["siblings"]}
        unsafe = [name for name in files if not is_safe(name)]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{constants.ENDPOINT} answered something else than a model's list of files.",
            "Check HF_ENDPOINT, and whether this network asks to log in first.",
        ) from error
    if unsafe:
        raise Refused(
            f"it lists a file named {unsafe[0]!r}, which may leave its folder", "Use another source."
        )
    return commit, files


def file_url(source: Hub, commit: str, path: str) -> str:
    """Where the hub gives a file's bytes."""
    return f"{constants.ENDPOINT}/{source.id}/resolve/{commit}/{quote(path)}"


def _remote_file(entry: dict[str, Any]) -> RemoteFile | None:
    large = entry.get("lfs")
    size, blob = (large or entry).get("size"), entry.get("blobId")
    if not isinstance(size, int) or size < 0 or not isinstance(blob, str):
        return None
    return RemoteFile(entry["rfilename"], size, _hex(large["sha256"], 64) if large else None, _hex(blob, 40))


def _hex(text: str, length: int) -> str:
    if not re.fullmatch(f"[0-9a-f]{{{length}}}", text):
        raise ValueError(f"got {text!r}, expected {length} hexadecimal digits")
    return text


def chunks(response: requests.Response) -> Iterator[bytes]:
    """The body as it arrives; Passing where it ends early. `iter_content` would lose the last piece before a cut."""
    try:
        while chunk := response.raw.read1(CHUNK, decode_content=True):
            yield chunk
    except urllib3.exceptions.HTTPError as error:
        raise Passing(f"the connection was cut ({_root(error)})") from error
