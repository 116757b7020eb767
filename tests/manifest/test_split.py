import dataclasses
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError, ManifestError
from pipeline.manifest import Case, Channel, Manifest, split_cases


def make(subjects, splits=None):
    """Return a manifest with one case for each subject named, and its split."""
    cases = tuple(
        Case(f"c{i:03d}", (Path("i.nii"),), Path("l.nii"), subject, split)
        for i, (subject, split) in enumerate(
            zip(subjects, splits or [None] * len(subjects), strict=True)
        )
    )
    channels = (Channel("CT", "CT"),)
    return Manifest(Path("m.yaml"), "m", "", "", "", channels, {"a": 1}, cases)


many_subjects = st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=40).filter(
    lambda subjects: len(set(subjects)) >= 2
)
seeds = st.integers(0, 2**32)


def draw_folds(data, subjects):
    return data.draw(st.integers(2, len(set(subjects))))


@given(st.data(), many_subjects, seeds)
def test_folds_partition_the_cases_by_subject(data, subjects, seed):
    manifest = make(subjects)
    folds = draw_folds(data, subjects)
    splits = [split_cases(manifest, folds=folds, fold=k, seed=seed) for k in range(folds)]
    validated = Counter(case for split in splits for case in split.validation)
    assert validated == Counter(manifest.cases)
    for split in splits:
        assert {*split.train, *split.validation} == set(manifest.cases)
        assert len(split.train) + len(split.validation) == len(manifest.cases)
        assert split.train
        assert split.validation
        sides = [{case.subject for case in side} for side in (split.train, split.validation)]
        assert not sides[0] & sides[1]


@given(st.data(), many_subjects, seeds)
def test_folds_are_balanced(data, subjects, seed):
    manifest = make(subjects)
    folds = draw_folds(data, subjects)
    sizes = [
        len(split_cases(manifest, folds=folds, fold=k, seed=seed).validation) for k in range(folds)
    ]
    # Dealing each subject into the smallest fold cannot leave a larger gap than one subject.
    assert max(sizes) - min(sizes) <= max(Counter(subjects).values())


@given(st.data(), many_subjects, seeds)
def test_the_order_of_the_rows_does_not_matter(data, subjects, seed):
    manifest = make(subjects)
    shuffled = dataclasses.replace(
        manifest, cases=tuple(data.draw(st.permutations(manifest.cases)))
    )
    folds = draw_folds(data, subjects)
    for fold in range(folds):
        arguments = {"folds": folds, "fold": fold, "seed": seed}
        assert split_cases(manifest, **arguments) == split_cases(shuffled, **arguments)


@pytest.mark.parametrize("seed", range(10))
def test_large_subjects_do_not_unbalance_the_folds(seed):
    # 3 + 1 + 1 + 1 cases: the only equal halves are 3 and 1 + 1 + 1.
    split = split_cases(make("aaabcd"), folds=2, fold=0, seed=seed)
    assert {len({case.subject for case in side}) for side in (split.train, split.validation)} == {
        1,
        3,
    }


def test_the_seed_decides():
    manifest = make([f"s{i}" for i in range(40)])
    first, again, other = (
        split_cases(manifest, folds=4, fold=1, seed=seed).validation for seed in (1, 1, 2)
    )
    assert first == again != other


def test_test_cases_are_left_out():
    manifest = make("abcd", [None, None, None, "test"])
    split = split_cases(manifest, folds=3, fold=0, seed=0)
    assert {case.subject for case in (*split.train, *split.validation)} == {"a", "b", "c"}


def test_the_manifests_split_decides():
    manifest = make("abcd", ["train", "validation", "test", "train"])
    split = split_cases(manifest, folds=5, fold=4, seed=0)
    assert [case.subject for case in split.train] == ["a", "d"]
    assert [case.subject for case in split.validation] == ["b"]


