"""What a log of annotations amounts to: who says what now, and which answer counts. No SQL, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from guidestar.records import Annotation, Flag, Label, Note, Relabel, Skip, Undo, Verdict

Given = tuple[int, Label | Skip]  # the number of the log entry, and what was said in it
Said = tuple[str, int, Label | Skip]  # when it was said, UTC, before that


class Replay:
    """The state after some entries of a log; `apply` takes the next one.

    current: example -> annotator -> that annotator's answer and its number. counts: example -> the answer that counts.
    verdicts, flags, notes: what stands now; examples without one are not in them. again: examples that are asked again, because
    the label that counted is one no more.
    """

    def __init__(self) -> None:
        """The state before the first entry."""
        self.current: dict[str, dict[str, Given]] = {}
        self.counts: dict[str, Label | Skip] = {}
        self.verdicts: dict[str, Label] = {}
        self.flags: dict[str, set[str]] = {}
        self.notes: dict[str, dict[str, str]] = {}
        self.again: set[str] = set()
        self._at: dict[str, dict[str, str]] = {}  # example -> annotator -> when their answer was given

    def apply(self, number: int, id: str, annotation: Annotation, at: str = "") -> None:
        """The next entry. number: larger than all before. at: when it was said, which for labels from a file is earlier than
        the entry."""
        who = annotation.annotator
        match annotation:
            case Label() | Skip():
                self.current.setdefault(id, {})[who] = (number, annotation)
                self._at.setdefault(id, {})[who] = at
                self.again.discard(id)
                self._count(id)
            case Undo():
                self.current.get(id, {}).pop(who, None)
                self._count(id)
            case Verdict():
                self.verdicts[id] = Label(annotation.answer, who)
                self.again.discard(id)
                self._count(id)
            case Flag():
                flags = self.flags.setdefault(id, set())
                (flags.add if annotation.on else flags.discard)(who)
                if not flags:
                    del self.flags[id]
            case Note():
                notes = self.notes.setdefault(id, {})
                notes.pop(who, None)
                if annotation.text:
                    notes[who] = annotation.text
                if not notes:
                    del self.notes[id]

    def relabel(self, change: Relabel) -> None:
        """The labels have changed: what was said until now is said in the new ones. Who said a label that has no new name
        says nothing now; an example for which it counted has no answer until somebody gives one, whatever others said."""
        names, gone = change.names, {name for name, now in change.names.items() if now is None}
        self.again |= {id for id, answer in self.counts.items() if isinstance(answer, Label) and answer.answer in gone}
        for given in self.current.values():
            for who, (number, answer) in list(given.items()):
                if isinstance(answer, Label) and answer.answer in names:
                    if (name := names[answer.answer]) is None:
                        del given[who]
                    else:
                        given[who] = number, Label(name, who)
        for id, verdict in list(self.verdicts.items()):
            if verdict.answer in names:
                if (name := names[verdict.answer]) is None:
                    del self.verdicts[id]
                else:
                    self.verdicts[id] = Label(name, verdict.annotator)
        for id in [*self.counts, *self.again]:
            self._count(id)

    def _count(self, id: str) -> None:
        at = self._at.get(id, {})
        said = [(at.get(who, ""), *given) for who, given in self.current.get(id, {}).items()]
        answer = self.verdicts.get(id) or counting(said)
        if answer is None or id in self.again:
            self.counts.pop(id, None)
        else:
            self.counts[id] = answer


def counting(answers: Collection[Said]) -> Label | Skip | None:
    """The answer that counts among the current ones of an example's annotators, None when there is none.

    Labels beat skips; the label of most annotators wins; a tie goes to the label that was said last, by its own time and of
    equals by the log: a label from an older file is older, whenever it was imported.

    >>> counting([("2", 1, Label("a", "ann")), ("1", 2, Label("b", "bob")), ("3", 3, Skip("", "cy"))])
    Label(answer='a', annotator='ann')
    """
    if len(answers) == 1:  # nearly always
        return next(iter(answers))[2]
    labels = [(at, number, answer) for at, number, answer in answers if isinstance(answer, Label)]
    if not labels:
        return max(answers, key=lambda said: said[:2], default=("", 0, None))[2]
    votes = Counter(label.answer for _, _, label in labels)
    return max(labels, key=lambda said: (votes[said[2].answer], *said[:2]))[2]
