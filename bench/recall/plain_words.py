"""How the plain baselines read text: their own words, stop words and light stemming.

Nothing here is shared with the engine, so that a change of the engine's text analysis moves no baseline.
"""

import re
from collections.abc import Iterator

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_PRONOUNS = """i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself
    she her hers herself it its itself they them their theirs themselves one"""
_VERBS = """am is are was were be been being do does did doing done have has had having can could will would shall
    should may might must ought let get got"""
_LINKS = """a an the and or but nor so if then than because as until while of at by for with about against between
    into through during before after above below to from up down in out on off over under again further once"""
_ASKING = "what which who whom whose when where why how there here this that these those"
_AMOUNTS = "all any both each few more most other some such no not only own same too very just also ever many much"
_CLIPPED = "s t d ll m re ve don doesn didn isn aren wasn weren hasn haven hadn won wouldn couldn shouldn"
STOP_WORDS = frozenset(f"{_PRONOUNS} {_VERBS} {_LINKS} {_ASKING} {_AMOUNTS} {_CLIPPED}".split())


def plain_terms(text: str) -> list[str]:
    """The stems of a text's telling words, in order with repeats."""
    return [stem for stem, _, _ in plain_spans(text)]


def plain_query(text: str) -> list[str]:
    """The distinct stems that a question asks for, in order."""
    return list(dict.fromkeys(plain_terms(text)))


def plain_spans(text: str) -> Iterator[tuple[str, int, int]]:
    """Each telling word's stem with the characters it stands at."""
    for match in _WORD.finditer(text.lower()):
        head = match.group().partition("'")[0]
        if head not in STOP_WORDS:
            yield light_stem(head), match.start(), match.end()


def light_stem(word: str) -> str:
    """The word without a plural or a common verb ending: cities and city, walked and walking and walks are one."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        word = word[:-1]
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word.removesuffix(ending)
            if word[-1] == word[-2] and word[-1] not in "lsz":
                return word[:-1]
            break
    return word.removesuffix("e") if len(word) > 3 else word
