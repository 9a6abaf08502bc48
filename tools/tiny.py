"""Rebuilds the golden shard set: python tools/tiny.py [FOLDER]. shards/tiny is changed in no other way."""

import shutil
import sys
from pathlib import Path

from fgdata.building.log import LOG
from fgdata.cli import main

SETTINGS = "--dataset drawn --classes 2 --images-per-class 6 --size 96 --saliency rbd gt --shard-samples 5".split()

if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "shards" / "tiny"
    shutil.rmtree(out, ignore_errors=True)
    code = main(["build-shards", *SETTINGS, "--out", str(out)])
    (out / LOG).unlink(missing_ok=True)  # not part of the set, and different in every build
    sys.exit(code)
