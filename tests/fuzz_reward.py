"""Throw made-up text at the grader for a while: no exception, no slow input, no false verdict.

Three kinds of input: answers glued from the grammar's own tokens, answers of the test table with
random edits, and generated expressions whose verdict is known.  A failure prints seed and input.

    python tests/fuzz_reward.py --seconds 60
"""
import argparse
import random
import sys
import time
from fractions import Fraction
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
from test_reward import ROWS, spell

import reward

SECONDS_PER_INPUT = 1.0
PIECES = r"""
    \frac \frac{1}{2} \frac12 \sqrt \sqrt{ \sqrt[3]{ { } ( ) [ ] \{ \} \left( \right) | , ; : + -
    * / ^ _ = < > \le \ge \ne \in \approx \pm \mp \cup \cap \setminus \mathbb{R} \infty \emptyset
    \pi e i x y n a_1 f(x) f(x)= sin \sin cos^2 \log_2 \ln exp \binom{5}{2} \gcd( \max( \lfloor
    \rfloor \lceil \rceil ! !! ' % \% ^\circ ° \text{and} \text{cm} or and to cm apples yes A (B)
    \begin{pmatrix} \end{pmatrix} & \\ \ \, \! $ \$ 1,000 1{,}000 0.5 .5 5. 1e5 1e-9999 101_2
    _{10} 007 42 -7 10^{99} 9^9 ∞ ² ½ √ π \overline{AB} \angle \sum_{k=1}^n \int \quad ~ ** ...
    \ldots \cdot \times \to \mid \boxed{ \boxed{5} </think> <answer> #### x>3 is the answer \alpha
    \unknown \ é 🙂 १ \mathrm{E} \operatorname{lcm} 0 1/0 0^0 2.000001 1/3 0.333333
    \dot{x} \ddot \dot 0.\bar{3} 1.( for all every \in\mathbb{Z} \text{th} th ⁻ ₂ ⁿ I(0) \max
    \\[6pt]
    \mathrm{m\,s^{-1}} \lbrace \rbrace k=1 A: (a) pm am maybe squared out of
    да нет 元 万 ₽ 。 हाँ \pmod{11} (mod USD a.m. :00 sec books foot pies million
    kN m/s^2 h^{-1} J/(kg*K) \frac{m}{s} \Omega \mu \AA ] [ ② 或 千 以上 inf cis \equiv \forall since
    \begin{cases} \end{cases} 3333333333333333333333333 {x| \triangle 答案是 <think> \bmod eight
""".split()


def glue(rng: random.Random) -> str:
    """An answer of random pieces, now and then a long run of one."""
    if rng.random() < .05:
        piece = rng.choice((*PIECES, " ", "\\ "))
        run = piece * rng.randrange(1, 2000 // len(piece))
        return rng.choice(PIECES) + run + rng.choice(PIECES)
    count = rng.choice((1, 2, 3, 4, 6, 9, 20, 150))
    return rng.choice(("", " ")).join(rng.choices(PIECES, k=count))


def edit(rng: random.Random, text: str) -> str:
    """A few characters deleted, doubled, swapped or replaced by a piece."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice((0, 1, 1, 2, 5)))
        piece = text[at:end]
        text = text[:at] + rng.choice(("", piece * 2, piece[::-1], rng.choice(PIECES))) + text[end:]
    return text


def tree(rng: random.Random, size: int) -> tuple:
    """A random expression, as spell of the tests takes it."""
    if size <= 1:
        return ("name", rng.choice("xyab")) if rng.random() < .5 else (
            "number", Fraction(rng.choice((-7, -2, 1, 3, 5, 12)), rng.choice((1, 1, 2, 9))))
    kind = rng.choice(("add", "multiply", "square"))
    if kind == "square":
        return kind, tree(rng, 1)
    return kind, tree(rng, size // 2), tree(rng, size - size // 2)


def check(rng: random.Random, table: list) -> float:
    """One input; the seconds it took; raises AssertionError, or whatever the grader raised."""
    kind = rng.random()
    if kind < .2:
        expression = tree(rng, rng.randint(1, 6))
        change = Fraction(rng.choice((-1, 1, 2)), rng.choice((1, 7, 100)))
        changed = ("add", expression, ("number", change))
        first, second, third = spell(expression, rng), spell(expression, rng), spell(changed, rng)
        assert reward.equal(first, second), f"should be equal: {first!r} {second!r}"
        assert not reward.equal(third, first), f"should differ: {third!r} {first!r}"
        return 0.0
    predicted, gold, _ = rng.choice(table)
    if kind < .6:
        predicted, gold = edit(rng, predicted), edit(rng, gold) if rng.random() < .5 else gold
    else:
        predicted, gold = glue(rng), glue(rng) if rng.random() < .5 else gold
    start = time.perf_counter()
    try:
        assert reward.score(predicted, gold, loose=True) in (0.0, 1.0)
        reward.score(f"\\boxed{{{predicted}}}", gold)
        assert reward.equal(predicted, gold) in (True, False)
        reward.parses(predicted), reward.equal(predicted, gold, strict=True)
        used = time.perf_counter() - start
        assert used < SECONDS_PER_INPUT * 4, f"{used:.2f} s"
    except Exception as error:           # any error at all is the finding: show its input
        raise AssertionError(f"{error!r} for {predicted!r} against {gold!r}") from error
    return used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long")
    parser.add_argument("--seed", type=int, default=0, help="of the first input")
    args = parser.parse_args()
    end, seed, slowest = time.monotonic() + args.seconds, args.seed, (0.0, 0)
    while time.monotonic() < end:
        try:
            slowest = max(slowest, (check(random.Random(seed), ROWS), seed))
        except AssertionError as error:
            sys.exit(f"seed {seed}: {error}")
        seed += 1
    print(f"{seed - args.seed:,} inputs in {args.seconds:.0f} s, nothing found; the slowest, seed "
          f"{slowest[1]}, took {1000 * slowest[0]:.0f} ms for its five calls")


if __name__ == "__main__":
    main()
