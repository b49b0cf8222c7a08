"""Short cuts of prediction against the plain way: folded adapters, a shared prefix, own generation, masks as bits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import predict
from conftest import LABELS
from test_predict import PEFT, TEXTS, choice, examples, with_batch

from guidestar.asking import Ask
from guidestar.model import adapters, generate, kv, lora
from guidestar.model import words as words_room
from guidestar.model.batches import Batch, followed, pad_left
from guidestar.model.dropout import Bank, BitDropout, keep_bits
from guidestar.model.predict import GENERATED, GOLD

SHARED = [f"a message that reached the shop today: {text}" for text in TEXTS]


def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch every short cut off."""
    monkeypatch.setattr(kv, "keeps_every_key", lambda model: False)
    monkeypatch.setattr(lora, "plain_layers", lambda model: [])
    monkeypatch.setattr(words_room.Work, "_head_is_bare", lambda self: False)


@pytest.mark.parametrize("scoring", ["first_token", "sequence"])
@pytest.mark.parametrize("tokens", [1, 200, 4096])
def test_every_array_is_that_of_the_plain_way(
    base: Any, adapter: Path, monkeypatch: pytest.MonkeyPatch, scoring: str, tokens: int
) -> None:
    task, gold = choice(scoring), {e.id: LABELS[i % 6] for i, e in enumerate(examples())}
    needs = {"label_log_probs", "embedding", *GENERATED, *GOLD}
    pool, base = examples(SHARED), with_batch(base, tokens)
    with adapters.adapted(base, adapter) as model:
        fast = predict(base, model, pool, needs, task, gold=gold).arrays
        plainly(monkeypatch)
        slow = predict(base, model, pool, needs, task, gold=gold).arrays
    for name in needs:
        np.testing.assert_allclose(fast[name], slow[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_shared_prefix_is_found_and_used(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    work = words_room.Work(base, base.model, examples(SHARED), choice(), Ask.of(["label_log_probs"]))
    assert base.tokenizer.decode(work.prefix).startswith("Message: a message that reached the shop")
    widths: list[int] = []
    plain = words_room.last_logits

    def counted(model: Any, batch: Any, keep: int) -> torch.Tensor:
        widths.append(batch.ids.shape[1])
        return plain(model, batch, keep)

    monkeypatch.setattr(words_room, "last_logits", counted)
    predict(base, base.model, examples(SHARED), {"label_log_probs"}, choice())
    assert max(widths) == max(map(len, work.prompts)) - len(work.prefix)


@pytest.mark.parametrize(
    ("rows", "prefix"),
    [([[1, 2, 3], [1, 2, 4]], [1, 2]), ([[1, 2], [1, 2, 4]], [1]), ([[1, 2], [1, 2]], [1]), ([[3], [1]], []), ([], [])],
)
def test_the_common_prefix_leaves_a_token_of_each(rows: list[list[int]], prefix: list[int]) -> None:
    assert kv.common_prefix(rows) == prefix


def test_passes_with_a_shared_prefix_have_the_same_spread(
    base: Any, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prefix read once a pass has one draw of masks for all rows; what an example's passes say stays the same in
    mean and spread."""
    found = []
    with adapters.adapted(base, adapter) as model:
        for least in (0, 10**9):
            monkeypatch.setattr(words_room, "_SAVED", least)
            passes = predict(base, model, examples(SHARED), {"label_log_probs"}, choice(), passes=200, seed=7)
            log_p = passes.arrays["label_log_probs"]
            found.append(-(np.exp(log_p) * log_p).sum(-1))
    with_prefix, without = found
    assert not np.array_equal(with_prefix, without)
    error = np.sqrt((with_prefix.var(0) + without.var(0)) / 200)
    assert (abs(with_prefix.mean(0) - without.mean(0)) < 4 * error).all()
    np.testing.assert_allclose(with_prefix.std(0), without.std(0), rtol=0.25)


# --- LoRA ---


def test_folding_puts_back_the_very_bits(base: Any, adapter: Path) -> None:
    before = copy.deepcopy(base.model.state_dict())
    with adapters.adapted(base, adapter) as model:
        with lora.merged(model):
            changed = [n for n, p in adapters.inner(model).named_parameters() if "base_layer.weight" in n]
            assert changed
        with pytest.raises(KeyboardInterrupt), lora.merged(model):
            raise KeyboardInterrupt
        assert not any(layer.merged for layer in lora.plain_layers(model))
        assert len(lora.plain_layers(model)) == 14, "two layers of seven projections"
    after = base.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_folded_and_added_are_pefts_own_sum(base: Any, adapter: Path) -> None:
    ids = torch.tensor([base.tokenizer(TEXTS[1])["input_ids"]])
    with adapters.adapted(base, adapter) as model, torch.no_grad():
        plain = model(input_ids=ids).logits
        for way in (lora.merged, lora.added):
            with way(model):
                torch.testing.assert_close(model(input_ids=ids).logits, plain, rtol=1e-4, atol=1e-5)
        assert torch.equal(model(input_ids=ids).logits, plain), "the model is as it was"
        with adapters.dropout_on(model):
            torch.manual_seed(4)
            dropped = model(input_ids=ids).logits
            torch.manual_seed(4)
            with lora.added(model):
                torch.testing.assert_close(model(input_ids=ids).logits, dropped, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": []},
        {**PEFT, "use_dora": True},
        {"peft_type": "LOHA", "r": 4, "target_modules": ["q_proj"]},
    ],
)
def test_other_adapters_are_left_to_peft(base: Any, options: dict[str, Any]) -> None:
    model = adapters.attach(base, options, seed=0)
    assert lora.plain_layers(model) == []
    adapters.detach(model)


def test_dropout_before_b_is_left_to_peft(base: Any) -> None:
    model = adapters.attach(base, PEFT, seed=0, b_dropout=0.5)
    layer = lora.plain_layers(model)[0]
    with lora.added(model):
        assert "forward" not in vars(layer)
    adapters.detach(model)


# --- generation ---


@pytest.mark.parametrize("limit", [1, 3, 12])
def test_own_generation_is_that_of_transformers(base: Any, adapter: Path, limit: int) -> None:
    prompts = [base.tokenizer(e.prompt)["input_ids"] for e in examples()]
    with adapters.adapted(base, adapter) as model, torch.inference_mode():
        slow = generate.by_transformers(base, model, pad_left(prompts, base.pad, base.device), limit)
        past = kv.roomy(model, None, len(prompts), max(map(len, prompts)) + limit)
        batch = pad_left(prompts, base.pad, base.device, past=past)
        fast = generate.write(base, lambda b: words_room.last_logits(model, b, 1)[:, -1], batch, limit)
    steps = slow.tokens.shape[1]
    assert fast.tokens.shape[1] == steps
    assert torch.equal(fast.real, slow.real)
    assert torch.equal(fast.tokens[fast.real], slow.tokens[slow.real])
    for name in ("nll", "entropy"):
        torch.testing.assert_close(getattr(fast, name)[fast.real], getattr(slow, name)[slow.real], rtol=1e-4, atol=1e-5)


def small_models() -> dict[str, Any]:
    """Models that take blocks whole, and one that must not, whose ALiBi is as long as the mask."""
    from transformers import FalconConfig, FalconForCausalLM, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    falcon = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=128)),
        "falcon": FalconForCausalLM(FalconConfig(**falcon, new_decoder_architecture=True, num_kv_heads=2)),
        "falcon with alibi": FalconForCausalLM(FalconConfig(**falcon, alibi=True)),
    }


@pytest.mark.parametrize("name", ["gpt2", "falcon", "falcon with alibi"])
def test_blocks_of_keys_give_what_a_pass_without_gives(name: str) -> None:
    """Over the edge of a block, after a rewind, and with rows left out; padded rows and whole ones."""
    model = small_models()[name].eval()
    assert kv.keeps_every_key(model)
    rows = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11, 12]]
    new = torch.randint(1, 50, (2, 40), generator=torch.Generator().manual_seed(1))

    def plain(rows: list[list[int]]) -> torch.Tensor:
        return words_room.last_logits(model, pad_left(rows, 0, torch.device("cpu")), 1)[:, -1]

    with torch.inference_mode():
        batch = pad_left(rows, 0, torch.device("cpu"), past=kv.roomy(model, None, 2, 47))
        words_room.last_logits(model, batch, 1)
        words_room.last_logits(model, followed(batch, new[:, 30:39]), 1)  # other tokens, which are forgotten again
        kv.rewind(batch.past, 7)
        at = torch.arange(2)
        for step in range(40):
            batch = followed(batch, new[at, step][:, None])
            found = words_room.last_logits(model, batch, 1)[:, -1]
            written = [row + new[i, : step + 1].tolist() for i, row in enumerate(rows)]
            torch.testing.assert_close(found, plain(written)[at], rtol=1e-4, atol=1e-5)
            if step == 30:
                at = torch.tensor([1])
                batch.past.batch_select_indices(at)
                batch = Batch(batch.ids[at], batch.mask[at], batch.positions[at], batch.past)


def test_rows_that_have_ended_leave_the_batch(base: Any) -> None:
    """A scripted model: row i says 10 + i until its end, after i + 1 tokens; its entropy is that of two equal tokens."""
    sizes: list[int] = []

    def logits(batch: Any) -> torch.Tensor:
        rows = batch.ids[:, -1] - 10
        step = batch.mask.shape[1]
        sizes.append(len(rows))
        found = torch.full((len(rows), 40), -torch.inf)
        for at, row in enumerate(rows.tolist()):
            found[at, base.eos[0] if step > row else 10 + row] = 1.0
            found[at, 39] = 1.0  # as likely, but later
        return found

    n = 6
    room = kv.Room((torch.zeros(1, 1, 0, 1), torch.zeros(1, 1, 0, 1)), n, 20)
    batch = pad_left([[10 + i] for i in range(n)], 0, base.device, past=kv.Cache(layers=[room]))
    written = generate.write(base, logits, batch, 9)
    lengths = written.real.sum(1).tolist()
    assert lengths == [1, 2, 3, 4, 5, 6]
    assert sizes[0] == n
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 2, "one row is never alone"
    for row, length in enumerate(lengths):
        assert written.tokens[row, :length].tolist() == [10 + row] * (length - 1) + [base.eos[0]]
    assert torch.allclose(written.entropy[written.real], torch.tensor(np.log(2.0), dtype=torch.float32))


# --- masks ---


def by_filling(drop: BitDropout, x: torch.Tensor) -> torch.Tensor:
    """The same masks laid on by `masked_fill`."""
    n = x.numel()
    bits = torch.empty((n + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    out = bits.view(torch.int16)[:n].view(x.shape) < drop.cut - 2**15
    return (x * (1 / (1 - drop.p))).masked_fill(out, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("turned", [False, True])
def test_masks_as_bits_fill_like_masks(dtype: torch.dtype, turned: bool) -> None:
    drop, results = BitDropout(0.3), []
    generator = torch.Generator().manual_seed(0)
    ways: list[Callable[[torch.Tensor], torch.Tensor]] = [drop, lambda x: by_filling(drop, x)]
    x, grad = (torch.randn(37, 13, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    for way in ways:
        given = (x.T if turned else x).detach().clone().requires_grad_()
        torch.manual_seed(2)
        out = way(given)
        out.backward(grad.T if turned else grad)
        results.append((out.detach(), given.grad))
    for one, two in zip(*results, strict=True):
        assert one is not None
        assert two is not None
        assert torch.equal(one, two)
    assert 0.2 < float((results[0][0] == 0).double().mean()) < 0.4


def used_up(bank: Bank) -> Bank:
    """At the start of a pass, with the bits drawn that no row serves."""
    bank.renew()
    bank._drawn = 2 * bank.LENGTH
    return bank


def test_masks_from_a_bank_keep_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every place with the chance 1 − p, neighbours independently, and no two passes alike."""
    monkeypatch.setattr(Bank, "LENGTH", 1 << 12)
    bank, x = used_up(Bank()), torch.ones(4, 50)
    cut = round(0.3 * 2**16)
    torch.manual_seed(0)
    kept = []
    for _ in range(3000):
        used_up(bank)
        kept.append((bank.draw(x, cut) != 0).double())
    found = torch.stack(kept)
    assert float((found.mean(0) - 0.7).abs().max()) < 5 * (0.21 / 3000) ** 0.5
    flat = found.flatten(1)
    assert abs(float(torch.corrcoef(flat.T).fill_diagonal_(0).abs().max())) < 6 / 3000**0.5
    assert len({tuple(row.tolist()) for row in flat}) == 3000


def test_masks_of_a_bank_begin_at_random_places() -> None:
    """So two layers of one pass do not see the same mask, though both are cut from one row."""
    bank, x = used_up(Bank()), torch.ones(64, 576)
    torch.manual_seed(0)
    one, two = bank.draw(x, 6554), bank.draw(x, 6554)
    assert len(bank._rows) == 1
    assert one.untyped_storage().data_ptr() == two.untyped_storage().data_ptr()
    assert not torch.equal(one, two)
    both = torch.stack([one.flatten().double(), two.flatten().double()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 5 / x.numel() ** 0.5


def test_the_first_masks_of_a_pass_and_very_large_ones_are_drawn_anew() -> None:
    bank, n = Bank(), Bank.LENGTH // 2 + 1
    few, many = torch.ones(100, dtype=torch.bfloat16), torch.ones(n, dtype=torch.bfloat16)
    for x in (few, many, many, many, many):
        torch.manual_seed(3)
        found = bank.draw(x, 6554)
        torch.manual_seed(3)
        assert torch.equal(found, keep_bits(x, 6554))
    assert not bank._rows
    bank.draw(few, 6554)
    assert len(bank._rows) == 1, "two rows' worth is used up"
    bank.renew()
    bank.draw(few, 6554)
    assert not bank._rows


def test_passes_with_a_bank_spread_as_with_new_masks(base: Any, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean and the spread of an example's passes are those of masks that share no bits."""
    task, pool, found = choice(), examples(), {}
    for name, length in (("bank", 1 << 14), ("new", 1 << 40)):
        monkeypatch.setattr(Bank, "LENGTH", length)
        with adapters.adapted(base, adapter) as model:
            found[name] = predict(base, model, pool, {"label_log_probs"}, task, passes=300, seed=5).arrays
    one, two = (found[name]["label_log_probs"] for name in ("bank", "new"))
    assert not np.array_equal(one, two)
    error = np.sqrt((one.var(0) + two.var(0)) / 300)
    assert np.abs((one.mean(0) - two.mean(0)) / error).max() < 4.5
    ratio = one.std(0) / two.std(0)
    assert 0.8 < ratio.min() < ratio.max() < 1.25
    assert abs(float(np.log(ratio).mean())) < 0.03, "no narrower or wider on the whole"
    after = [m for m in base.model.modules() if isinstance(m, BitDropout)]
    assert all(m.draw is keep_bits for m in after)
