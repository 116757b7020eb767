"""The small space that is searched: settings of the conditional random field, and rules by label.

The spaces are coarse on purpose: each further candidate makes it likelier that the best one is so
by chance, and validation cases are few.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from pydantic import ValidationError

from pipeline.errors import ModelError
from pipeline.manifest.faults import first_fault
from pipeline.model import ModelDescription
from pipeline.postprocessing import PostprocessingConfig, Rule
from pipeline.postprocessing.crf import CrfConfig
from pipeline.selection.choice import Choice, Space

POSITION_MM = (3.0, 6.0, 10.0)
INTENSITY = (0.25, 0.5, 1.0)
WEIGHTS = ((3.0, 1.0), (8.0, 2.0))
"""Of appearance and smoothness: messages are means of probabilities, so 3 turns only voxels that
are nearly undecided, and 8 most of the uncertain ones."""

_COARSE = ((2, 2, 0), (1, 1, 1), (0, 0, 0))
"""Places of far-apart settings among positions, intensities and weights."""

SMOOTHNESS_ONLY = CrfConfig(weight_appearance=0.0, weight_smoothness=4.0)
"""What a boundary gains that is only straightened, without a look at the image."""

MAX_CHANNELS = 2
"""Channels up to which a lattice of their intensities fits in memory."""

VOLUME_SHARES = (0.01, 0.05, 0.2)
"""Smallest components to keep, as shares of the label's volume in small cases (10th percentile)."""


@dataclass(frozen=True)
class Candidates:
    """What is tried beside doing nothing.

    Attributes:
        settings: Of the conditional random field.
        rules: One label and one action each; those that fill come first, so that what another
            label loses is never filled.
    """

    settings: tuple[CrfConfig, ...]
    rules: tuple[Rule, ...]

    def space(self, structures: tuple[str, ...], settings: Sequence[int] = ()) -> Space:
        """Return what can be chosen: of each label one rule that fills and one that removes.

        Args:
            structures: That are scored.
            settings: Numbers of those that were tried.
        """
        groups = tuple(f"{rule.label} {_kind(rule)}" for rule in self.rules)
        return Space(structures, tuple(settings), groups)

    @property
    def coarse(self) -> tuple[int, ...]:
        """Numbers of the few settings that are tried first, the cheapest first.

        They are what was learnt, and far-apart ones: what reaches far is computed on a coarse
        lattice.
        """
        places = [_place(setting) for setting in self.settings]
        apart = [places.index(place) for place in _COARSE if place in places]
        return (*(n for n, place in reversed([*enumerate(places)]) if place is None), *apart)

    def around(self, number: int) -> tuple[int, ...]:
        """Return the numbers of the settings that differ from one by a step of one parameter."""
        here = _place(self.settings[number])
        if here is None:
            return ()
        places = [_place(setting) for setting in self.settings]
        return tuple(
            other
            for other, place in enumerate(places)
            if place is not None and sum(abs(a - b) for a, b in zip(here, place, strict=True)) == 1
        )

    def config_of(self, choice: Choice) -> PostprocessingConfig:
        """Return a choice as the configuration of a model."""
        rules = tuple(self.rules[number] for number in choice.rules)
        if choice.setting is None:
            return PostprocessingConfig(rules=rules)
        return PostprocessingConfig(
            crf=self.settings[choice.setting],
            crf_labels=tuple(sorted(choice.labels)),
            rules=rules,
        )

    def in_words(self, choice: Choice) -> str:
        """Return a choice as one line."""
        parts = []
        if choice.setting is not None:
            labels = ", ".join(sorted(choice.labels))
            parts.append(f"{setting_in_words(self.settings[choice.setting])} on {labels}")
        parts += [str(self.rules[number]) for number in choice.rules]
        return "; ".join(parts) or "nothing"


def make_candidates(description: ModelDescription) -> Candidates:
    """Return the candidates for a model.

    Regions overlap, which a field of labels that exclude each other cannot express: for them there
    are rules only.
    """
    settings = () if description.regions else tuple(_settings(description))
    return Candidates(settings, tuple(_rules(description)))


def setting_in_words(config: CrfConfig) -> str:
    """Return a setting as a few words."""
    if config.weight_appearance == 0:
        return f"crf smoothing {config.theta_smoothness_mm:g} mm x {config.weight_smoothness:g}"
    return (
        f"crf {config.theta_position_mm:g} mm, intensity {config.theta_intensity:g} "
        f"x {config.weight_appearance:g}, smoothing x {config.weight_smoothness:g}"
    )


def _settings(description: ModelDescription) -> Iterator[CrfConfig]:
    learnt = description.training.get("crf")
    if learnt and description.num_members == 1:
        # By training through the field; the mean over members would have seen each case.
        try:
            yield CrfConfig.model_validate(learnt)
        except ValidationError as error:
            fault = first_fault(error, CrfConfig, learnt)
            remedy = "Train it again, or use a model that Trivox wrote."
            raise ModelError(f"{description.name}: training.crf", str(fault), remedy) from error
    if len(description.channels) > MAX_CHANNELS:
        yield SMOOTHNESS_ONLY
        return
    for position_mm, intensity, weights in product(POSITION_MM, INTENSITY, WEIGHTS):
        yield CrfConfig(
            theta_position_mm=position_mm,
            theta_intensity=intensity,
            weight_appearance=weights[0],
            weight_smoothness=weights[1],
        )
    yield SMOOTHNESS_ONLY


def _rules(description: ModelDescription) -> Iterator[Rule]:
    small_ml = {label.value: label.volume_ml[0] for label in description.fingerprint.labels}
    for label in description.labels:
        yield Rule(label=label, fill_holes="3d")
    for label, value in description.labels.items():
        yield Rule(label=label, keep_largest=1)
        for share in VOLUME_SHARES:
            volume_mm3 = float(f"{1000 * share * small_ml.get(value, 0.0):.2g}")
            if volume_mm3 > 0:
                yield Rule(label=label, min_volume_mm3=volume_mm3)


def _place(setting: CrfConfig) -> tuple[int, int, int] | None:
    """Return where a setting lies in the grid of positions, intensities and weights, if it does."""
    weights = (setting.weight_appearance, setting.weight_smoothness)
    try:
        place = (
            POSITION_MM.index(setting.theta_position_mm),
            INTENSITY.index(setting.theta_intensity),
            WEIGHTS.index(weights),
        )
    except ValueError:
        return None
    return place


def _kind(rule: Rule) -> str:
    return "fills" if rule.fill_holes else "removes"
