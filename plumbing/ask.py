"""One question from the shell, answered as the model writes: `python rollout.py "..."`."""

import argparse
import sys
import time

from plumbing.checkpoints import best_device, load_model
from plumbing.console import report_errors
from plumbing.prompts import encode_prompt, response_ends
from plumbing.text import printable
from tiny import CHAT_TEMPLATE


def answer(generate, model, tokenizer, prompt_ids, ends, limit, temperature, seed):
    """Print one response as it comes, then, dim, how many tokens, how fast, and why it ended."""
    ids, shown, start = [], "", time.perf_counter()

    def show(rows, tokens):
        nonlocal shown
        ids.extend(tokens)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        if not text.endswith("\ufffd"):  # That would be half of a character.
            print(printable(text[len(shown) :]), end="", flush=True)
            shown = text

    try:
        rollout = generate(
            model, [prompt_ids], max_new_tokens=limit, temperature=temperature, seed=seed,
            eos_ids=ends[0], stop_strings=ends[1], tokenizer=tokenizer, on_tokens=show,
        )  # fmt: skip
        reason = "ended by itself" if rollout.finished[0] else f"cut at {limit} tokens"
    except KeyboardInterrupt:
        reason = "interrupted"
    print(printable(tokenizer.decode(ids, skip_special_tokens=True)[len(shown) :]))
    rate = len(ids) / (time.perf_counter() - start)
    line = f"{len(ids)} tokens, {rate:.1f} tokens/s, {reason}"
    print(f"\033[2m{line}\033[0m" if sys.stderr.isatty() else line, file=sys.stderr)


def ask(generate, argv=None):
    """Read the command line, load the model, print its answer; returns the exit code.

    generate  that of rollout.py
    """
    parser = argparse.ArgumentParser(description="Sample a response and print it as it comes.")
    parser.add_argument("prompt", help="the question")
    parser.add_argument("--model", default="tiny", help="tiny, a folder, a short name or a hub id")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="tokens")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    def start():
        model, tokenizer = load_model(args.model, **best_device())
        kind = "tiny" if tokenizer.chat_template == CHAT_TEMPLATE else "math"
        problem = {"problem": args.prompt, "answer": "", "kind": kind}
        ids, ends = encode_prompt(tokenizer, problem), response_ends(model, tokenizer, [problem])
        limit = max(1, min(args.max_new_tokens, model.max_positions - len(ids)))
        answer(generate, model, tokenizer, ids, ends, limit, args.temperature, args.seed)

    return report_errors(start, "nothing was sampled", "lower --max-new-tokens")
