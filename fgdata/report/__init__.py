"""Reports on shard sets: report.html, scores, listings."""
