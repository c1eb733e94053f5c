"""Korean numbers, addresses, dates and sums, as people write them."""

import datetime
import random

from ptmo_secure.privacy.synth import credentials, identifiers
from ptmo_secure.privacy.synth.example import Split
from ptmo_secure.privacy.synth.identifiers import digits, letters
from ptmo_secure.privacy.synth.korean_names import spelled
from ptmo_secure.privacy.synth.words import word_list

_MAIL_HOSTS = ("naver.com", "daum.net", "hanmail.net", "gmail.com", "kakao.com", "nate.com")
_AREAS = ("02", "031", "032", "051", "053", "062", "042", "064", "070")
_SPOKEN = "공일이삼사오육칠팔구"
# Korean words typed with the keyboard still on Latin letters, and what else people take
_TYPED = ("dkssud", "tkfkd", "gksrnr", "qlalf", "wkddn", "thsu", "qwer", "asdf", "1q2w3e4r", "love")
_TENS = ("스물", "서른", "마흔", "쉰", "예순", "일흔", "여든")
_ONES = ("", "하나", "둘", "셋", "넷", "다섯", "여섯", "일곱", "여덟", "아홉")


def phone(rng: random.Random, split: Split) -> str:
    """A Korean number, mobile most often."""
    middle, last = digits(rng, 4, "23456789"), digits(rng, 4)
    mobile = f"010{{0}}{middle}{{0}}{last}"
    land = f"{rng.choice(_AREAS)}-{digits(rng, rng.choice((3, 4)), '2345678')}-{last}"
    spoken = "".join(_SPOKEN[int(digit)] for digit in middle + last)
    forms = (
        *(mobile.format(sep) for sep in ("-", "-", "-", "-", " ", " ", "", "", ".")),
        *(land, land, land.replace("-", ")", 1)),
        *(f"+82 10-{middle}-{last}", f"+82-10-{middle}-{last}", f"+82 10 {middle} {last}"),
        rng.choice(
            (f"공일공 {spoken[:4]} {spoken[4:]}", f"공일공{spoken}", f"0l0-{middle}-{last}")
        ),
    )
    return rng.choice(forms)


def address(rng: random.Random, split: Split) -> str:
    """A road address or an old one by lot, with building, flat and postcode at times."""
    region = rng.choice(word_list("ko_region", split))
    quarter = rng.choice(word_list("ko_dong", split))
    building = rng.choice(word_list("ko_building", split))
    if rng.random() < 0.25:
        lot = f"{rng.randint(1, 900)}{rng.choice(('', f'-{rng.randint(1, 60)}'))}"
        place = f"{region} {quarter} {lot}{rng.choice(('', '', '번지'))}"
    else:
        place = f"{region} {street(rng, split)}"
    parts = (
        *("", "", f", {rng.randint(1, 30)}층", f" {flat(rng, split)}", f", {flat(rng, split)}"),
        *(f" {building} {flat(rng, split)}", f" {building} {rng.randint(2, 20)}층"),
        *(f" ({quarter})", f" {flat(rng, split)} ({quarter}, {building})"),
    )
    code = f"{digits(rng, 5)}"
    before = rng.choice((*("",) * 9, f"({code}) ", f"{code} ", f"우){code} "))
    return before + place + rng.choice(parts)


def street(rng: random.Random, split: Split) -> str:
    """Road and house number."""
    lane = rng.choice(("", "", "", "", f"{rng.randint(2, 60)}길", f" {rng.randint(2, 60)}길"))
    minor = f"-{rng.randint(1, 30)}" if rng.random() < 0.25 else ""
    return f"{rng.choice(word_list('ko_road', split))}{lane} {rng.randint(1, 480)}{minor}"


def flat(rng: random.Random, split: Split) -> str:
    """Block and flat, or the flat alone."""
    number = f"{rng.randint(1, 25)}{rng.randint(1, 6):02d}호"
    return rng.choice(
        (f"{rng.randint(101, 124)}동 {number}", f"{rng.randint(1, 9)}동 {number}", number)
    )


