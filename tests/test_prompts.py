"""Prompts and the ends of responses.    python -m pytest tests/test_prompts.py"""

import datetime
import types

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import dsrl
from plumbing.flags import Config
from plumbing.prompts import BOXED, LETTER, describe_template, encode_prompt, response_ends
from plumbing.prompts import start_token_of
from prerl import check_start_token

MATH = {"kind": "math", "problem": "?", "answer": "18"}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<think>", "</think>"]
EACH, END = "{% for m in messages %}", "{% endfor %}"
CHATML = (
    EACH + "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n" + END
    + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}" + EACH + "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}" + END
)
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + EACH + "<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n" + END
)
DROPS = (
    EACH + "{% if m['role'] != 'system' %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "<|im_end|>{% endif %}" + END
)
DATED = (
    "{% set form = '%F' %}Today: {{ strftime_now('%-d %b %Y') }} {{ strftime_now(format=form) }}"
    + EACH + "{{ m['content'] }}" + END
)
LLAMA = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% endif %}Today: {{ date_string }}" + EACH + "{{ m['content'] }}<|im_end|>" + END
)


def make_tokenizer(template=None, special=SPECIAL, eos="<|endoftext|>", adds_eos=False):
    """A tokenizer of bytes with some special tokens, as transformers reads one from a folder."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    if adds_eos:
        id = tokenizer.token_to_id(eos)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {eos}",
                                                                 special_tokens=[(eos, id)])
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos,
                                   bos_token="<s>" if "<s>" in special else None)
    made.chat_template, made.name_or_path = template, "a/b"
    return made


def model_of(tokenizer):
    return types.SimpleNamespace(eos_ids=(tokenizer.eos_token_id,))


def prompt(template, problem=MATH, **how):
    tokenizer = make_tokenizer(template, **how)
    return tokenizer.decode(encode_prompt(tokenizer, problem), skip_special_tokens=False)


def test_prompts_are_the_template_or_plain_text():
    """Bug: special tokens twice, thinking left on, a system turn in the tiny world."""
    asked = "<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n"
    assert prompt(CHATML) == f"<|im_start|>system\n{BOXED}<|im_end|>\n{asked}"
    thinks = CHATML + "{% if enable_thinking %}<think>{% endif %}"
    assert prompt(thinks, {**MATH, "kind": "tiny"}) == asked
    assert prompt(None) == f"{BOXED}\n\nQuestion: ?\nAnswer:"
    tokenizer = make_tokenizer(CHATML)
    base = encode_prompt(tokenizer, MATH, template="base")
    assert tokenizer.decode(base) == f"{BOXED}\n\nQuestion: ?\nAnswer:"
    shown = {"kind": "bbh", "problem": "?", "answer": "No", "shots": "Q: 1\nA: 2\n\n"}
    text = "Q: 1\nA: 2\n\nQ: ?\nA: Let's think step by step."
    assert prompt(None, shown) == text
    assert prompt(CHATML, shown) == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(ValueError, match="legal: chat, base"):
        encode_prompt(tokenizer, MATH, template="qwen")


@pytest.mark.parametrize("template", [MISTRAL, GEMMA, DROPS])
def test_without_a_system_turn_the_user_turn_has_the_instruction(template):
    """Bug: jinja2's traceback, or an instruction that a template drops without a word."""
    assert f"{BOXED}\n\n?" in prompt(template)
    choice = {"kind": "choice", "problem": "Which?", "options": ["u", "v"], "answer": "A"}
    assert f"{LETTER}\n\nQuestion:\nWhich?\nOptions:\nA. u\nB. v" in prompt(template, choice)
    assert BOXED not in prompt(template, {**MATH, "kind": "tiny"})


def test_a_template_that_writes_no_user_turn_says_so():
    """Bug: a traceback of jinja2 for a template of other roles, or one with a mistake in it."""
    for template in ("{{ raise_exception('tools only') }}", "{% if %}", "{{ 1 / 0 }}", "{{ '' }}",
                     "{% for i in range(10**9) %}{% endfor %}", "{{ 'a'.index('b') }}",
                     "{{ messages[5]['content'] + 1 }}"):
        with pytest.raises(ValueError, match="chat template of a/b cannot write the turns user") as error:
            encode_prompt(make_tokenizer(template), MATH)
        assert "\n" not in str(error.value)
        with pytest.raises(ValueError,
                           match="chat template of a/b cannot write the turns user, assistant"):
            response_ends(model_of(make_tokenizer()), make_tokenizer(template), [MATH])


def test_no_prompt_ends_in_eos():
    """Bug: a tokenizer that appends EOS, after which a model has nothing to say."""
    for template in (None, CHATML):
        text = prompt(template, eos="</s>", adds_eos=True)
        assert not text.endswith("</s>") and text.rstrip().endswith(("Answer:", "assistant"))


@pytest.mark.parametrize("template", [DATED, LLAMA])
def test_a_template_prints_the_same_date_at_any_time(monkeypatch, template):
    """Bug: prompts that change at midnight, so that a resumed run differs."""
    text = prompt(template)
    assert "Today: 26 Jul 2024" in text and str(datetime.date.today().year) not in text
    assert template is LLAMA or "2024-07-26" in text
    told = "the chat template prints a date: it is always 2024-07-26"
    assert describe_template(make_tokenizer(template)) == told
    assert describe_template(make_tokenizer(CHATML)) == ""
    thinks = CHATML.replace("assistant\n{%", "assistant\n<think>\n{%")
    assert "opens a thought itself" in describe_template(make_tokenizer(thinks))
    assert "no chat template: prompts are plain text" in describe_template(make_tokenizer())


