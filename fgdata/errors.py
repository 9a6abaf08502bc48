"""The one exception that a user is meant to read.

Its message names the thing, what was found, what is allowed and what to type next; both command lines print it without
a traceback and exit with 2.
"""


class InputError(ValueError):
    """Input or settings that cannot be used as given."""
