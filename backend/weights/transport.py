"""Bytes from the model hub, by huggingface_hub's own `http_get`: from any byte on, watched while they come.

huggingface_hub 2.4 keeps connections, follows redirects, shows the token to no other host, and resumes a file after a
cut while bytes keep coming. What else it would do in silence is decided here, by hooks of its client: which statuses
are worth another attempt, and that no redirect leads to an unprotected address. `http_get` is not in the hub's
documented interface: its version is fixed, and tests/weights/test_fetch.py holds it to a server that misbehaves.
"""

from __future__ import annotations

import io
import queue
import re
import ssl
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, BinaryIO, cast

import httpx2
from huggingface_hub import constants, set_client_factory
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers, disable_progress_bars  # type: ignore[attr-defined]
from huggingface_hub.utils.logging import set_verbosity_error

from backend import __version__
from backend.errors import ModelError
from backend.weights.sources import Refused
from dreamflow_blender.contract.words import hide

CHUNK = 1 << 18  # bytes: the most that a cut loses
LOOK = 0.2  # seconds between two looks at a transfer
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds between attempts that bring nothing new
LONGEST_PAUSE = 120.0  # seconds; a server that asks for more is told to the user instead
DAY = 86_400.0  # seconds: the most that a server is taken to ask for
NOT_GIVEN = (401, 403, 404, 410, 451)  # HTTP statuses of what is not there for this user
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that are worth another attempt


class Passing(Exception):
    """A failure that another attempt may not meet. `after`: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float = 0) -> None:
        super().__init__(reason)
        self.after = after


def open_transport() -> None:
    """Have huggingface_hub be silent and use our client from now on. Nothing is sent yet."""
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    # else it makes a request of its own every day, and says which torch is installed and what program calls
    constants.HF_HUB_DISABLE_TELEMETRY = True
    disable_progress_bars()
    set_verbosity_error()
    hooks: dict[str, list[Callable[..., Any]]] = {"request": [_protected], "response": [_judged]}
    set_client_factory(lambda: httpx2.Client(event_hooks=hooks, follow_redirects=True, timeout=None))


def transfer(url: str, into: BinaryIO, start: int = 0) -> Generator[None, None, None]:
    """Write a file's bytes from `start` on, in a thread; yields while they come.

    Raises Passing, Refused, ModelError, and what `into.write` raises. `into` is not written to afterwards,
    also where the generator is closed early: it must be closed then.
    """
    # no compression on the way: a part must be a part of the file itself
    headers = build_hf_headers(library_name="dreamflow", library_version=__version__)
    headers = {**headers, "Accept-Encoding": "identity"}
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            http_get(url, into, resume_size=start, headers=headers, _nb_retries=0)
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            ended.put(error)
        else:
            ended.put(None)

    threading.Thread(target=work, daemon=True).start()
    while True:
        try:
            error = ended.get(timeout=LOOK)
            break
        except queue.Empty:
            yield
    if error is not None:
        raise _translated(error) from error


def read_text(url: str, most: int, seconds: float) -> bytes:
    """A short answer as a whole. Raises as `transfer`; ModelError where it is too long or takes too long."""
    answer = _Bounded(most)
    until = time.monotonic() + seconds
    for _ in transfer(url, cast(BinaryIO, answer)):
        if time.monotonic() > until:
            answer.close()
            raise Passing(f"no answer within {seconds:.0f} s")
    return answer.getvalue()


class _Bounded(io.BytesIO):
    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._most:
            raise ModelError(
                f"{hide(constants.ENDPOINT)} gives a list of more than {self._most >> 20} MB.",
                "Check HF_ENDPOINT.",
            )
        return super().write(data)


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


def _protected(request: httpx2.Request) -> None:
    if constants.ENDPOINT.startswith("https:") and request.url.scheme != "https":
        raise ModelError(
            f"{hide(constants.ENDPOINT)} leads to the unprotected address {request.url.host}.",
            "Try again from another network.",
        )


def _judged(response: httpx2.Response) -> None:
    status = response.status_code
    if status in PASSING:
        raise Passing(f"HTTP {status}", _seconds_asked(response))
    if status in NOT_GIVEN:
        raise Refused(
            f"it is gone, private or gated (HTTP {status})",
            "Accept the model's terms on the hub, if it has any, and set HF_TOKEN, or name another source.",
        )
    if status >= 400:
        raise Refused(f"it is refused (HTTP {status})", "Try again later, or name another source.")


def _seconds_asked(response: httpx2.Response) -> float:
    asked = response.headers.get("Retry-After", "")
    limit = re.search(r"\bt=(\d+)", response.headers.get("RateLimit", ""))  # "api";r=0;t=55
    return min(DAY, float(asked) if asked.isdecimal() else float(limit[1]) if limit else 0.0)


def _translated(error: BaseException) -> BaseException:
    """Of httpx's errors, which mean one of two things to a user; all others as they are."""
    root: BaseException = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__ or root
    why = str(root) or type(root).__name__
    hopeless = httpx2.ProxyError | httpx2.UnsupportedProtocol | httpx2.InvalidURL | httpx2.TooManyRedirects
    if isinstance(error, hopeless) or isinstance(root, ssl.SSLCertVerificationError):
        return ModelError(
            f"There is no trusted way to {hide(constants.ENDPOINT)}: {hide(why)}.",
            "Check HF_ENDPOINT, the proxy (HTTPS_PROXY, NO_PROXY) and the certificates (SSL_CERT_FILE).",
        )
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return Passing(f"no connection to {hide(constants.ENDPOINT)} ({hide(why)})")
    if isinstance(error, httpx2.TimeoutException):
        return Passing(f"the connection timed out after {constants.HF_HUB_DOWNLOAD_TIMEOUT} s")
    # the last is what http_get raises where a rest is shorter than it states
    cut = isinstance(error, httpx2.HTTPError) or "Consistency check" in str(error)
    return Passing(f"the connection was cut ({why})") if cut else error
