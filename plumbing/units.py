r"""Units that read as products of names: 12 kN, 5 m/s^2, 12 km h^{-1}, 3 J/(kg K), 5 k\Omega.

A word after a number is a unit by itself, see SHORT_WORDS in answers.py.
"""

import re

from plumbing.answers import readings, variables

PER = r"(?: ?[/*] ?| ?\\cdot ?| )"
NAME = (r"(?:[kcdmMGTnpf]?(?:Pa|Hz|eV|mol|Wb|Wh|bar|cal|pc|[mgsLlNJWVAKCFHSTG])|h|min|hrs?|yr|rpm"
        r"|lbs?|oz|yd|ft|in|mi|ha|cc|ly|AU|u|amu|ppm|ppb|dB|psi|atm|mmHg|rad|sr|erg|arcsec|arcmin"
        r"|cd|lm|lx|Jy)(?![a-zA-Z])(?:\^-?\d|\^\{-?\d\})?")
END_OF_VALUE = r"(?:(?<=[\d})])|(?<=\\pi))"
UNIT = re.compile(
    rf"{END_OF_VALUE} *(?:(?=[a-zA-Z]{{2}}|[a-zA-Z][\^{{}}\d-]*{PER}[(a-zA-Z]){NAME}"
    rf"(?:{PER}(?:sec|{NAME}|\({NAME}{PER}{NAME}\))){{0,3}}|\\frac\{{{NAME}\}}\{{{NAME}\}})$"
    r"|\\circ\s*[CFK]$|(?<=\d) *(?:\\text\s?\{)?[kmM]?\}? *\\Omega$"
    r"|(?<=\d) *\\mu *(?:\\text\s?\{)?[a-zA-Z]\}?$")
LETTER_UNIT = re.compile(rf"{END_OF_VALUE} {NAME}$")  # 5 m, which in a gold may be a product


def without_units(predicted, ground_truth):
    """Both without a unit where the other side has no names: then 5 kN is no product."""
    bare = UNIT.sub("", LETTER_UNIT.sub("", predicted)), UNIT.sub("", ground_truth)
    if bare[0] != predicted and not variables(*readings(ground_truth)):
        predicted = bare[0]
    elif bare[1] != ground_truth and not variables(*readings(predicted)):
        ground_truth = bare[1]
    return predicted, ground_truth
