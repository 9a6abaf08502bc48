"""Sets behind a URL: the same samples as from the folder, and what is said when storage fails."""

import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from object_storage import web_server

import fgdata
from fgdata import cli
from fgdata.errors import InputError
from fgdata.shards.check import check
from fgdata.shards.manifest import list_shards
from fgdata.shards.reader import ShardSet, read_all
from fgdata.stores import remote
from fgdata.stores.place import Url, need_local, place
from fgdata.stores.remote import Remote


def batches(where: str | Path, **options) -> list[dict[str, np.ndarray]]:
    with fgdata.load(where, views=fgdata.ViewSpec(size=32), batch_size=8, **options) as loader:
        return [{name: tensor.numpy() for name, tensor in batch.items()} for batch in loader]


def same(one: list[dict[str, np.ndarray]], two: list[dict[str, np.ndarray]]) -> bool:
    return len(one) == len(two) and all(np.array_equal(a[name], b[name]) for a, b in zip(one, two) for name in a)


def test_a_set_on_s3_is_the_set_in_the_folder(s3_set: Url, drawn_set: Path):
    here, there = ShardSet.open(drawn_set), ShardSet.open(s3_set)
    assert there.manifest == here.manifest
    for split in here.splits:
        ours, theirs = here.split(split), there.split(split)
        assert list(read_all(theirs)) == [ours.read(i) for i in range(len(ours))]
        assert pickle.loads(pickle.dumps(theirs)).read(3, without="jpg") == ours.read(3, without="jpg")
    assert check(s3_set) == (here.manifest, [])
    assert same(batches(s3_set, seed=3), batches(drawn_set, seed=3))
    assert same(batches(f"{s3_set}/", readers=3, ahead=9), batches(drawn_set))


def test_a_set_on_a_web_server_and_on_the_hub(web, drawn_set: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert same(batches(f"{web.address}/drawn"), batches(drawn_set))
    assert {asked[2] for asked in web.asked} == {None}
    (tmp_path / "datasets/lab/birds/resolve/v2").mkdir(parents=True)
    (tmp_path / "datasets/lab/birds/resolve/v2/cub").symlink_to(drawn_set)
    web.folder = tmp_path
    web.asked.clear()
    monkeypatch.setenv("HF_ENDPOINT", web.address)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub = ShardSet.open("hf://datasets/lab/birds@v2/cub")
    assert hub.split("test").read(5) == ShardSet.open(drawn_set).split("test").read(5)
    assert {asked[2] for asked in web.asked} == {"Bearer hf_secret"}
    with web_server(tmp_path) as other:  # as the hub sends readers on to its storage, which must not get the token
        web.redirect = other.address
        assert ShardSet.open("hf://datasets/lab/birds@v2/cub").split("test").read(5) == hub.split("test").read(5)
        assert {asked[2] for asked in other.asked} == {None}


def test_check_requests_every_tar_once(web, drawn_set: Path):
    manifest, faults = check(place(f"{web.address}/drawn"))
    asked = Counter(path.rpartition("/")[2] for path, _, _ in web.asked)
    tars = [f"{shard['name']}.tar" for shard in list_shards(manifest)]
    assert not faults
    assert {name: count for name, count in asked.items() if name.endswith(".tar")} == dict.fromkeys(tars, 1)


@pytest.mark.parametrize("faults", [[500], [503, 429], ["cut"], ["cut", 500], ["cut", "cut"]], ids=str)
def test_passing_faults_are_not_seen(web, drawn_set: Path, faults: list):
    reader = ShardSet.open(f"{web.address}/drawn").split("train")
    web.faults = faults
    assert reader.read(7) == ShardSet.open(drawn_set).split("train").read(7)
    assert not web.faults


def test_a_cut_answer_continues_where_it_ended(web):
    store = Remote(place(f"{web.address}/drawn"))  # pyright: ignore
    web.faults = ["cut"]
    store.read("train-000000.tar", 1000, 200)
    assert [asked[1] for asked in web.asked] == ["bytes=200-1199", "bytes=700-1199"]


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ([500] * 9, r"train-000000.tar cannot be read: the server answered 500 Internal Server Error \(3 tries\)"),
        (["cut"] * 9, "train-000000.tar cannot be read: the connection was cut"),
        ([403], "train-000000.tar cannot be read: the server answered 403 Forbidden"),
        ([416], "train-000000.tar cannot be read: it is shorter than the set states"),
        (["whole"], "train-000000.tar cannot be read: the server does not answer with byte ranges"),
        (["short"], r"train-000000.tar cannot be read: the server sent [\d,]+ of [\d,]+ bytes from byte [\d,]+ on"),
    ],
    ids=["500", "cut", "403", "416", "whole", "short"],
)
def test_lasting_faults_name_the_file(web, faults: list, words: str):
    reader = ShardSet.open(f"{web.address}/drawn").split("train")
    web.faults = faults
    with pytest.raises(InputError, match=words):
        reader.read(0)


