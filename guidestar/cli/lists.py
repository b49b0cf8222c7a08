"""Commands that list what has a name, and what is there."""

from __future__ import annotations

from typing import Any

from guidestar.cli.common import Commands, Options, arg, show, show_table


def add(commands: Commands) -> None:
    """strategies, measures, models, presets, doctor."""
    what = "The query strategies: recommended, from papers, for comparison; with what was measured."
    commands.add("strategies", _strategies, what)
    commands.add("measures", _measures, "The uncertainty measures, and what each needs.")
    commands.add("models", _models, "The models that have a short name.")
    commands.add("presets", _presets, "The datasets that have a preset.")
    run = arg("run", "RUN", "also check the runs of this folder: hashes, schema, data", nargs="?")
    commands.add("doctor", _doctor, "What is installed, what the machine can do, whether a run is whole.", run)


def _strategies(options: Options) -> int:
    from guidestar.query.standing import NOT_STUDIED, ROLES, evidence
    from guidestar.query.strategies import STRATEGIES

    listed = {
        name: {"what": recipe.doc, "role": recipe.role, "source": recipe.source, "evidence": evidence(name)}
        for name, recipe in STRATEGIES.items()
    }
    lines = []
    width = max(map(len, listed))
    for role, title in ROLES.items():
        rows = {name: one for name, one in listed.items() if one["role"] == role}
        lines += [f"{title}:"] + ([] if rows else ["  none yet: no strategy has beaten random in results/"])
        for name, one in rows.items():
            source = f" [{one['source']}]" if one["source"] else ""
            lines.append(f"  {name:<{width}}  {one['what']}{source}")
            if role == "recommended" or one["evidence"] != NOT_STUDIED:
                lines.append(f"  {'':<{width}}  evidence: {one['evidence']}")
        lines.append("")
    lines.append("Evidence: what the studies in results/ show beside their control; where none is named there is none.")
    lines.append("Which one to take: docs/how-to-choose.md. The keys in brackets: docs/bibliography.md.")
    show(options, listed, "\n".join(lines))
    return 0


def _measures(options: Options) -> int:
    from guidestar.query.measures import MEASURES

    def line(measure: Any) -> str:
        gold = "; needs gold answers, so only in a simulation" if measure.oracle else ""
        return f"{measure.doc} ({', '.join(sorted(measure.tasks))}{gold})"

    return show_table(options, {name: line(measure) for name, measure in MEASURES.items()})


def _models(options: Options) -> int:
    from guidestar.model.sources import MODELS

    return show_table(
        options, {name: f"hub:{m.hub}" + (f", package {m.package}" if m.package else "") for name, m in MODELS.items()}
    )


def _presets(options: Options) -> int:
    from guidestar.data.presets import PRESETS

    return show_table(options, {name: preset.description for name, preset in PRESETS.items()})


def _doctor(options: Options) -> int:
    from dataclasses import asdict
    from pathlib import Path

    from guidestar.doctor import examine, text

    findings = examine(Path(options.run) if options.run else None)
    show(options, [asdict(finding) for finding in findings], text(findings))
    return 1 if any(finding.state == "problem" for finding in findings) else 0
