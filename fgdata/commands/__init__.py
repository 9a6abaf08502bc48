"""The commands of `fgdata`: one function each, whose docstring is its help."""
