"""`fgdata push` and `fgdata pull` with a hub on this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub
from paths import TINY
from shard_files import hashes

from fgdata import cli
from fgdata.errors import InputError
from fgdata.files.lock import lock
from fgdata.shards.manifest import dump, read_manifest, signed
from fgdata.shards.reader import ShardSet, box, label
from fgdata.sharing import pull as pulling
from fgdata.sharing import push as pushing

pytest.importorskip("huggingface_hub")
pytest.importorskip("pyarrow")
# huggingface_hub 2.4 passes a large file to its HTTP library in a way that is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
STREAM = """
import json, sys, tempfile
from pathlib import Path
from fgdata.sharing.pull import pull
with tempfile.TemporaryDirectory() as folder:
    pull("hf://datasets/my-lab/birds", Path(folder))
from datasets import load_dataset
with tempfile.TemporaryDirectory() as cache:
    for split in ("train", "test"):
        rows = load_dataset("my-lab/birds", split=split, streaming=True, cache_dir=cache)
        print(json.dumps({row["__key__"]: [int(row["cls"]), [float(x) for x in row["rbd.npy"]]] for row in rows}))
"""
ADDRESS = "hf://datasets/my-lab/birds"
FRONT = "---\nlicense: mit\n---\n"
"""A card of the hub's keys alone, which it writes by itself."""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


@pytest.fixture
def large(hub: Hub) -> Hub:
    """A hub that takes tars as large files."""
    hub.large = True
    return hub


def push(folder: Path, *flags: str) -> int:
    return cli.main(["push", str(folder), ADDRESS, *flags])


def pull(folder: Path) -> int:
    return cli.main(["pull", ADDRESS, str(folder)])


def error(capsys: pytest.CaptureFixture) -> str:
    return " ".join(capsys.readouterr().err.split())


def rename(folder: Path, dataset: str) -> None:
    """Makes a set one of another dataset."""
    manifest = read_manifest(folder)
    manifest["dataset"]["name"] = dataset
    (folder / "manifest.json").write_bytes(dump(signed(manifest)))


