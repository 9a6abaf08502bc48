"""Runs a training from its settings to its end."""
