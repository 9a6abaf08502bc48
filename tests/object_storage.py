"""Object storage on 127.0.0.1 for tests: an S3 server (moto), and a web server that fails on demand."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from http_server import Listener, Quiet

KEYS = {"AWS_ACCESS_KEY_ID": "birds", "AWS_SECRET_ACCESS_KEY": "birds", "AWS_REGION": "us-east-1"}


@contextmanager
def s3_server() -> Iterator[str]:
    """Yields the address of an S3 server that is empty and trusts everybody."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class SlowWriter(Listener):
    """An S3 server for one file, which takes its time with the answer to a PUT."""

    def __init__(self, seconds: float):
        self.written = b""
        outer = self

        class Handler(Quiet):
            def do_PUT(self):
                outer.written = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(seconds)
                self.reply(0)

            def do_HEAD(self):
                self.reply(len(outer.written))

            def reply(self, length: int) -> None:
                self.send_response(200)
                self.send_header("ETag", '"1"')
                self.send_header("Last-Modified", "Sat, 28 Nov 2026 00:00:00 GMT")
                self.send_header("Content-Length", str(length))
                self.end_headers()

        self.listen(Handler)


class Web(Listener):
    """Serves a folder over HTTP/1.1 with byte ranges and ETags; every answer to a GET can be corrupted."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.tag = "1"
        """Part of every ETag: another one means that the files were replaced."""
        self.refuse = 0
        """Status code of every answer; 0: serve."""
        self.faults: list[int | str] = []
        """For each of the next answers to a GET: a status code, "cut" (in the middle of the body), "short" (half
        of the body, as if it were all), "slow" (until `release`), "whole" (the range is ignored), "ok"."""
        self.redirect = ""
        """The address of another server, to which every request is sent on."""
        self.asked: list[tuple[str, str | None, str | None]] = []
        """(path, Range, Authorization) of each GET."""
        self.release = threading.Event()
        outer = self

        class Handler(Quiet):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.answer(self)

            do_HEAD = do_GET

        self.listen(Handler)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        get, wanted = handler.command == "GET", handler.headers.get("Range")
        if get:
            self.asked.append((handler.path, wanted, handler.headers.get("Authorization")))
        fault = self.refuse or (self.faults.pop(0) if get and self.faults else "ok")
        path = self.folder / handler.path[1:]
        if not isinstance(fault, int) and not path.is_file():
            fault = 404
        if self.redirect and not isinstance(fault, int):
            fault = 307
        if isinstance(fault, int):
            handler.send_response(fault)
            handler.send_header("Location", self.redirect + handler.path)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        data = path.read_bytes()
        start, stop = 0, len(data)
        if wanted and fault != "whole":
            first, last = wanted.removeprefix("bytes=").split("-")
            start, stop = int(first), min(len(data), int(last) + 1)
        handler.send_response(206 if wanted and fault != "whole" else 200)
        handler.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        stop = (start + stop) // 2 if fault == "short" else stop
        handler.send_header("Content-Length", str(stop - start))
        handler.send_header("ETag", f'"{self.tag}-{len(data)}"')
        handler.end_headers()
        if fault == "slow":
            self.release.wait(60)
        if fault == "cut":
            stop, handler.close_connection = (start + stop) // 2, True
        try:
            handler.wfile.write(data[start:stop] if get else b"")
        except OSError:  # the client gave up
            handler.close_connection = True


@contextmanager
def web_server(folder: Path) -> Iterator[Web]:
    server = Web(folder)
    try:
        yield server
    finally:
        server.release.set()
        server.stop()
