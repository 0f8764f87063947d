"""Which language a text is in, as far as the refusal rules must know: by script and small words."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

#: Letters that are looked at.
_LETTERS: Final = 400
#: Of the first letters, as many in one script make it the text's script.
_MOST: Final = 0.5
#: First and last code point of the blocks of each script.
_BLOCKS: Final[tuple[tuple[int, int, str], ...]] = (
    (0x0041, 0x024F, "Latin"), (0x1E00, 0x1EFF, "Latin"), (0x0370, 0x03FF, "Greek"),
    (0x0400, 0x052F, "Cyrillic"), (0x0530, 0x058F, "Armenian"), (0x0590, 0x05FF, "Hebrew"),
    (0x0600, 0x077F, "Arabic"), (0x08A0, 0x08FF, "Arabic"), (0xFB50, 0xFEFC, "Arabic"),
    (0x0900, 0x097F, "Devanagari"), (0x0980, 0x09FF, "Bengali"), (0x0A00, 0x0A7F, "Punjabi"),
    (0x0A80, 0x0AFF, "Gujarati"), (0x0B00, 0x0B7F, "Odia"), (0x0B80, 0x0BFF, "Tamil"),
    (0x0C00, 0x0C7F, "Telugu"), (0x0C80, 0x0CFF, "Kannada"), (0x0D00, 0x0D7F, "Malayalam"),
    (0x0D80, 0x0DFF, "Sinhala"), (0x0E00, 0x0E7F, "Thai"), (0x0E80, 0x0EFF, "Lao"),
    (0x0F00, 0x0FFF, "Tibetan"), (0x1000, 0x109F, "Burmese"), (0x10A0, 0x10FF, "Georgian"),
    (0x1200, 0x137F, "Amharic"), (0x1780, 0x17FF, "Khmer"), (0x1800, 0x18AF, "Mongolian"),
    (0x3040, 0x30FF, "Kana"), (0x31F0, 0x31FF, "Kana"), (0xFF66, 0xFF9F, "Kana"),
    (0x3400, 0x4DBF, "Han"), (0x4E00, 0x9FFF, "Han"), (0xF900, 0xFAFF, "Han"),
    (0x20000, 0x2FA1F, "Han"),
    (0x1100, 0x11FF, "Korean"), (0x3130, 0x318F, "Korean"), (0xAC00, 0xD7AF, "Korean"),
)  # fmt: skip
#: Letters that a language of the same script has and the one that the rules know has not.
_UKRAINIAN: Final = re.compile("[іїєґў]", re.IGNORECASE)
_PERSIAN: Final = re.compile("[پچژگکیٹڈڑےں]")
#: Small words of languages in Latin letters: those that the rules know, and those that they do not.
_SMALL: Final[dict[str, str]] = {
    "English": "the of and to is are you that it this with for i can't not be your but my have",
    "German": "der die das ist nicht und ich zu den mit es ein eine sie kann fur auf dabei leider",
    "French": "le la les des est et je ne pas vous que une un pour de il en dans ce cette",
    "Spanish": "el la los las es y que no en una un para de por con lo pero puedo se eso",
    "Portuguese": "o a os as e que nao em uma um para de por com isso mas posso se seu sua",
    "Italian": "il la le gli e che non in una un per di con ma posso questo mi si sono e'",
    "Dutch": "het een niet ik dat kan maar voor van je met helpen zijn deze geen",
    "Polish": "nie sie jest ze moge w tym to na z jak przykro ale pomoc przepraszam",
    "Turkish": "bir icin ve bu degil yardimci ama size olamam uzgunum konuda edemem cok var",
    "Vietnamese": "toi khong the ban cua cho va la giup xin loi nhung co mot nay",
    "Indonesian": "saya tidak bisa dengan untuk ini yang dan maaf membantu anda itu dalam",
    "Swedish": "jag inte och att det kan hjalpa dig med ar en tyvarr men som pa",
    "Danish or Norwegian": "jeg ikke og det kan hjelpe hjaelpe deg dig med er et beklager men som",
    "Finnish": "en voi auttaa ole ja etta tama sinua valitettavasti mutta se asiassa pysty",
    "Czech": "nemohu je ze s tim bohuzel ale vam pomoci se na prominte omlouvam lituji",
    "Hungarian": "nem hogy egy es ebben tudok segiteni sajnalom de az sajnos ez vagy",
    "Romanian": "nu pot sa va cu si este rau dar ajut acest pentru imi pare de",
}  # fmt: skip
_KNOWN: Final = ("English", "German", "French", "Spanish", "Portuguese", "Italian")
_WORDS: Final = {name: frozenset(words.split()) for name, words in _SMALL.items()}
_WORD: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def script(text: str) -> str:
    """The script of most letters of ``text``; empty where there is no letter, or none has most."""
    counts: Counter[str] = Counter()
    for char in text:
        if char.isalpha():
            counts[_block(ord(char))] += 1
            if counts.total() == _LETTERS:
                break
    # Japanese mixes both; kana are never Chinese.
    if counts["Kana"] * 10 >= counts.total() > 0:
        counts["Kana"] += counts.pop("Han", 0)
    most = counts.most_common(1)
    return most[0][0] if most and most[0][1] >= _MOST * counts.total() else ""


def language(text: str) -> str:
    """The language of a text, in English words; empty where nothing tells.

    The rules know English, German, French, Spanish, Portuguese, Italian, Chinese, Japanese,
    Russian, Hindi and Arabic. Any other name is that of a language, or a script, that they do not
    know. ``text``: as :func:`~mergesafe.safety.refusals.text.unaccented` spells it.
    """
    found = script(text)
    if found == "Latin":
        return _by_small_words(text)
    if found == "Cyrillic":
        return "Ukrainian or Belarusian" if _UKRAINIAN.search(text) else "Russian"
    if found == "Arabic":
        return "Persian or Urdu" if _PERSIAN.search(text) else "Arabic"
    names = {"Han": "Chinese", "Kana": "Japanese", "Devanagari": "Hindi"}
    return names.get(found, found)


def known(name: str) -> bool:
    """Whether the rules know the language; they are tried on what no word tells the language of."""
    return name in ("", *_KNOWN, "Chinese", "Japanese", "Russian", "Hindi", "Arabic")


def _block(point: int) -> str:
    return next((name for first, last, name in _BLOCKS if first <= point <= last), "another script")


def _by_small_words(text: str) -> str:
    """Two small words of one language, and more than of any other."""
    words = _WORD.findall(text.lower()[: 4 * _LETTERS])
    hits = {name: sum(word in known for word in words) for name, known in _WORDS.items()}
    best = max(hits, key=lambda name: (hits[name], name in _KNOWN))
    # A language that the rules know has the benefit of the doubt: its tables are tried first.
    distinct = len({word for word in words if word in _WORDS[best]})
    return best if distinct >= 2 else ""
