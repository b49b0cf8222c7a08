"""The program of a model card: what a reader runs to get the run's own predictions, without this library."""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from importlib.resources import files


@dataclass(frozen=True)
class Usage:
    """What a prediction depends on, beside the weights.

    base: the base model's name or folder. full: the folder holds a whole model and no adapter. own: the adapter is of a
    type of this project, which plain PEFT does not know. template: as configured. answers: for a choice, label -> tokens, the
    first token after `prefix` alone or the whole word with the end token; None for generated answers. behind_space: the
    prefix and the answers behind a prompt that ends in white space because its last columns are blank, where those are
    others. head: the labels of a classification head, in its order; empty without one. several: any number of labels may hold.
    questions: label -> what is asked behind the prompt, where they are asked about alone; `answers` are then no and yes. reads:
    what that head reads, "mean", "features" or nothing special; views: for features, the arguments of `read_views` behind the
    model. eos, pad: token ids. closing: tokens that the tokenizer puts behind a prompt and that are taken off. max_new_tokens:
    limit of a generated answer.
    """

    base: str
    full: bool
    dtype: str
    template: str
    chat: bool
    remote_code: bool
    prefix: tuple[int, ...] = ()
    answers: dict[str, tuple[int, ...]] | None = None
    behind_space: tuple[tuple[int, ...], dict[str, tuple[int, ...]]] | None = None
    whole: bool = False
    eos: tuple[int, ...] = ()
    pad: int = 0
    max_new_tokens: int = 0
    own: bool = False
    head: tuple[str, ...] = ()
    closing: tuple[int, ...] = ()
    reads: str | None = None
    views: tuple[str, bool, tuple[int, int]] | None = None
    several: bool = False
    questions: dict[str, str] = field(default_factory=dict)


def pieces(template: str) -> list[tuple[str, str | None]]:
    """(text before, column) of a template, in order.

    >>> pieces("Message: {text}\\nTopic:")
    [('Message: ', 'text'), ('\\nTopic:', None)]
    """
    return [(literal, name) for literal, name, _, _ in string.Formatter().parse(template)]


def program(usage: Usage) -> str:
    """Python source with a function `predict(**columns)` and an example call."""
    return "\n".join([*_loading(usage), "", "", *_prompting(usage), "", "", *_predicting(usage), ""])


def _loading(usage: Usage) -> list[str]:
    trust = ", trust_remote_code=True" if usage.remote_code else ""
    kind = "AutoModelForSequenceClassification" if usage.head else "AutoModelForCausalLM"
    sized = f", num_labels={len(usage.head)}" if usage.head and not usage.full else ""
    lines = ["import torch"] + ([] if usage.full else ["from peft import PeftModel"])
    lines += [f"from transformers import {kind}, AutoTokenizer", ""]
    if usage.own:
        lines += [
            "from guidestar.model.peft import register  # the adapter's type is Guidestar's own",
            "",
            "register()",
        ]
    lines += ['FOLDER = "."  # this folder, or its name on the hub']
    if usage.full:
        lines += [
            "tokenizer = AutoTokenizer.from_pretrained(FOLDER)",
            f"model = {kind}.from_pretrained(FOLDER, dtype=torch.{usage.dtype}{trust}).eval()",
            *_views(usage),
        ]
    else:
        lines += [
            f"BASE = {usage.base!r}",
            f"tokenizer = AutoTokenizer.from_pretrained(BASE{trust})",
            f"model = {kind}.from_pretrained(BASE, dtype=torch.{usage.dtype}{sized}{trust})",
            *_views(usage),
            "model = PeftModel.from_pretrained(model, FOLDER, autocast_adapter_dtype=False).eval()",
        ]
    if usage.reads == "mean":
        body = "model.base_model" if usage.full else "model.get_base_model().base_model"
        lines += [*_READING, "", "", f"{body}.register_forward_hook(read_mean)"]
    return lines


def _views(usage: Usage) -> list[str]:
    """A head on features, which transformers does not know: the source of `guidestar/model/views.py`, and its call."""
    if usage.views is None:
        return []
    source = (files("guidestar") / "model" / "views.py").read_text(encoding="utf-8")
    source = source.split("from __future__ import annotations\n", 1)[1].replace("\nimport torch\n", "\n")
    name, encoder, around = usage.views
    lines = ["", "", *source.strip().splitlines(), "", "", f"read_views(model, {name!r}, {encoder}, {around})"]
    if usage.full:
        lines += [
            "from pathlib import Path",
            "from safetensors.torch import load_file",
            'saved = {k: v for file in Path(FOLDER).glob("*.safetensors") for k, v in load_file(file).items()}',
            "model.load_state_dict({**model.state_dict(), **saved})",
        ]
    return lines


# The head reads a mean: what `guidestar.model.heads.read_mean` does, for one text without padding.
_READING = [
    "",
    "",
    "def read_mean(body, inputs, output):",
    '    """The head was trained on the mean over the states, in the place of the first one."""',
    "    mean = output.last_hidden_state.float().mean(1).to(output.last_hidden_state.dtype)",
    '    if output.get("pooler_output") is not None:',
    '        output["pooler_output"] = mean',
    "    else:",
    '        output["last_hidden_state"] = torch.cat([mean[:, None], output.last_hidden_state[:, 1:]], dim=1)',
    "    return output",
]


