"""Encoders, heads, moving averages, initial weights, optimisers."""
