"""What is searched: settings of the field, rules by label; and the best on some cases.

Axes: C = candidates, N = cases, L = structures (labels or regions), M = metrics.

The spaces are coarse on purpose: each further candidate makes it likelier that the best one is so
by chance, and validation cases are few.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from pipeline.errors import ModelError
from pipeline.manifest.faults import first_fault
from pipeline.model import ModelDescription
from pipeline.postprocessing import PostprocessingConfig, Rule
from pipeline.postprocessing.crf import CrfConfig
from pipeline.selection.statistics import Comparison, Scores, compare

Cases = npt.NDArray[np.bool_]
"""`(N,)`: which cases a candidate is judged on."""

SHORTLIST = 3
"""Settings that are tried with each set of labels that they help; the others are ranked before."""


@dataclass(frozen=True)
class Choice:
    """A candidate: what is done to the labels. The default does nothing.

    Attributes:
        setting: Number of the setting of the conditional random field; None for none.
        labels: That it may change.
        rules: Numbers of the rules that follow, ascending, in the order they are applied.
    """

    setting: int | None = None
    labels: frozenset[str] = frozenset()
    rules: tuple[int, ...] = ()


IDENTITY = Choice()

Measure = Callable[[Sequence[Choice]], Scores]
"""Returns the scores `(C, N, L, M)` of choices; undefined ones are NaN."""


@dataclass(frozen=True)
class Space:
    """What can be chosen from.

    Attributes:
        structures: Names along the axis L.
        settings: Numbers of those of the conditional random field; none where it does not apply.
        rule_groups: Group of each rule; at most one of a group is chosen.
    """

    structures: tuple[str, ...]
    settings: tuple[int, ...]
    rule_groups: tuple[str, ...]


def choose_setting(base: Choice, measure: Measure, space: Space, cases: Cases) -> Choice:
    """Return rules with the best setting before them that is accepted on some cases, if any.

    A setting changes only labels that it helps, each by itself as a candidate would have to. That
    is stricter than that none falls: a label that is neither helped nor harmed would fall on every
    other set of cases by chance.
    """
    everywhere = frozenset(space.structures)
    settings = [replace(base, setting=number, labels=everywhere) for number in space.settings]
    before_NLM, *all_after = measure([base, *settings])[:, cases]
    promising = []
    for choice, after_NLM in zip(settings, all_after, strict=True):
        compared = compare(before_NLM, after_NLM)
        if compared.helped:
            hope = float(compared.of_each[list(compared.helped)].sum())
            promising.append((hope, _gated(choice, compared, space)))
    promising.sort(key=lambda entry: -entry[0])
    best, most = base, 0.0
    for _, choice in promising[:SHORTLIST]:
        choice, compared = _settle_labels(choice, before_NLM, measure, space, cases)
        if choice.labels and compared.is_accepted and compared.worth > most:
            best, most = choice, compared.worth
    return best


def _settle_labels(
    choice: Choice, before_NLM: Scores, measure: Measure, space: Space, cases: Cases
) -> tuple[Choice, Comparison]:
    """Take labels away until each that is left is helped: less changes with fewer labels."""
    while True:
        (after_NLM,) = measure([choice])[:, cases]
        compared = compare(before_NLM, after_NLM)
        fewer = _gated(choice, compared, space)
        if fewer.labels >= choice.labels:
            return choice, compared
        choice = fewer


def _gated(choice: Choice, compared: Comparison, space: Space) -> Choice:
    helped = {space.structures[index] for index in compared.helped}
    return replace(choice, labels=choice.labels & helped)


def choose_rules(measure: Measure, space: Space, cases: Cases) -> Choice:
    """Return the best rule of each group that helps a label and harms none, if any.

    Each must be worth it for a label, all together for the mean of all.
    """
    candidates = [Choice(rules=(number,)) for number in range(len(space.rule_groups))]
    before_NLM, *all_after = measure([IDENTITY, *candidates])[:, cases]
    best: dict[str, tuple[float, int]] = {}
    for number, after_NLM in enumerate(all_after):
        compared = compare(before_NLM, after_NLM)
        group = space.rule_groups[number]
        # A label may fall a little: what ranks is what all of them gain.
        if compared.is_helpful and compared.worth > best.get(group, (0.0, 0))[0]:
            best[group] = (compared.worth, number)
    if not best:
        return IDENTITY
    together = Choice(rules=tuple(sorted(number for _, number in best.values())))
    # Each helps, all may not: structures that share labels were changed by several.
    for choice in (together, Choice(rules=(max(best.values())[1],))):
        (after_NLM,) = measure([choice])[:, cases]
        if compare(before_NLM, after_NLM).is_accepted:
            return choice
    return IDENTITY


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
