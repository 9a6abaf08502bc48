"""Other programs read a shard set without fgdata: plain webdataset, Hugging Face datasets and DALI's own reader.

Each reader runs in its own process, in which importing fgdata fails, and prints what it read. The tests compare that
with the content of the tars.
"""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

BLOCK = "import sys; sys.modules['fgdata'] = None\n"

WEBDATASET = """
import glob, json, sys
import webdataset as wds
tars = sorted(glob.glob(sys.argv[1] + "/train-*.tar"))
samples = wds.WebDataset(tars, shardshuffle=False).decode("rgb8").to_tuple("__key__", "jpg", "cls", "gt.npy", "json")
print(json.dumps([[key, list(image.shape), label, box.tolist(), meta["id"]]
                  for key, image, label, box, meta in samples]))
"""

HUGGING_FACE = """
import glob, json, sys, tempfile
from datasets import load_dataset
tars = sorted(glob.glob(sys.argv[1] + "/train-*.tar"))
with tempfile.TemporaryDirectory() as cache:
    rows = load_dataset("webdataset", data_files={"train": tars}, split="train", cache_dir=cache)
    print(json.dumps([
        [row["__key__"], [row["jpg"].height, row["jpg"].width, len(row["jpg"].getbands())], int(row["cls"]),
         list(map(float, row["gt.npy"])), row["json"]["id"]]
        for row in rows
    ]))
"""

DALI = """
import glob, json, sys
import numpy as np
from nvidia.dali import fn, pipeline_def, types
tars = sorted(glob.glob(sys.argv[1] + "/train-*.tar"))
@pipeline_def(batch_size=4, num_threads=2, device_id=None)
def read():
    jpg, label, box, meta = fn.readers.webdataset(
        paths=tars, index_paths=[t[:-3] + "idx" for t in tars], ext=["jpg", "cls", "gt.npy", "json"],
        missing_component_behavior="error", name="reader")
    return fn.decoders.image(jpg, adjust_orientation=False), label, fn.reinterpret(box[-16:], dtype=types.FLOAT), meta
pipe = read()
pipe.build()
rows = []
while len(rows) < pipe.epoch_size("reader"):
    for image, label, box, meta in zip(*(output.as_cpu() for output in pipe.run())):
        image, label, box, meta = (np.asarray(part) for part in (image, label, box, meta))
        rows.append([None, list(image.shape), int(label.tobytes()), box.tolist(), json.loads(meta.tobytes())["id"]])
print(json.dumps(rows))
"""


@pytest.mark.parametrize(
    ("module", "script"),
    [("webdataset", WEBDATASET), ("datasets", HUGGING_FACE), ("nvidia.dali", DALI)],
    ids=["webdataset", "hugging-face", "dali"],
)
def test_another_program_reads_image_class_and_box(drawn_set: Path, module, script):
    pytest.importorskip(module)
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + script, str(drawn_set)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(done.stdout.strip().splitlines()[-1])
    wanted = _plain(drawn_set)
    assert len(rows) == len(wanted) == 32
    for (key, shape, label, box, name), (real_key, real_shape, real_label, real_box, real_name) in zip(rows, wanted):
        assert key in (None, real_key)
        assert (shape, label, name) == (real_shape, real_label, real_name)
        np.testing.assert_allclose(box, real_box, atol=1e-7)  # the json rounds to 7 places


def _plain(folder: Path) -> list[list]:
    """The samples read with tarfile and json alone; the box is the json's, which gt.npy repeats."""
    rows = []
    for path in sorted(folder.glob("train-*.tar")):
        with tarfile.open(path) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # pyright: ignore
        for key in sorted({name.split(".")[0] for name in files}):
            meta = json.loads(files[f"{key}.json"])
            shape = [meta["height"], meta["width"], 3]
            rows.append([key, shape, int(files[f"{key}.cls"]), meta["boxes"][0], meta["id"]])
    return rows
