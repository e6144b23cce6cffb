"""Which words of a caption name one of COCO's categories: a short list of our own, no tagger."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from bench.data.plurals import singulars
from bench.data.word_classes import word_class

LONGEST = 3
"""Words in the longest term that is looked for."""

SYNONYMS = {
    "person": """man, woman, boy, girl, child, kid, baby, toddler, infant, adult, teenager, lady, guy, gentleman,
        human, pedestrian, passenger, player, rider, skier, snowboarder, skateboarder, skater, surfer,
        biker, cyclist, bicyclist, motorcyclist, batter, pitcher, catcher, umpire, referee, swimmer, runner, driver,
        worker, chef, officer, policeman, policewoman, cop, fireman, soldier, cowboy, bride, groom, student, teacher,
        spectator, tourist, crowd, family, mother, father, mom, dad, son, daughter, brother, sister, friend,
        baseball player, tennis player, soccer player, police officer""",
    "bicycle": "bike, mountain bike, tricycle",
    "car": "automobile, sedan, suv, taxi, cab, taxi cab, jeep, van, minivan, police car, race car, sports car",
    "motorcycle": "motorbike, motor bike, motor cycle, moped, dirt bike, motor scooter",
    "airplane": "plane, aeroplane, air plane, jet, airliner, jetliner, aircraft, biplane, passenger jet, jumbo jet",
    "bus": "double decker, school bus, city bus, tour bus",
    "train": "locomotive, subway train, train car, train engine, passenger train, freight train",
    "truck": "pickup, pick up truck, lorry, firetruck, fire engine, tow truck, dump truck",
    "boat": "ship, sailboat, sail boat, canoe, kayak, ferry, yacht, rowboat, row boat, raft, motorboat, tugboat",
    "traffic light": "traffic signal, stoplight, stop light",
    "fire hydrant": "hydrant",
    "stop sign": "",
    "parking meter": "",
    "bench": "park bench",
    "bird": """duck, goose, seagull, gull, pigeon, parrot, owl, eagle, hawk, penguin, swan, sparrow, flamingo, pelican,
        peacock, ostrich, heron""",
    "cat": "kitten, kitty, tabby",
    "dog": "puppy, pup, poodle, bulldog, terrier, labrador, dachshund, pug, corgi, beagle, collie",
    "horse": "pony, foal, stallion, mare, colt",
    "sheep": "lamb, ram, ewe",
    "cow": "cattle, bull, ox, heifer",
    "elephant": "",
    "bear": "grizzly, polar bear, bear cub, panda",
    "zebra": "",
    "giraffe": "",
    "backpack": "back pack, rucksack, knapsack",
    "umbrella": "parasol",
    "handbag": "hand bag, purse, pocketbook",
    "tie": "necktie, neck tie, bow tie, bowtie",
    "suitcase": "suit case, luggage",
    "frisbee": "flying disc, flying disk",
    "skis": "pair of skis",
    "snowboard": "snow board",
    "sports ball": "ball, soccer ball, tennis ball, volley ball, beach ball",
    "kite": "",
    "baseball bat": "bat",
    "baseball glove": "mitt, baseball mitt",
    "skateboard": "skate board",
    "surfboard": "surf board",
    "tennis racket": "racket, racquet, tennis racquet",
    "bottle": "wine bottle, beer bottle, water bottle",
    "wine glass": "wineglass, glass of wine",
    "cup": "mug, coffee cup, teacup, cup of coffee",
    "fork": "",
    "knife": "",
    "spoon": "",
    "bowl": "",
    "banana": "",
    "apple": "",
    "sandwich": "burger, hamburger, cheeseburger, sub sandwich",
    "orange": "",
    "broccoli": "",
    "carrot": "",
    "hot dog": "hotdog, corn dog, chili dog",
    "pizza": "",
    "donut": "doughnut",
    "cake": "cupcake, birthday cake, wedding cake, cheesecake",
    "chair": "armchair, arm chair, recliner, stool",
    "couch": "sofa, loveseat, love seat",
    "potted plant": "houseplant, house plant, pot plant",
    "bed": "",
    "dining table": "table, dinner table, kitchen table, coffee table, picnic table",
    "toilet": "urinal, commode",
    "tv": "television, tv set, television set, flat screen tv",
    "laptop": "laptop computer, notebook computer",
    "mouse": "computer mouse, wireless mouse",
    "remote": "remote control, wii remote, game controller, wiimote",
    "keyboard": "computer keyboard",
    "cell phone": "cellphone, phone, mobile phone, smartphone, smart phone, iphone, telephone",
    "microwave": "microwave oven",
    "oven": "stove, stove top, stovetop",
    "toaster": "toaster oven",
    "sink": "",
    "refrigerator": "fridge",
    "book": "",
    "clock": "wall clock, alarm clock",
    "vase": "",
    "scissors": "scissor, pair of scissors",
    "teddy bear": "teddy, teddybear, stuffed bear, stuffed teddy bear",
    "hair drier": "hair dryer, hairdryer, hairdrier, blow dryer",
    "toothbrush": "tooth brush",
}
"""COCO's 80 categories (2014), and what else captions call their things; plurals go without saying."""

ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
YOUNG_AND_OLD = ("baby", "adult", "mother")
"""Words for people that are no person before an animal."""

