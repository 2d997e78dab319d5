"""Which videos share a person, by the names that published sets give them.  Imports no TensorFlow."""

from collections.abc import Iterable, Mapping


def groups(pairs: Iterable[tuple[str, ...]]) -> dict[str, str]:
    """Return the group of each person: those of one tuple are in one, which has the name of the least of them."""
    above: dict[str, str] = {}

    def top(one: str) -> str:
        while above.setdefault(one, one) != one:
            above[one] = one = above[above[one]]
        return one

    for pair in pairs:
        first = top(pair[0])
        for other in map(top, pair[1:]):
            first, other = sorted((first, other))
            above[other] = first
    return {one: top(one) for one in above}


def splits_of(published: Mapping[str, Iterable[Iterable[str]]]) -> dict[str, str]:
    """Return the split of each person of published lists of pairs."""
    return {str(one): split for split, pairs in published.items() for pair in pairs for one in pair}
