"""What reaches the terminal, from whatever file or model its words are."""

from tqdm import tqdm


def say(text):
    """Print it above the progress bar, from whatever file its words are."""
    tqdm.write(printable(text))


def printable(text):
    r"""The text with control characters, by which it could rule the terminal, shown as \x1b."""
    shown = (
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in text
    )
    return "".join(shown)
