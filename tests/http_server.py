"""An HTTP server on 127.0.0.1 for tests of downloads."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fgdata.datasets import Archive


class Quiet(BaseHTTPRequestHandler):
    """Answers without a line on standard error."""

    def log_message(self, *_):
        pass


class Listener:
    """An HTTP server on a free port of 127.0.0.1, in a thread."""

    def listen(self, handler: type[Quiet]) -> None:
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


class Server(Listener):
    """An HTTP server that records requests and fails on demand."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.ranges: list[str | None] = []
        self.cut_after: list[int] = []
        """For each of the next answers, the number of bytes after which the connection is dropped."""
        self.refuse: list[int] = []
        """Status codes of the next answers."""
        self.knows_ranges = True
        outer = self

        class Handler(Quiet):
            def do_GET(self):
                outer.answer(self)

        self.listen(Handler)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.ranges.append(wanted)
        data = self.files.get(handler.path[1:])
        if self.refuse or data is None:
            handler.send_error(self.refuse.pop(0) if self.refuse else 404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.knows_ranges else 0
        if start and start >= len(data):
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        end = start + self.cut_after.pop(0) if self.cut_after else len(data)
        handler.wfile.write(data[start:end])

    def offer(self, name: str, data: bytes) -> Archive:
        self.files[name] = data
        return Archive(f"{self.address}/{name}", hashlib.md5(data).hexdigest())


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()
