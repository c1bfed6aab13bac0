"""Reconstruct blocks of k-space with a bundle."""

from collections import deque
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from ..bundle.manifest import NO_SUCH_BUNDLE, BundleError
from ..flow.ahead import run_ahead
from ..wire.errors import IsocenterError
from ..wire.items import Image
from .gadget import FromChain, FromClient, Options, Stream, gadget
from .image_header import ImageNumbers, image_index
from .kspace import Item, Kspace, size_of
from .scan import Scan
from .series import Reconstruction, Reconstructor

_SERIES_BESIDE = 100
"""By how much the number of a second series is higher; of encoding spaces, whose series are counted on, scans have a few."""


def bundle_names(default: str | None, bundle: str, fallback: str) -> list[str]:
    """Return the bundles that ``reconstruct`` tries with these options at a site with this default bundle, in order.

    Raises
    ------
    IsocenterError
        None is named anywhere.
    """
    name = bundle or default
    if not name:
        raise IsocenterError(
            "no bundle is named: set the option 'bundle' of 'reconstruct' in the pipeline, send the parameter 'bundle', "
            "or set 'default_bundle' in the service's settings"
        )
    return list(dict.fromkeys([name, *fallback.split()]))


def _bundles(default: str | None, options: Options) -> list[str]:
    return [*bundle_names(default, options["bundle"], options["fallback"]), *filter(None, [options["beside"]])]


def _require_known(scan: Scan, names: list[str]) -> None:
    """Refuse a name that no bundle has: whoever wrote it meant something, and gets nothing else by mistake.

    Raises
    ------
    BundleError
        There is one.
    """
    for name in names:
        try:
            scan.require_engine().load(name)
        except BundleError as error:  # others are for the fallback
            if error.kind == NO_SUCH_BUNDLE:
                raise


@gadget(takes=(Kspace,), makes=(Image,), waits=True, bundles=_bundles)
def reconstruct(
    items: Stream,
    scan: Scan,
    *,
    bundle: Annotated[str, FromClient()] = "",
    fallback: str = "",
    demand: Literal["", "gate"] = "",
    regularization: Annotated[float, Field(ge=0.001, le=1000), FromClient("lambda")] = 1.0,
    beside: Annotated[str, FromClient()] = "",
    uncertainty: Annotated[bool, FromClient()] = False,
    longest_wait: Annotated[float, Field(ge=0), FromClient()] = 0.0,
    unknown: Literal["refuse", "fallback"] = "refuse",
    series: Annotated[int, Field(ge=0, le=65535)] = 1,
    numbering: Literal["counters", "running"] = "counters",
    recon_grid: Annotated[bool, FromChain] = False,
) -> Stream:
    """Run a bundle on every block and make MRD images of what it returns, one per frame.

    Blocks are taken and queued while those before are computed; images come in the order of the blocks. A block that no bundle
    can reconstruct costs only itself.

    Parameters
    ----------
    items
        Blocks; others pass by.
    scan
        Its engine runs the bundle. Told of blocks without an image, and of images by a bundle that was not made for the scan.
    bundle
        Name of the bundle. Empty: the site's default bundle.
    fallback
        Bundle that takes over for a block that the first one was not made for, or on which it fails, runs longer than the
        engine's deadline, or returns values that are not finite. Several names, separated by spaces, are tried in order; the last
        one takes every block. The images say so, and the client is told.
    demand
        What ``bundle`` must have: ``gate``, a report card with which it passed the gate. Without, the fallback takes over, or the
        scan is refused where there is none.
    regularization
        What the strength of the method is multiplied by: 1 is the bundle's own, 2 regularises twice as much. SENSE's is the
        weight of its Tikhonov term, that of compressed sensing follows the noise. Images of a bundle that has none to choose
        are made without, and the client is told.
    beside
        Bundle that makes a second series from the same data, so that a reader has both: a classical method beside a network.
        Its images come when the bundle has time, after the first series' of the same block at the earliest; a failure of either
        costs the other nothing. Its series number is higher by 100. Empty: no second series.
    uncertainty
        Whether a series of its own shows how far the images of the first one are likely to be off: the standard deviation of the
        error of their magnitude at each pixel, in their units, by the same run. Its number is higher by 200. There is none of an
        image whose bundle tells no calibrated one, and the client is told.
    longest_wait
        Seconds after which the fallback takes over a block that the bundle has not begun, as blocks come faster than it computes
        them. The images say so, and the client is told. 0: every block waits for its turn.
    unknown
        What is done where there is no bundle of one of the names: ``refuse`` makes no image, and says which names come nearest;
        ``fallback`` goes on with the others.
    series
        Series number of the images of the first encoding space; those of the others follow.
    numbering
        ``image_index`` from 1: by the counters (``counters``), or the next free one where these repeat; or in order of
        appearance within the series (``running``).
    recon_grid
        Whether a later gadget brings images to the recon grid. Coil images are then brought there before their magnitudes are
        taken.

    Raises
    ------
    IsocenterError
        There were blocks, and none could be reconstructed: the reason of the first one.
    """
    names = bundle_names(scan.require_engine().default_bundle, bundle, fallback)
    if unknown == "refuse":
        _require_known(scan, [*names, *filter(None, [beside])])
    first = Reconstructor(
        scan, names, demand, regularization, uncertainty=uncertainty, longest_wait=longest_wait, recon_grid=recon_grid
    )
    makers = [first, *_second(scan, names[0], beside, recon_grid=recon_grid)]
    numbers = _Numbers(series, numbering)
    waiting: deque[Reconstruction] = deque()

    def start(item: Item) -> Item | list[Reconstruction]:
        return [maker.start(item) for maker in makers] if isinstance(item, Kspace) else item

    def images(this: Reconstruction) -> Iterator[Image]:
        return (numbers.give(image, this.kspace) for image in this.maker.images(this))

    try:
        for item in run_ahead(items, start, account=scan.ledger.account("ahead", of_blocks=True), size=size_of):
            if not isinstance(item, list):
                yield item
                continue
            yield from images(item[0])
            waiting.extend(item[1:])
            while waiting and waiting[0].is_done:
                yield from images(waiting.popleft())
        while waiting:
            yield from images(waiting.popleft())
        if not any(maker.made_any for maker in makers):
            makers[0].raise_first_error()
    finally:
        for maker in makers:
            maker.cancel()


class _Numbers:
    """Numbers of series, and of the images within them.

    Parameters
    ----------
    first
        Of the series of the first encoding space.
    numbering
        As ``reconstruct`` has it.
    """

    def __init__(self, first: int, numbering: str) -> None:
        self._first = first
        self._is_running = numbering == "running"
        self._taken = ImageNumbers()

    def give(self, image: Image, kspace: Kspace) -> Image:
        """Number an image of a block; that of its series says yet by how much it is higher than the first one's."""
        header = image._head
        header.image_series_index = (self._first + kspace.encoding_index + header.image_series_index) % 65536
        header.image_index = (
            self._taken.running(header.image_series_index)
            if self._is_running
            else self._taken.take(header.image_series_index, image_index(header, kspace.encoding))
        )
        return image


def _second(scan: Scan, first: str, beside: str, *, recon_grid: bool) -> list[Reconstructor]:
    """Return who makes a second series, if anyone; one that cannot be loaded is reported, and the first goes on alone."""
    if beside == first:
        scan.report("beside", f"there is no second series: bundle {beside!r} makes the first one already")
    elif beside:
        try:
            return [Reconstructor(scan, [beside], recon_grid=recon_grid, series=_SERIES_BESIDE)]
        except IsocenterError as error:
            scan.report("beside", f"there is no second series: {error}")
    return []
