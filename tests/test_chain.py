"""What of a pipeline is made ready as soon as the header is known."""

import pytest
from helpers import Recorder, wait_until
from isocenter.gadgets.scan import Scan
from isocenter.pipelines import loader
from isocenter.service.chain import Chain
from isocenter.simulate.scan import ScanProtocol, simulate

RECONSTRUCT = (
    '<gadget name="reconstruct"><property name="bundle" value="{}"/><property name="fallback" value="{}"/></gadget>'
)


def chain_of(gadgets, engine, header=None):
    xml = f'<configuration><gadget name="accumulate">{FRAMES}</gadget>{gadgets}</configuration>'
    header = header or simulate(ScanProtocol(matrix=16, coils=3, frames=5)).header
    return Chain(loader.parse(xml.encode(), "test"), Scan(header, engine=engine), engine)


FRAMES = '<property name="frames" value="phase"/>'


@pytest.mark.parametrize(
    ("gadgets", "begins"),
    [
        (RECONSTRUCT.format("sense", "rss"), True),
        (RECONSTRUCT.format("rss", "sense"), False),
        (RECONSTRUCT.format("jsense", "sense"), False),
        (RECONSTRUCT.format("nothing", "rss"), True),  # which is said when it is used
        ("", True),  # nobody knows who takes the blocks
    ],
)
def test_maps_are_begun_where_the_bundle_that_is_tried_first_takes_them(gadgets, begins, engine):
    assert chain_of(gadgets, engine)._context()["begin_maps"] == begins


def test_the_first_bundle_of_a_step_is_warmed_up_for_the_announced_sizes_and_the_others_are_loaded(make_engine):
    device = Recorder()
    loaded = []
    device.load = loaded.append
    engine = make_engine(devices=[device])
    chain_of(RECONSTRUCT.format("sense", "rss tv"), engine).warm_up()
    sizes = {"batch": 1, "coils": 3, "frames": 5, "kz": 1, "ky": 16, "kx": 16}
    wait_until(lambda: {"sense", "rss", "tv"} <= set(loaded))
    wait_until(lambda: device.runs)
    assert device.runs == [("sense", sizes)]


def test_eight_coils_are_expected_where_the_header_does_not_say(engine):
    header = simulate(ScanProtocol(matrix=16, coils=3)).header
    start, end = header.index("<receiverChannels>"), header.index("</receiverChannels>") + len("</receiverChannels>")
    assert chain_of("", engine, header[:start] + header[end:])._announced_sizes()["coils"] == 8


def test_a_step_whose_bundle_is_not_named_does_not_stop_the_others(make_engine):
    chain = chain_of('<gadget name="reconstruct"/>' + RECONSTRUCT.format("rss", ""), make_engine(devices=[Recorder()]))
    assert chain.bundles() == [["rss"]]


@pytest.mark.parametrize(("gadgets", "makes"), [("", False), (RECONSTRUCT.format("rss", ""), True)])
def test_a_pipeline_says_whether_it_makes_images(gadgets, makes, engine):
    assert chain_of(gadgets, engine).makes_images == makes
