from types import SimpleNamespace

from pipeline.reproduction.run import list_differences


def making(**changes):
    facts = {
        "device": "cpu",
        "arithmetic": "torch.float32",
        "environment": {"python": "3.12.0", "threads": 2},
        "versions": {"torch": "2.8"},
        "recipe": SimpleNamespace(settings={"trivox": "1", "inference": {"overlap": 0.5}}),
    }
    return SimpleNamespace(**(facts | changes))


def test_equal_makings_differ_in_nothing():
    assert list_differences(making(), making()) == ()


def test_each_difference_is_a_sentence():
    recorded = making(
        device="cuda:0",
        arithmetic="torch.bfloat16",
        environment={"python": "3.11.0", "threads": 2},
        versions={"torch": "2.8", "numba": "0.60"},
        recipe=SimpleNamespace(settings={"trivox": "0", "inference": {"overlap": 0.25}}),
    )
    assert list_differences(recorded, making()) == (
        "arithmetic: torch.bfloat16 when it was recorded, torch.float32 now",
        "device: cuda:0 when it was recorded, cpu now",
        "numba: 0.60 when it was recorded, none now",
        "python: 3.11.0 when it was recorded, 3.12.0 now",
        "settings of inference: {'overlap': 0.25} when it was recorded, {'overlap': 0.5} now",
    )


def test_what_was_not_recorded_is_no_difference():
    assert list_differences(making(environment={}), making()) == ()
