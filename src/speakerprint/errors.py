"""The one exception that means: what you gave is at fault, and here is what to do."""


class InputError(Exception):
    """Bad input: says what was found, where (file, row, key), what was expected, and what to do.

    Stages and the command line print its message without a traceback and exit with a status that is not 0.
    """
