import pytest

from .house import House


@pytest.fixture(scope="module")
def house(engine, bundles, tmp_path_factory):
    with House(engine, tmp_path_factory.mktemp("house"), bundles=(bundles,)) as house:
        yield house
