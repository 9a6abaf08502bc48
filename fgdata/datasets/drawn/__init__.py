"""The built-in dataset: images of birds painted by code."""