OTHER_THINGS = """
    train track, train station, train platform, train yard, bus stop, bus station, car park, street car, cable car,
    boat dock, boat house, dog house, dog park, bird house, bird cage, bird feeder, cat food, dog food, jet ski,
    jet engine, ski lift, chair lift, ski slope, ski pole, ski resort, ski jump, table cloth, book shelf, book case,
    book store, bed room, cup holder, pizza box, cake pan, phone booth, bottle cap, knife block,
    ball field, ball park, ball game, bottle opener, toilet paper, apple tree, banana tree, orange tree, tie dye
"""
"""Terms that hold a category's word and name something else."""


class Term(NamedTuple):
    """Words of a caption that name a category."""

    category: str
    start: int
    """Index of its first word."""
    end: int
    """Index after its last word."""


def find_categories(words: Sequence[str], categories: frozenset[str]) -> list[Term]:
    """Finds the words that name a category, the longest terms first: a hot dog is no dog.

    A term is found in whatever case, hyphenated or not, in singular or plural. A single word has to be a content word
    (`bench.data.word_classes`): "orange" is a colour, "oranges" are fruit.

    Args:
        words: of a caption.
        categories: those that are looked for; names that COCO does not have are looked for as they are.

    Returns:
        In the order of the caption; no word is in two terms.
    """
    terms, found, start = _terms(categories), [], 0
    spelled = [word.lower() for word in words]
    while start < len(words):
        length, category = next(
            (
                (length, terms[form])
                for length in range(min(LONGEST, len(words) - start), 0, -1)
                for form in _forms(spelled[start : start + length])
                if form in terms
            ),
            (1, None),
        )
        if category is not None and category in categories:
            found.append(Term(category, start, start + length))
        start += length
    return found


def _forms(words: Sequence[str]) -> list[str]:
    """The term as it is said, and its singulars."""
    phrase = " ".join(words).replace("-", " ")
    if " " not in phrase and word_class(phrase) != "content":
        return []
    head, space, last = phrase.rpartition(" ")
    return [phrase, *(head + space + form for form in sorted(singulars(last)))]


@lru_cache(maxsize=8)
def _terms(categories: frozenset[str]) -> dict[str, str | None]:
    """Every term in singular, and its category; None for other things."""
    terms: dict[str, str | None] = dict.fromkeys(_listed(OTHER_THINGS))
    for category, names in SYNONYMS.items():
        terms |= dict.fromkeys([category, *_listed(names)], category)
    for animal in ANIMALS:
        for name in (animal, *_listed(SYNONYMS[animal])):
            terms |= dict.fromkeys((f"{age} {name}" for age in YOUNG_AND_OLD), animal)
    named = {" ".join(name.lower().replace("_", " ").replace("-", " ").split()): name for name in categories}
    return terms | named


def _listed(names: str) -> list[str]:
    return [" ".join(name.split()) for name in names.split(",") if name.strip()]