@pytest.mark.parametrize(
    ("manifest", "folds", "fold", "message"),
    [
        (make("ab"), 1, 0, r"folds: 1 folds\. Use at least 2"),
        (make("ab"), 2, 2, r"fold: fold 2 of 2\. Use one from 0 to 1"),
        (make("ab"), 2, -1, "fold: fold -1 of 2"),
    ],
)
def test_a_fold_out_of_range_is_refused(manifest, folds, fold, message):
    with pytest.raises(ConfigError, match=message):
        split_cases(manifest, folds=folds, fold=fold, seed=0)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (make("aab"), "m.yaml: 2 subjects cannot make 3 folds. Set data.folds=2"),
        (make("abc", ["test"] * 3), "no subject: training needs a second"),
        (make("ab", ["train", None]), "1 of 2 cases have no split, such as 'c001'. Set train, val"),
        (make("ab", ["train", "train"]), "2 cases are set to train and 0 to validation"),
        (make("ab", ["validation", "test"]), "0 cases are set to train and 1 to validation"),
        (make("aa", ["train", "validation"]), "subject 'a' has cases in both train and validation"),
    ],
)
def test_a_split_that_cannot_be_is_refused(manifest, message):
    with pytest.raises(ManifestError, match=message):
        split_cases(manifest, folds=3, fold=0, seed=0)


def test_cases_without_labels_are_refused():
    manifest = make("abc")
    cases = (*manifest.cases[:2], dataclasses.replace(manifest.cases[2], label=None))
    message = r"1 of 3 cases have no label, such as 'c002'\. Add their labels, or set their split"
    with pytest.raises(ManifestError, match=message):
        split_cases(dataclasses.replace(manifest, cases=cases), folds=2, fold=0, seed=0)


# --- Stratification ---


def all_folds(manifest, folds, seed, volumes_ml=None):
    return [
        split_cases(manifest, folds=folds, fold=k, seed=seed, volumes_ml=volumes_ml).validation
        for k in range(folds)
    ]


@given(st.data(), many_subjects, seeds)
def test_where_all_cases_have_the_same_labels_the_folds_are_as_without_volumes(
    data, subjects, seed
):
    manifest = make(subjects)
    ml = st.floats(0.1, 100)
    volumes_ml = {case.name: {"a": data.draw(ml)} for case in manifest.cases}
    folds = draw_folds(data, subjects)
    assert all_folds(manifest, folds, seed, volumes_ml) == all_folds(manifest, folds, seed)


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_label_is_in_every_fold(seed):
    manifest = make([f"s{i}" for i in range(25)])
    names = [case.name for case in manifest.cases]
    rare = set(names[:5])
    table = {name: {"a": 1.0, "b": 2.0 * (name in rare)} for name in names}
    folds = all_folds(manifest, 5, seed, table)
    assert [sum(case.name in rare for case in fold) for fold in folds] == [1] * 5
    assert [len(fold) for fold in folds] == [5] * 5
    unstratified = all_folds(manifest, 5, seed)
    assert [sum(case.name in rare for case in fold) for fold in unstratified] != [1] * 5


def test_large_and_small_structures_are_spread_over_the_folds():
    manifest = make([f"s{i}" for i in range(22)])
    table = {
        case.name: {"a": 1.0, "b": float(i + 1)} if i < 20 else {"a": 1.0}
        for i, case in enumerate(manifest.cases)
    }
    for seed in range(5):
        folds = all_folds(manifest, 2, seed, table)
        totals = [sum(table[case.name].get("b", 0) for case in fold) for fold in folds]
        assert abs(totals[0] - totals[1]) <= 10, "105 each would be perfect"


def test_annotated_labels_stand_in_for_volumes():
    manifest = make([f"s{i}" for i in range(10)])
    cases = tuple(
        dataclasses.replace(case, annotated=("a",) if i < 2 else ())
        for i, case in enumerate(manifest.cases)
    )
    folds = all_folds(dataclasses.replace(manifest, cases=cases), 2, 0)
    assert [sum(bool(case.annotated) for case in fold) for fold in folds] == [1, 1]


@given(st.data(), many_subjects, seeds)
def test_stratified_folds_partition_the_subjects_and_are_balanced(data, subjects, seed):
    manifest = make(subjects)
    some = st.dictionaries(st.sampled_from("abc"), st.floats(0, 9), max_size=3)
    table = {case.name: data.draw(some) for case in manifest.cases}
    folds = all_folds(manifest, draw_folds(data, subjects), seed, table)
    assert Counter(case for fold in folds for case in fold) == Counter(manifest.cases)
    owners = Counter(subject for fold in folds for subject in {case.subject for case in fold})
    assert set(owners.values()) == {1}
    sizes = [len(fold) for fold in folds]
    assert max(sizes) - min(sizes) <= max(Counter(subjects).values())
    shuffled = dataclasses.replace(
        manifest, cases=tuple(data.draw(st.permutations(manifest.cases)))
    )
    assert all_folds(shuffled, len(folds), seed, table) == folds
