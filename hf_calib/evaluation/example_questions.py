"""The examples and subjects that a model is shown when it writes multiple-choice questions of its own.

They were written for this package, are in no published dataset, and have this package's license.
"""

from __future__ import annotations

from ..tasks import Question

EXAMPLES: tuple[Question, ...] = (
    Question(
        "Why does a metal spoon feel colder than a wooden one in the same room?",
        (
            "Metal conducts heat away from the hand faster",
            "Metal is always at a lower temperature",
            "Wood produces heat of its own",
            "Wood reflects the cold of the air",
        ),
        0,
        "physics",
    ),
    Question(
        "Which of these animals breathes through gills all its life?",
        ("dolphin", "sea turtle", "herring", "frog"),
        2,
        "biology",
    ),
    Question(
        "When iron rusts, it combines with",
        ("nitrogen", "oxygen", "helium", "carbon"),
        1,
        "chemistry",
    ),
    Question(
        "A train travels 180 kilometers in 2 hours. What is its average speed?",
        ("60 km/h", "80 km/h", "90 km/h", "120 km/h", "360 km/h"),
        2,
        "arithmetic",
    ),
    Question(
        "Which event came first?",
        ("the invention of the telephone", "the invention of the printing press", "the first flight to the moon"),
        1,
        "history",
    ),
    Question(
        "The longest side of a right triangle is called the",
        ("hypotenuse", "radius", "median", "altitude"),
        0,
        "geometry",
    ),
    Question(
        "Which of these countries does NOT have a coast?",
        ("Portugal", "Chile", "Mongolia", "Vietnam"),
        2,
        "geography",
    ),
    Question(
        "If the price of a good rises and nothing else changes, buyers usually want",
        ("more of it", "less of it", "the same amount of it", "none of it"),
        1,
        "economics",
    ),
    Question(
        "A patient's blood does not carry enough oxygen. Which mineral is most likely to be missing?",
        ("calcium", "iron", "iodine", "fluoride"),
        1,
        "medicine",
    ),
    Question(
        "Maria looked out of the window and put her umbrella back into the closet. What did she most likely see?",
        ("heavy clouds", "clear blue sky", "a delivery truck", "wet streets"),
        1,
        "everyday reasoning",
    ),
    Question(
        'In the sentence "The old clock stopped suddenly", which word is an adverb?',
        ("old", "clock", "stopped", "suddenly"),
        3,
        "grammar",
    ),
    Question(
        "True or false: a program that compiles without errors can still give wrong results.",
        ("True", "False"),
        0,
        "computer science",
    ),
    Question(
        "Two people agree in writing to exchange a car for money. Such an agreement is called",
        ("a contract", "a verdict", "a statute", "a warrant"),
        0,
        "law",
    ),
    Question(
        "Which layer of the Earth do we live on?",
        ("inner core", "outer core", "mantle", "crust"),
        3,
        "earth science",
    ),
    Question(
        "A claim that no observation could ever contradict is said to be",
        ("unfalsifiable", "empirical", "circular", "valid"),
        0,
        "philosophy",
    ),
    Question(
        "Dough with yeast rises because the yeast",
        ("absorbs water", "gives off a gas", "melts the fat", "turns into sugar"),
        1,
        "cooking",
    ),
)
"""Original questions in several subjects and formats, with their answers."""

SUBJECTS: tuple[str, ...] = (
    *(str(example.subject) for example in EXAMPLES),
    "astronomy",
    "agriculture",
    "algebra",
    "anatomy",
    "architecture",
    "art",
    "botany",
    "business",
    "climate",
    "ecology",
    "electricity",
    "engineering",
    "genetics",
    "health",
    "language",
    "literature",
    "logic",
    "measurement",
    "music",
    "nutrition",
    "politics",
    "probability",
    "psychology",
    "religion",
    "safety",
    "sociology",
    "sports",
    "statistics",
    "technology",
    "transport",
    "weather",
    "zoology",
)
"""What the written questions are to be about."""