def test_what_is_pulled_is_what_was_pushed(large: Hub, tiny: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(pushing, "BATCH_FILES", 4)
    assert push(tiny) == 0
    assert large.private == {"my-lab/birds": True}
    count = len(list(tiny.glob("*.tar"))) * 2
    assert f"(private): uploaded {count} files" in capsys.readouterr().out
    batches = -(-count // 4)
    digest = read_manifest(tiny)["digest"][:12]
    assert large.commits == [*(f"Shards, {i + 1} of {batches}" for i in range(batches)), f"Set {digest} by fgdata"]
    assert pull(tmp_path / "new") == 0
    pulled = hashes(tmp_path / "new")
    assert pulled.pop("README.md")
    assert pulled == hashes(tiny)
    assert not (tmp_path / "new" / ".pulling").exists()
    assert cli.main(["check", str(tmp_path / "new")]) == 0
    sent, files = list(large.uploads), large.repositories["my-lab/birds"]
    files["README.md"] += b"Edited on the hub."
    assert push(tiny) == 0
    assert files["README.md"].endswith(b"Edited on the hub.")
    assert pull(tmp_path / "new") == 0
    assert large.uploads == sent
    assert "is already complete: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "before", ["# Our birds\n", "---\nlicense: mit\n---\n# Our birds\n", "---\nlicense: mit\n---\n"]
)
def test_a_card_that_somebody_wrote_before_the_first_push_is_kept(before: str, hub: Hub, tiny: Path, capsys):
    """Unless it is the hub's own, which has only keys in front."""
    hub.repositories["my-lab/birds"] = {"README.md": before.encode()}
    hub.private["my-lab/birds"] = True
    assert push(tiny) == 0
    files, kept = hub.repositories["my-lab/birds"], "Our" in before
    assert (files["README.md"].decode() == before) == kept
    assert ("README.md of hf://datasets/my-lab/birds is kept." in capsys.readouterr().out) == kept
    assert cli.main(["card", str(tiny), "--to", ADDRESS]) == 0
    assert push(tiny) == 0
    assert files["README.md"] == (tiny / "README.md").read_bytes()


def test_a_fresh_process_pulls_a_pushed_set_and_datasets_streams_its_splits(hub: Hub, tiny: Path, tmp_path: Path):
    """In a separate process, which knows the hub by its address alone and has imported nothing of its library."""
    pytest.importorskip("datasets")
    assert push(tiny) == 0
    own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", STREAM], env=os.environ | own, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shards = ShardSet.open(tiny)
    for split, line in zip(("train", "test"), done.stdout.splitlines()[-2:]):
        reader = shards.split(split)
        samples = {reader.key(i): reader.read(i) for i in range(len(reader))}
        assert json.loads(line) == {key: [label(s), box(s, "rbd").tolist()] for key, s in samples.items()}


def test_a_cut_upload_resumes_and_is_not_a_set_before(large: Hub, tiny: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr(pushing, "BATCH_FILES", 2)
    large.takes = 1
    assert push(tiny) == 2
    assert f"{ADDRESS} could not be written: " in (text := error(capsys))
    assert "Rerun the command: files that arrived are not sent again." in text
    assert pull(tmp_path / "new") == 2
    assert "has no manifest.json: it is not a shard set of fgdata, or its push was stopped." in error(capsys)
    assert not (tmp_path / "new").exists()
    large.takes = 100
    assert push(tiny) == 0
    tars = len(list(tiny.glob("*.tar")))
    assert len({*large.uploads}) == len(large.uploads) == tars + 1, "metadata.parquet and each tar once"
    assert pull(tmp_path / "new") == 0


def test_a_cut_download_resumes_and_is_not_a_set_before(large: Hub, tiny: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    assert push(tiny) == 0
    new = tmp_path / "new"
    large.cuts["train-000000.tar"] = 20_000
    assert pull(new) == 2
    text = error(capsys)
    assert f"{ADDRESS} could not be read: " in text
    assert "Rerun the command to resume." in text
    assert not (new / "manifest.json").exists()
    assert cli.main(["check", str(new)]) == 2
    assert f"{new} is an unfinished download of a shard set" in error(capsys)
    assert cli.main(["list", "--folder", str(tmp_path)]) == 0
    assert f"{new} is an unfinished download" in " ".join(capsys.readouterr().out.split())
    large.cuts.clear()
    assert pull(new) == 0
    assert "downloaded 1 file; every sha256 matches" in capsys.readouterr().out
    assert {name: hash for name, hash in hashes(new).items() if name != "README.md"} == hashes(tiny)


def test_a_pull_that_was_killed_while_it_wrote_the_manifest_resumes(hub: Hub, tiny: Path, tmp_path: Path, monkeypatch):
    assert push(tiny) == 0

    def killed(path: Path, content: bytes):
        path.with_name(f"{path.name}.0123abcd.part").write_bytes(content[:9])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pulling, "write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            pulling.pull(ADDRESS, tmp_path / "new")
    assert (tmp_path / "new/manifest.json.0123abcd.part").exists()
    assert pull(tmp_path / "new") == 0
    assert {name: hash for name, hash in hashes(tmp_path / "new").items() if name != "README.md"} == hashes(tiny)


def test_a_damaged_tar_is_named_before_and_after_the_download(large: Hub, tiny: Path, tmp_path: Path, capsys):
    assert push(tiny) == 0
    files, new = large.repositories["my-lab/birds"], tmp_path / "new"
    sound = files["test-000000.tar"]
    files["test-000000.tar"] = sound[:-1] + b"x"
    assert pull(new) == 2
    assert f"{ADDRESS}: test-000000.tar is damaged" in error(capsys)
    assert not new.exists()
    large.large = False  # the hub lists no sha256
    assert pull(new) == 2
    assert "is damaged: the sha256 of test-000000.tar differs from the manifest's (1 of 6 files)" in error(capsys)
    assert not (new / "manifest.json").exists()
    assert not (new / "test-000000.tar").exists()
    files["test-000000.tar"] = sound
    assert pull(new) == 0
    del files["train-000000.idx"]
    assert pull(tmp_path / "again") == 2
    assert "train-000000.idx is missing" in error(capsys)
    tar = tiny / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    assert push(tiny) == 2
    assert f"{tar} is damaged" in (text := error(capsys))
    assert "was not uploaded" in text


def test_existing_sets_and_folders_are_not_mixed(hub: Hub, tiny: Path, tmp_path: Path, capsys):
    assert push(tiny) == 0
    other = Path(shutil.copytree(tiny, tmp_path / "other"))
    rename(other, "flat")
    before = dict(hub.repositories["my-lab/birds"])
    assert push(other, "--have-right") == 2
    assert f"{ADDRESS} holds manifest.json of another set than {other}" in error(capsys)
    assert hub.repositories["my-lab/birds"] == before
    assert pull(other) == 2
    assert f"{other} holds another shard set. Name another folder." in error(capsys)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert pull(tmp_path / "full") == 2
    assert "exists and is not an empty folder or a stopped pull of this set" in error(capsys)


def test_a_wrong_token_and_a_missing_dataset_are_named(hub: Hub, tiny: Path, tmp_path: Path, capsys, monkeypatch):
    assert pull(tmp_path / "new") == 2
    assert "the hub has no such repository, or the token may not see it" in error(capsys)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert push(tiny) == 2
    assert f"{ADDRESS} could not be written: the hub refused the token (401)" in (text := error(capsys))
    assert "hf auth login" in text
    assert pull(tmp_path / "new") == 2
    assert f"{ADDRESS} could not be read: the hub refused the token (401)" in error(capsys)
    assert not hub.repositories
    assert not (tmp_path / "new").exists()


def test_images_that_may_not_be_given_away_need_a_statement(hub: Hub, tiny: Path, capsys):
    rename(tiny, "inat2018")
    assert push(tiny) == 2
    assert "terms forbid distributing its images" in (text := error(capsys))
    assert "add --have-right" in text
    assert not hub.repositories
    assert push(tiny, "--have-right", "--public") == 0
    assert hub.private == {"my-lab/birds": False}
    assert push(tiny, "--have-right") == 2
    assert "exists and is public. Add --public" in error(capsys)


def test_a_hostile_manifest_is_refused_before_the_download(hub: Hub, tiny: Path, tmp_path: Path, capsys):
    assert push(tiny) == 0
    manifest = read_manifest(tiny)
    manifest["splits"]["train"]["shards"][0]["name"] = "../../x"
    hub.repositories["my-lab/birds"]["manifest.json"] = dump(signed(manifest))
    assert pull(tmp_path / "new") == 2
    assert f"{ADDRESS}/manifest.json is damaged: " in error(capsys)
    assert not (tmp_path / "new").exists()


def test_a_set_cannot_be_replaced_during_a_push(large: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch):
    listed, tried = pushing.list_remote, []

    def replace_meanwhile(*arguments):
        with pytest.raises(InputError, match="Another process is using .*tiny") as fault, lock(tiny):
            pass
        tried.append(fault)
        return listed(*arguments)

    monkeypatch.setattr(pushing, "list_remote", replace_meanwhile)
    assert push(tiny) == 0
    assert tried


def test_a_set_that_another_machine_replaces_during_a_push_gets_no_manifest(
    large: Hub, tiny: Path, monkeypatch, capsys
):
    """One that the lock does not reach."""
    listed = pushing.list_remote

    def replace_meanwhile(*arguments):
        rename(tiny, "birds")
        return listed(*arguments)

    monkeypatch.setattr(pushing, "list_remote", replace_meanwhile)
    assert push(tiny) == 2
    assert "tiny was changed by another process while it was being read. Rerun" in error(capsys)
    assert "manifest.json" not in large.repositories["my-lab/birds"]


def test_a_pull_that_another_process_overtakes_finds_the_set_complete(
    hub: Hub, tiny: Path, tmp_path, capsys, monkeypatch
):
    assert push(tiny) == 0
    only_downloader = pulling.only_downloader

    def overtaken(folder: Path, flag: str):
        monkeypatch.setattr(pulling, "only_downloader", only_downloader)
        assert pull(folder) == 0
        return only_downloader(folder, flag)

    monkeypatch.setattr(pulling, "only_downloader", overtaken)
    assert pull(tmp_path / "new") == 0
    assert "is already complete: " in capsys.readouterr().out
    assert not (tmp_path / "new" / ".downloading").exists()
