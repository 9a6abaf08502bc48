"""One S3 server for the tests of a process, with the drawn set in it; and a web server for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from object_storage import KEYS, Web, s3_server, web_server

from fgdata.stores import remote
from fgdata.stores.place import Url


@pytest.fixture(autouse=True)
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRIES", 2)
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(remote, "LONGEST_WAIT_S", 0.002)


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The S3 server is the one that s3:// means in this test; it has the bucket birds."""
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": s3_address}).items():
        monkeypatch.setenv(name, value)
    from urllib.request import Request, urlopen

    urlopen(Request(f"{s3_address}/birds", method="PUT")).close()
    return s3_address


@pytest.fixture
def s3_set(s3: str, drawn_set: Path) -> Url:
    """The drawn set on the S3 server. Read only."""
    url, store = Url("s3://birds/sets/drawn"), remote.Remote(Url("s3://birds/sets/drawn"))
    if "manifest.json" not in (store.names() or ()):
        for file in sorted(drawn_set.iterdir()):
            store.put(file.name, file)
    return url


@pytest.fixture
def web(drawn_set: Path) -> Iterator[Web]:
    with web_server(drawn_set.parent) as server:
        yield server
