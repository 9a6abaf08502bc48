"""What a person reads about a shard set: report.html, scores, listings."""
