"""Finds secrets by what stands around them: "my password is X", "api key: X", "use X as PIN".

A secret has no shape of its own, so each pattern proposes a value and `looks_secret` or the frame
("my ...", a colon) decides. Every repetition in a pattern is bounded, so the time is linear.
"""

import re
from collections.abc import Iterator

_WORDS = r"[\w'\u2019@&-]{1,40}(?:\.\w{1,20}){0,3}"
_STRICT_NAMES = (
    r"pass[ _-]?words?|passwd|passcode|pass[ _-]?code|pass[ _-]?phrase|pwd|pw"
    r"|(?:security|door|gate|alarm|unlock|access|entry|verification|recovery|backup)[ _]code"
    r"|(?:recovery|seed|secret)[ _]phrase|(?:wi-?fi|network)[ _]key|cvv2?|cvc2?"
    r"|pin(?:[ _-]?(?:code|number|no))?|otp(?:[ _]code)?|one[ _-]time[ _]code"
)
_KEY_NAMES = (
    r"(?:api|secret|access|private|encryption|license|licence|auth|ssh|master)[ _-]?key"
    r"|(?:(?:access|auth|api|bearer|refresh|session|secret|security)[ _-]?)?token"
    r"|client[ _-]?secret|secret|credentials?|bearer"
)
_KOREAN_NAMES = r"비밀\s?번호|비번|패스워드|암호|핀\s?번호"
_OPEN, _CLOSE = "\"'`\u201c\u2018«「", "\"'`\u201d\u2019»」"
_QUOTED = rf"[{_OPEN}](?P<quoted>[^{_OPEN}{_CLOSE}\n]{{1,128}})[{_CLOSE}]"
_VALUE = rf"(?:{_QUOTED}|(?P<value>[^\s{_OPEN}][^\s]{{0,255}}))"
_ADJECTIVES = r"(?:[\w'\u2019-]{1,40}\s{1,3}){0,3}?"  # "my OLD GMAIL password"
_OWNER = (
    rf"(?P<owner>\b(?:my|our|his|her|their|the|[\w-]{{1,40}}['\u2019]s)\s{{1,3}}{_ADJECTIVES})?"
)
_ABOUT = rf"(?:\s{{1,3}}(?:for|to|of|on|at|in)(?:\s{{1,3}}{_WORDS}){{1,5}}?)?"
_LINK = (
    r"(?P<link>\s{0,3}(?::=|=>|->|→|[:=])\s{0,3}|\s{1,3}[-\u2013\u2014]\s{1,3}"
    r"|(?:['\u2019]s|\s{1,3}(?:is|was|are|equals|will\sbe|should\sbe|has\sbeen))"
    r"(?:\s{1,3}(?:now|still|currently|just|simply|actually|set\sto))?\s{0,3}:?\s{1,3})"
)
_NAMES = rf"(?P<strict>{_STRICT_NAMES})|(?P<token>{_KEY_NAMES})"
_NAME = rf"(?<![\w-])(?:[\w]{{1,24}}_)?(?:{_NAMES})(?![\w])"


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


# "my password (for X) is V", "API_KEY=V", "PIN: V"
_STATED = _compile(rf"{_OWNER}{_NAME}[\"'`]?{_ABOUT}{_LINK}{_VALUE}")
# "password hunter2", "PIN 4821", "Bearer eyJ...": no link, so the value must look like one
_ADJACENT = _compile(rf"{_OWNER}{_NAME}\s{{1,3}}{_VALUE}")
# "I changed my password to V"
_CHANGED = _compile(
    rf"\b(?:set|changed?|reset|updated?|switched)\s{{1,3}}(?:my|our|the|his|her|their)\s{{1,3}}"
    rf"{_ADJECTIVES}(?:{_NAMES}){_ABOUT}\s{{1,3}}to(?:\s{{1,3}}be)?:?\s{{1,3}}{_VALUE}"
)
# "I use V as my password"
_USED_AS = _compile(
    rf"\b(?:use|used|using|set|picked|chose|choose|put|enter|type)\s{{1,3}}{_VALUE}\s{{1,3}}"
    rf"(?:as|for)\s{{1,3}}(?:my|our|the|his|her|their)\s{{1,3}}{_ADJECTIVES}(?:{_NAMES})(?!\w)"
)
# "V is my password", "V is the password"
_REVERSED = _compile(
    rf"(?<![^\s({_OPEN}]){_VALUE}\s{{1,3}}(?:is|was)\s{{1,3}}"
    rf"(?:(?:my|our|his|her|their)\s{{1,3}}{_ADJECTIVES}|the\s{{1,3}})(?:{_NAMES})(?!\w)"
)
# "비밀번호는 V입니다"
_KOREAN = re.compile(rf"(?:{_KOREAN_NAMES})\s{{0,2}}(?:[은는이가:=]\s{{0,3}}|\s){_VALUE}")

