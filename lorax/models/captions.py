"""Makes captions for the pictures that a source draws: plain ones of our own, or the user's."""

import itertools
from collections.abc import Sequence

SUBJECTS = """
a woman, a man, a girl, a boy, an old man, an old woman, a baby, two friends, a family, a crowd, a chef, a fisherman,
a dancer, a knight, a wizard, an astronaut, a musician, a farmer, a nurse, a cyclist, a soldier, a queen, a monk, a
robot, a dragon, a mermaid, a ghost, a cat, a kitten, a dog, a puppy, a horse, a cow, a sheep, a pig, a rabbit, a fox,
a wolf, a bear, a deer, a lion, a tiger, an elephant, a monkey, an owl, an eagle, a parrot, a swan, a penguin, a
chicken, a fish, a whale, a shark, an octopus, a turtle, a frog, a snake, a butterfly, a bee, a spider, a tree, a
pine, a rose, a sunflower, a cactus, a mushroom, an apple, a lemon, a strawberry, a pumpkin, a loaf of bread, a cake,
a cup of coffee, a glass of wine, a bowl of soup, a pizza, a castle, a cottage, a skyscraper, a church, a lighthouse,
a windmill, a bridge, a tent, a car, a bus, a truck, a train, a bicycle, a motorcycle, a sailing ship, a rowing boat,
an aeroplane, a hot air balloon, a rocket, a chair, a table, a lamp, a clock, a book, a guitar, a piano, a sword, a
crown, a hat, a pair of shoes, an umbrella, a key, a candle, a vase, a teapot, a camera, a mountain, a waterfall, an
island, a volcano
"""
SETTINGS = """
, in a forest, on a beach, in the desert, in the snow, in a city street, in a village, in a garden, in a field of
flowers, by a lake, by a river, under water, on a hill, in the mountains, in a kitchen, in a bedroom, in a library, in
an old workshop, on a stage, at night, at sunrise, at sunset, in the rain, in fog, on a cloudy day, under the stars,
in front of a plain wall, on a white background, on a black background, seen from above, seen from the side, close up,
far away, in black and white
"""


def plain() -> list[str]:
    """Return all 3808 combinations of subjects and settings, in an order in which every stretch has many of both."""
    subjects, settings = (text.replace("\n", " ").strip().split(", ") for text in (SUBJECTS, SETTINGS.replace(",", "", 1)))
    rows = itertools.product(range(len(settings)), range(len(subjects)))
    return [f"{subjects[s]} {settings[(p + s) % len(settings)]}".strip() for p, s in rows]


def captions(count: int, given: Sequence[str] = ()) -> list[str]:
    """Return ``count`` captions, evenly spread over the given ones, or over the plain ones if none is given."""
    every = given or plain()
    return [every[i * len(every) // count] for i in range(count)]


def with_triggers(captions: Sequence[str], words: str | None) -> list[str]:
    """Put the trigger words, if any, in front of every second caption, since many adapters act only with them."""
    if not words:
        return list(captions)
    return [f"{words}, {caption}" if i % 2 else caption for i, caption in enumerate(captions)]
