"""English for the lexical index: which words tell nothing, and which forms belong to one word.

The stemmer is light on purpose: it undoes inflection (plurals, -ed, -ing, -ly, irregular verbs and nouns) and
a few endings that make nouns of verbs, and leaves meaning alone. What it gives need not be a word; it must be
the same for the forms of one word.
"""

import re

_STOP_WORDS = """
a an the this that these those some any each every either neither such same other another own i me my mine
myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it
its itself they them their theirs themselves one ones someone anyone everyone something anything everything
nothing somebody anybody everybody nobody thing who whom whose which what when where why how whatever whichever
whoever whenever wherever am is are was were be been being do does did doing done have has had having can could
might must shall should will would ought need let get got gotten getting and or but nor so yet if then else than
as because since while whereas although though unless until of in on at by for with about against between into
through during before after above below to from up down out off over under onto upon within without along across
around near toward towards via per again further once here there now just also too very really quite rather only
even still already ever never not no yes both all few more most much many lot lots several enough less least
almost always often sometimes usually maybe perhaps please thank thanks hi hey hello ok okay oh well sure like
etc s t d m ll re ve im ive id youre youve hes shes theyre theyve weve dont didnt doesnt isnt arent wasnt werent
havent hasnt hadnt cant couldnt wont wouldnt shouldnt thats whats theres lets tell said say says know think want
wanted
"""

_IRREGULAR_FORMS = """
arise arose arisen; awake awoke awoken; bear bore borne; beat beaten; become became; begin began begun
bend bent; bite bit bitten; bleed bled; blow blew blown; break broke broken; breed bred; bring brought
build built; burn burnt; buy bought; catch caught; choose chose chosen; cling clung; come came; creep crept
deal dealt; dig dug; draw drew drawn; dream dreamt; drink drank drunk; drive drove driven; eat ate eaten
fall fell fallen; feed fed; feel felt; fight fought; find found; flee fled; fly flew flown; forbid forbade forbidden
forget forgot forgotten; forgive forgave forgiven; freeze froze frozen; give gave given; go went gone
grind ground; grow grew grown; hang hung; hear heard; hide hid hidden; hold held; keep kept; kneel knelt
know knew known; lay laid; lead led; leap leapt; learn learnt; leave left; lend lent; light lit; lose lost
make made; mean meant; meet met; pay paid; prove proven; ride rode ridden; ring rang rung; rise rose risen
run ran; say said; see saw seen; seek sought; sell sold; send sent; sew sewn; shake shook shaken; shine shone
shoot shot; show shown; shrink shrank shrunk; sing sang sung; sink sank sunk; sit sat; sleep slept; slide slid
speak spoke spoken; speed sped; spend spent; spin spun; stand stood; steal stole stolen; stick stuck; sting stung
strike struck; strive strove striven; swear swore sworn; sweep swept; swim swam swum; swing swung; take took taken
teach taught; tear tore torn; tell told; think thought; throw threw thrown; understand understood; wake woke woken
wear wore worn; weave wove woven; weep wept; win won; wind wound; withdraw withdrew withdrawn; write wrote written
child children; man men; woman women; person people; foot feet; tooth teeth; mouse mice; goose geese; wife wives
knife knives; life lives; leaf leaves; shelf shelves; half halves; wolf wolves; loaf loaves; thief thieves
agree agreed; free freed; bus buses; go goes; quiz quizzes; lie lying lied; die dying died; tie tying tied
"""

_VOWEL = re.compile(r"[aeiouy]")
_DOUBLED = re.compile(r"([bdfgmnprt])\1$")
# A short stem (consonant, vowel, consonant) has lost an e: "hop(e)", "nam(e)"; w, x and y never double.
_SHORT = re.compile(r"[^aeiou]{0,2}[aeiouy][^aeiouywx]")
_SHORTEST_STEMMED = 4
_SHORTEST_ADVERB = 6
_KEPT_WHOLE_WORDS = """
this news always perhaps during morning evening nothing something anything everything ceiling spring string
king ring wing sing thing bring red bed wed shed sled bus gas plus christmas texas series species
"""
_KEPT_WHOLE = frozenset(_KEPT_WHOLE_WORDS.split())


def stem(word: str) -> str:
    """The form under which a folded ASCII word is indexed; the same for the inflections of one word."""
    base = _IRREGULAR.get(word)
    if base is not None:
        return base
    if len(word) < _SHORTEST_STEMMED or word in _KEPT_WHOLE or not word.isalpha():
        return word
    return _without_final_vowel(_without_adverb_ending(_without_verb_ending(_singular(word))))


def _singular(word: str) -> str:
    if not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > _SHORTEST_STEMMED:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zzes")):
        return word[:-2]
    return word[:-1]


def _without_verb_ending(word: str) -> str:
    if word.endswith("ied") and len(word) > _SHORTEST_STEMMED:
        return word[:-3] + "y"
    for ending in ("ing", "ed"):
        rest = word.removesuffix(ending)
        if rest != word and len(rest) > 1 and _VOWEL.search(rest) and not (ending == "ed" and rest.endswith("e")):
            return _restored(rest)
    return word


def _restored(rest: str) -> str:
    """The verb of which an ending was taken: a doubled consonant single again, a dropped e back."""
    if _DOUBLED.search(rest):
        return rest[:-1]
    if rest.endswith(("at", "bl", "iz")) or _SHORT.fullmatch(rest):
        return rest + "e"
    return rest


def _without_adverb_ending(word: str) -> str:
    if len(word) < _SHORTEST_ADVERB:
        return word
    if word.endswith("ily"):
        return word[:-3] + "y"
    return word.removesuffix("ly")


def _without_final_vowel(word: str) -> str:
    """The word without a silent e, and with i for a final y, so that forms that differ in them meet."""
    if len(word) < _SHORTEST_STEMMED:
        return word
    if word.endswith("y"):
        return word[:-1] + "i"
    return word[:-1] if word.endswith("e") and len(word) > _SHORTEST_STEMMED else word


def _irregular() -> dict[str, str]:
    found: dict[str, str] = {}
    for group in _IRREGULAR_FORMS.replace("\n", ";").split(";"):
        base, *forms = group.split() or [""]
        found |= dict.fromkeys(forms, base)
    return found


_IRREGULAR: dict[str, str] = {}
_IRREGULAR = {form: stem(base) for form, base in _irregular().items()}
STOP_TERMS = frozenset(stem(word) for word in _STOP_WORDS.split())
