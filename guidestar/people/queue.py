"""Which example next, and for whom. Pure: items and a clock in, ids out.

The order for one annotator:

1. what was shown to them before and has no answer of theirs;
2. what nobody answered and nobody has in front of them: the current round in the order of asking, then what an
   undo left open in earlier rounds;
3. second opinions: of a fixed share of all examples a second annotator is asked too, so that agreement can be
   measured. They come last and from every round, so they never hold up a round.

Whoever is shown an example holds it for the time of a lease; until then nobody else gets it, unless it is one for
a second opinion. An example that its holder leaves unanswered is offered again when the lease is over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

OPINIONS = 2  # annotators who are asked for an example of the overlap
PAUSE = 120.0  # seconds between two answers from which on they count as a pause
SHORT = 10.0  # seconds of work that say nothing about a pace


@dataclass(frozen=True)
class Item:
    """What the queue knows of an example that was asked for.

    place: in the order of asking. shared: it is one for a second opinion. answered: annotators with an answer that they did not take back.
    done: an answer counts. settled: a verdict counts, so no further opinion is wanted. claims: annotator -> when it
    was last shown to them, in seconds.
    """

    id: str
    round: int
    shared: bool = False
    answered: frozenset[str] = frozenset()
    done: bool = False
    settled: bool = False
    claims: Mapping[str, float] = field(default_factory=dict)
    place: int = 0


def in_overlap(id: str, share: float) -> bool:
    """Whether a second annotator is asked for this example. By its id alone, so every process says the same.

    share: of all examples, in [0, 1]; a larger share takes in those of a smaller one.
    >>> in_overlap("0123456789abcdef", 0.0), in_overlap("0123456789abcdef", 1.0)
    (False, True)
    """
    if not share:
        return False
    place = int.from_bytes(hashlib.sha256(f"overlap {id}".encode()).digest()[:8], "big")
    return place < share * 2**64


def holders(item: Item, annotator: str, now: float, lease: float) -> set[str]:
    """The others who have the example in front of them: shown within the lease and not answered yet."""
    return {
        name
        for name, at in item.claims.items()
        if name != annotator and name not in item.answered and abs(now - at) < lease  # a clock may be put back
    }


def is_open(item: Item) -> bool:
    """Whether anybody could still be asked for it."""
    return not item.done or (item.shared and not item.settled and len(item.answered) < OPINIONS)


def may_have(item: Item, annotator: str, *, now: float, lease: float) -> bool:
    """Whether the example may be shown to the annotator as one to answer."""
    if annotator in item.answered or not is_open(item):
        return False
    others = holders(item, annotator, now, lease)
    if item.shared:
        return len(item.answered) + len(others) < OPINIONS
    mine = item.claims.get(annotator)
    return not others or (mine is not None and abs(now - mine) < lease)  # both may hold it if two servers gave it out


def offer(
    shown: Iterable[Item],
    waiting: Iterable[Item],
    second: Iterable[Item],
    annotator: str,
    *,
    round: int,
    now: float,
    lease: float,
    want: int = 1,
    have: Collection[str] = (),
) -> list[str]:
    """The next `want` ids for an annotator.

    shown: what was shown to the annotator before. waiting: what has no answer. second: what has one and may get another.
    Each in the order of asking, and read only as far as something better may come. round: the current one. now, lease:
    seconds. have: ids that the annotator's page holds already; they are left out.
    """
    ranked: dict[str, tuple[int, int]] = {}
    for items in (shown, waiting, second):
        sure = sum(rank <= 1 for rank, _ in ranked.values())  # found and not to be overtaken by what comes later
        for item in items:
            if sure >= want:
                break
            if item.id in have or item.id in ranked or not may_have(item, annotator, now=now, lease=lease):
                continue
            if annotator in item.claims:
                rank = 0
            elif item.done or holders(item, annotator, now, lease):
                rank = 3
            else:
                rank = 1 if item.round == round else 2
            ranked[item.id] = rank, item.place
            sure += rank <= 1 or items is second
        if sum(rank <= 2 for rank, _ in ranked.values()) >= want:
            break
    return sorted(ranked, key=ranked.__getitem__)[:want]


def held_by_others(items: Iterable[Item], annotator: str, *, now: float, lease: float) -> tuple[int, float | None]:
    """(number of unanswered examples that others have in front of them, seconds until the first becomes free)."""
    waits = [
        max(lease - (now - item.claims[name]) for name in others)
        for item in items
        if not item.done and (others := holders(item, annotator, now, lease))
    ]
    return len(waits), min(waits, default=None)


def pace(times: Sequence[float], now: float, waited: Collection[float] = ()) -> float | None:
    """Answers per minute over the latest stretch of work; None where it is too short to tell.

    times: of one annotator's answers, in seconds, rising; the last thousand are looked at. A stretch ends where nothing was answered for `PAUSE`
    seconds; the first answer of a stretch starts the clock and is not counted. waited: those of `times` before which
    the annotator waited for a new round; these gaps are no work and are left out.
    >>> pace([0.0, 6.0, 12.0, 18.0], now=20.0)
    10.0
    >>> pace([0.0, 6.0, 12.0, 90.0, 96.0], now=100.0, waited={90.0})
    10.0
    """
    if not times or now - times[-1] >= PAUSE:
        return None
    count, seconds = 0, 0.0
    for later, earlier in pairwise(reversed(times[-1000:])):
        if later - earlier >= PAUSE:
            break
        if later not in waited:
            count, seconds = count + 1, seconds + later - earlier
    return 60.0 * count / seconds if seconds >= SHORT else None
