"""What the verbs `check` and `plan` do: look at data before anybody trains on it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.paths import check_root
from pipeline.cli.verbs import DONE, SOME_FAILED, print_lines
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.manifest import ReadingConfig


def check(options: argparse.Namespace) -> int:
    """Verify a data set, or single inputs, against a model if one is given; print the findings."""
    from pipeline import manifest as data_sets
    from pipeline.cohort import adopt_study, check_inputs
    from pipeline.config import override_settings
    from pipeline.gate import check_data_set
    from pipeline.inputs import BidsChoice, DataRoot, tell_unlisted
    from pipeline.model import read_description
    from pipeline.study import SeriesRule

    inputs: list[Path] = options.inputs
    description, reading = None, data_sets.ReadingConfig()
    if options.model is not None:
        description = adopt_study(read_description(options.model), inputs)
        description = override_settings(description, options.overrides, ("study", "admission"))
    else:
        reading = _reading(options, "trivox check")
    with_manifest = check_root(inputs, options.root)
    if description is not None or not with_manifest:
        names = () if description is None else [each.name for each in description.channels]
        findings, num_cases = check_inputs(
            inputs,
            description,
            data=DataRoot(options.root, options.allow_outside, options.no_links),
            bids=BidsChoice.of(options.bids_suffix, names),
            study=reading.study,
            rule=SeriesRule.parse(options.series),
        )
    elif len(inputs) > 1:
        raise ConfigError("check", "a manifest among other inputs", "Check each manifest alone.")
    else:
        manifest = data_sets.load_manifest(
            inputs[0], reading.data.root, allow_outside=reading.data.allow_outside
        )
        tell_unlisted(inputs[0], manifest.cases)
        manifest = data_sets.with_settings(manifest, reading.study, reading.preprocessing)
        findings, num_cases = check_data_set(manifest), len(manifest.cases)
    lines = [data_sets.format_findings(findings)] if findings else []
    print_lines([*lines, data_sets.summarise_findings(findings, num_cases=num_cases)])
    if not with_manifest:
        text = "these are studies to segment; training needs a manifest (data_manifests/README.md)"
        print_lines([text])
    return SOME_FAILED if any(f.severity == "error" for f in findings) else DONE


def _reading(options: argparse.Namespace, where: str) -> "ReadingConfig":
    """Return the settings by which training cases are read."""
    from pipeline.config import build_config, check_sections
    from pipeline.manifest import ReadingConfig

    check_sections(options.overrides, tuple(ReadingConfig.model_fields))
    data: dict[str, object] = {} if options.root is None else {"root": options.root}
    if options.allow_outside:
        data["allow_outside"] = True
    return build_config(ReadingConfig, {"data": data}, options.overrides, where=where)


def plan(options: argparse.Namespace) -> int:
    """Plan a training for a data set; print the file and what it will take."""
    from pipeline import planning
    from pipeline.config import build_config
    from pipeline.system.memory import parse_memory

    request = {
        "manifest": options.manifest,
        "out": options.out,
        "reading": _reading(options, "trivox plan"),
        "device": options.device,
        "memory_gb": options.memory and parse_memory(options.memory),
        "minutes": options.minutes,
        "measure": not options.no_measure,
        "replace": options.replace,
    }
    result = planning.plan(build_config(planning.PlanConfig, request, (), where="trivox plan"))
    print_lines(planning.summary_of(result))
    return DONE
