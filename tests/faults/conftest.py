import pytest

from .house import House


class Street:
    """One house for all tests, and another one where a fault has damaged it, so that it fails one test only."""

    def __init__(self, build):
        self._build = build
        self._house = None

    def house(self):
        if self._house is not None and self._house.left_over():
            self.clear()
        if self._house is None:
            self._house = self._build()
            self._house.open()
        return self._house

    def clear(self):
        if self._house is not None:
            self._house.close()
            self._house = None


@pytest.fixture(scope="package")
def street(engine, bundles, tmp_path_factory):
    street = Street(lambda: House(engine, tmp_path_factory.mktemp("house"), bundles=(bundles,)))
    yield street
    street.clear()


@pytest.fixture
def house(street):
    return street.house()