@pytest.mark.parametrize("template, end", [
    (CHATML, "<|im_end|>"), (MISTRAL, "<|endoftext|>"), (GEMMA, "</s>"), (LLAMA, "<|im_end|>"),
    (DROPS, "<|im_end|>"), (DATED, None), (None, None),
    (CHATML.replace("assistant", "<think>\n\n</think>\nassistant"), "<|im_end|>"),
])  # fmt: skip
def test_the_templates_end_of_turn_ends_a_response(template, end):
    """Bug: Qwen2.5 base, whose EOS is <|endoftext|> and whose template ends turns with <|im_end|>:
    sampling goes on through turns of its own making, and the last box of those is graded.
    """
    tokenizer = make_tokenizer(template)
    ids, stops = response_ends(model_of(tokenizer), tokenizer, [MATH])
    assert set(ids) == {tokenizer.eos_token_id,
                        *([tokenizer.convert_tokens_to_ids(end)] if end else [])}
    next_turn = ("[INST]",) if template == MISTRAL else ()  # text, to this tokenizer
    assert stops == (next_turn if template else ("\nQ:", "\nQuestion:"))
    assert response_ends(model_of(tokenizer), tokenizer, [MATH],
                         "base") == ((tokenizer.eos_token_id,), ("\nQ:", "\nQuestion:"))
    shown = [{**MATH, "shots": "Q: 1\nA: 2\n\n"}]
    assert "\nQ:" in response_ends(model_of(tokenizer), tokenizer, shown)[1]


def test_training_samples_to_the_end_of_a_turn(monkeypatch):
    """Bug: evaluation ends at the template's end of turn, training does not."""
    tokenizer, asked = make_tokenizer(CHATML), {}
    monkeypatch.setattr(dsrl, "generate", lambda model, prompts, **how: asked.update(how))
    run = types.SimpleNamespace(config=Config(), model=model_of(tokenizer), tokenizer=tokenizer,
                                fit=types.SimpleNamespace(kv_cache_gb=None))  # fmt: skip
    dsrl.sample(run, [{**MATH, "prompt_ids": [1]}], 0)
    assert asked["eos_ids"] == tuple(tokenizer.convert_tokens_to_ids(["<|endoftext|>",
                                                                      "<|im_end|>"]))
    assert asked["stop_strings"] == ()


def test_an_end_of_turn_that_is_text_is_a_stop_string():
    """Bug: a ChatML template put on a tokenizer without its tokens: no token ends the turn."""
    tokenizer = make_tokenizer(CHATML, special=["<|endoftext|>"])
    ends = ((tokenizer.eos_token_id,), ("<|im_end|>", "<|im_start|>user"))
    assert response_ends(model_of(tokenizer), tokenizer, [MATH]) == ends


ROLES = ("{% for m in messages %}{{ 'User: ' if m.role == 'user' else 'Assistant: ' }}"
         "{{ m.content }}{{ '\n\n' if m.role == 'user' else eos_token }}{% endfor %}"
         "{% if add_generation_prompt %}Assistant:{% endif %}")  # fmt: skip


def test_the_next_turn_in_plain_text_ends_a_response():
    """Bug: a base model after a template of plain words writes the next user's turn too, and the
    last box of that is graded.
    """
    tokenizer = make_tokenizer(ROLES)
    ends = ((tokenizer.eos_token_id,), ("\nUser:",))
    assert response_ends(model_of(tokenizer), tokenizer, [MATH]) == ends


def test_of_several_templates_the_default_has_a_fixed_date():
    """Bug: a tokenizer with named templates prints today, and the line told says another day."""
    tokenizer = make_tokenizer(DATED)
    expected = encode_prompt(tokenizer, MATH)
    tokenizer.chat_template = {"tool_use": "x", "default": DATED}
    assert encode_prompt(tokenizer, MATH) == expected


def test_start_token_order():
    """Bug: a literal id; EOS taken although there is a BOS or a chat template. Stand-ins carry only
    what is looked at.
    """

    class Tokenizer:
        bos_token_id, eos_token_id, chat_template = None, 9, None

        def apply_chat_template(self, messages, tokenize, **how):
            return "<|im_start|>user\nx"

        def __call__(self, text, add_special_tokens):
            assert not add_special_tokens and text.startswith("<|im_start|>")
            return type("Encoded", (), {"input_ids": [4, 5]})

    tokenizer = Tokenizer()
    assert start_token_of(tokenizer) == 9
    tokenizer.chat_template = "{{ }}"
    assert start_token_of(tokenizer) == 4
    tokenizer.bos_token_id = 3
    assert start_token_of(tokenizer) == 3
    with pytest.raises(ValueError, match="among 2 ids"):
        check_start_token(start_token_of(tokenizer), 2)


@pytest.mark.parametrize("kind", ["math", "tiny"])
@pytest.mark.parametrize("content", ["{{ m['content'][0]['text'] }}", "{{ m['content'] | e }}"])
def test_a_template_that_loses_the_question_is_refused(content, kind):
    """Bug: a template that wants parts, or that escapes <, and prompts without their question."""
    problem = {**MATH, "kind": kind, "problem": "Is 2 < 3?"}
    with pytest.raises(ValueError, match="chat template drops or changes '.*2 < 3"):
        encode_prompt(make_tokenizer(EACH + "user: " + content + END), problem)
