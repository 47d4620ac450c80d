"""Texts said again in other words, by rules; the same text and seed always give the same words.

Two families of rules share no list. The weights of `polymem.domain.resemblance` were fitted with `REWORDINGS` alone,
its thresholds chosen looking at both. Beside them stand free restatements, written by hand (`restated.json`, by the id
of the turn): no weight was fitted with them, but their score was seen while the thresholds were chosen.
"""

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Rewrite = Callable[[str, random.Random], str]

_RESTATED = Path(__file__).with_name("restated.json")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORD = re.compile(r"[A-Za-z']+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'])")

_SYNONYMS = {
    "recommend": "suggest", "suggest": "recommend", "recommendations": "suggestions", "suggestions": "ideas",
    "tips": "advice", "advice": "tips", "great": "wonderful", "good": "decent", "interested": "keen",
    "thinking": "considering", "considering": "thinking", "looking": "searching", "want": "wish", "buy": "purchase",
    "bought": "purchased", "purchase": "buy", "help": "assist", "start": "begin", "started": "began",
    "really": "truly", "very": "quite", "excited": "thrilled", "learn": "find out", "know": "be aware of",
    "definitely": "certainly", "certainly": "definitely", "maybe": "perhaps", "also": "additionally",
    "important": "essential", "different": "various", "popular": "well-known", "healthy": "wholesome",
    "tasty": "delicious", "delicious": "tasty", "trip": "journey", "easy": "simple", "difficult": "hard",
    "beautiful": "lovely", "show": "display", "use": "employ", "using": "employing", "enjoy": "like", "big": "large",
    "small": "little", "quickly": "fast", "provide": "give", "create": "make", "creating": "making",
    "improve": "better", "choose": "pick", "choosing": "picking", "often": "frequently", "currently": "presently",
    "recently": "lately", "amazing": "fantastic", "awesome": "superb", "fun": "entertaining", "specific": "particular",
    "options": "choices", "ways": "methods", "method": "way", "thanks": "thank you", "sure": "certain",
    "explain": "describe", "describe": "explain", "discuss": "talk about", "common": "usual", "includes": "contains",
    "including": "such as", "additionally": "besides", "overall": "all in all", "however": "still",
    "ensure": "make sure",
    "various": "diverse", "several": "a number of", "many": "a lot of", "consider": "think about", "happy": "glad",
    "kids": "children", "house": "home", "job": "position", "movie": "film", "movies": "films",
}  # fmt: skip
_CONTRACTED = {
    "I am": "I'm", "I have": "I've", "I will": "I'll", "I would": "I'd", "do not": "don't", "does not": "doesn't",
    "did not": "didn't", "is not": "isn't", "are not": "aren't", "can not": "can't", "it is": "it's",
    "that is": "that's", "you are": "you're", "they are": "they're", "we are": "we're", "was not": "wasn't",
    "have not": "haven't", "could not": "couldn't", "would not": "wouldn't", "will not": "won't", "cannot": "can't",
}  # fmt: skip
_OPENINGS = (
    "I wanted to mention that {}", "Just so you know: {}", "As I said, {}", "To put it differently: {}",
    "Well, {}", "One more thing, {}", "So basically {}", "Hi there! {}", "Okay, so {}", "Quick note - {}",
)  # fmt: skip
_CLOSINGS = ("", "", " Thanks in advance!", " Hope that makes sense.", " Just wondering.", " Let me know.")
_SMALL_NUMBERS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)


def _keep_case(like: str, word: str) -> str:
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def _each_word(text: str, table: Mapping[str, str]) -> str:
    def swap(found: re.Match[str]) -> str:
        word = found.group()
        other = table.get(word.lower())
        return word if other is None else _keep_case(word, other)

    return _WORD.sub(swap, text)


def _phrases(text: str, table: Mapping[str, str]) -> str:
    pattern = re.compile(
        "|".join(rf"\b{re.escape(each)}\b" for each in sorted(table, key=len, reverse=True)), re.IGNORECASE
    )
    folded = {each.lower(): other for each, other in table.items()}
    return pattern.sub(lambda found: _keep_case(found.group(), folded[found.group().lower()]), text)


def _lower_start(text: str) -> str:
    first = text.split(" ", 1)[0]
    return text if first.startswith("I") or first[1:] != first[1:].lower() else text[:1].lower() + text[1:]


def _synonyms(text: str, _: random.Random) -> str:
    return _each_word(text, _SYNONYMS)


def _contractions(text: str, _: random.Random) -> str:
    expanded = {short: long for long, short in _CONTRACTED.items()}
    plain = text.replace("\u2019", "'")
    spelled = _phrases(plain, expanded)
    return spelled if spelled != plain else _phrases(plain, _CONTRACTED)


def _fillers(text: str, chance: random.Random) -> str:
    return chance.choice(_OPENINGS).format(_lower_start(text)) + chance.choice(_CLOSINGS)


