"""A headless Chromium that speaks its DevTools protocol over a pair of pipes, so that nothing listens."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--window-size=1200,900")  # fmt: skip


class Chromium:
    """One page. `requests`: the addresses it asked for, `failed`: those that did not come, `errors`: of scripts."""

    def __init__(self) -> None:
        self.requests: dict[str, str] = {}  # id: address
        self.failed: list[str] = []
        self.errors: list[str] = []
        self._number = 0
        self._loaded = False

    def __enter__(self) -> Chromium:
        assert PROGRAM
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        inward, self._write = os.pipe()
        self._read, outward = os.pipe()

        def move() -> None:  # the browser reads descriptor 3 and writes 4
            os.dup2(inward, 100), os.dup2(outward, 101)
            os.dup2(100, 3), os.dup2(101, 4)

        command = [
            PROGRAM,
            *FLAGS,
            f"--user-data-dir={self._profile.name}",
            "--remote-debugging-pipe",
            "about:blank",
        ]
        self._process = subprocess.Popen(
            command, close_fds=False, preexec_fn=move, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(inward), os.close(outward)
        self._buffer, self._session = b"", ""
        (page,) = (t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Network", "Page", "Runtime"):
            self(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._session = ""
        os.close(self._write)  # which ends it
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        self._profile.cleanup()

    def __call__(self, method: str, **params: Any) -> Any:
        """The result of a command; events on the way are taken in."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._hear()
            if heard.get("id") == self._number:
                assert "error" not in heard, heard
                return heard["result"]

    def open(self, path: Path) -> None:
        """A file, until all of it has come."""
        self._loaded = False
        self("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self._hear()

    def run(self, script: str) -> Any:
        """The value of a script's expression, waited for where it is a promise."""
        return self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)[
            "result"
        ].get("value")

    def picture(self, path: Path) -> None:
        """Of the window as it is."""
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot")["data"]))

    def _hear(self) -> Any:
        while b"\0" not in self._buffer:
            chunk = os.read(self._read, 1 << 16)
            assert chunk, "the browser has ended"
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\0", 1)
        heard = json.loads(line)
        given = heard.get("params", {})
        match heard.get("method"):
            case "Network.requestWillBeSent":
                self.requests[given["requestId"]] = given["request"]["url"]
            case "Network.loadingFailed":
                self.failed.append(self.requests[given["requestId"]])
            case "Runtime.exceptionThrown":
                self.errors.append(given["exceptionDetails"]["text"])
            case "Page.loadEventFired":
                self._loaded = True
        return heard
