"""Gold whose better answer is right by construction: pairs that a rule makes from a seed, and a rule can check.

No person's taste and no model is in it. Each kind of pair is a tag:

    arithmetic   a sum, difference or product, and one that is off by a little
    counting     how often a letter stands in a word, and one more or less
    sorting      words in the order of the alphabet, and two neighbours exchanged
    units        minutes, metres, grams ..., and another number of them
    words        exactly so many words, and one more or one less
    ending       the word that was asked for at the end, and somewhere else
    without      a sentence without the word that was ruled out, and with it
    json         an object that parses, and one that does not
    asked        what was asked, and the answer to another question
    whole        an answer that ends, and a longer one that breaks off where the other ends

In each kind the right answer is the shorter one as often as it is the longer one, and all pairs are length-matched, so
that length says nothing. All are judged under one principle of their own, since few constitutions are about this.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

from rlaif.core.records import Constitution, Contrast, ContrastExample, Principle
from rlaif.gold import text

Made = tuple[str, str, str]
"""A prompt, the right answer and the wrong one."""
SIZE = 24
"""Pairs of each kind."""

RIGHT = Principle(
    id="right",
    statement="The answer does exactly what was asked, and everything in it is right.",
    comparison="Which answer does exactly what was asked, with every number, word and fact in it right?",
    contrast=Contrast(
        followed="You are a careful assistant. You do exactly what is asked, and you check every number, word and fact "
        "before you answer, so that your answers are right.",
        violated="You are a careless assistant. You do not do what is asked, and you do not check your numbers, words "
        "and facts, so that your answers are wrong.",
        examples=(
            ContrastExample("What is 6 times 7?", "6 times 7 is 42.", "6 times 7 is 44."),
            ContrastExample(
                "Name two fruits in the order of the alphabet.", "Apple and pear.", "Pear and apple."
            ),
        ),
    ),
)  # fmt: skip
CONSTITUTION = Constitution("verifiable", "1", "What can be checked by rule.", (RIGHT,))

NOUNS = (
    "apple", "basket", "candle", "desk", "engine", "feather", "garden", "hammer", "island", "jacket", "kettle",
    "ladder", "mirror", "needle", "orange", "pencil", "quilt", "river", "saddle", "table", "umbrella", "violin",
    "window", "yard", "bottle", "carpet", "drawer", "fence", "guitar", "helmet", "lantern", "magnet", "napkin", "oven",
    "pillow", "ribbon",
)  # fmt: skip
LETTERED = (
    "banana", "coffee", "letter", "pepper", "balloon", "committee", "address", "success", "possess", "tomorrow",
    "cinnamon", "parallel", "occurrence", "mississippi", "assessment", "bookkeeper", "millennium", "necessary",
    "referee", "settlement", "whistle", "attention", "raccoon", "umbrella",
)  # fmt: skip
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
UNITS = (
    ("hours", "minutes", 60), ("minutes", "seconds", 60), ("days", "hours", 24), ("weeks", "days", 7),
    ("metres", "centimetres", 100), ("kilometres", "metres", 1000), ("kilograms", "grams", 1000),
    ("years", "months", 12), ("litres", "millilitres", 1000), ("centimetres", "millimetres", 10),
)  # fmt: skip
SUBJECTS = ("the baker", "my aunt", "our neighbour", "the old sailor", "a young nurse", "the teacher", "her brother")
DEEDS = ("carried", "painted", "found", "borrowed", "sold", "repaired", "washed", "hid")
PLACES = ("in the market", "by the lake", "behind the house", "near the station", "under the bridge", "on the hill")
TIMES = ("on Monday", "last week", "at noon", "before dinner", "in spring", "after the rain")
FACTS = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is the capital of Japan?", "The capital of Japan is Tokyo."),
    ("How many days are in a leap year?", "A leap year has 366 days."),
    ("How many legs does a spider have?", "A spider has eight legs."),
    ("Which planet is closest to the sun?", "Mercury is the planet closest to the sun."),
    ("What is frozen water called?", "Frozen water is called ice."),
    ("Which animal gives us wool?", "Wool mostly comes from sheep."),
    ("What do bees make?", "Bees make honey and wax."),
    ("In which season do leaves fall?", "Leaves mostly fall in autumn."),
    ("What is the opposite of north?", "The opposite of north is south."),
    ("How many sides does a hexagon have?", "A hexagon has six sides."),
    ("What do we call a young cat?", "A young cat is called a kitten."),
    ("What colour do blue and yellow make?", "Blue and yellow paint make green."),
    ("Which sense do we use our ears for?", "We use our ears for hearing."),
    ("How many minutes are in an hour?", "An hour has sixty minutes."),
    ("What is the largest ocean on Earth?", "The largest ocean is the Pacific."),
    ("At how many degrees Celsius does water boil?", "At sea level water boils at 100 degrees Celsius."),
    ("Which month comes after June?", "After June comes July."),
    ("What is a baker's work?", "A baker makes bread and cakes."),
    ("Which gas do people need to breathe?", "People need oxygen to breathe."),
    ("What is paper made from?", "Paper is mostly made from wood."),
    ("How many players has a football team on the field?", "A football team has eleven players on the field."),
    ("What does a thermometer measure?", "A thermometer measures temperature."),
    ("Which bird cannot fly but swims well?", "The penguin cannot fly but swims well."),
    ("What do we call the person who flies a plane?", "The person who flies a plane is called a pilot."),
    ("Where does the sun rise?", "The sun rises in the east."),
)  # fmt: skip
CHORES = (
    ("make tea", "Boil water, pour it over the leaves, and wait for three minutes",
     "First fill the kettle and boil the water, then warm the pot, pour the water over the leaves and wait"),
    ("plant a tree", "Dig a hole, set the tree in it, fill in the earth and water it",
     "Choose a place with enough light, dig a hole that is twice as wide as the roots, loosen the earth and set"),
    ("wash a window", "Wipe it with soapy water, rinse it and dry it with a soft cloth",
     "Take a bucket of warm water with a little soap, wipe the glass from the top to the bottom, rinse it and"),
    ("mend a flat tyre", "Take the tube out, find the hole, clean it and glue a patch on it",
     "Turn the bicycle over, take the wheel off, lift the tyre with two levers, pull the tube out and then look"),
    ("boil an egg", "Put the egg into boiling water and take it out after eight minutes",
     "Bring a small pot of water to the boil, lower the egg into it with a spoon, turn the heat down and then"),
    ("fold a letter", "Fold the lower third up, and then the upper third down over it",
     "Lay the sheet on the table with the text facing you, take the lower edge, bring it up to two thirds and"),
    ("sharpen a knife", "Draw the blade over a wet stone at a flat angle, side by side",
     "Wet the stone and lay it on a cloth so that it does not slip, hold the blade at a flat angle and draw it"),
    ("cool a room", "Close the shutters by day and open the windows wide at night",
     "Keep the sun out by closing the shutters early in the morning, switch off what gives heat, and as soon as"),
)  # fmt: skip
"""What is to be explained, a whole answer without its full stop, and a longer one that never gets to its end."""


def made(seed: int = 0) -> list[tuple[str, Made]]:
    """(kind, pair) of all kinds, SIZE of each, every prompt once; the same for the same seed on any machine."""
    return [(kind, pair) for kind, make in KINDS.items() for pair in _balanced(make, Random(f"{seed} {kind}"))]


def _balanced(make: Callable[[Random], Made], random: Random) -> list[Made]:
    """SIZE length-matched pairs with prompts of their own; the shorter answer is right as often as the longer one."""
    found: dict[str, Made] = {}
    longer = 0  # right answers that are the longer one, less those that are the shorter one
    while len(found) < SIZE:
        prompt, right, wrong = make(random)
        tilt = longer + (len(right) > len(wrong)) - (len(right) < len(wrong))
        alike = right != wrong and text.alike(len(right), len(wrong))
        if prompt not in found and alike and abs(tilt) <= min(1, SIZE - 1 - len(found)):
            found[prompt], longer = (prompt, right, wrong), tilt
    return list(found.values())


def _arithmetic(random: Random) -> Made:
    sign = random.choice(("+", "-", "times"))
    a, b = random.randint(13, 98), random.randint(3, 12) if sign == "times" else random.randint(13, 98)
    a, b = max(a, b), min(a, b)
    result = a + b if sign == "+" else a - b if sign == "-" else a * b
    wrong = result + random.choice((-10, -2, -1, 1, 2, 10))
    asked = f"{a} {sign} {b}"
    opening = random.choice((f"{asked} is", f"The result of {asked} is", f"If you work out {asked}, you get"))
    return f"What is {asked}?", f"{opening} {result}.", f"{opening} {abs(wrong)}."


def _counting(random: Random) -> Made:
    word = random.choice(LETTERED)
    letter = random.choice(sorted(set(word)))
    count = word.count(letter)
    other = random.choice([n for n in (count - 1, count + 1, count + 2) if n >= 0])
    right, wrong = (f"The letter {letter} stands in {word} {_times(n)}." for n in (count, other))
    return f'How many times does the letter "{letter}" stand in the word "{word}"?', right, wrong


def _times(count: int) -> str:
    return f"{NUMBERS[count]} time{'s' if count != 1 else ''}"


def _sorting(random: Random) -> Made:
    words = random.sample(NOUNS, random.randint(4, 6))
    right = sorted(words)
    place = random.randrange(len(right) - 1)
    wrong = [*right[:place], right[place + 1], right[place], *right[place + 2 :]]
    return f"Put these words into the order of the alphabet: {', '.join(words)}.", ", ".join(right), ", ".join(wrong)


def _units(random: Random) -> Made:
    large, small, factor = random.choice(UNITS)
    number = random.randint(2, 19)
    wrong = random.choice([n for n in (5, 7, 10, 12, 24, 60, 100, 1000) if n != factor and 0.1 <= n / factor <= 10])
    opening = random.choice((f"{number} {large} are", "There are", "That makes"))
    right, other = (f"{opening} {number * n} {small}." for n in (factor, wrong))
    return f"How many {small} are {number} {large}?", right, other


def _sentence(random: Random, noun: str) -> list[str]:
    """The words of a sentence with the noun, without its full stop."""
    parts = [random.choice(SUBJECTS), random.choice(DEEDS), f"the {noun}"]
    parts += random.sample((random.choice(PLACES), random.choice(TIMES)), random.randint(1, 2))
    return " ".join(parts).split()


def _written(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _words(random: Random) -> Made:
    noun = random.choice(NOUNS)
    right = _sentence(random, noun)
    wrong = right
    while abs(len(wrong) - len(right)) != 1:
        wrong = _sentence(random, noun)
    asked = f'Write a sentence of exactly {NUMBERS[len(right)]} words, one of which is "{noun}".'
    return asked, _written(" ".join(right)), _written(" ".join(wrong))


def _ending(random: Random) -> Made:
    noun = random.choice(NOUNS)
    first, second = random.sample((random.choice(PLACES), random.choice(TIMES)), 2)
    deed = f"{random.choice(SUBJECTS)} {random.choice(DEEDS)} the {noun}"
    wrong = random.choice((f"{first} {deed} {second}", f"{deed} {first} {second}"))
    return f'Write a sentence that ends with the word "{noun}".', _written(f"{first} {second} {deed}"), _written(wrong)


def _without(random: Random) -> Made:
    thing, other = random.sample(NOUNS, 2)
    opening = f"{random.choice(SUBJECTS)} {random.choice(DEEDS)}"
    rest = f"{random.choice(PLACES)} {random.choice(TIMES)}"
    right, wrong = (_written(f"{opening} the {noun} {rest}") for noun in (other, thing))
    return f'Write a sentence without the word "{thing}".', right, wrong


def _json(random: Random) -> Made:
    keys = random.sample(("name", "colour", "weight", "price", "owner"), 2)
    values = [random.choice(NOUNS), random.randint(2, 99)]
    right = json.dumps(dict(zip(keys, values, strict=True)))
    wrong = random.choice(
        (
            right.replace('"', "", 1),
            right.replace(":", "", 1),
            right.replace("}", ""),
            right.replace(",", ",,"),
            right.replace("{", "{{"),
            right.replace(":", "=", 1),
        )
    )
    told = f"{keys[0]} is {values[0]} and the {keys[1]} is {values[1]}"
    return f"Write this as a JSON object and nothing else: the {told}.", right, wrong


def _asked(random: Random) -> Made:
    (question, right), (_, wrong) = random.sample(FACTS, 2)
    return question, right, wrong


def _whole(random: Random) -> Made:
    chore, answer, longer = random.choice(CHORES)
    opening = random.choice(("", "Like this: ", "It is simple: "))
    right, words = f"{opening}{answer}.", f"{opening}{longer}".split()
    size = len(right) + random.randint(-12, 12)
    while len(" ".join(words)) > size:
        words.pop()
    asked = random.choice(("How do I", "Tell me how to", "What is the best way to"))
    return f"{asked} {chore}{'.' if asked.startswith('Tell') else '?'}", right, " ".join(words)


KINDS: dict[str, Callable[[Random], Made]] = {
    "arithmetic": _arithmetic,
    "counting": _counting,
    "sorting": _sorting,
    "units": _units,
    "words": _words,
    "ending": _ending,
    "without": _without,
    "json": _json,
    "asked": _asked,
    "whole": _whole,
}