def _clauses(text: str, chance: random.Random) -> str:
    sentences = _SENTENCE_END.split(text)
    if len(sentences) > 1:
        turn = chance.randrange(1, len(sentences))
        return " ".join(sentences[turn:] + sentences[:turn])
    halves = re.match(r"(.+?)(, (?:but|and|so)|,? because) (.+?)([.!?]?)$", text)
    if halves is None:
        return _fillers(text, chance)
    head, link, tail, mark = halves.groups()
    if "because" in link:
        return f"Because {tail}, {_lower_start(head)}{mark or '.'}"
    return f"{tail[:1].upper()}{tail[1:]}{link} {_lower_start(head)}{mark or '.'}"


def _typing(text: str, chance: random.Random) -> str:
    plain = re.sub(r"[,;:!\"*]+", "", text)
    return plain.lower() if chance.random() < 0.5 else plain.replace("?", "").replace(".", " ..")


def _numbers(text: str, _: random.Random) -> str:
    worded = re.sub(
        r"(?<![\d.,:/$-])\b(1[0-2]|[2-9])\b(?![\d.,:/%-])", lambda found: _SMALL_NUMBERS[int(found.group())], text
    )
    if worded != text:
        return worded
    digits = {word: str(value) for value, word in enumerate(_SMALL_NUMBERS) if value > 1}
    return _each_word(text, digits)


def _several(text: str, chance: random.Random) -> str:
    return _fillers(_clauses(_synonyms(_contractions(text, chance), chance), chance), chance)


_GIST = {
    "i": "the user", "i'm": "the user is", "i've": "the user has", "i'll": "the user will", "i'd": "the user would",
    "my": "the user's", "me": "the user", "we": "they", "our": "their", "am": "is", "myself": "themselves",
    "mine": "theirs",
}  # fmt: skip
_SMALL_WORDS = _words(
    "a an the is are was were be been am to of that this these those i i'm i've i'd i'll it it's so really just very"
    " can could would you do does any some me please have has had also for with"
)
_TURNS = {
    "can you": "would you be able to", "could you": "is it possible for you to", "i'm thinking of": "I have in mind",
    "i was thinking of": "what I had in mind was", "do you have any": "are there perhaps any",
    "i think": "it seems to me",
    "by the way": "incidentally", "how do i": "what is the way to", "what are": "which are", "i'd like to": "I hope to",
    "i'm looking for": "what I need is", "can you recommend": "what would be", "do you know": "are you able to say",
    "i've been": "lately I have been", "i love": "I'm fond of", "in order to": "so as to", "such as": "for instance",
    "for example": "e.g.", "a lot of": "plenty of", "make sure": "see to it", "it's important to": "one should",
    "there are": "you will find", "here are": "below are", "as well as": "along with", "tell me more about": "go into",
}  # fmt: skip


def _retold(text: str, _: random.Random) -> str:
    return "The user said: " + _each_word(text, _GIST)


def _telegram(text: str, _: random.Random) -> str:
    words = [word for word in text.split() if word.lower().strip(",.!?") not in _SMALL_WORDS]
    return " ".join(words)


def _typos(text: str, chance: random.Random) -> str:
    def slip(found: re.Match[str]) -> str:
        word = found.group()
        if len(word) < 5 or word[0].isupper() or chance.random() > 0.15:
            return word
        place = chance.randrange(1, len(word) - 2)
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]

    return _WORD.sub(slip, text)


def _turned(text: str, _: random.Random) -> str:
    return _phrases(text, _TURNS)


def _backwards(text: str, chance: random.Random) -> str:
    parts = _SENTENCE_END.split(text)
    return " ".join(reversed(parts)) if len(parts) > 1 else f"About what we discussed: {_turned(text, chance)}"


def _all_of_these(text: str, chance: random.Random) -> str:
    return _typos(_backwards(_turned(text, chance), chance), chance)


REWORDINGS: Mapping[str, Rewrite] = {
    "synonyms": _synonyms,
    "contractions": _contractions,
    "fillers": _fillers,
    "clauses": _clauses,
    "typing": _typing,
    "numbers": _numbers,
    "several": _several,
}
RETELLINGS: Mapping[str, Rewrite] = {
    "retold": _retold,
    "telegram": _telegram,
    "typos": _typos,
    "turned": _turned,
    "backwards": _backwards,
    "all of these": _all_of_these,
}


def said_again(text: str, rules: Mapping[str, Rewrite], seed: str) -> tuple[str, str]:
    """The name of a rule that changes the text, and the text in its words; the text itself where none does."""
    chance = random.Random(f"{seed}:{text}")  # noqa: S311 - repeats of a test, not secrets
    names: Sequence[str] = sorted(rules)
    for name in chance.sample(names, len(names)):
        other = rules[name](text, chance)
        if other.split() != text.split():
            return name, other
    return "", text


def restated() -> Mapping[str, str]:
    """Restatements by hand: the id of a turn of the LongMemEval development set, and its text in other words."""
    found: dict[str, str] = json.loads(_RESTATED.read_text(encoding="utf-8"))
    return found
