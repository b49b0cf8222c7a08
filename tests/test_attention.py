"""Attention by products equals the fused kernel's and a literal one; what it does not know goes to the fused kernel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import reference
import tiny_heads
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guidestar.model import attention, kv
from guidestar.model.batches import followed, pad_left, pad_right

MODULE = SimpleNamespace(num_key_value_groups=2, is_causal=True, training=False)


def case(rows: int, heads: int, shared: int, tokens: int, keys: int, dtype: torch.dtype = torch.float64) -> Any:
    g = torch.Generator().manual_seed(rows + 10 * tokens + 100 * keys)
    made = [(heads, tokens), (shared, keys), (shared, keys)]
    parts = [torch.randn(rows, n, m, 4, generator=g, dtype=torch.float64).to(dtype) for n, m in made]
    seen = torch.ones(tokens, keys, dtype=torch.bool).tril(keys - tokens).expand(rows, 1, tokens, keys).clone()
    seen[0, :, (1 if keys == tokens else 0) :, 0] = False  # padding on the left, as far as each token sees another
    return parts, torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 4), st.integers(0, 3))
def test_it_is_the_literal_one(rows: int, shared: int, group: int, tokens: int, before: int) -> None:
    parts, mask = case(rows, shared * group, shared, tokens, tokens + before)
    found, weights = attention.attend(MODULE, *parts, mask, scaling=0.3)
    assert weights is None
    torch.testing.assert_close(found, reference.attention(*parts, mask, 0.3), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("keys", [7, attention._WIDE, attention.LONGEST, attention.LONGEST + 1])
def test_bfloat16_is_as_near_as_the_fused_kernel(keys: int) -> None:
    parts, mask = case(2, 4, 2, 7, keys)
    exact, _ = attention.attend(MODULE, *parts, mask)
    low = [part.bfloat16() for part in parts]
    fused, _ = attention.sdpa_attention_forward(MODULE, *low, mask.bfloat16())
    for one in (fused, attention.attend(MODULE, *low, mask.bfloat16())[0]):
        assert (one - exact).abs().max() < 0.03 * exact.abs().max()


def test_gradients_are_those_of_the_fused_kernel() -> None:
    found = []
    for attend in (attention.attend, attention.sdpa_attention_forward):
        parts, mask = case(2, 4, 2, 5, 5)
        for part in parts:
            part.requires_grad_()
        attend(MODULE, *parts, mask)[0].square().sum().backward()
        found.append([part.grad for part in parts])
    for one, other in zip(*found, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other)


def test_what_is_rare_goes_to_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *args, **named: seen.append(named))
    parts, mask = case(1, 2, 1, 3, 3)
    attention.attend(MODULE, *parts, None)
    attention.attend(MODULE, *parts, mask, softcap=30.0)
    attention.attend(MODULE, *parts, mask, s_aux=torch.zeros(2))
    attention.attend(MODULE, parts[0].float(), *parts[1:], mask)
    long, wide = case(1, 2, 1, 1, attention.LONGEST + 1)
    attention.attend(MODULE, *long, wide)
    attention.attend(MODULE, *parts, mask == 0)
    assert len(seen) == 6
    assert seen[1]["softcap"] == 30.0
    assert attention.attend(MODULE, *parts, None, is_causal=False) is not None
    assert attention.attend(MODULE, *parts, mask, softcap=None) is not None
    assert len(seen) == 6


def test_a_text_without_padding_in_an_encoder_has_no_mask() -> None:
    parts, _ = case(2, 4, 2, 5, 5)
    found, _ = attention.attend(MODULE, *parts, None, is_causal=False, scaling=0.5)
    torch.testing.assert_close(found, reference.attention(*parts, torch.zeros(2, 1, 5, 5), 0.5), rtol=1e-6, atol=1e-8)


def test_dropout_acts_on_the_weights() -> None:
    parts, mask = case(2, 4, 2, 5, 5)
    busy = SimpleNamespace(num_key_value_groups=2, is_causal=True, training=True)
    plain, _ = attention.attend(busy, *parts, mask)
    torch.manual_seed(0)
    found = torch.stack([attention.attend(busy, *parts, mask, dropout=0.3)[0] for _ in range(4000)])
    assert found.std(0).max() > 0.1
    assert (found.mean(0) - plain).abs().max() < 0.1


@pytest.mark.parametrize("kind", tiny_heads.KINDS)
def test_every_family_says_the_same(kind: str) -> None:
    base = tiny_heads.tiny(kind)
    rows = [[7, 8, 9, 10, 11], [12, 13], [14, 15, 16]]
    pad = pad_right if base.labels else pad_left
    batches = [pad(some, base.pad, base.device).inputs() for some in (rows, rows[:1], [rows[0], rows[0][::-1]])]
    with torch.inference_mode():
        before = [base.model(**inputs).logits for inputs in batches]
        with attention.switched(base.model):
            assert base.model.config._attn_implementation == attention.NAME
            for inputs, expected in zip(batches, before, strict=True):
                found = base.model(**inputs).logits
                at = inputs["attention_mask"].bool() if found.shape[1] == expected.shape[1] == 5 else slice(None)
                torch.testing.assert_close(found[at], expected[at], rtol=1e-4, atol=1e-5)
    assert base.model.config._attn_implementation == "sdpa"


def test_tokens_behind_a_cache_say_the_same() -> None:
    base = tiny_heads.tiny("llama")

    def logits() -> torch.Tensor:
        past = kv.roomy(base.model, None, 2, 9)
        batch = pad_left([[7, 8, 9], [10, 11]], base.pad, base.device, past=past)
        said = [base.model(**batch.inputs()).logits[:, -1]]
        for token in (12, 13):
            batch = followed(batch, torch.full((2, 1), token))
            said.append(base.model(**batch.inputs()).logits[:, -1])
        return torch.stack(said)

    with torch.inference_mode():
        fused = logits()
        with attention.switched(base.model):
            torch.testing.assert_close(logits(), fused, rtol=1e-4, atol=1e-5)


def test_a_model_loaded_with_another_attention_keeps_it() -> None:
    base = tiny_heads.tiny("llama")
    base.model.set_attn_implementation("eager")
    with attention.switched(base.model):
        assert base.model.config._attn_implementation == "eager"
