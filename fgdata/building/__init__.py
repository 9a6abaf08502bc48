"""What makes and changes a shard set."""
