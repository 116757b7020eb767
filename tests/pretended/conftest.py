"""A pretended GPU for each test here."""

import pytest

from tests.pretended.pretend_gpu import pretend_gpu


@pytest.fixture
def gpu():
    with pretend_gpu() as mode:
        yield mode
