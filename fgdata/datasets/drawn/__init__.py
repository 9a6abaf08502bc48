"""The built-in dataset: birds painted by code."""
