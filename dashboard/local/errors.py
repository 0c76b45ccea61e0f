"""What goes wrong on this machine, said so that a person knows what to do next."""


class LocalError(Exception):
    """Something could not be set up or started; the text says what to do about it."""