def home(rng: random.Random, split: Split) -> str:
    """A building with block and flat, as one says it to a neighbour."""
    return f"{rng.choice(word_list('ko_building', split))} {flat(rng, split)}"


def born(rng: random.Random, split: Split) -> str:
    """A date of birth."""
    day = datetime.date(1940, 1, 1) + datetime.timedelta(days=rng.randrange(29_000))
    short = f"{day.year % 100:02d}"
    forms = (
        *(
            f"{day.year}년 {day.month}월 {day.day}일",
            f"{day.year}년 {day.month:02d}월 {day.day:02d}일",
        ),
        *(
            f"{day.year}.{day.month:02d}.{day.day:02d}",
            f"{day.year}.{day.month:02d}.{day.day:02d}.",
        ),
        *(day.isoformat(), f"{day:%y%m%d}", f"{day:%Y%m%d}", f"{day.year}/{day.month}/{day.day}"),
        *(f"{short}년 {day.month}월 {day.day}일", f"{short}.{day.month}.{day.day}"),
        f"{day.year}. {day.month}. {day.day}.",
    )
    return rng.choice(forms)


def birth_year(rng: random.Random, split: Split) -> str:
    """A year of birth, for "...생" to follow."""
    year = rng.randint(1945, 2018)
    return rng.choice((f"{year}년", f"{year % 100:02d}년", f"{year % 100:02d}"))


def spoken_age(rng: random.Random, split: Split) -> str:
    """An age in Korean words, as it stands alone: "서른둘"."""
    tens, ones = rng.choice(_TENS), rng.choice(_ONES)
    return rng.choice(
        (tens + ones, f"{tens} {ones}".strip()) if rng.random() < 0.2 else (tens + ones,)
    )


def date(rng: random.Random, split: Split) -> str:
    """A date or weekday."""
    year, month, day = rng.randint(2019, 2026), rng.randint(1, 12), rng.randint(1, 28)
    weekday = rng.choice("월화수목금토일")
    forms = (
        *(
            f"{month}월 {day}일",
            f"{month}월 {day}일",
            f"{weekday}요일",
            f"{month}/{day}({weekday})",
        ),
        *(
            f"{year}년 {month}월 {day}일",
            f"{month}월 {day}일 {weekday}요일",
            f"{year}.{month}.{day}",
        ),
        *(f"{year}-{month:02d}-{day:02d}", f"다음 주 {weekday}요일", f"{month}/{day}"),
    )
    return rng.choice(forms)


def handle(rng: random.Random, name: str) -> str:
    """A user name made of a name in Latin letters, or of a name and a word."""
    stem = spelled(name, "") + rng.choice(("", "", ".", "_", "love", "_official", "mom", "dev"))
    return f"{stem}{digits(rng, rng.choice((1, 2, 2, 3, 4)))}"


def email(rng: random.Random, name: str) -> str:
    """An e-mail address of a Korean provider, or another."""
    stem = rng.choice((spelled(name, ""), spelled(name, rng.choice("._")), handle(rng, name)))
    host = rng.choice((*_MAIL_HOSTS, *_MAIL_HOSTS, f"{spelled(name, '')}.co.kr", "company.kr"))
    return f"{stem}{rng.randint(1, 99)}@{host}"


def url(rng: random.Random, name: str) -> str:
    """A page of somebody's."""
    forms = ("blog.naver.com/{}", "https://www.instagram.com/{}", "github.com/{}", "{}.tistory.com")
    return rng.choice((*forms, "https://open.kakao.com/me/{}")).format(handle(rng, name))


def account(rng: random.Random, split: Split) -> str:
    """An account number as Korean banks write it."""
    sizes = rng.choice(((3, 2, 6), (6, 2, 6), (3, 3, 6), (4, 3, 6), (3, 6, 2, 3), (4, 2, 7)))
    return rng.choice(("-", "-", "-", "", " ")).join(digits(rng, size) for size in sizes)


