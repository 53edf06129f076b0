"""Words of chunks and of questions: what the index is made of, and what is looked up in it.

Two lists find more than one. Words with prefixes (`guthaben` finds `Guthabens`) are exact: numbers, names, codes. Their
pieces of three letters find inflections, parts of compounds and slips of the finger, in every language, without a rule
for any of them; in scripts without spaces the pieces have two characters, since most words there have one or two.
What stemming added to words alone, the pieces add too (docs/decisions.md).

Knows: how a text becomes words and pieces, which words of a question ask and name nothing. Refuses to know: SQL, ranks.
"""

import re
import unicodedata

# Words joined by signs, as in codes, numbers, addresses: `E-17`, `1,250.40`, `KEEP_WEEKLY`, `r3.local`. A word that is
# divided at the end of a line, as in print, is joined, too.
_WORD = re.compile(r"\w+(?:(?:[-.,:/@'’_]|[-\u00ad\u2010]\n)\w+)*")
_JOINT = re.compile(r"[\W_]+")
_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_PIECE, UNSPACED_PIECE = 3, 2
# From so many letters on a word of a question finds the words that begin with it.
PREFIX_FROM = 5
_LONGEST = 64  # characters of a word: what is longer is no word (base64)
_MOST_TERMS = 32  # of a question
_MOST_CHARACTERS = 4_000

# Thai, Lao, Myanmar, Khmer, kana, Han with its extensions.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)

# What questions are made of in English, German, French, Spanish, Italian, Portuguese, Dutch, a paragraph for each. In a
# small index such a word can be rare, and then it would weigh more than what is asked about.
_STOP_WORDS = """
a about am an and any are as at be been by can could did do does each for from had has have how i if in into is it its
many may me much must my no not of on or our shall should so than that the their them then there these they this those
to was we were what when where which who whom whose why will with would you your

aber als am an auch auf aus bei beim bin bis bist da damit darf das dass dein dem den der des dich die dies diese
diesem diesen dieser dieses doch du durch durfen ein eine einem einen einer eines er es fur gegen gibt habe haben hat
hatte ich ihm ihn ihr ihre im in ist ja kann kein keine konnen man mein meine mich mir mit muss mussen nach nicht noch
nur ob oder ohne sein seine sich sie sind so soll sollen uber um und uns unser viel viele vom von vor wann war waren
warum was welche welchem welchen welcher welches wem wen wenn wer werden wie wieso wieviel will wir wird wo woher
wohin wurde wurden zu zum zur

au aux avec ce cela ces cet cette comment combien dans de des du elle en est et etre il ils je la le les leur lors ma
mais mes moi mon ne nos notre nous ont ou par pas peut pour pourquoi quand que quel quelle quelles quels qui quoi sa
sans se ses si son sont sur ta te tes toi ton tu un une vos votre vous

al como con cual cuales cuando cuanto cuantos del desde donde el ella ellos en entre era esta estan este esto hay la
las lo los mas mi para pero por porque puede que quien se ser si sin sobre son su sus tiene una uno unos y

alla alle agli che chi come con cosa da dal dalla degli dei del della delle di dove e gli ha hanno il le lo ma nel
nella non o per perche piu puo quale quali quando quanto sono su sul un una

ao aos as com da das do dos e ela ele em essa esse esta este foi mais mas na nas nao no nos o onde os ou para pela
pelo pode por porque qual quais quando quanto que quem se sem ser seu sua tem um uma

aan als bij dat de die dit een en er geen had heb heeft hem het hij hoe hoeveel hun ik in is je kan maar met mijn moet
na naar niet nog of om onder ons ook op over te tot uit van voor waar waarom wanneer wat we welk welke wie wij worden
wordt zal ze zich zij zijn
"""
_STOP_LISTS = tuple(frozenset(words.split()) for words in _STOP_WORDS.split("\n\n"))


def words_of(text: str) -> list[str]:
    """The words in their order, folded: small letters without accents. A word with signs in it is there by its parts
    and as a whole: `E-17` is `e`, `17`, `e17`."""
    found = []
    for match in _WORD.finditer(text):
        word = match.group()
        parts = [part for part in _JOINT.split(_HUMPS.sub(" ", word) if not word.isupper() else word) if part]
        found += [_folded(part)[:_LONGEST] for part in parts]
        if len(parts) > 1:
            found.append(_folded("".join(parts))[:_LONGEST])
    return found


def pieces_of(words: list[str]) -> list[str]:
    """The pieces of words, each once: whether it is there counts, not how often."""
    found: dict[str, None] = {}
    for word in words:
        for text in _runs(word):
            size = UNSPACED_PIECE if _UNSPACED.match(text) else _PIECE
            for begin in range(max(1, len(text) - size + 1)):
                found[text[begin : begin + size]] = None
    return list(found)


def terms_of(question: str) -> list[str]:
    """The words of a question that name what is asked about, each once; all of them where none does."""
    words = dict.fromkeys(words_of(question[:_MOST_CHARACTERS]))
    # the list of one language: `war` is a stop word in German alone
    stop_words = max(_STOP_LISTS, key=lambda each: len(each & words.keys()))
    return ([word for word in words if word not in stop_words] or list(words))[:_MOST_TERMS]


def is_prefix(term: str) -> bool:
    """Whether a term finds words that begin with it, too."""
    return len(term) >= PREFIX_FROM


def _runs(word: str) -> list[str]:
    """A word cut where its script begins or ends to have spaces."""
    if not _UNSPACED.search(word):
        return [word]
    return [run for run in re.split(f"({_UNSPACED.pattern})", word) if run]


def _folded(word: str) -> str:
    if word.isascii():
        return word.lower()
    apart = unicodedata.normalize("NFKD", word.casefold())
    return unicodedata.normalize("NFC", "".join(each for each in apart if not unicodedata.combining(each)))
