"""Spoil bytes, texts and values, by a seeded generator."""

import random
import re

NASTY_TEXT = (
    "", " ", "²", "-1", "0", "1e308", "-1e308", "nan", "inf", "9" * 5000, "\x00", "\x1b[31mred",
    "\u202e", "<script>alert(1)</script>", "../../x", "/dev/zero", "/dev/null", "true", "null",
    "[" * 3000 + "]" * 3000, "{" * 50, "'", '"', "\\", "λ", "\ud800", "a" * 200_000, "0x10",
    "1_0",    "99999999999999999999", "1.5", "[1, 2]", "{a = 1}", "'x'", "\"\\u0000\"",
    "1979-05-27",
    ",", "-",
)  # fmt: skip
"""What stands where something else was meant."""

NASTY_VALUES = (
    None, True, -1, 0, 1, 2**31, 2**63, 2**200, -(2**70), 1.5, 1e308, float("nan"),
    float("inf"), "",    "x", "²", "\x1b[31m", "\ud800", [], {}, [[]], {"a": 1}, [1, "x"],
    "9" * 400,
)  # fmt: skip
"""The same for JSON and checkpoints."""


def spoil(content: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat, drop, insert or overwrite a few bytes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        where = rng.randrange(len(data) + 1)
        length = min(rng.choice((1, 2, 8, 100, 1000)), len(data))
        match rng.randrange(7):
            case 0 if data:
                data[min(where, len(data) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                del data[where:]
            case 2:
                del data[where : where + length]
            case 3:
                data[where:where] = rng.randbytes(length)
            case 4:
                data[where : where + length] = bytes(length)
            case 5:
                data[where:where] = data[where : where + length]
            case 6:
                data[where : where + length] = rng.randbytes(length)
    return bytes(data)


def spoil_text(text: str, rng: random.Random) -> str:
    """Replace a word of a text, or repeat, drop or swap lines."""
    words = list(re.finditer(r"[^\s=,\[\]{}:\"]+", text))
    match rng.randrange(5):
        case 0 | 1 | 2 if words:
            word = rng.choice(words)
            return text[: word.start()] + rng.choice(NASTY_TEXT) + text[word.end() :]
        case 3:
            lines = text.split("\n")
            rng.shuffle(lines)
            return "\n".join(lines)
        case _:
            lines = text.split("\n")
            del lines[rng.randrange(len(lines))]
            return "\n".join(lines + lines[-1:])


def spoil_value(value: object, rng: random.Random) -> object:
    """Replace, drop, add or rename something somewhere in nested dicts and lists."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        changed = dict(value)
        match rng.randrange(8):
            case 0:
                del changed[key]
            case 1:
                changed[str(rng.choice(NASTY_TEXT))[:100]] = rng.choice(NASTY_VALUES)
            case _:
                changed[key] = spoil_value(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.7:
        index = rng.randrange(len(value))
        return [*value[:index], spoil_value(value[index], rng), *value[index + 1 :]]
    return rng.choice(NASTY_VALUES)
