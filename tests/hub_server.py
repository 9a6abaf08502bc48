"""A Hugging Face hub on 127.0.0.1 for tests: creates repositories, takes commits, serves models and datasets."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from http_server import Listener, Quiet

TOKEN = "hf_test"
LARGE = (".tar", ".h5", ".parquet", ".safetensors")
"""Files that are uploaded and listed as large ones (Git LFS)."""


class Hub(Listener):
    """The files of every repository by its name, and what was asked."""

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        """Large files by sha256, committed or not."""
        self.uploads: list[str] = []
        """The sha256 of every large file that was sent."""
        self.commits: list[str] = []
        """Messages of the commits."""
        self.refuse = 0
        """Status code of every answer; 0: serve."""
        self.large = False
        """Whether files of LARGE are uploaded as such; otherwise all are part of the commit."""
        self.takes = 1 << 60
        """Large files that are still taken; then the connection is cut."""
        self.cuts: dict[str, int] = {}
        """Files of which only so many bytes are served; then the connection is cut."""
        outer = self

        class Handler(Quiet):
            def do_POST(self):
                outer.post(self, read_body(self))

            def do_PUT(self):
                outer.put(self, read_body(self))

            def do_GET(self):
                outer.get(self)

            do_HEAD = do_GET

        self.listen(Handler)

    @property
    def commit(self) -> str:
        """The hash of the last commit."""
        return f"{len(self.commits):040x}"

    def post(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        words = handler.path.split("?")[0].strip("/").split("/")  # api/models/ORG/NAME/commit/main
        name = "/".join(words[2:4])
        if self.refused(handler):
            return
        if words[-1] == "create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            if name in self.repositories:
                self.answer(handler, 409, {"error": "it exists", "url": f"{self.address}/{name}"})
                return
            self.repositories[name] = {}
            self.private[name] = bool(asked.get("private") or asked.get("visibility") == "private")
            self.answer(handler, 200, {"url": f"{self.address}/{name}", "id": name})
        elif words[-1] == "batch":  # datasets/ORG/NAME.git/info/lfs/objects/batch
            objects = []
            for one in json.loads(body)["objects"]:
                upload = {"upload": {"href": f"{self.address}/upload/{one['oid']}"}}
                objects.append(one if one["oid"] in self.objects else one | {"actions": upload})
            self.answer(handler, 200, {"objects": objects, "transfer": "basic"})
        elif len(words) < 5:
            self.answer(handler, 200, {"errors": [], "warnings": []})  # api/validate-yaml: the card's keys
        elif words[4] == "preupload":
            files = [
                {"path": f["path"], "uploadMode": self.mode(f["path"]), "shouldIgnore": False, "oid": None}
                for f in json.loads(body)["files"]
            ]
            self.answer(handler, 200, {"files": files})
        elif words[4] == "commit":
            files = self.repositories[name]
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    self.commits.append(value["summary"])
                elif line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.objects[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            url = f"{self.address}/{name}/commit/{self.commit}"
            self.answer(handler, 200, {"commitUrl": url, "commitOid": self.commit})
        else:
            self.answer(handler, 200, {})

    def put(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if self.takes == 0:
            handler.close_connection = True  # without an answer
            return
        self.takes -= 1
        self.uploads.append(hashlib.sha256(body).hexdigest())
        self.objects[self.uploads[-1]] = body
        self.answer(handler, 200, {})

    def get(self, handler: BaseHTTPRequestHandler) -> None:
        words = handler.path.split("?")[0].strip("/").split("/")
        if self.refused(handler):
            return
        if words[0] == "api":  # api/models/ORG/NAME, api/datasets/ORG/NAME/tree/main
            name = "/".join(words[2:4])
            if name not in self.repositories:
                self.answer(handler, 404, {"error": "not found"}, code="RepoNotFound")
                return
            files = self.repositories[name]
            if words[4:5] == ["tree"]:
                self.answer(handler, 200, [self.entry(path, data) for path, data in files.items()])
                return
            about = {"id": name, "sha": self.commit, "private": self.private.get(name, False), "tags": []}
            self.answer(handler, 200, about | {"siblings": [{"rfilename": file} for file in files]})
            return
        if words[0] == "datasets":
            words = words[1:]
        data = self.repositories.get("/".join(words[:2]), {}).get("/".join(words[4:]))  # ORG/NAME/resolve/main/FILE
        if data is None:
            self.answer(handler, 404, {}, code="EntryNotFound")
            return
        wanted = handler.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        handler.send_response(206 if start else 200)
        etag = (hashlib.sha256 if self.large else hashlib.sha1)(data).hexdigest()
        for key, value in (("ETag", f'"{etag}"'), ("X-Repo-Commit", self.commit)):
            handler.send_header(key, value)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(data[start : self.cuts.get(words[-1])])

    def mode(self, path: str) -> str:
        return "lfs" if self.large and path.endswith(LARGE) else "regular"

    def entry(self, path: str, data: bytes) -> dict:
        """A file as the hub lists it."""
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry = {"type": "file", "path": path, "size": len(data), "oid": blob}
        if self.mode(path) == "lfs":
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry

    def refused(self, handler: BaseHTTPRequestHandler) -> bool:
        """Whether the request was answered with an error: everything is refused, or its token is wrong."""
        token = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.refuse:
            self.answer(handler, self.refuse, {"error": "no"})
        elif token not in ("", TOKEN):
            self.answer(handler, 401, {"error": "no"}, message="Invalid credentials in Authorization header")
        else:
            return False
        return True

    def answer(
        self, handler: BaseHTTPRequestHandler, status: int, value: dict | list, code: str = "", message: str = ""
    ) -> None:
        data = json.dumps(value).encode()
        handler.send_response(status)
        headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": self.commit}
        for key, text in headers.items():
            if text:
                handler.send_header(key, text)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(data)


def read_body(handler: BaseHTTPRequestHandler) -> bytes:
    """The body of a request; chunked (RFC 9112, 7.1) when its length was not known."""
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    body = b""
    while size := int(handler.rfile.readline(), 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body


@contextmanager
def serving_hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.stop()
