"""What two questions must have in common beside their meaning to have the same answer.

An encoder puts "the capital of France" beside "the capital of Spain". So what tells such questions
apart is compared as it stands: names, numbers, placeholders, code and quotations, in their order;
negations and words that turn a question into its opposite, wherever they are.
"""

import re
import unicodedata
from collections import Counter

Marks = tuple[tuple[str, ...], tuple[tuple[str, int], ...]]
"""Names, numbers and the like in order; turning words with their counts."""

_QUOTED = r"```.*?```|`[^`\n]+`|\"[^\"\n]+\"|\u201c[^\u201d\n]+\u201d|(?<!\w)'[^'\n]+'(?!\w)"
_TOKEN = re.compile(
    rf"(?P<quoted>{_QUOTED})|(?P<place>\[[A-Z_]+_\d+\])|(?P<sign>[-+*/=<>^%$\u20ac\u00a3#&|@~]+)"
    r"|(?P<word>[^\W_]+(?:['\u2019.,_+#-]*[^\W_]+)*[+#]*)",
    re.DOTALL,
)
_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty "
    "ninety hundred thousand million billion half third quarter dozen first second fourth fifth "
    "sixth seventh eighth ninth tenth once twice double triple"
)
_TURNS = (
    "not no never none nothing nobody without cannot neither nor except unless but only before "
    "after above below over under more less most least fewer higher lower larger smaller bigger "
    "longer shorter better worse worst first last next previous older newer oldest newest "
    "increase decrease increasing decreasing raise reduce maximum minimum max min maximise "
    "minimise maximize minimize gain lose loss profit good bad hot cold warm cool cheap "
    "expensive fast slow early late left right up down out inside outside off open close start "
    "stop begin end add remove delete create enable disable install uninstall encode decode "
    "encrypt decrypt compress decompress buy sell lend borrow import export push pull upload "
    "download send receive input output north south east west male female men women "
    "children adults safe unsafe legal illegal possible impossible advantages disadvantages "
    "benefits risks pros cons causes effects cause prevent symptoms treatment prevention "
    "positive negative true false why who when where long often"
)
_OPENERS = (
    "a an the what what's whats which who who's whose when where where's why how is are was "
    "were do does did can could would should will shall may might has have had i i'm i'd i've "
    "my we our you your it its this that these those in on at of for with from to by and or if "
    "please tell give show explain describe list name write define find help let make suggest "
    "recommend summarize summarise compare translate convert calculate compute solve create "
    "draft generate provide recipe tips ways steps there any some hi hello hey ok thanks "
    "recommend compose sort set build make add remove get turn put use using setting growing "
    "making learn teach think outline rewrite improve fix check review plan rank count draw say "
    "spell pick choose state mention discuss"
)
_NUMBER_WORDS = frozenset(_NUMBERS.split())
_TURNING = frozenset(_TURNS.split())
_OPENING = frozenset(_OPENERS.split())
_ENDS = frozenset(".!?:\n")


def marks(text: str) -> Marks:
    """Return what of a question must be the same in another that has its answer.

    Args:
        text: a question, as it would be sent.
    """
    text = unicodedata.normalize("NFKC", text).replace("\u2019", "'")
    named: list[str] = []
    turns: Counter[str] = Counter()
    for match in _TOKEN.finditer(text):
        token, kind = match.group(), match.lastgroup
        folded = token.casefold()
        if kind != "word":
            named.append(token)
            continue
        if folded.endswith("n't"):
            turns["not"] += 1
        elif folded in _TURNING:
            turns[folded] += 1
        if not folded.endswith("n't") and _is_name(
            token, folded, opens=_opens(text, match.start())
        ):
            named.append(folded.removesuffix("'s"))
    return tuple(named), tuple(sorted(turns.items()))


def _is_name(token: str, folded: str, *, opens: bool) -> bool:
    if any(char.isdigit() for char in token) or folded in _NUMBER_WORDS:
        return True
    if folded in ("i", "i'm", "i'd", "i've", "i'll"):
        return False
    capital = any(char.isupper() for char in token)
    return capital and not (opens and folded in _OPENING)


def _opens(text: str, at: int) -> bool:
    """Whether a sentence begins at a place."""
    before = text[:at].rstrip(" \t\"'(\u201c")
    return not before or before[-1] in _ENDS
