"""Builds shard sets and rewrites their boxes."""
