"""Texts of others, as they may be shown on a terminal."""


def printable(text):
    r"""The text with control characters, by which it could rule the terminal, shown as \x1b."""
    shown = (
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in text
    )
    return "".join(shown)
