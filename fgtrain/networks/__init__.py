"""Encoders, heads, moving averages, initial weights and optimisers."""
