"""Training through the conditional random field against the field after the network.

    python -m benchmarks.crf_training --data /path/to/Task04_Hippocampus

Networks learn with the same seed and number of steps on fold 0: one by itself, the others through
the field from two sets of parameters. Then the field refines the masks of all. Finished runs are
not trained again. Prints a section for benchmarks/postprocessing.md; benchmarks/crf_training.md is
the last one.
"""

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.common import in_turn, machine, table
from pipeline.config import load_config
from pipeline.evaluation import LabelScores, score_case, scored_structures, summarise
from pipeline.evaluation.aggregate import MEAN_OVER_LABELS
from pipeline.losses import build_loss
from pipeline.model import Model, ModelDescription, load_model
from pipeline.network import build_network
from pipeline.patches import Batch
from pipeline.postprocessing.crf import Crf, CrfConfig
from pipeline.segmentation import Segmenter
from pipeline.training import RunConfig, RunFolder, train
from pipeline.training.arithmetic import memory_format
from pipeline.training.data import open_manifest, read_case
from pipeline.training.distributed import Ranks
from pipeline.training.prepare import prepare_run
from pipeline.training.step import build_state, build_trainer
from pipeline.training.through_crf import build_crf
from pipeline.volume import LabelMap, Slices

CPU = torch.device("cpu")
CONFIG = Path("configs/msd_hippocampus.yaml")
RUNS = Path("runs/crf_training")
ITERATIONS = 400
STEPS = 255
"""A probability of 1, as segmenting hands it out."""
TIMED_ROUNDS = 10
TIES = 1e-4
"""Differences of a case's Dice that count as none."""
PLAIN = "plain"
FIELDS = {
    "usual": "{theta_position_mm: 5, weight_appearance: 5, weight_smoothness: 2}",
    "gentle": "{theta_position_mm: 2, theta_intensity: 1, weight_appearance: 1, "
    "theta_smoothness_mm: 1, weight_smoothness: 1}",
}
"""What the networks that train through the field start it from, as `training.crf`."""
NETWORKS = {PLAIN: "null", **FIELDS}


@dataclass(frozen=True)
class Side:
    """A row of the table.

    Attributes:
        name: What it says.
        network: Which network segments.
        field: What refines its masks; None: nothing.
    """

    name: str
    network: str
    field: CrfConfig | None = None


class Probabilities:
    """Takes a study's probabilities as one array."""

    def __init__(self, num_classes: int, shape: Sequence[int]) -> None:
        self.values_CIJK = np.zeros((num_classes, *shape), np.float32)

    def put(self, index: int, box: Slices, steps_IJK: npt.NDArray[np.uint8] | int) -> None:
        """Take a part of one class; see `ProbabilitySink`."""
        part = np.asarray(steps_IJK, np.float32) / STEPS
        self.values_CIJK[(index, *box)] = part


def main() -> None:
    """Print the section."""
    parser = argparse.ArgumentParser(description="Train through the field, and compare.")
    parser.add_argument("--data", type=Path, required=True, help="the folder Task04_Hippocampus")
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--cases", type=int, default=None, help="to score; default: all")
    options = parser.parse_args()
    lines = page_section(options.data, options.iterations, options.cases)
    sys.stdout.write("\n".join(lines) + "\n")


def page_section(
    data: Path, iterations: int = ITERATIONS, num_cases: int | None = None
) -> list[str]:
    """Train what is missing; return the lines of the section."""
    configs = {name: config_of(name, data, iterations) for name in NETWORKS}
    models = {name: trained(config) for name, config in configs.items()}
    fields = {name: fields_of(configs[name], models[name]) for name in FIELDS}
    sides = [Side(PLAIN, PLAIN)]
    for name, (start, learned) in fields.items():
        sides += [
            Side(f"plain, then the {name} field", PLAIN, start),
            Side(f"plain, then the {name} field as learnt", PLAIN, learned),
            Side(f"through the {name} field, without it", name),
            Side(f"through the {name} field, then it as learnt", name, learned),
        ]
    scores = score_sides(configs[PLAIN], models, sides, num_cases)
    seconds = seconds_per_step(configs, models[PLAIN].description)
    return section(configs[PLAIN], scores, seconds, fields)


