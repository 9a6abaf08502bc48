"""Evaluations of a trained encoder, and pictures. Each evaluation appends to the run's results.jsonl."""
