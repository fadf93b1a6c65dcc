"""A hub on 127.0.0.1: enough of the protocol for the real `huggingface_hub` client to list and fetch files."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "a" * 40


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Let `handler` answer on a free port; the value is the address of "/"."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def hub(files: dict[str, bytes]) -> Iterator[str]:
    """Serve `files`, by "REPOSITORY/PATH" ("datasets/OWNER/NAME/…" for data sets); the value is the endpoint."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Quiet."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            if parts[0] == "api":
                self.answer(json.dumps(self.api(*parts[1:])).encode())
                return
            at = parts.index("resolve")
            content = files.get("/".join(parts[:at] + parts[at + 2 :]))
            if content is None:
                self.answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
                return
            etag = hashlib.sha256(content).hexdigest()
            self.answer(content, 200, {"ETag": f'"{etag}"', "X-Repo-Commit": parts[at + 1]})

        def api(self, kind: str, owner: str, repository: str, *more: str) -> object:
            name = f"{owner}/{repository}"
            prefix = f"{kind}/{name}/" if kind == "datasets" else f"{name}/"
            inside = {path.removeprefix(prefix): body for path, body in files.items() if path.startswith(prefix)}
            if "tree" in more:
                return [
                    {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                    for path, body in inside.items()
                ]
            return {"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in inside]}

        def answer(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    with serving(Handler) as address:
        yield address


def use_hub(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Let the client ask `endpoint` and no other."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", endpoint)