def fields_of(config: RunConfig, model: Model) -> tuple[CrfConfig, CrfConfig]:
    """Return the field that a network was trained through, at first and as learnt."""
    start = config.training.crf
    assert start is not None
    return start, CrfConfig.model_validate(model.description.training["crf"])


def config_of(name: str, data: Path, iterations: int) -> RunConfig:
    """Return the experiment of a network."""
    words = [
        f"data.root={data}",
        f"name={name}",
        f"output={RUNS / str(iterations)}",
        f"training.crf={NETWORKS[name]}",
        "training.max_minutes=null",
        f"training.max_iterations={iterations}",
        "training.validate_every_epochs=1000000",
        "training.num_validation_cases=0",
        "training.batch_size=2",
        "training.num_workers=0",
        # The same for both, whatever seems fastest while one of them begins.
        "training.precision=bf16",
        "training.layout=channels_last",
        "inference.precision=bf16",
        "device=cpu",
    ]
    return load_config(RunConfig, CONFIG, words)


def trained(config: RunConfig) -> Model:
    """Return the model of a run; train it unless that is done."""
    if not (config.folder / "validation" / "scores.csv").is_file():
        train(config, resume=True)
    return load_model(config.folder / "model", CPU)


def score_sides(
    config: RunConfig, models: Mapping[str, Model], sides: Sequence[Side], num_cases: int | None
) -> dict[str, list[LabelScores]]:
    """Segment the validation cases with both networks, refine the masks, score all sides."""
    manifest = open_manifest(config)
    prepared = prepare_run(config, RunFolder(config.folder))
    segmenters = {name: Segmenter(model, CPU) for name, model in models.items()}
    scores: dict[str, list[LabelScores]] = {side.name: [] for side in sides}
    for case in prepared.split.validation[:num_cases]:
        study, reference = read_case(case, len(manifest.channels), config.study)
        found = {}
        for name, segmenter in segmenters.items():
            sink = Probabilities(len(manifest.label_values), study.volume.grid.shape)
            segmentation = segmenter.segment(segmenter.prepare(study), sink)
            found[name] = segmentation.labels_IJK, sink.values_CIJK
        for side in sides:
            labels_IJK, values_CIJK = found[side.network]
            if side.field is not None:
                volume = study.volume
                class_IJK = Crf(side.field).refine_probabilities(
                    volume.data_CIJK, values_CIJK, volume.grid.spacing_mm
                )
                labels_IJK = np.asarray(manifest.label_values, np.uint8)[class_IJK]
            prediction = LabelMap(labels_IJK, reference.affine)
            structures = scored_structures(manifest.labels, manifest.regions, case.annotated)
            scores[side.name] += score_case(
                case.name, prediction, reference, structures, config.evaluation
            )
    return scores


def seconds_per_step(
    configs: Mapping[str, RunConfig], description: ModelDescription
) -> dict[str, float]:
    """Time steps of fresh networks on the same random patches, by turns."""
    assert description.patch_size is not None
    tasks = {}
    for name, config in configs.items():
        training, num_classes = config.training, description.num_outputs
        network = build_network(
            config.network, len(description.channels), num_classes, description.patch_size
        ).to(memory_format=memory_format(training.layout))
        crf = build_crf(training.crf, description)
        state = build_state(network, training, CPU, seed=0, crf=crf)
        trainer = build_trainer(state, training, Ranks(CPU), build_loss(config.loss, num_classes))
        size = (training.batch_size, *description.patch_size)
        noise_BCIJK = torch.randn(training.batch_size, len(description.channels), *size[1:])
        batch = Batch(
            # Smooth, as images are: noise would spread over more of the lattice.
            torch.nn.functional.avg_pool3d(noise_BCIJK, 5, stride=1, padding=2),
            torch.randint(num_classes, size),
            torch.ones(training.batch_size, num_classes - 1, dtype=torch.bool),
        )
        tasks[name] = partial(trainer.run, [batch])
    return in_turn(tasks, TIMED_ROUNDS)


