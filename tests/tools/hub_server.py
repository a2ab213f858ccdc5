"""A stand-in for the model hub on loopback: its list of files, its files from any byte on, and what goes wrong."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from safetensors.numpy import save

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Fault:
    """What the next request of a path meets instead of a good answer."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None  # close after so many bytes of the body
    body: bytes | None = None  # send this instead, with its own length
    no_length: bool = False  # leave the end of the body to the end of the connection
    no_range: bool = False  # ignore Range, as some caches do
    wait: threading.Event | None = None  # halfway through the body


class HubServer(ThreadingHTTPServer):
    """`repos` maps an id to its files by path; files in LARGE are listed with a sha256, the others with git's hash."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.faults: dict[str, list[Fault]] = {}  # by the path of a file, or by an id for its list
        self.overrides: dict[str, dict[str, Any]] = {}  # by path: what its entry in the list says instead
        self.seen: list[tuple[str, dict[str, str]]] = []  # every request: URL and headers
        self.elsewhere: str | None = None  # large files are given by this address, as by a CDN
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a client that goes away in the middle is what is tested."""

    def asked_for(self, path: str) -> list[dict[str, str]]:
        """The headers of every request of this file."""
        return [headers for url, headers in self.seen if url.endswith("/" + path)]

    def listing(self, repo: str) -> dict[str, Any]:
        return {
            "id": repo,
            "sha": COMMIT,
            "siblings": [self._entry(*file) for file in self.repos[repo].items()],
        }

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "rfilename": path,
            "size": len(content),
            "blobId": sha1(b"blob %d\0" % len(content) + content).hexdigest(),
        }
        if not path.endswith((".json", ".txt")):
            entry["lfs"] = {
                "sha256": sha256(content).hexdigest(),
                "size": len(content),
                "pointerSize": 134,
            }
        return entry | self.overrides.get(path, {})


class Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # 40 ms a request

    def do_GET(self) -> None:
        headers = {name.title(): value for name, value in self.headers.items()}
        self.server.seen.append((self.path, headers))
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/"):
            repo, revision = path.removeprefix("/api/models/").split("/revision/")
            fault = self._fault(repo)
            if repo not in self.server.repos or revision not in ("main", COMMIT, "v1"):
                fault = fault or Fault(401)  # the hub's answer to a stranger
            self._answer(b"" if repo not in self.server.repos else self._list(repo), fault or Fault())
            return
        repo, rest = path.removeprefix("/").split("/resolve/")
        name = rest.split("/", 1)[1]
        fault = self._fault(name)
        if self.server.elsewhere and not name.endswith((".json", ".txt")):
            fault = Fault(302, {"Location": self.server.elsewhere + self.path})
        content = self.server.repos[repo].get(name)
        self._answer(content or b"", fault or Fault(0 if content is not None else 404))

    def _list(self, repo: str) -> bytes:
        return json.dumps(self.server.listing(repo)).encode()

    def _fault(self, key: str) -> Fault | None:
        waiting = self.server.faults.get(key)
        return waiting.pop(0) if waiting else None

    def _answer(self, content: bytes, fault: Fault) -> None:
        if fault.status:
            self.send_response(fault.status)
            for name, value in fault.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = content if fault.body is None else fault.body
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and not fault.no_range else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in fault.headers.items():
            self.send_header(name, value)
        if fault.no_length:
            self.close_connection = True
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        if fault.wait is not None:
            self.wfile.write(rest[: len(rest) // 2])
            self.wfile.flush()
            fault.wait.wait(120)
            rest = rest[len(rest) // 2 :]
        if fault.cut is not None:
            self.wfile.write(rest[: fault.cut])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.wfile.write(rest)

    def log_message(self, format: str, *args: object) -> None: ...


def weights(seed: int, count: int = 300) -> bytes:
    """A small safetensors file."""
    values = np.random.default_rng(seed).standard_normal(count).astype(np.float16)
    return save({"weight": values}, metadata={"format": "pt"})


def offer(model: Any, precision: str = ".fp16") -> dict[str, bytes]:
    """What a hub offers of a model: the files used and everything that must be left alone."""
    texts = (*model.files, *model.extras[:1])
    files = {name: b"{}" if name.endswith(".json") else b"#version: 0.2\n" for name in texts}
    for i, stem in enumerate(model.weights):
        files[f"{stem}{precision}.safetensors"] = weights(i)
        files[f"{stem}.safetensors"] = weights(i, 600)
        files[f"{stem}.non_ema.safetensors"] = weights(i, 600)
        files[f"{stem}.bin"] = b"\x80\x04pickle"
    return files | {
        "v2-1_512-ema-pruned.ckpt": b"\x80\x04pickle",
        "v2-1_512-ema-pruned.safetensors": weights(9, 2000),
        "feature_extractor/preprocessor_config.json": b"{}",
        ".gitattributes": b"*.safetensors filter=lfs",
        "README.md": b"# a model",
    }
