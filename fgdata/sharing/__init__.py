"""Shard sets for other people: the files that describe a set, and `fgdata push` and `pull`."""
