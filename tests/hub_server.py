"""A Hugging Face hub on 127.0.0.1 for tests: creates repositories, takes commits, serves files."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 40


class Hub:
    """The files of every repository by its name, and what was asked."""

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.refuse = 0
        """Status code of every answer; 0: serve."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                size = int(self.headers.get("Content-Length") or 0)
                outer.post(self, self.rfile.read(size))

            def do_GET(self):
                outer.get(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def post(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        words = handler.path.split("?")[0].strip("/").split("/")  # api/models/ORG/NAME/commit/main
        if self.refuse:
            self.answer(handler, self.refuse, {"error": "no"})
        elif words[-1] == "create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.repositories.setdefault(name, {})
            self.private[name] = bool(asked.get("private") or asked.get("visibility") == "private")
            self.answer(handler, 200, {"url": f"{self.address}/{name}", "id": name})
        elif len(words) < 5:
            self.answer(handler, 200, {"errors": [], "warnings": []})  # api/validate-yaml: the card's keys
        elif words[4] == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for f in json.loads(body)["files"]
            ]
            self.answer(handler, 200, {"files": files})
        elif words[4] == "commit":
            name = "/".join(words[2:4])
            files = self.repositories[name]
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(handler, 200, {"commitUrl": f"{self.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer(handler, 200, {})

    def get(self, handler: BaseHTTPRequestHandler) -> None:
        words = handler.path.split("?")[0].strip("/").split("/")
        if words[0] == "api":
            name = "/".join(words[2:4])
            files = [{"rfilename": file} for file in self.repositories.get(name, {})]
            self.answer(handler, 200, {"id": name, "sha": COMMIT, "siblings": files, "private": False, "tags": []})
            return
        data = self.repositories.get("/".join(words[:2]), {}).get("/".join(words[4:]))  # ORG/NAME/resolve/main/FILE
        if data is None:
            handler.send_response(404)
            handler.send_header("X-Error-Code", "EntryNotFound")
            handler.send_header("X-Repo-Commit", COMMIT)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(200)
        for key, value in (("ETag", f'"{hashlib.sha1(data).hexdigest()}"'), ("X-Repo-Commit", COMMIT)):
            handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(data)

    def answer(self, handler: BaseHTTPRequestHandler, status: int, value: dict) -> None:
        data = json.dumps(value).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(data)


@contextmanager
def serving_hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.http.shutdown()
    hub.http.server_close()
    hub.thread.join()