def test_a_wrong_url_of_a_web_server_suggests_no_command_that_is_refused(web):
    with pytest.raises(
        InputError, match=r"^http://\S+/nope is not a shard set: it has no manifest.json. Check the URL$"
    ):
        ShardSet.open(f"{web.address}/nope")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("card {}", "fgdata card needs a folder of this machine, and {} is a URL. Copy the set"),
        ("push {} hf://datasets/a/b", "fgdata push needs a folder of this machine, and {} is a URL. Copy the set"),
        ("pull hf://datasets/a/b {}", "fgdata pull SOURCE {} is a URL; this command writes to this machine"),
        ("rebox {}", "fgdata rebox needs a folder of this machine"),
        ("add {} --saliency rbd", "fgdata add needs a folder of this machine"),
        ("finish {}", "fgdata finish needs a folder of this machine"),
        ("coreset {} shards/x --encoder e --budget 1 --out y", "fgdata coreset needs a folder of this machine"),
        ("rebox shards/x --out {}", "--out {} is a URL"),
        ("add shards/x --saliency rbd --out {}", "--out {} is a URL"),
        ("card shards/x --out {}", "--out {} is a URL"),
        ("show shards/x --out {}/a.html", "--out {}/a.html is a URL"),
        ("coreset shards/x shards/y --encoder e --budget 1 --out {}", "--out {} is a URL"),
    ],
)
def test_commands_that_need_a_folder_say_so(words: str, message: str, capsys: pytest.CaptureFixture[str]):
    for url in ("http://host/drawn", "s3://birds/drawn"):
        assert cli.main(words.replace("{}", url).split()) == 2
        assert message.replace("{}", url) in capsys.readouterr().err


def test_a_server_that_does_not_answer(web, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "TIMEOUT_S", 0.2)
    store = Remote(place(f"{web.address}/drawn"))  # pyright: ignore
    web.faults = ["slow"] * 9
    with pytest.raises(InputError, match=r"train-000000.tar cannot be read: no answer within"):
        store.read("train-000000.tar", 100, 0)
    monkeypatch.setattr(remote, "TIMEOUT_S", 60)
    web.http.server_close()  # nobody listens any more
    with pytest.raises(InputError, match="no connection to the server"):
        ShardSet.open(f"{web.address}/drawn")


