"""`guidestar paper NAME`: one of the shipped studies of the STAR paper at one of their scales."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from guidestar.errors import ConfigError, allowed
from guidestar.progress import Progress, Silent
from guidestar.store import files
from guidestar.study import cells as engine
from guidestar.study.grid import Order
from guidestar.study.studyfile import read_study, scales, shipped
from guidestar.study.synthetic import tiny_texts, write_synthetic


def order_of(
    name: str,
    *,
    scale: str = "small",
    model: str | None = None,
    seeds: int | None = None,
    out: Path | None = None,
    data: Path | None = None,
    datasets: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> Order:
    """The options of `guidestar paper` as overrides of a shipped file; at scale tiny model and data are made first.

    scale: a name of `scales()`. model: instead of the scale's. seeds: how many, from 0 on; default 3. out: default
    runs/paper-SCALE, the tables in `out/NAME`; studies that share it share cells of one name. data: a folder with the
    datasets' files; without it the hub is asked. datasets: default the study's. overrides: as in `Order`.
    Raises ConfigError for names that are not there.
    """
    if name not in shipped():
        raise ConfigError(f"experiment {name!r} is unknown; {allowed(shipped(), name)}")
    if scale not in scales():
        raise ConfigError(f"scale is {scale!r}; {allowed(scales(), scale)}")
    if seeds is not None and seeds < 1:
        raise ConfigError(f"seeds is {seeds}; allowed: 1 or more")
    out = out or Path(f"runs/paper-{scale}")
    if scale == "tiny":
        model, data = _tiny(out, model, data, progress or Silent())
    given = {
        "out": str(out), "folder": str(data) if data else None, "model.name": model,
        "seeds": list(range(seeds)) if seeds else None, "datasets": list(dict.fromkeys(datasets or ())),
    }  # fmt: skip
    texts = [f"{key}={json.dumps(value)}" for key, value in given.items() if value]
    return Order(str(shipped()[name]), (*_for_device(name, scale), *texts, *overrides), scale, name)


def _for_device(name: str, scale: str) -> list[str]:
    """Larger batches to score where there is a GPU: they change no number that matters, but the time."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [f"model.batch_tokens={read_study(shipped()[name], scale=scale).config.values['batch_tokens']}"]


def _tiny(out: Path, model: str | None, data: Path | None, progress: Progress) -> tuple[str, Path]:
    """The tiny model and the synthetic data, made in the study's folder if they are not there."""
    place, synthetic = out / "model", out / "data"
    with engine.claim(out / "claims" / "tiny.lock", wait=True):
        if data is None and not (synthetic / "OBQA" / "train.jsonl").is_file():
            write_synthetic(synthetic)
        if model is None and not place.is_dir():
            from guidestar.model.tiny import build_tiny_model

            progress.say("making a tiny model")
            files.publish_folder(place, lambda folder: build_tiny_model(folder, tiny_texts()))
    return model or str(place), data or synthetic
