"""Classes for the words of real captions, from short lists: no tagger, no download, the same everywhere.

The lists hold closed classes of English as captions use it. A word of two classes has the one that
is commoner in captions: "orange" is a colour, "one" a number, "on" a relation, "that" a function word.
"""

from typing import Literal

WordClass = Literal["function", "colour", "number", "relation", "content"]

WORDS: dict[WordClass, str] = {
    # Basic colour terms, common shades, and the general words for having a colour.
    "colour": """
        beige black blond blonde blue brown colored colorful colourful coloured dark gold golden gray green
        grey maroon orange pink purple red silver tan teal turquoise violet white yellow""",
    # Cardinals and quantifiers.
    "number": """
        one two three four five six seven eight nine ten eleven twelve dozen dozens hundred hundreds
        couple pair several many few multiple both some single""",
    # Prepositions of place and direction, and the words that make phrases such as "in front of".
    "relation": """
        above across against along alongside amid among amongst around at atop behind below beneath beside
        between beyond by down front in inside into left near next off on onto opposite out outside over past
        right through toward towards under underneath up upon within""",
    # Articles and determiners; pronouns; auxiliaries; conjunctions, particles and other prepositions.
    "function": """
        a an the this that these those each every any no another other all
        i you he she it we they me him her us them my your his its our their himself herself itself themselves
        who whom whose which what there something someone others
        is are was were be been being am has have had having do does did can could will would may might must
        shall should 's n't not
        and or but nor so yet if while as when where whilst because than then very
        to of for with without from about during after before until""",
}
"""The words of each closed class; words found nowhere here are content words."""

_CLASSES = {word: name for name, words in WORDS.items() for word in words.split()}


def word_class(word: str) -> WordClass:
    """The class of one word, whatever its case.

    Args:
        word: a token of a caption; punctuation marks are tokens, too.

    Returns:
        Digits are a "number", punctuation is "function", and what no list holds is "content".
    """
    if not any(character.isalnum() for character in word):
        return "function"
    return _CLASSES.get(word.lower(), "number" if word.isdigit() else "content")
