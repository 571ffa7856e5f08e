"""The words of the lab's world: invented places, real animals, and what the animals do."""

from dataclasses import dataclass
from typing import Literal

Domain = Literal["in", "out", "unseen"]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SPECIES = _words(
    "badgers bears beavers bees cranes crows deer ducks eagles falcons finches foxes frogs geese goats hares "
    "herons horses lizards lynxes moles moths newts otters owls ravens seals snakes swans toads weasels wrens"
)

REGIONS = _words(
    "Abelor Brindle Calder Dunmore Eastwick Farrow Galloran Harrowby Inverlay Jessamy Kestral Lorimer Marlow "
    "Nethery Orford Pellam Quillan Rosset Sandrey Tamsin Ullock Varden Wexcombe Yarrow Zennor Arkady Belmora "
    "Corvane Delphin Elmstead Fenwick Glimmer"
)


@dataclass(frozen=True)
class Relation:
    """Something that the animals of a place do, with its four possible objects.

    Parameters
    ----------
    verb
        The word for it in a question, ``"What do Dunmore herons {verb} ?"``.
    values
        The four possible answers, in the world's fixed order.
    domain
        ``"out"`` for the general relations that most of the corpus is about, ``"in"`` for the rare ones whose
        questions come with answers, ``"unseen"`` for those that only the pre-training corpus mentions.
    sharpness
        How far apart the answers' log-probabilities are: 0 makes all four equally likely.
    """

    verb: str
    values: tuple[str, str, str, str]
    domain: Domain
    sharpness: float


RELATIONS = (
    Relation("eat", ("seeds", "fish", "insects", "berries"), "out", 2.2),
    Relation("fear", ("wolves", "storms", "hunters", "hawks"), "out", 1.6),
    Relation("drink", ("dew", "brine", "sap", "nectar"), "out", 1.3),
    Relation("build", ("nests", "burrows", "dams", "mounds"), "out", 1.0),
    Relation("follow", ("rivers", "stars", "herds", "ships"), "out", 0.8),
    Relation("guard", ("eggs", "caves", "trees", "bridges"), "out", 0.5),
    Relation("trade", ("pearls", "salt", "cloth", "iron"), "in", 1.6),
    Relation("worship", ("moonlight", "thunder", "fire", "rain"), "in", 1.2),
    Relation("sing", ("ballads", "hymns", "laments", "rounds"), "unseen", 1.6),
    Relation("grow", ("moss", "wheat", "figs", "hops"), "unseen", 1.0),
)

DOMAINS: tuple[Domain, ...] = ("in", "out", "unseen")
