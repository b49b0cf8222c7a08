"""The synthetic pool: repeatable, skewed, varied, without repeats."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from guidestar.data import demo
from guidestar.data.demo import SHARES, grammar, make_demo, make_splits, write_demo
from guidestar.errors import DataError


def test_a_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_demo(tmp_path / name, pool=60, test=20, validation=10)
    write_demo(tmp_path / "other", seed=1, pool=60, test=20, validation=10)
    for split, size in (("pool", 60), ("test", 20), ("validation", 10)):
        one, two, other = ((tmp_path / name / f"{split}.csv").read_bytes() for name in ("one", "two", "other"))
        assert one == two != other
        rows = list(csv.DictReader(one.decode().splitlines()))
        assert len(rows) == size
        assert set(rows[0]) == {"text", "label"}


def test_more_rows_begin_with_fewer() -> None:
    assert make_demo(3, 50)[:20] == make_demo(3, 20)


def test_no_message_occurs_twice_or_in_two_splits() -> None:
    rows = [row["text"].lower() for split in make_splits().values() for row in split]
    assert len(rows) == 900
    assert len(set(rows)) == 900


def test_shares_are_skewed_as_said() -> None:
    counts = Counter(row["label"] for row in make_demo(0, 3000))
    for label, share in SHARES.items():
        assert counts[label] / 3000 == pytest.approx(share, abs=0.03)
    assert sum(SHARES.values()) == pytest.approx(1)
    assert all(label in {row["label"] for row in split} for split in make_splits().values() for label in SHARES)


def test_messages_are_short_and_finished() -> None:
    for row in make_demo(1, 1000):
        assert demo.WORD_LIMITS[0] <= len(row["text"].split()) <= demo.WORD_LIMITS[1]
        assert not re.search(r"[\[\]{}|]|  | ,| \?|\ba [aeiou]", row["text"]), row["text"]


def test_no_single_word_gives_a_label_away() -> None:
    """The best word of a label must not find most of it: not one keyword, not twenty labels, suffice."""
    rows = make_demo(2, 3000)
    for label in SHARES:
        inside = Counter(w for r in rows if r["label"] == label for w in set(re.findall(r"[a-z']+", r["text"].lower())))
        outside = Counter(
            w for r in rows if r["label"] != label for w in set(re.findall(r"[a-z']+", r["text"].lower()))
        )
        size = sum(r["label"] == label for r in rows)
        telling = [w for w, n in inside.items() if n / size > 0.4 and n / (n + outside[w]) > 0.8]
        assert not telling, (label, telling)


def test_labels_share_their_own_names() -> None:
    """The name of a label is no key to it either."""
    rows = make_demo(4, 3000)
    for name in ("parcel", "money", "login", "sorted", "new", "lovely"):
        labels = {row["label"] for row in rows if name in row["text"].lower()}
        assert len(labels) >= 3, (name, labels)


def test_every_piece_of_the_grammar_can_be_written() -> None:
    words = grammar()
    pieces = [*words["neutral"], *words["overcome"], *words["closers"].split("|"), *words["openers"].split("|")]
    for table in (words[name] for name in ("wants", "indirect", "settled", "denied")):
        assert table.keys() == SHARES.keys()
        pieces += [piece for options in table.values() for piece in options]
    for piece in pieces:
        assert piece.count("[") == piece.count("]")
        names = set(re.findall(r"\{(\w+)\}", piece))
        assert names <= words["words"].keys() | {"colour2", "inches", "cents"}, piece


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="synthetic data: 0 rows were asked for; allowed: 1 or more"):
        make_demo(0, 0)