def money(rng: random.Random, split: Split) -> str:
    """An amount in won."""
    many, thousands = rng.randint(2, 99), rng.randint(20, 99)
    forms = (
        *(
            f"{many}00만 원",
            f"{many}만원",
            f"{many},000,000원",
            f"{rng.randint(1, 9)}억 원",
            f"{thousands}00만원",
        ),
        *(
            f"{rng.randint(1, 9)}억 {rng.randint(1, 9)}천",
            f"{rng.randint(1, 9)}천{rng.randint(1, 9)}백만원",
        ),
        *(
            f"{rng.randint(2, 9)},{rng.randint(1, 9)}00만 원",
            f"{digits(rng, 3, '123456789')},{digits(rng, 3)}원",
        ),
    )
    return rng.choice(forms)


def price(rng: random.Random, split: Split) -> str:
    """A price in a shop, which tells of nobody."""
    return rng.choice(
        (f"{rng.randint(1, 99)},{rng.randint(0, 9)}00원", f"{rng.randint(1, 30)}만원")
    )


def passport(rng: random.Random, split: Split) -> str:
    """A passport number of the Republic of Korea."""
    return rng.choice((f"M{digits(rng, 8)}", f"M{digits(rng, 3)}A{digits(rng, 4)}"))


def licence(rng: random.Random, split: Split) -> str:
    """A Korean driving licence number."""
    area = rng.choice((str(rng.randint(11, 28)), "서울 ", "경기 "))
    return f"{area}-{rng.randint(10, 24)}-{digits(rng, 6)}-{digits(rng, 2)}".replace(" -", " ")


def business_number(rng: random.Random, split: Split) -> str:
    """A business registration number by its shape."""
    return f"{digits(rng, 3, '123456')}-{digits(rng, 2)}-{digits(rng, 5)}"


def alien_number(rng: random.Random, split: Split) -> str:
    """A foreigner's registration number by its shape: 5 to 8 after the date of birth."""
    number = identifiers.rrn(rng)
    at = number.find("-") + 1 or 6
    return number[:at] + rng.choice("5678") + number[at + 1 :]


def password(rng: random.Random, split: Split) -> str:
    """A password of any country, or one as Koreans type them."""
    if rng.random() < 0.5:
        return credentials.password(rng)
    name = spelled(rng.choice(word_list("ko_given", split)), "")
    word = rng.choice((*_TYPED, name, name, name, name.capitalize()))
    return word + digits(rng, rng.choice((2, 3, 4, 4))) + rng.choice(("", "", "!", "@", "!!", "~!"))


def door_code(rng: random.Random, split: Split) -> str:
    """The code of an entrance."""
    code = digits(rng, rng.choice((4, 4, 4, 5, 6)))
    return rng.choice((code, code, f"{code}*", f"#{code}#", f"*{code}#", f"{code}#", f"#{code}*"))


def order(rng: random.Random, split: Split) -> str:
    """A number of an order, a parcel or a file, which tells of nobody by itself."""
    forms = (
        *(
            f"{digits(rng, 4, '3456')}-{digits(rng, 4)}-{digits(rng, 4)}",
            f"{letters(rng, 2)}{digits(rng, 8)}",
        ),
        *(f"2025{digits(rng, 8, '01')}{digits(rng, 4)}", f"{letters(rng, 3)}-{digits(rng, 5)}"),
        f"제2025-{digits(rng, 4)}호",
    )
    return rng.choice(forms)


def organisation(rng: random.Random, split: Split, tails: str = "") -> str:
    """A school, hospital, shop or firm with a name made up: a stem and a tail of the list."""
    tail = rng.choice(
        word_list(tails or rng.choice(("ko_firm", "ko_firm", "ko_shop", "ko_school")), split)
    )
    stem = rng.choice(word_list("ko_stem", split))
    return f"{tail}{stem}" if tail.endswith((")", "㈜")) else stem + tail
