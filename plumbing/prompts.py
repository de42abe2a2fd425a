"""Prompts: how a question is put to a model, and what ends its response.

Training and evaluation share `encode_prompt` and `response_ends`. With a chat template the question
is the user turn and the instruction the system turn; a tokenizer without one gets plain text.
`start_token_of` is what stands in the prompt's place where responses are scored without it.
"""

import datetime
import re
import string
from contextlib import suppress

LETTERS = string.ascii_uppercase  # of the options of a question
BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
LETTER = 'Think step by step, then end with "the answer is (X)", where X is the right letter.'
PHRASE = 'Think step by step, then end with "So the answer is ...", in the form asked for.'
SYSTEM = {"choice": LETTER, "bbh": PHRASE, "tiny": None}  # the instruction by kind, else BOXED
MARK = re.compile(r"<[^<>\s]+>")  # <end_of_turn>, which not every tokenizer calls special
NEXT_QUESTIONS = ("\nQ:", "\nQuestion:")  # where a base model begins a problem of its own
# Some templates print today's date, and then a run resumed after midnight would have other prompts.
DATE = datetime.date(2024, 7, 26)  # what the templates of Llama 3 print where no clock is at hand
CLOCK = "".join([  # in a template's own language: in place of transformers' function of that name
    "{%- macro strftime_now(format) -%}{{ format",
    *(f" | replace('%{code}', '{DATE.strftime('%' + code)}')"
      for code in (*"aAbBcdDeFHIjmMpRSTxXyY", "-d", "-m", "-H", "-I", "-j")),
    " }}{%- endmacro -%}",
])  # fmt: skip


def question_text(problem):
    """The question as the benchmark's own few-shot prompt writes it, up to the answer's start."""
    text = problem["problem"]
    if problem["kind"] == "bbh":
        return f"Q: {text}\nA: Let's think step by step."
    if problem["kind"] == "choice":
        options = "\n".join(map("{}. {}".format, LETTERS, problem["options"]))
        return f"Question:\n{text.strip()}\nOptions:\n{options}\nAnswer: Let's think step by step."
    return text


def template_of(tokenizer):
    """The chat template that prompts use, a text or None: of several the one named default."""
    own = tokenizer.chat_template
    return own.get("default") if isinstance(own, dict) else own


def render(tokenizer, turns, is_prompt=True):
    """A conversation as the tokenizer's chat template writes it, thinking off, the date fixed.

    Raises ValueError where the template refuses it.
    """
    template = template_of(tokenizer)
    template = CLOCK + template if "strftime_now" in (template or "") else template
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=is_prompt, enable_thinking=False,
            date_string=DATE.strftime("%d %b %Y"), chat_template=template,
        )  # fmt: skip
        if not text:
            raise ValueError("it writes nothing")
        return text
    except Exception as error:  # a template is a program, in a sandbox: it may raise anything
        roles = ", ".join(turn["role"] for turn in turns)
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path} cannot write the turns {roles} "
            f"({error}): mend or remove it"
        ) from error


def describe_template(tokenizer):
    """What a person should know of the prompts, in one line, or ""."""
    if not tokenizer.chat_template:
        return "the tokenizer has no chat template: prompts are plain text, Question: ... Answer:"
    told = []
    if re.search("strftime_now|date_string", template_of(tokenizer) or ""):
        told.append(f"the chat template prints a date: it is always {DATE}")
    if opens_thought(tokenizer):
        told.append("the chat template opens a thought itself, though thinking is off: only what "
                    "stands behind </think> counts")  # fmt: skip
    return "; ".join(told)


def opens_thought(tokenizer, template="chat"):
    """Whether prompts end in <think>, so that a response begins within a thought."""
    if template != "chat" or not tokenizer.chat_template:
        return False
    return render(tokenizer, [{"role": "user", "content": "2 + 3?"}]).rstrip().endswith("<think>")


def control_tokens_in(tokenizer, problems):
    """For each problem a token of control that it holds as text, <|im_end|>, else None: a model
    would obey it.
    """
    added = tokenizer.added_tokens_decoder.values()
    control = [one.content for one in added if one.special or MARK.fullmatch(one.content)]
    texts = map(question_text, problems)
    return [next((token for token in control if token in text), None) for text in texts]


