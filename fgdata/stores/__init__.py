"""Where the files of a shard set are: in a folder of this machine, or behind a URL."""
