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
LETTER_UNIT = re.compile(rf"{END_OF_VALUE} {NAME}$")  # 5 m
# In a gold single letters may be a product, 5 m or 2/3 C/S, where these are none
SURE = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2}|\\(?:Omega|circ|mu)|\bm\b(?:[ /}{]| ?\\cdot ?)+s\b"
                  r"|\bs\^")


def without_units(predicted, ground_truth):
    """Both without a unit where the other side has no names: then 5 kN is no product."""
    bare, unit = UNIT.sub("", LETTER_UNIT.sub("", predicted)), UNIT.search(ground_truth)
    if bare != predicted and not variables(*readings(ground_truth)):
        return bare, ground_truth
    if unit and SURE.search(unit[0]) and not variables(*readings(predicted)):
        return predicted, ground_truth[: unit.start()]
    return predicted, ground_truth