def chat_prompt(tokenizer, instruction, question):
    """The chat prompt; if the template refuses or drops a system turn, the user turn has both."""
    if instruction:
        turns = [("system", instruction), ("user", question)]
        with suppress(ValueError):  # "System role not supported"
            text = render(tokenizer, [{"role": role, "content": one} for role, one in turns])
            if instruction in text and question.strip() in text:
                return text
        question = f"{instruction}\n\n{question}"
    text = render(tokenizer, [{"role": "user", "content": question}])
    if question.strip() not in text:  # a template that wants parts, or that escapes < as &lt;
        raise ValueError(f"the chat template drops or changes {question[:80]!r}: mend or remove it")
    return text


def encode_prompt(tokenizer, problem, template="chat"):
    """Token ids of the prompt, a list of int: the one function that training and evaluation share.

    template  "chat": the tokenizer's own, if it has one, thinking off; "base": plain text
    """
    if template not in ("chat", "base"):
        raise ValueError(f"template {template!r} is unknown; legal: chat, base")
    shots, system = problem.get("shots") or "", SYSTEM.get(problem["kind"], BOXED)
    system = None if shots and system == PHRASE else system  # BBH's examples show the form
    question = shots + question_text(problem)
    if template == "chat" and tokenizer.chat_template:
        text = chat_prompt(tokenizer, system, question)
        return tokenizer(text, add_special_tokens=False).input_ids  # the template wrote them
    question = f"Question: {question}\nAnswer:" if system == BOXED else question
    ids = tokenizer(f"{system}\n\n{question}" if system else question).input_ids
    # Some tokenizers end every text with EOS, after which a model has nothing to say.
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def check_embeddings(tokenizer, problem, ids, vocab_size):
    """Raise ValueError for a prompt with a token that the model does not have."""
    if (last := max(ids, default=0)) >= vocab_size:
        raise ValueError(
            f"the prompt of {problem['problem'][:60]!r} has the token {last}, "
            f"{tokenizer.decode([last])!r}, but the model has only {vocab_size} embeddings"
        )


def response_ends(model, tokenizer, problems, template="chat"):
    """(eos_ids, stop_strings): what ends a response; nothing after it is sampled.

    Beside the model's EOS that is the token with which the chat template ends a turn (Qwen2.5 base
    has <|endoftext|> as EOS, its template <|im_end|>), or begins the user's next one ("User:"), and
    without a template a further question.
    """
    is_chat = template == "chat" and tokenizer.chat_template
    has_shots = any(problem.get("shots") for problem in problems)
    eos_ids, stops = set(model.eos_ids), list(NEXT_QUESTIONS if has_shots or not is_chat else ())
    if not is_chat:
        return model.eos_ids, tuple(stops)
    turns = [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "It is 5."}]
    end = render(tokenizer, turns, is_prompt=False).rpartition("It is 5.")[2].strip()
    text = render(tokenizer, [*turns, {"role": "user", "content": "4 + 4?"}])
    opening = text.partition("It is 5.")[2].partition("4 + 4?")[0].strip().removeprefix(end)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for mark in filter(None, (end, opening.strip())):
        first, line = tokenizer(mark, add_special_tokens=False).input_ids[0], mark.split("\n")[0]
        if first not in special:  # a word as "User:" ends it only at the start of a line
            stops.append(f"\n{line}" if mark != end and line[0].isalpha() else line)
        elif mark == end:
            eos_ids.add(first)
    return tuple(sorted(eos_ids)), tuple(stops)


def start_token_of(tokenizer):
    """s, the token that stands in for the prompt: BOS, else the chat template's first, else EOS.

    None if there is none of them: `prerl.check_start_token` refuses that.
    """
    token = tokenizer.bos_token_id
    if token is None and tokenizer.chat_template:
        text = render(tokenizer, [{"role": "user", "content": "x"}])
        token = tokenizer(text, add_special_tokens=False).input_ids[0]
    return tokenizer.eos_token_id if token is None else token
