"""`build-shards --out s3://...`: the same bytes as in a folder, the manifest last, resumed where it stopped."""

from pathlib import Path

import pytest
from object_storage import SlowWriter

from fgdata.boxes.objective import Objective
from fgdata.building.rewrite import rebox
from fgdata.building.upload import upload
from fgdata.cli import main
from fgdata.errors import InputError
from fgdata.files.swap import exchange
from fgdata.shards.check import check
from fgdata.shards.reader import ShardSet
from fgdata.stores import remote
from fgdata.stores.place import Url
from fgdata.stores.remote import Remote

SMALL = ["--dataset", "drawn", "--classes", "2", "--images-per-class", "4", "--size", "64"]
SMALL += ["--saliency", "spectral-residual", "--shard-samples", "3", "--jobs", "1"]


def content(url: Url) -> dict[str, bytes]:
    store = Remote(url)
    return {name: store.open(name).read() for name in store.names() or ()}


def test_build_show_score_and_list_of_a_url(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    url = Url("s3://birds/built/small")
    assert main(["build-shards", *SMALL, "--out", url]) == 0
    assert f"Train on it: fgtrain run cvsa --data.shards {url}" in capsys.readouterr().out
    assert content(url) == {path.name: path.read_bytes() for path in (tmp_path / "shards/small").iterdir()}
    assert main(["build-shards", *SMALL, "--out", url]) == 0
    assert f"{url}: already complete" in capsys.readouterr().out
    assert main(["check", url]) == 0
    assert main(["score", url]) == 0
    assert main(["show", url, "--samples", "2"]) == 0
    assert (tmp_path / "small.html").exists()
    assert main(["list", "--folder", "s3://birds/built"]) == 0
    assert "small              drawn: 6 train + 2 test" in capsys.readouterr().out
    for words in (["rebox", url], ["add", url, "--saliency", "vsf"], ["finish", url]):
        assert main(words) == 2
        assert f"needs a folder of this machine, and {url} is a URL" in capsys.readouterr().err
    assert main(["build-shards", *SMALL, "--out", url, "--part", "0/2"]) == 2


def test_a_stopped_copy_resumes_and_its_set_is_unfinished(s3: str, drawn_set: Path, monkeypatch: pytest.MonkeyPatch):
    url, put, done = Url("s3://birds/stopped/drawn"), Remote.put, []

    def stop_at_last_index(self: Remote, name: str, file: Path | bytes) -> int:
        if name == "test-000001.idx":
            raise KeyboardInterrupt
        done.append(name)
        return put(self, name, file)

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "put", stop_at_last_index)
        with pytest.raises(KeyboardInterrupt):
            upload(drawn_set, url)
    assert "manifest.json" not in done
    with pytest.raises(InputError, match=f"{url} is an unfinished shard set"):
        ShardSet.open(url)
    with pytest.raises(InputError, match="an unfinished copy of another set"):
        upload(Path("shards/tiny"), url)
    marked = {name.replace(".json", ".tar") for name in done if name.endswith(".json")}
    monkeypatch.setattr(Remote, "put", lambda self, name, file: done.append(name) or put(self, name, file))
    done.clear()
    upload(drawn_set, url)
    assert {name for name in done if name.endswith(".tar")} == {p.name for p in drawn_set.glob("*.tar")} - marked
    assert done[-1] == "manifest.json"
    assert content(url) == {path.name: path.read_bytes() for path in drawn_set.iterdir()}
    assert check(url)[1] == []
    with pytest.raises(InputError, match="has another set"):
        upload(Path("shards/tiny"), url)


def test_what_a_set_is_not_copied_to(s3: str, drawn_set: Path):
    Remote(Url("s3://birds/other")).put("notes.txt", b"mine")
    with pytest.raises(InputError, match="s3://birds/other has other files"):
        upload(drawn_set, Url("s3://birds/other"))
    for text in ("https://host/x", "hf://datasets/lab/birds"):
        with pytest.raises(InputError, match="written to s3:// and gs:// only"):
            upload(drawn_set, Url(text))
    with pytest.raises(InputError, match="there is no such bucket"):
        upload(drawn_set, Url("s3://nobody/x"))


@pytest.fixture
def own_set(tmp_path: Path) -> Path:
    assert main(["build-shards", *SMALL, "--keep-maps", "--out", str(tmp_path / "own")]) == 0
    return tmp_path / "own"


def test_a_set_cannot_be_replaced_while_it_is_copied(s3: str, own_set: Path, monkeypatch: pytest.MonkeyPatch):
    url, put, refused = Url("s3://birds/locked/own"), Remote.put, []

    def rebox_meanwhile(self: Remote, name: str, file: Path | bytes) -> int:
        if name == "test-000000.tar":
            with pytest.raises(InputError, match="Another process is using .*own. Wait until it ends") as fault:
                rebox(own_set, Objective(tau=0.9))
            refused.append(fault)
        return put(self, name, file)

    monkeypatch.setattr(Remote, "put", rebox_meanwhile)
    upload(own_set, url)
    assert refused
    assert check(url)[1] == []


def test_a_set_that_another_machine_replaces_during_a_copy_is_not_completed(
    s3: str, own_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One that the lock does not reach. Files of two sets are then at the URL, and no manifest may say otherwise."""
    url, put = Url("s3://birds/mixed/own"), Remote.put
    rebox(own_set, Objective(tau=0.9), out=tmp_path / "other")

    def replace_meanwhile(self: Remote, name: str, file: Path | bytes) -> int:
        if name == "test-000000.tar":
            exchange(tmp_path / "other", own_set)
        return put(self, name, file)

    monkeypatch.setattr(Remote, "put", replace_meanwhile)
    monkeypatch.setattr("fgdata.building.upload._AT_ONCE", 1)
    with pytest.raises(InputError, match="own was changed by another process while it was being read. Rerun"):
        upload(own_set, url)
    with pytest.raises(InputError, match=f"{url} is an unfinished shard set"):
        ShardSet.open(url)


def test_a_write_may_take_longer_than_a_read(s3: str, monkeypatch: pytest.MonkeyPatch):
    """As a part of a file does on a slow line."""
    monkeypatch.setattr(remote, "TIMEOUT_S", 1.0)
    server = SlowWriter(1.5)
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        assert Remote(Url("s3://birds/sets/slow")).put("a.tar", b"bytes") == 5
        monkeypatch.setattr(remote, "WRITE_TIMEOUT_S", 1.0)
        with pytest.raises(InputError, match=r"a.tar cannot be written: no answer within 1 s \(3 tries\)"):
            Remote(Url("s3://birds/sets/slow")).put("a.tar", b"bytes")
    finally:
        server.stop()
