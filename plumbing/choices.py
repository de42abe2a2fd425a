r"""Answers that are letters of options: B is "(B) five", ACD is "A, C and D", and (B) 12 is 12."""

import re

from plumbing.spelling import normalise

CHOICE = re.compile(r"""
    \s*(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer):?\ )?[(\[]?([A-Ja-j])  # B, (b), Option B
    (?:[)\].:\s]*                                       # and no more; or the option's text after it
    | [).:]+(?:\s+|(?<=\))(?=\w))                       # B. five; (B)five
      (?!(?:or|and|not|false|incorrect|is|no\ wait)\b   # but no "B) or ...", "B. not"
      | .*\b(?:[B-J]|A(?!\ [a-z]))\b                    # nor a second letter: "C. or D"
      | \(?[a-j](?:\)|\ is\b)|(?:.*[a-z]{2}\ )?[b-j]\b\W*$)
      (.+))""", re.X)
# The label itself, with what opens and closes a \text{} around it
LABEL = re.compile(r" ?(\\text\s?\{ ?)?(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer):? )?"
                   r"[(\[]?[A-Ja-j] ?[)\].:]+ ?(\})? ?")
LAYOUT = re.compile(r"\\text(?![a-zA-Z])|[{}$~]|\\[,;! ]")


def choice(text):
    """The letter of a multiple-choice answer and what stands behind it: ("B", "five")."""
    match = CHOICE.fullmatch(LAYOUT.sub("", text)) if len(text) < 200 else None
    return (match[1].upper(), match[2]) if match else ("", None)


def several_letters(text):
    """The letters of a choice of several, in order: ACD of "A, D and C"; "" of CAB, a word."""
    text = LAYOUT.sub("", text).strip()
    letters = re.sub(r"[\s,;&()]|\band\b", "", text)
    in_order = "".join(sorted(letters))
    is_choice = re.fullmatch("[A-H]{2,8}", letters) and (letters == in_order or letters != text)
    return in_order if is_choice else ""


def without_label(text):
    r"""12 of \text{(B)} 12, \text{five} of \text{(B) five}."""
    label = LABEL.match(text)
    if not label:
        return text
    opening = label[1] if label[1] and not label[2] else ""
    return normalise(opening + text[label.end() :])  # \text{12} is 12


def compare_letters(predicted, ground_truth):
    """(right?, predicted, ground_truth); where no letter decides None, and without their labels."""
    several = several_letters(ground_truth)
    if several and several == several_letters(predicted):
        return True, predicted, ground_truth
    letter, behind = choice(predicted)
    gold_letter, gold_behind = choice(ground_truth)
    is_bare = gold_letter and not gold_behind and gold_letter in ground_truth  # b may be a number
    if letter and gold_letter and not (letter == gold_letter and behind and gold_behind) or is_bare:
        return letter == gold_letter, predicted, ground_truth
    predicted = without_label(predicted) if behind else predicted
    return None, predicted, without_label(ground_truth) if gold_behind else ground_truth
