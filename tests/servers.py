"""Servers for tests: a real SGLang server on this host, and small ones that answer as a test says."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil

from sage_eval.engine import host
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.requests import ScoreRequest
from sage_eval.engine.server import open_server

REQUESTS = [ScoreRequest((1, 2, n), (n % 3, 5)) for n in range(1, 13)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Served:
    """A real server: `url`, `process`, and the last lines of its `log`."""

    def __init__(self, url, process, log):
        self.url, self.process, self.log = url, process, log

    def kill(self):
        host.kill({psutil.Process(self.process.pid)} if self.process.poll() is None else set())
        self.process.wait()


@contextlib.contextmanager
def serving(model, log, *arguments, **environment):
    """`sglang.launch_server` on a free port, once it is healthy."""
    port = free_port()
    with Path(log).open("w") as output:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "sglang.launch_server", "--model-path", model, "--port", str(port),
                "--log-level", "error", "--sleep-on-idle", "--random-seed", "0", *arguments,
            ],
            env=os.environ | environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    served = Served(f"http://127.0.0.1:{port}", process, log)
    try:
        deadline = time.monotonic() + 300
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{served.url}/health", timeout=5).is_success:
                    break
            assert process.poll() is None, Path(log).read_text()[-2000:]
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(1)
        yield served
    finally:
        served.kill()


INFO = {"max_req_input_len": 100, "attention_backend": "triton", "dtype": "float16", "internal_states": [{}]}
MODEL = {"model_path": "/models/tiny", "served_model_name": "tiny"}


def reply(payload):
    """What SGLang answers to a score request, with made-up numbers that depend on the prompt alone."""
    ids = payload["input_ids"]
    meta = {"prompt_tokens": len(ids), "cached_tokens": 0, "completion_tokens": 0, "finish_reason": {"type": "length"}}
    meta["output_token_ids_logprobs"] = [[(-(ids[-1] + t) / 7, t, None) for t in payload["token_ids_logprob"]]]
    meta["input_token_logprobs"] = [(-t / 3, t, None) for t in ids]
    meta["input_top_logprobs"] = [[(-0.5, 0, None)]] * len(ids)
    return {"output_ids": [], "meta_info": meta | {"output_top_logprobs": [[(-0.5, 0, None)]]}}


class Small:
    """A server that answers as SGLang does but for what a test puts into `faults`: path → functions, used up in turn.

    A fault takes the handler, and either answers by itself or does nothing, so that the proper answer follows.
    `seen`: (path, headers, payload) of each request; `info` and `model` can be changed.
    """

    def __init__(self):
        self.info, self.model, self.faults, self.seen = dict(INFO), dict(MODEL), {}, []
        self.most, self.now, self._lock = 0, 0, threading.Lock()
        small = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                small._handle(self, None)

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                small._handle(self, json.loads(body) if body else {})

            def log_message(self, *_):
                pass

            def answer(self, code, body, kind="application/json", **headers):
                data = body if isinstance(body, bytes) else str(body).encode()
                self.send_response(code)
                for name, value in {"content-type": kind, "content-length": str(len(data)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(data)

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_):  # a client that has gone is part of the tests
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _handle(self, handler, payload):
        path = handler.path
        with self._lock:
            self.seen.append((path, dict(handler.headers), payload))
            fault = self.faults[path].pop(0) if self.faults.get(path) else None
            self.now += path == "/generate"
            self.most = max(self.most, self.now)
        try:
            if fault is None or fault(handler) is None:
                pages = {"/server_info": self.info, "/model_info": self.model}
                handler.answer(200, json.dumps(pages[path] if payload is None else reply(payload)))
        finally:
            with self._lock:
                self.now -= path == "/generate"

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def answers(code, body, kind="application/json", **headers):
    """A fault: this instead of the proper answer."""

    def fault(handler):
        handler.answer(code, body, kind, **headers)
        return True

    return fault


def cut(handler):
    """A fault: the connection ends within the answer."""
    handler.answer(200, b'{"meta_inf', content_length="5000")
    handler.close_connection = True
    return True


def hang(seconds):
    """A fault: nothing is said for so long; then the proper answer."""

    def fault(_):
        time.sleep(seconds)

    return fault


def opened(*servers, model="tiny", arguments=(), **more):
    options = ArmOptions.from_arguments(model, **dict(arguments))
    return open_server(options, ";".join(server.url for server in servers), **more)


def generated(server):
    return [payload["input_ids"] for path, _, payload in server.seen if path == "/generate"]


def expected(small):
    with opened(small()) as arm:
        return arm.score(REQUESTS)