_KOREAN_ENDING = re.compile(r"(?:입니다|이에요|예요|이야|야|이고|고|인데|로|을|를)[.!?,]{0,3}$")
_TRAILING = ".,;:!?)]}>\u2026\"'`\u201d\u2019»」"
# Words that describe a secret rather than being one: "my password is weak", "token: string"
_DESCRIPTIONS = frozenset(
    "a about above actually added again all allowed already also always an and another any as "
    "asked at available bad based because been before being below better between blank both but "
    "by called can cannot case-sensitive changed compromised confidential correct created "
    "currently default deprecated different disabled displayed easy either empty enabled "
    "encrypted enough entered even exactly exposed expired expiring extremely false fine for "
    "forgotten from generated given gone good greater hacked hard hashed here hidden how "
    "identical if important in incorrect insecure inside invalid it its just kept known leaked "
    "less like likely long longer lost mandatory many maybe missing more much must my needed "
    "never new no none nonsense not nothing now null obsolete of off often ok okay old on one "
    "only optional or our out outdated over plain plaintext pretty private probably protected "
    "public quite random read really recommended rejected required reset right safe salted same "
    "saved secret secure sensitive sent set shared short shorter should so some something "
    "somewhere still stolen stored string strong such supposed temporary text than that the "
    "their them then there they this those to too true typically under undefined unique unknown "
    "unsafe until up used useful usually valid very visible vulnerable wanted was weak weird "
    "what when where whether which who why will with within without working would written "
    "wrong your you safely securely hard-coded password passwords passphrase token tokens key "
    "keys secrets pin pins code codes number numbers value values is are be true yes bytes "
    "varchar object integer attached gone broken stuck locked cracked complicated complex simple "
    "phished breached pwned blocked deleted accepted declined numeric alphanumeric obvious "
    "terrible awful great perfect stupid hidden masked shown stale short-lived rotated revoked "
    "alright secretly case really actually nowhere everywhere someone nobody".split()
)
_NOT_LITERAL = re.compile(
    r"^(?:[<$%{\[*•]|x{3,}$|\.{2,}|your[-_]|my[-_]|example|changeme\b|redacted|placeholder"
    r"|[A-Za-z_][\w.]*[(\[]|(?:os|process|self|config|settings|env|request|args)\.)",
    re.IGNORECASE,
)
_DESCRIBING_SUFFIX = re.compile(r"(?:ed|ing|ory|ive|less|ful)$")
_NEVER_SUFFIX = re.compile(r"(?:able|ible|ally|ily|ized|ised)$")
_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+$")
# What may follow a one-word secret: the end of the clause, or the start of the next one
_CLAUSE_END = re.compile(
    r"\s{0,3}(?:$|[.,;!?)\n\u2014\u2013-]|(?:and|but|so|what|can|could|how|why|who|when|where|is|please|for|or|now"
    r"|then|which|do|does|tell|explain|write|help|on|if|because|i|thanks)\b)",
    re.IGNORECASE,
)
_PIN_NAME = re.compile(r"^(?:pin|otp|cv|one)", re.IGNORECASE)
_PASSPHRASE_NAME = re.compile(r"phrase$", re.IGNORECASE)
_PHRASE = re.compile(r"\w{2,24}(?:[ -]\w{2,24}){2,24}")
_GRAMMAR = frozenset(
    "an the to of is was are be not too very in on for it and or that this has have with from at "
    "by as my your we you so if but can will".split()
)
_MIN_TOKEN_DIGITS = 6


def find_secrets(text: str) -> Iterator[tuple[int, int]]:
    """Yield the half-open range of each secret value, never of the words around it.

    Args:
        text: any string.
    """
    for pattern in (_STATED, _CHANGED, _USED_AS, _REVERSED):
        for match in _each(pattern, text):
            found = _stated_value(match, text, reverse=pattern in (_USED_AS, _REVERSED))
            if found is not None:
                yield found[0], _after_exclamation(text, found[1])
    for match in _each(_ADJACENT, text):
        found = _adjacent_value(match)
        if found is not None:
            yield found[0], _after_exclamation(text, found[1])
    for match in _each(_KOREAN, text):
        start, value = _value_of(match)
        value = _KOREAN_ENDING.sub("", value)
        if looks_secret(value) or (value.isdecimal() and len(value) >= 4):
            yield start, start + len(value)


