"""Yes or no: what a text denies, and on which side of pairs of opposites it stands.

English, by rules. Negations in one clause cancel each other ("never skip"), and one before a word of a pair turns that
over, so that "not enabled" is "disabled". Made to tell a correction from a paraphrase, not to understand.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Final, NamedTuple

from polymem.domain.english import STOP_TERMS, stem

_OPPOSITES = """
enable activate / disable deactivate; start begin launch resume / stop end finish halt pause cease quit
increase raise grow rise / decrease reduce lower shrink; more / less fewer; before / after; gain / lose
accept approve allow permit grant / reject decline deny refuse forbid prohibit ban disallow
like love enjoy prefer adore / dislike hate detest despise; buy purchase / sell; open reopen / close shut
true correct / false incorrect wrong; pass succeed work / fail break; win / lose; add insert / remove delete
show / hide; lock / unlock; public / private; maximum / minimum; atleast / atmost; left / right; hot warm / cold cool
high upper / low; fast quick / slow; early / late; above / below; inside indoors / outside outdoors; up / down
north northern / south southern; east eastern / west western; import / export; encrypt / decrypt
connect / disconnect; online / offline; required mandatory compulsory / optional; valid / invalid
safe / unsafe dangerous; alive / dead; married / divorced single unmarried; arrive / depart; upload / download
read / write; synchronous / asynchronous; ascending / descending; include / exclude; available / unavailable
hire / fire; join / leave; borrow / lend; possible / impossible; complete / incomplete; big large / small little
light / dark; old / new; cheap / expensive; strong / weak; full / empty; good great / bad poor; mother / father
brother / sister; son / daughter; husband / wife; uncle / aunt; front / back; odd / even; manual / automatic
local / remote; internal / external; temporary / permanent; horizontal / vertical; input / output; major / minor
positive / negative; agree / disagree; happy / unhappy sad; healthy / sick ill; confirm / cancel; odd / even
cloudy / sunny; push / pull; encourage / discourage; visible / invisible; stable / unstable; merge / split
"""
_NEGATING_WORDS = """
not no never none nobody nothing nowhere neither nor cannot without unless hardly barely nolonger dont doesnt didnt
isnt arent wasnt werent hasnt havent hadnt cant couldnt wouldnt shouldnt aint mustnt avoid skip forget
refrain lack lacks lacked avoids avoided avoiding skips skipped skipping forgets forgot forgotten lacking except
instead
"""
_NEGATORS: Final = frozenset(_NEGATING_WORDS.split())
# Said with a negation that denies nothing, or in other words than one word each; and a word that each has to have.
_PHRASES: Final[tuple[tuple[re.Pattern[str], str, frozenset[str]], ...]] = tuple(
    (re.compile(pattern), instead, frozenset(needed.split()))
    for pattern, instead, needed in (
        (
            r"\bnot (?:only|just|merely|necessarily)\b|\bno (?:doubt|problem|matter|wonder)\b|\bwhy not\b|\bor not\b",
            " ",
            "not no",
        ),
        (
            r"\bnothing but\b|\bcan(?:no|')t wait\b|\bno one else\b|\bif not\b|\bany ?more\b",
            " ",
            "nothing wait no not any anymore",
        ),
        (
            r"\b(?:no|not) (?:more|later|longer|higher|bigger) than\b|\bat most\b|\bup to\b",
            " atmost ",
            "no not most up",
        ),
        (r"\b(?:no|not) (?:less|fewer|earlier|lower|smaller) than\b|\bat least\b", " atleast ", "no not least"),
        (
            r"\bno longer\b|\b(?:stops?|stopped|quits?|ceased?|ceases)(?= \w+ing\b)",
            " nolonger ",
            "no stop stops stopped quit quits cease ceased ceases",
        ),
        (r"\b(?:turn|switch|power|flip)(?:s|ed|ing)? on\b|\bon(?= by default\b|\s*(?:[.;,!]|$))", " enabled ", "on"),
        (
            r"\b(?:turn|switch|power|flip)(?:s|ed|ing)? off\b|\boff(?= by default\b|\s*(?:[.;,!]|$))",
            " disabled ",
            "off",
        ),
        (r"\b(?:opt|opts|opted) out\b", " refuse ", "out"),
    )
)
_TOKEN: Final = re.compile(r"[^\W\d_]+(?:'[a-z]+)?|[.!?;:,()\n]")
_JOINING_WORDS = "and but because while whereas although though so then"
_CLAUSE_ENDS: Final = frozenset(".!?;:,()\n") | frozenset(_JOINING_WORDS.split())
# Common words that carry the sense of a denial all the same.
_TELLING_WORDS = "like want need know think work go come use"
_TELLING: Final = frozenset(map(stem, _TELLING_WORDS.split()))
_UN: Final = re.compile(r"(?:un|dis|non)([a-z]{4,})")
_SCOPE: Final = 3
_POLE_SCOPE: Final = 2
_SCOPE_WORDS: Final = 12
# So much of a denying clause must be in the other text, where the words after its negation tell nothing.
_MOST_OF_A_CLAUSE: Final = 0.6


@dataclass(frozen=True, slots=True)
class Pole:
    """A side, 1 or -1, of a pair of opposites, and the stems of the words that follow."""

    axis: int
    side: int
    scope: frozenset[str]


@dataclass(frozen=True, slots=True)
class Denial:
    """Stems of a clause that denies something, and of what follows its negation."""

    scope: frozenset[str]
    clause: frozenset[str]


@dataclass(frozen=True, slots=True)
class Turned:
    """Stems of a clause whose negation turned over a word of these pairs, without that word."""

    axes: frozenset[int]
    clause: frozenset[str]


class _Word(NamedTuple):
    """How a word reads: its stem, whether it tells anything, whether it negates, its sides of opposites."""

    stem: str
    tells: bool
    negates: bool
    sides: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Clause:
    stems: frozenset[str]
    poles: Sequence[Pole]
    turned: Sequence[Turned]
    denial: Denial | None
    overturned: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Polarity:
    """The sides that a text takes, its denials, and the stems of what it says without denying it.

    `turned`: denials that took a side. `undone`: stems of which it has the word with "un" before it.
    `negations`: how many words negate; `other_words`: a digest of the others, in any order.
    """

    poles: tuple[Pole, ...] = ()
    denials: tuple[Denial, ...] = ()
    turned: tuple[Turned, ...] = ()
    affirmed: frozenset[str] = frozenset()
    undone: frozenset[str] = frozenset()
    negations: int = 0
    other_words: bytes = b""


def polarity_of(text: str) -> Polarity:
    """The polarity of a folded text."""
    words = _TOKEN.findall(text)
    present = frozenset(words)
    phrases = [(pattern, instead) for pattern, instead, needed in _PHRASES if not needed.isdisjoint(present)]
    if phrases:
        for pattern, instead in phrases:
            text = pattern.sub(instead, text)
        words = _TOKEN.findall(text)
    read = [_read_clause(clause) for clause in _clauses(words)]
    denied = [clause.denial.scope if clause.denial is not None else frozenset[str]() for clause in read]
    affirmed = [clause.stems - some - clause.overturned for clause, some in zip(read, denied, strict=True)]
    undone = (match.group(1) for match in map(_UN.fullmatch, set(words)) if match is not None)
    return Polarity(
        poles=tuple(pole for clause in read for pole in clause.poles),
        denials=tuple(clause.denial for clause in read if clause.denial is not None),
        turned=tuple(turned for clause in read for turned in clause.turned),
        affirmed=frozenset[str]().union(*affirmed),
        undone=frozenset(map(stem, undone)),
        negations=sum(_word(word).negates for word in words),
        other_words=_digest(word for word in words if not _word(word).negates),
    )


def contradicts(new: Polarity, old: Polarity) -> bool:
    """True when the one denies what the other says, or they stand on different sides."""
    if new.undone & old.affirmed - new.affirmed or old.undone & new.affirmed - old.affirmed:
        return True
    if new.other_words == old.other_words and new.negations != old.negations:
        return True
    if _takes_other_side(new.poles, old.poles) or _denies_otherwise(new, old):
        return True
    return _turns_what_is_said(new, old) or _turns_what_is_said(old, new)


def _digest(words: Iterable[str]) -> bytes:
    """The same for the same words in any order."""
    return hashlib.blake2b(" ".join(sorted(words)).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _takes_other_side(new: Sequence[Pole], old: Sequence[Pole]) -> bool:
    return any(_opposes(pole, [each for each in old if each.axis == pole.axis], new) for pole in new)


def _opposes(pole: Pole, old: Sequence[Pole], new: Sequence[Pole]) -> bool:
    """The old text stands on the other side of this pole, and more so than on this one."""
    same = [each for each in old if each.side == pole.side]
    other = [each for each in old if each.side != pole.side]
    if not other:
        return False
    if not same and all(each.side == pole.side for each in new if each.axis == pole.axis):
        return True
    return _most_shared(pole, other) > _most_shared(pole, same)


def _most_shared(pole: Pole, others: Iterable[Pole]) -> int:
    return max((len(pole.scope & each.scope) for each in others), default=0)


def _denies_otherwise(new: Polarity, old: Polarity) -> bool:
    """One text denies words that the other affirms.

    As many denials in both may be said in other words: then only when each denies what the other affirms.
    """
    new_denied, old_denied = _denied(new), _denied(old)
    new_denies = bool((new_denied - old_denied) & (old.affirmed - new.affirmed))
    old_denies = bool((old_denied - new_denied) & (new.affirmed - old.affirmed))
    if len(new.denials) == len(old.denials):
        return new_denies and old_denies and not new_denied & old_denied
    more, fewer = (new, old) if len(new.denials) > len(old.denials) else (old, new)
    return new_denies or old_denies or any(_is_about(denial, fewer.affirmed) for denial in more.denials)


def _denied(polarity: Polarity) -> frozenset[str]:
    return frozenset[str]().union(*(denial.scope for denial in polarity.denials))


def _turns_what_is_said(one: Polarity, other: Polarity) -> bool:
    """The one denies with a word of a pair what the other says without any such word, and without a denial."""
    if other.denials or any(pole.side < 0 for pole in other.poles):
        return False
    axes = {pole.axis for pole in other.poles}
    return any(
        turned.clause and turned.clause <= other.affirmed and turned.axes.isdisjoint(axes) for turned in one.turned
    )


def _is_about(denial: Denial, affirmed: frozenset[str]) -> bool:
    return len(denial.clause & affirmed) > _MOST_OF_A_CLAUSE * max(len(denial.clause), 1)


def _clauses(words: Sequence[str]) -> list[list[str]]:
    clauses: list[list[str]] = [[]]
    for word in words:
        if word in _CLAUSE_ENDS:
            clauses.append([])
        else:
            clauses[-1].append(word)
    return [clause for clause in clauses if clause]


def _read_clause(clause: Sequence[str]) -> _Clause:
    """The sides that a clause takes, and what it denies when a negation is left that turned none of them over."""
    words = [_word(word) for word in clause]
    stems = frozenset(word.stem for word in words if word.tells)
    poles: list[Pole] = []
    turned: list[Turned] = []
    overturned: set[str] = set()
    is_negated = False
    last = -1
    for place, word in enumerate(words):
        if word.negates:
            is_negated, last = not is_negated, place
        elif word.sides:
            scope = _scope(words, place, _POLE_SCOPE)
            poles += [Pole(axis, -side if is_negated else side, scope) for axis, side in word.sides]
            if is_negated:
                turned.append(Turned(frozenset(axis for axis, _ in word.sides), stems - {word.stem}))
                overturned.add(word.stem)
            is_negated = False
    if not is_negated:
        return _Clause(stems, poles, turned, None, frozenset(overturned))
    denial = Denial(_scope(words, last, _SCOPE), stems)
    return _Clause(stems, poles, turned, denial, frozenset(overturned))


def _scope(words: Sequence[_Word], place: int, most: int) -> frozenset[str]:
    """The stems of the telling words that come next."""
    following = words[place + 1 : place + 1 + _SCOPE_WORDS]
    return frozenset(islice((word.stem for word in following if word.tells), most))


@lru_cache(maxsize=1 << 14)
def _word(word: str) -> _Word:
    base = stem(word)
    negates = word in _NEGATORS or word.endswith("n't")
    tells = not negates and (base in _TELLING or (base not in STOP_TERMS and "'" not in word))
    return _Word(base, tells, negates, _SIDES.get(base, ()))


def _sides() -> dict[str, tuple[tuple[int, int], ...]]:
    """The axes that each stem stands on, and its side of them."""
    sides: dict[str, tuple[tuple[int, int], ...]] = {}
    for axis, pair in enumerate(_OPPOSITES.replace("\n", ";").split(";")):
        for side, words in zip((1, -1), pair.split("/"), strict=False):
            for word in words.split():
                sides[stem(word)] = (*sides.get(stem(word), ()), (axis, side))
    return sides


_SIDES: Final = _sides()
