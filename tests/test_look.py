"""The picture of one response.    python -m pytest tests/test_look.py"""

import pytest
import torch

from plumbing.benchmarks import load_problems
from plumbing.checkpoints import load_model
from plumbing.look import draw_tokens, measure_tokens
from prerl import conditional_logprobs
from rollout import generate


def test_a_response_token_by_token(world, tmp_path):
    """Bug: another row's values, weights left changed by the trial step, a push of the wrong sign."""
    model, tokenizer = load_model(world)
    before = {name: value.clone() for name, value in model.named_parameters()}
    for problem in load_problems(f"{world}/test.jsonl"):
        if measured := measure_tokens(model, tokenizer, problem, max_new_tokens=24):
            break
    tokens, bands = measured
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
    assert list(bands) == ["question", "NSR-PreRL", "GRPO"]
    assert {len(band) for band in bands.values()} == {len(tokens)}
    for name in ("NSR-PreRL", "GRPO"):
        pushed = bands[name]
        assert max(map(abs, pushed)) == pytest.approx(1) and sum(pushed) < 0, "it is a wrong one"
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": problem["problem"]}], add_generation_prompt=True, return_dict=False
    )
    rollout = generate(model, [prompt], group_size=32, max_new_tokens=24, eos_ids=model.eos_ids)
    with torch.no_grad():
        scored = conditional_logprobs(model, rollout)
    starts = tokenizer.bos_token_id
    text = "".join(tokens)
    row = next(i for i, ids in enumerate(rollout.response_ids)
               if tokenizer.decode(ids[rollout.response_mask[i]]) == text)  # fmt: skip
    ids = torch.cat([torch.tensor([starts]), rollout.response_ids[row][rollout.response_mask[row]]])
    with torch.no_grad():
        logits = model.lm_head(model(ids[None]))[0, :-1].log_softmax(-1)
    alone = logits.gather(1, ids[1:, None])[:, 0]
    expected = scored[row][rollout.response_mask[row]] - alone
    assert torch.allclose(torch.tensor(bands["question"]), expected, atol=1e-4)
    draw_tokens(problem["problem"], tokens, bands, tmp_path / "tokens.png")
    assert (tmp_path / "tokens.png").stat().st_size > 5000
    tokens[:2], title = ("$$", "$\\x$"), r"$\begin{array}{c}x\end{array}$ of $\dfrac{1}{2}$"
    draw_tokens(title, tokens, bands, tmp_path / "mathematics.png")  # what matplotlib cannot set
    assert (tmp_path / "mathematics.png").stat().st_size > 5000
