"""Whether two English words are one noun in singular and plural, by rule: no stemmer, no download."""

# Plurals that no rule below finds, as captions use them.
_IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "feet": "foot", "teeth": "tooth",
    "mice": "mouse", "geese": "goose", "oxen": "ox", "gentlemen": "gentleman", "policemen": "policeman",
    "policewomen": "policewoman", "firemen": "fireman", "fishermen": "fisherman", "workmen": "workman",
    "cacti": "cactus",
}  # fmt: skip
_HISSING = ("s", "x", "z", "ch", "sh", "o")


def singulars(word: str) -> frozenset[str]:
    """What the word could be the plural of; not all of it need be a word.

    An irregular plural has its one singular. Otherwise -s is taken off words of three letters or more (not off
    -ss, -us, -is), -es also off -s, -x, -z, -ch, -sh and -o; -ies may stand for -y, -ves for -f or -fe.

    Args:
        word: in lower case.

    Returns:
        Nothing for a word that does not look like a plural.
    """
    if word in _IRREGULAR:
        return frozenset({_IRREGULAR[word]})
    if len(word) < 3 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return frozenset()
    found = {word[:-1]}
    if word.endswith("ies"):
        found.add(word[:-3] + "y")
    elif word.endswith("ves"):
        found |= {word[:-3] + "f", word[:-3] + "fe"}
    elif word.endswith("es") and word[:-2].endswith(_HISSING):
        found.add(word[:-2])
    return frozenset(found)


def same_noun(first: str, second: str) -> bool:
    """Whether two words in lower case are equal, or one could be the plural of the other."""
    return first == second or first in singulars(second) or second in singulars(first)