def test_a_file_that_is_replaced_under_a_reader_is_named(web):
    reader = ShardSet.open(f"{web.address}/drawn").split("train")
    reader.read(0)
    web.tag = "2"
    with pytest.raises(InputError, match=r"train-000000.tar was replaced while it was in use.*ETag .*1-.*2-"):
        reader.read(1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_is_refused_instead_of_waiting_for_ever(web):
    reader = ShardSet.open(f"{web.address}/drawn").split("train")
    child = os.fork()
    if not child:
        try:
            reader.read(0)
        except InputError as refused:
            os._exit(0 if "Start processes with spawn" in str(refused) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_damage_in_remote_storage_is_named(s3: str, s3_set: Url, drawn_set: Path):
    url = Url("s3://birds/sets/damaged")
    store = Remote(url)
    with pytest.raises(InputError, match="s3://birds/sets/damaged is not a shard set: .*, or create .* --out s3:"):
        ShardSet.open(url)
    for file in drawn_set.iterdir():
        store.put(file.name, file)
    tar = (drawn_set / "train-000001.tar").read_bytes()
    store.put("train-000001.tar", tar[:3000] + bytes([tar[3000] ^ 1]) + tar[3001:])
    store.put("train-000009.tar", b"x")
    _, faults = check(url)
    assert len(faults) == 2
    assert f"{url}/train-000001.tar is damaged: its sha256 differs" in faults[0]
    assert f"{url}/train-000009.tar does not belong to the set" in faults[1]
    store.put("train-000001.tar", tar[:-512])
    with pytest.raises(InputError, match=f"{url}/train-000001.tar is damaged: it has .* the manifest states"):
        ShardSet.open(url)
    store.delete(["train-000001.tar"])
    with pytest.raises(InputError, match=f"{url}/train-000001.tar is missing"):
        ShardSet.open(url)
    store.delete(["manifest.json"])
    store.put(".building/plan.json", b"{}")
    with pytest.raises(InputError, match=f"{url} is an unfinished shard set"):
        ShardSet.open(url)


def test_a_missing_bucket_and_wrong_credentials(s3: str, web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match="s3://nobody/x.* there is no such bucket. .*AWS_ACCESS_KEY_ID"):
        ShardSet.open("s3://nobody/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.address)  # refuses everything, as S3 does with a wrong key
    web.refuse = 403
    with pytest.raises(InputError, match=r"s3://birds/x/manifest.json .*403 Forbidden. .*AWS_ACCESS_KEY_ID"):
        ShardSet.open("s3://birds/x")


def test_a_profile_of_the_aws_tools(s3: str, s3_set: Url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "keys").write_text("[lab]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert "manifest.json" in (Remote(s3_set).names() or ())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ftp://host/x", "allowed: s3://"),
        ("s3://", "allowed: s3://"),
        ("hf://models/lab", "allowed: s3://"),
        ("https://me:secret@host/x", "Set credentials in the environment"),
        ("https://host/x?key=secret", "has a query"),
        ("s3://birds/a/../b", "an empty part"),
        (Path("s3://birds/x"), "lost a slash"),
    ],
)
def test_what_is_no_url_of_a_set(text: str | Path, words: str):
    with pytest.raises(InputError, match=words) as refused:
        place(text)
    assert "me:secret" not in str(refused.value)


def test_places():
    assert place("shards/cub") == Path("shards/cub")
    assert (place("s3://b/sets/cub/") / "x", place("s3://b/cub").resolve().name) == ("s3://b/sets/cub/x", "cub")  # type: ignore
    with pytest.raises(InputError, match="fgdata rebox needs a folder of this machine, and s3://b/cub"):
        need_local(Url("s3://b/cub"), "fgdata rebox")


@pytest.mark.parametrize("name", ["x-416.tar", "my credentials.tar", "NoSuchBucket.tar"])
@pytest.mark.parametrize("folder", ["drawn", "credentials/416/NoSuchBucket"])
def test_the_name_of_a_file_is_not_taken_for_an_answer(name: str, folder: str):
    from obstore.exceptions import GenericError

    store = Remote(Url(f"https://host/{folder}"))
    text = f"Generic HTTP error: odd answer for {name}, see https://host/{folder}/{name.replace(' ', '%20')}"
    with (
        pytest.raises(InputError, match="cannot be read: .*odd answer.*Check the network and the server"),
        store._naming(name),
    ):
        raise GenericError(text)
