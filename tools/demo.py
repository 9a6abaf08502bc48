"""make demo: draws birds, builds a shard set, trains an encoder on it without labels, and prints the result."""

import json
import subprocess
import sys
import time
from pathlib import Path

SHARDS, RUN = Path("shards/demo"), Path("runs/demo")
BUILD = f"fgdata build-shards --dataset drawn --images-per-class 90 --size 192 --saliency rbd gt --out {SHARDS}"
TRAIN = f"fgtrain run demo --data.shards {SHARDS} --out {RUN} --resume"


def call(command: str) -> None:
    """Print and run a command; if it fails, exit with its exit code."""
    print(f"\n$ {command}", flush=True)
    program = Path(sys.executable).parent / command.split()[0]
    code = subprocess.run([str(program), *command.split()[1:]], check=False).returncode
    if code:
        sys.exit(code)


def main() -> None:
    start = time.monotonic()
    call(BUILD)
    call(f"fgdata check {SHARDS}")
    call(f"fgdata score {SHARDS}")
    call(f"fgdata show {SHARDS}")
    call(TRAIN)
    run = json.loads((RUN / "run.json").read_text())
    if run["status"] != "done":
        sys.exit(f"\nTraining stopped at step {run['step']:,}, before the end. Resume it with:\n  make demo")
    call(f"fgtrain eval knn {RUN} --untrained")
    call(f"fgtrain show views {RUN}")
    result = json.loads((RUN / "results.jsonl").read_text().splitlines()[-1])
    errors = result["gain"] / result["gain_standard_error"]
    print(f"""
The demo took {(time.monotonic() - start) / 60:.1f} minutes.
  kNN accuracy on {result["n"]:,} test birds: {result["accuracy"]:.1%} trained, {result["untrained"]:.1%} untrained, \
{result["chance"]:.1%} by chance
  the gain is {errors:.1f} standard errors of the paired difference
  the report:        {SHARDS / "report.html"}
  the contact sheet: {RUN / "views.png"}""")


if __name__ == "__main__":
    main()
