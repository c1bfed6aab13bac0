"""Series of images that a client can write: one size and type of pixels each."""

from ..gadgets.scan import Scan
from ..wire.items import Image

_MOST = 65536
Form = tuple[object, ...]


class SeriesNumbers:
    """Keeps images of different form out of one series: Gadgetron's client writes a series as one array, and aborts."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, Form], int] = {}
        self._taken: set[int] = set()
        self._next: dict[int, int] = {}
        """Where to look for a free number in the place of one."""

    def settle(self, image: Image, scan: Scan) -> None:
        """Leave an image in its series if it is like the others there, or else move it to a free one, and report that.

        Parameters
        ----------
        image
            Its series number is changed in place.
        scan
            Reported to.
        """
        header = image._head
        series, form = int(header.image_series_index or 0), (image.data.shape, image.data.dtype)
        if (series, form) not in self._numbers:
            number = self._next.get(series, series)
            while number in self._taken and len(self._taken) < _MOST:
                number = (number + 1) % _MOST
            self._next[series] = number
            self._taken.add(number)
            self._numbers[series, form] = number
            if number != series:
                scan.report(
                    "series", f"images of series {series} differ in size or type; some have a series of their own"
                )
        header.image_series_index = self._numbers[series, form]