def _after_exclamation(text: str, end: int) -> int:
    """Take exclamation marks into the value: they often end a password, and masking them is free.

    They are left out while the value is judged, since "my password is weak!" states none.
    """
    while text.startswith("!", end):
        end += 1
    return end


def looks_secret(value: str) -> bool:
    """Whether a value has the look of a password or key: a digit among letters, or odd symbols."""
    if len(value) < 4 or _NOT_LITERAL.match(value):
        return False
    has_digit = any(c.isdecimal() for c in value)
    has_letter = any(c.isalpha() for c in value)
    has_symbol = any(c in "!@#$%^&*_+=~|?/" for c in value)
    return (has_digit and (has_letter or has_symbol)) or (has_symbol and has_letter)


def _each(pattern: re.Pattern[str], text: str) -> Iterator["re.Match[str]"]:
    """Like finditer, but the next search starts at the proposed value.

    A refused proposal ("my password: the password is X") must not hide one that begins inside it.
    """
    match = pattern.search(text)
    while match is not None:
        yield match
        start, _ = _value_of(match)
        match = pattern.search(text, max(start, match.start() + 1))


def _value_of(match: "re.Match[str]") -> tuple[int, str]:
    """Return where the proposed value starts and the value without closing punctuation."""
    if match["quoted"] is not None:
        return match.start("quoted"), match["quoted"]
    return match.start("value"), match["value"].rstrip(_TRAILING) or match["value"]


def _stated_value(match: "re.Match[str]", text: str, *, reverse: bool) -> tuple[int, int] | None:
    """Judge "NAME is VALUE" and its inversions."""
    start, value = _value_of(match)
    span = start, start + len(value)
    if match["quoted"] is not None:
        return span if _quoted_secret(value) else None
    name = match["strict"] or ""
    if _PASSPHRASE_NAME.search(name):
        phrase = _PHRASE.match(text, start)
        if phrase is not None and _GRAMMAR.isdisjoint(re.split(r"[ -]", phrase[0].lower())):
            return phrase.span()
    if _NOT_LITERAL.match(value) or value.lower() in _DESCRIPTIONS:
        return None
    if _PIN_NAME.match(name):
        return span if _is_pin(value) else None
    if looks_secret(value):
        return span
    if value.isdecimal():
        return span if len(value) >= (4 if name else _MIN_TOKEN_DIGITS) else None
    if not name or len(value) < 4 or _DOTTED_NAME.match(value):
        return None
    return span if _plain_word(match, text, span, reverse=reverse) else None


def _plain_word(match: "re.Match[str]", text: str, span: tuple[int, int], *, reverse: bool) -> bool:
    """Judge a value without digits or symbols by its frame, as in "my password is hunter"."""
    word = text[span[0] : span[1]].lower()
    if _NEVER_SUFFIX.search(word):
        return False
    if reverse:
        return match.re is _USED_AS or (
            len(word) >= 6 and _CLAUSE_END.match(text, match.end()) is not None
        )
    owner = (match.groupdict().get("owner") or "the").split(maxsplit=1)[0].lower()
    personal = match.re is _CHANGED or owner != "the"
    if not personal and _DESCRIBING_SUFFIX.search(word):
        return False
    return _CLAUSE_END.match(text, span[1]) is not None


def _adjacent_value(match: "re.Match[str]") -> tuple[int, int] | None:
    """Judge "NAME VALUE" without a link."""
    start, value = _value_of(match)
    span = start, start + len(value)
    name = match["strict"] or ""
    if match["quoted"] is not None:
        return span if looks_secret(value) else None
    if _PIN_NAME.match(name):
        named = bool(match["owner"]) or name.isupper() or len(name) > 3 or name[0] in "cC"
        return span if named and _is_pin(value) else None
    shortest = 4 if match["strict"] is not None else 8
    digits = sum(c.isdecimal() for c in value)
    return span if len(value) >= shortest and digits and looks_secret(value) else None


def _quoted_secret(value: str) -> bool:
    """Judge a quoted value: anything but a description or a placeholder."""
    return not _NOT_LITERAL.match(value) and value.lower() not in _DESCRIPTIONS and len(value) >= 3


def _is_pin(value: str) -> bool:
    compact = value.replace("-", "").replace(" ", "")
    return compact.isdecimal() and 3 <= len(compact) <= 12