def _prompting(usage: Usage) -> list[str]:
    given = "columns, question" if usage.questions else "columns"
    lines = [
        f"PROMPT = {[list(piece) for piece in pieces(usage.template)]!r}  # text, then a column",
        "",
        "",
        f"def prompt_text({given}):",
        '    text = "".join(before + (columns[name].strip() if name else "") for before, name in PROMPT)',
    ]
    if usage.questions:
        lines.append('    text += ("" if text[-1:].isspace() else " ") + question')
    if usage.chat:
        lines += [
            '    turns = [{"role": "user", "content": text}]',
            "    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)",
        ]
    else:
        lines += ["    return text"]
    special = ", add_special_tokens=False" if usage.chat else ""
    lines += ["", "", f"def prompt_tokens({given}):"]
    tokens = f'tokenizer(prompt_text({given}){special})["input_ids"]'
    if usage.chat or not (close := list(usage.closing)):
        return [*lines, f"    return {tokens}"]
    return [
        *lines, f"    tokens = {tokens}",
        f"    return tokens[:-{len(close)}] if tokens[-{len(close)}:] == {close} else tokens  # the answer follows the text",
    ]  # fmt: skip


def _answers(usage: Usage, name: str, comment: str) -> tuple[list[str], list[str]]:
    """(constants with the tokens of the answers, the lines of the function that choose among them)."""

    def shown(answers: dict[str, tuple[int, ...]]) -> str:
        return repr({label: list(row) if usage.whole else row[0] for label, row in answers.items()})

    assert usage.answers is not None
    constants = [
        f"{name} = {shown(usage.answers)}  # {comment}",
        f"FORMAT = {list(usage.prefix)}  # tokens that every answer begins with",
    ]
    if usage.behind_space is None:
        return constants, [f"    answers, form = {name}, FORMAT"]
    prefix, answers = usage.behind_space
    constants += [f"{name}_BEHIND_SPACE = {shown(answers)}", f"FORMAT_BEHIND_SPACE = {list(prefix)}"]
    chosen = [
        f"    answers, form = {name}, FORMAT",
        "    if prompt_text(columns)[-1:].isspace():  # its last columns are blank",
        f"        answers, form = {name}_BEHIND_SPACE, FORMAT_BEHIND_SPACE",
    ]
    return constants, chosen


def _predicting(usage: Usage) -> list[str]:
    head = ["@torch.inference_mode()", "def predict(**columns):"]
    if usage.questions:
        assert usage.answers is not None
        return [
            f"QUESTIONS = {usage.questions!r}",
            f"FORMAT = {list(usage.prefix)}  # tokens that every answer begins with",
            f"NO, YES = {usage.answers['no'][0]}, {usage.answers['yes'][0]}  # their first tokens",
            "",
            "",
            *head,
            '    """The labels that hold; each is asked about alone."""',
            "    held = []",
            "    for label, question in QUESTIONS.items():",
            "        tokens = torch.tensor([prompt_tokens(columns, question) + FORMAT])",
            "        logits = model(input_ids=tokens).logits[0, -1]",
            "        held += [label] if logits[YES] > logits[NO] else []",
            "    return held",
        ]
    if usage.head:
        last = "    return LABELS[int(logits.argmax())]"
        if usage.several:
            last = "    return [label for label, logit in zip(LABELS, logits.tolist()) if logit > 0]"
        return [
            f"LABELS = {list(usage.head)!r}",
            "",
            "",
            *head,
            f'    """The {"labels that hold" if usage.several else "likeliest label"}."""',
            "    tokens = torch.tensor([prompt_tokens(columns)])",
            "    logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[0]",
            last,
        ]
    if usage.answers is None:
        return [
            *head,
            '    """The model\'s response, generated greedily."""',
            "    tokens = torch.tensor([prompt_tokens(columns)])",
            "    found = model.generate(",
            "        input_ids=tokens, attention_mask=torch.ones_like(tokens), do_sample=False, repetition_penalty=1.0,",
            f"        max_new_tokens={usage.max_new_tokens}, eos_token_id={list(usage.eos)}, pad_token_id={usage.pad},",
            "    )",
            "    return tokenizer.decode(found[0, tokens.shape[1]:], skip_special_tokens=True).strip()",
        ]
    if usage.whole:
        constants, chosen = _answers(usage, "ANSWERS", "label: its tokens")
        return [
            *constants,
            "",
            "",
            *head,
            '    """The likeliest label: the whole answers are compared."""',
            *chosen,
            "    start, scores = prompt_tokens(columns) + form, {}",
            "    for label, answer in answers.items():",
            "        logits = model(input_ids=torch.tensor([start + answer])).logits[0, -len(answer) - 1 : -1]",
            "        chances = logits.float().log_softmax(-1)",
            "        scores[label] = float(chances.gather(1, torch.tensor(answer)[:, None]).sum())",
            "    return max(scores, key=scores.get)",
        ]
    constants, chosen = _answers(usage, "FIRST", "label: its first token")
    return [
        *constants,
        "",
        "",
        *head,
        '    """The likeliest label: the first tokens of the answers are compared."""',
        *chosen,
        "    tokens = torch.tensor([prompt_tokens(columns) + form])",
        "    logits = model(input_ids=tokens).logits[0, -1]",
        "    return max(answers, key=lambda label: float(logits[answers[label]]))",
    ]


def call(usage: Usage) -> str:
    """One line that calls the program.

    >>> call(Usage("base", False, "float32", "Message: {text}", False, False))
    'print(predict(text="…"))'
    """
    names = list(dict.fromkeys(name for _, name in pieces(usage.template) if name is not None))
    if all(name.isidentifier() for name in names):
        given = ", ".join(f'{name}="…"' for name in names)
        return f"print(predict({given}))"
    return f"print(predict(**{dict.fromkeys(names, '…')!r}))"
