"""A fuzzer for everything that reads files: python -m tests.fuzz --help

A family (`families.py`) is one kind of input: a few small valid files, the commands that read them, and the ways to
corrupt them. Input number N of a family depends on N alone, so one command repeats a finding:

    python -m tests.fuzz --family shards --seed 123

The contract (`contract.py`) is the same for all: a command ends with a result or with InputError, within a time and
memory limit, and writes nothing outside its folder.
"""