def section(
    config: RunConfig,
    scores: Mapping[str, Sequence[LabelScores]],
    seconds: Mapping[str, float],
    fields: Mapping[str, tuple[CrfConfig, CrfConfig]],
) -> list[str]:
    """Return the lines of the section.

    Args:
        config: Of the plain network.
        scores: Of each side; the first is what the others are compared with.
        seconds: Of a step of each network; the first is the plain one.
        fields: Of the others, before and after training.
    """
    training = config.training
    first, *_ = scores
    base = case_dice(scores[first])
    rows = []
    for name, of_side in scores.items():
        means = {s.metric: s for s in summarise(of_side) if s.label == MEAN_OVER_LABELS}
        dice, nsd = means["dice"], means["nsd"]
        rows.append(
            [
                name,
                f"{dice.mean:.4f} ({dice.ci_low:.4f} to {dice.ci_high:.4f})",
                f"{nsd.mean:.4f}",
                "" if name == first else compared(case_dice(of_side), base),
            ]
        )
    size = "x".join(map(str, training.patch_size))
    plain_s, *others_s = seconds.values()
    through_s = max(others_s)
    return [
        "## Trained through the field, or refined by it afterwards",
        "",
        f"`python -m benchmarks.crf_training --data ...` on {machine()}.",
        "",
        f"Hippocampus MRI, fold 0 of {config.data.folds}, {len(base)} validation cases; "
        f"`{config.network.name}` networks, {training.max_iterations} steps each on batches of "
        f"{training.batch_size} patches of {size}, same seed, one run each. The field sees the "
        "study on its own grid and the probabilities in steps of 1/255. NSD is at "
        f"{config.evaluation.nsd_tolerance_mm:g} mm; the last column compares the cases' Dice "
        f"with *{first}*.",
        "",
        *table(["", "Dice (95 % interval)", "NSD", "mean difference; cases better, worse"], rows),
        "",
        f"A step takes {plain_s:.2f} s without and {through_s:.2f} s through the field "
        f"({through_s / plain_s:.1f}x), by turns on the same patches.",
        "",
        *itertools.chain.from_iterable(
            (described(name, *both), "") for name, both in fields.items()
        ),
    ]


def described(name: str, start: CrfConfig, learned: CrfConfig) -> str:
    """Return what a field was, and what of it changed."""
    costs = ", ".join(
        "[" + " ".join(f"{cost:.2f}" for cost in row) + "]" for row in learned.compatibility or ()
    )
    return (
        f"The {name} field reaches {start.theta_position_mm:g} mm and "
        f"{start.theta_intensity:g} in intensity, and {start.theta_smoothness_mm:g} mm. It learnt: "
        f"weight of appearance {start.weight_appearance:g} -> {learned.weight_appearance:.2f}, of "
        f"smoothness {start.weight_smoothness:g} -> {learned.weight_smoothness:.2f}, "
        f"compatibility {costs}."
    )


def case_dice(scores: Sequence[LabelScores]) -> dict[str, float]:
    """Return the mean Dice of each case over its labels."""
    of_case: dict[str, list[float]] = {}
    for score in scores:
        of_case.setdefault(score.case, []).append(score.dice)
    return {case: float(np.nanmean(values)) for case, values in of_case.items()}


def compared(found: Mapping[str, float], base: Mapping[str, float]) -> str:
    """Return the mean difference over cases, and in how many it is positive and negative."""
    difference = np.array([found[case] - base[case] for case in base])
    better, worse = np.sum(difference > TIES), np.sum(difference < -TIES)
    return f"{difference.mean():+.4f}; {better}, {worse}"


if __name__ == "__main__":
    main()
