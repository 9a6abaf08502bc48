"""Pictures and listings."""
