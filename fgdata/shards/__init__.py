"""Shard sets on disk; shards/FORMAT.md is the specification."""
