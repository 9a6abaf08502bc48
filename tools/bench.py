"""Measurements a maintainer runs, for example: .venv/bin/python tools/bench.py saliency --json FILE

Each command prints its table and, with --json, writes the same figures beside what made them. A figure in the
documentation comes from such a file. A command is a function in its own bench_*.py and a row here.
"""

import sys

import tyro
from bench_build import build
from bench_colour import colour
from bench_duplicates import duplicates
from bench_process import process
from bench_reads import reads
from bench_retrieval import retrieval
from bench_saliency import saliency
from bench_sizes import sizes
from bench_step import step
from bench_storage import storage
from bench_views import views

from fgdata.errors import InputError

if __name__ == "__main__":
    try:
        commands = {
            "saliency": saliency,
            "build": build,
            "views": views,
            "colour": colour,
            "step": step,
            "process": process,
            "retrieval": retrieval,
            "storage": storage,
            "duplicates": duplicates,
            "sizes": sizes,
            "reads": reads,
        }
        tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)
    except InputError as error:
        sys.exit(f"error: {error}")
