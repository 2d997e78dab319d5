"""How a check of the self-test ends."""


class Failed(Exception):
    """A check failed; the message says what is wrong and what to do."""


class Doubtful(Exception):
    """Training works, but something is not as it should be; the message says what to look at."""
