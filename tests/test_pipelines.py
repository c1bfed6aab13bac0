import re

import pytest
from isocenter.pipelines import loader
from isocenter.pipelines.loader import ExternalStep, GadgetStep, PipelineError, load, parse
from isocenter.pipelines.order import limits
from isocenter.wire.errors import IsocenterError, OptionError
from oddities import error, make, send

SHIPPED = sorted(loader.available(()))


def names(pipeline):
    return [step.gadget.name for step in pipeline.steps]


def v2(stream, readers="", writers=""):
    io = f"<readers>{readers}</readers><writers>{writers}</writers>"
    return f"<configuration><version>2</version>{io}<stream>{stream}</stream></configuration>".encode()


def v1(content):
    return f'<gadgetronStreamConfiguration xmlns="http://gadgetron.sf.net/gadgetron">{content}</gadgetronStreamConfiguration>'.encode()


def node(classname, **properties):
    inner = "".join(f"<property><name>{k}</name><value>{v}</value></property>" for k, v in properties.items())
    return f"<gadget><name>{classname}1</name><dll>gadgetron_mricore</dll><classname>{classname}</classname>{inner}</gadget>"


BUFFERED = node("AcquisitionAccumulateTriggerGadget", trigger_dimension="repetition") + node("BucketToBufferGadget")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_pipelines_load_and_say_what_they_do(name):
    pipeline = load(name)
    assert pipeline.steps
    assert pipeline.summary.endswith(".")


def test_a_pipeline_is_found_with_and_without_its_ending():
    assert load("sense").steps == load("sense.xml").steps


@pytest.mark.parametrize("form", ["rss", "sense", "network"])
def test_both_forms_for_gadgetron_run_the_same_steps(form):
    assert load(form).steps == load(f"{form}_execute").steps


def test_a_folder_hides_the_shipped_pipeline_of_the_same_name(tmp_path):
    (tmp_path / "rss.xml").write_bytes(v2(BUFFERED + node("SimpleReconGadget")))
    assert names(load("rss.xml", [tmp_path])) == ["accumulate", "reconstruct"]


@pytest.mark.parametrize(
    "name", ["../pyproject.toml", "/etc/passwd", "..", "", ".hidden", "a/b.xml", "a\\b.xml", "HOME", "stock.py"]
)
def test_names_that_lead_elsewhere_are_refused(name, tmp_path):
    (tmp_path.parent / "outside.xml").write_bytes(v2(""))
    with pytest.raises(PipelineError, match=r"is not the name of a pipeline|there is no pipeline"):
        load(name, [tmp_path])


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    outside = tmp_path / "outside.xml"
    outside.write_bytes(v2(BUFFERED))
    folder = tmp_path / "pipelines"
    folder.mkdir()
    (folder / "inside.xml").symlink_to(outside)
    with pytest.raises(PipelineError, match="there is no pipeline"):
        load("inside.xml", [folder])


def test_stock_order_is_buffer_first():
    xml = v1(
        node("NoiseAdjustGadget")
        + node("RemoveROOversamplingGadget")
        + BUFFERED
        + node("SimpleReconGadget")
        + node("ExtractGadget")
    )
    pipeline = parse(xml)
    assert names(pipeline) == ["accumulate", "prewhiten", "remove_oversampling", "reconstruct", "extract"]
    assert pipeline.steps[0].options == {"trigger": "repetition", "frames": "average", "fill_calibration": False}
    assert pipeline.steps[3].options["bundle"] == "rss"


def test_the_generic_cartesian_chain():
    generic = (
        node("NoiseAdjustGadget")
        + node("AsymmetricEchoAdjustROGadget")
        + node("RemoveROOversamplingGadget")
        + node("AcquisitionAccumulateTriggerGadget", trigger_dimension="", sorting_dimension="")
        + node(
            "BucketToBufferGadget",
            N_dimension="contrast",
            S_dimension="average",
            split_slices="false",
            ignore_segment="true",
        )
        + node("GenericReconCartesianReferencePrepGadget", prepare_ref_always="true")
        + node(
            "GenericReconEigenChannelGadget", upstream_coil_compression="true", upstream_coil_compression_thres="0.002"
        )
        + node(
            "GenericReconCartesianGrappaGadget", image_series="0", coil_map_algorithm="Inati", send_out_gfactor="false"
        )
        + node("GenericReconPartialFourierHandlingFilterGadget", partial_fourier_filter_E1_width="0.15")
        + node("GenericReconKSpaceFilteringGadget", filterRO="Gaussian", filterRO_sigma="1.0", filterE1_sigma="1.0")
        + node("GenericReconFieldOfViewAdjustmentGadget")
        + node("GenericReconImageArrayScalingGadget", scalingFactor="10.0", use_constant_scalingFactor="true")
        + node("ImageArraySplitGadget")
        + node("ComplexToFloatGadget")
        + node("FloatToUShortGadget", max_intensity="32767", min_intensity="0", intensity_offset="0")
        + node("ImageFinishGadget")
    )
    pipeline = parse(v1(generic))
    assert names(pipeline) == [
        "accumulate",
        "prewhiten",
        "pad_asymmetric_echo",
        "remove_oversampling",
        "compress_coils",
        "estimate_coil_maps",
        "reconstruct",
        "filter_partial_fourier",
        "filter_kspace",
        "adjust_field_of_view",
        "scale",
        "complex_to_float",
        "to_integer",
    ]
    options = {step.gadget.name: step.options for step in pipeline.steps}
    assert options["accumulate"]["trigger"] == "end"
    assert options["reconstruct"] == {"bundle": "sense", "series": 1}
    assert options["scale"] == {"factor": 10.0}
    assert options["to_integer"]["max_intensity"] == 32767


def test_a_property_can_refer_to_another_gadgets():
    xml = v2(
        BUFFERED
        + node("CoilReductionGadget", coils_out="12")
        + node("AutoScaleGadget", max_value="coils_out@CoilReductionGadget1")
    )
    assert parse(xml).steps[-1].options["target"] == 12.0


def test_properties_as_attributes():
    xml = v2(
        BUFFERED + '<gadget><classname>CoilReductionGadget</classname><property name="coils_out" value="3"/></gadget>'
    )
    assert parse(xml).steps[-1].options == {"coils_out": 3}


@pytest.mark.parametrize(
    ("xml", "complaint"),
    [
        (b"", "not readable as XML"),
        (b"<configuration", "not readable as XML"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><configuration/>', "DOCTYPE"),
        (b"<html/>", "root element is 'html'"),
        (v2(node("SharpenGadget")), "gadget 'SharpenGadget' has no counterpart here"),
        (v2(node("NoiseAdjustGadget", colour="red")), "property 'colour' of NoiseAdjustGadget"),
        (v2(BUFFERED + node("CoilReductionGadget", coils_out="many")), "option 'coils_out': 'many' is not accepted"),
        (v2("<parallel/>"), "node 'parallel' has no counterpart"),
        (v2("<distributed/>"), "node 'distributed' has no counterpart"),
        (v2(""), "the stream is empty"),
        (v2(BUFFERED).replace(b">2<", b">3<"), "<version> is '3'; accepted: 2"),
        (
            v2(BUFFERED, writers="<writer><classname>DicomImageWriter</classname></writer>"),
            "writer 'DicomImageWriter' has no counterpart",
        ),
        (v2(BUFFERED, readers="<reader><classname>X</classname></reader>"), "reader 'X' has no counterpart"),
        (v1("<external/>"), "write it as version 2"),
        (v2(node("BucketToBufferGadget")), "must come before"),
        (v2(BUFFERED + node("AutoScaleGadget", max_value="a@b")), "names no property"),
        (v2("<external/>"), "needs <execute> or <connect>"),
        (v2('<external><connect port="x"/></external>'), "needs a port"),
        (v2('<external><execute name="a" target="b" type="matlab"/></external>'), "only 'python' has"),
        (b"<configuration/>", "lists no gadgets"),
        (b'<configuration><gadget name="sharpen"/></configuration>', "there is no gadget 'sharpen'"),
        (b"<configuration><magic/></configuration>", "'magic' is not known here"),
        (b'<configuration><pipeline name="../x"/></configuration>', "not the name of a pipeline"),
    ],
)
def test_what_cannot_run_is_refused_by_name_at_load(xml, complaint):
    with pytest.raises(IsocenterError, match=complaint):
        parse(xml)


@pytest.mark.parametrize(
    ("gadget", "place"),
    [
        ("<gadget name='reconstruckt'/>", "mine.xml, line 5: there is no gadget"),
        ("<gadget name='finish'><property name='windows' value='3'/></gadget>", "mine.xml, line 5, gadget 'finish': it has no"),
        ("<gadget name='finish'>\n<property name='x'/></gadget>", "mine.xml, line 6: <property> 'x' has no value"),
        ("<pipeline name='sence'/>", "mine.xml, line 5: there is no pipeline"),
        ("<pipeline name='other'/>", "other.xml, line 3, gadget 'finish', option 'window_percentile': 'x' is not"),
        ("<magic/>", "mine.xml, line 5: 'magic' is not known"),
        ("<gadget", "mine.xml: not readable as XML: not well-formed (invalid token) in line 6, column 1"),
    ],
)  # fmt: skip
def test_every_error_says_in_which_file_and_line_it_is(gadget, place, tmp_path):
    wrong = '<configuration>\n\n<gadget name="finish"><property name="window_percentile" value="x"/></gadget></configuration>'
    (tmp_path / "other.xml").write_text(wrong)
    xml = f"\n<configuration>\n<gadget name='accumulate'/>\n\n{gadget}\n</configuration>"
    with pytest.raises(IsocenterError, match=f"^{re.escape(place)}"):
        parse(xml.encode(), "mine.xml", [tmp_path])


@pytest.mark.parametrize(
    ("classname", "properties", "complaint"),
    [
        ("CoilReductionGadget", {"coils_out": "x"}, "mine.xml, line 3, gadget 'select_coils', option 'coils_out': 'x' is not"),
        ("GenericReconCartesianGrappaGadget", {"image_series": "x"}, "mine.xml, line 3: property 'image_series' is 'x'"),
        ("GenericReconEigenChannelGadget", {"upstream_coil_compression_thres": "x"}, "mine.xml, line 3: property 'upstr"),
        ("ExtractGadget", {"extract_mask": "1.5"}, "mine.xml, line 3: property 'extract_mask' is '1.5'; accepted: a whole"),
        ("GenericReconKSpaceFilteringGadget", {"filterE1_sigma": "x"}, "mine.xml, line 3: property 'filterE1_sigma' is 'x'"),
        ("SharpenGadget", {}, "mine.xml, line 3: gadget 'SharpenGadget' has no counterpart"),
    ],
)  # fmt: skip
def test_so_do_those_of_stock_gadgets(classname, properties, complaint):
    xml = v2(f"\n{BUFFERED}\n{node(classname, **properties)}")
    with pytest.raises(IsocenterError, match=f"^{re.escape(complaint)}"):
        parse(xml, "mine.xml")


def own(content):
    return f"<configuration>{content}</configuration>".encode()


SENSE = '<gadget name="accumulate"/><gadget name="reconstruct">{}</gadget>'
SET = '<property name="bundle" value="{}"/>'


@pytest.mark.parametrize(
    ("xml", "complaint"),
    [
        (own(SENSE.format('<property name="bundle" valeu="sense"/>')), "attribute 'valeu' (nearest: 'value')"),
        (own(SENSE.format('<property name="bundle"/>')), "<property> 'bundle' has no value"),
        (own(SENSE.format('<property name="bundle">sense</property>')), "<property> holds the text 'sense'"),
        (own(SENSE.format('<property value="sense"/>')), "<property> has no name"),
        (own(SENSE.format('<propery name="bundle" value="sense"/>')), "element 'propery' (nearest: 'property')"),
        (own(SENSE.format("bundle=sense")), "<gadget> holds the text 'bundle=sense'"),
        (own('<gadget name="reconstruct" bundle="sense"/>'), "attribute 'bundle'; accepted: name"),
        (own(SENSE.format(SET.format("sense") + SET.format("tv"))), "is set twice, to 'sense' and to 'tv'"),
        (own(f'<pipeline name="rss">{SET.format("sense")}</pipeline>'), "element 'property'; accepted: no element"),
        (v2("<external><configuraton/><connect port='1'/></external>"), "element 'configuraton' (nearest: 'conf"),
        (v2(2 * "<external>".replace(">", "/>")), "needs <execute> or <connect>"),
        (v2(f"<external>{2 * '<configuration/>'}</external>"), "two elements of the same name"),
        (v2(BUFFERED + "<gadget><clasname>X</clasname></gadget>"), "element 'clasname' (nearest: 'classname'"),
        (v2(BUFFERED).replace(b"</stream>", b"</stream><stream/>"), "more than one <stream>"),
        (own('<gadget name="reconstruct"/><gadget name="accumulate"/>'), "'reconstruct' comes before 'accumulate'"),
        (
            own('<gadget name="accumulate"/><gadget name="finish"/><gadget name="reconstruct"/>'),
            "'finish' comes before",
        ),
    ],
)
def test_what_would_be_passed_over_without_a_word_is_refused(xml, complaint):
    with pytest.raises(PipelineError, match=re.escape(complaint)):
        parse(xml)


def test_a_property_may_be_empty_or_repeated():
    step = parse(own(SENSE.format(SET.format("sense") + SET.format("sense")))).steps[1]
    assert step.options == {"bundle": "sense"}
    assert parse(own(SENSE.format(SET.format("")))).steps[1].options == {"bundle": ""}


@pytest.mark.parametrize(
    ("gadgets", "said"),
    [
        ('<gadget name="accumulate"/><gadget name="reconstruct"/>', []),
        ('<gadget name="accumulate"/>', ["none of its gadgets makes images (reconstruct does)"]),
        ('<gadget name="reconstruct"/>', ["none of its gadgets makes blocks of readouts (accumulate does)"]),
    ],
)
def test_what_a_pipeline_does_not_make_is_said(gadgets, said):
    assert [each.partition(":")[0] for each in limits(parse(own(gadgets)))] == said


def test_a_wrong_option_is_refused_at_load():
    with pytest.raises(OptionError, match="gadget 'accumulate', option 'trigger'"):
        parse(
            b'<configuration><gadget name="accumulate"><property name="trigger" value="never"/></gadget></configuration>'
        )


def test_a_trailing_nul_is_accepted():
    assert parse(v2(BUFFERED) + b"\0").steps


def test_what_gadgetron_hands_to_an_external_node():
    configuration = b'<?xml version="1.0"?>\n<configuration><pipeline name="sense"/></configuration>\n'
    assert loader.is_external_configuration(configuration)
    assert parse(configuration).steps == load("sense").steps
    assert loader.is_external_configuration(b'<?xml version="1.0"?>\n')
    assert not loader.is_external_configuration(v2(BUFFERED))
    assert not loader.is_external_configuration(v1(BUFFERED))


def test_our_gadgets_in_an_external_node_run_here_others_are_programs():
    ours = '<external><connect port="9012"/><configuration><gadget name="extract"/></configuration></external>'
    theirs = '<external><connect address="10.0.0.1" port="18000"/><configuration><x/></configuration></external>'
    started = '<external><execute name="lab.nets" target="run" type="python"/></external>'
    pipeline = parse(v2(ours + theirs + started))
    assert isinstance(pipeline.steps[0], GadgetStep)
    assert pipeline.steps[1] == ExternalStep(
        b'<?xml version="1.0"?>\n<configuration><x /></configuration>', address="10.0.0.1", port=18000
    )
    assert (pipeline.steps[2].module, pipeline.steps[2].target) == ("lab.nets", "run")


def test_steps_before_a_program_stay_before_it():
    program = '<external><connect address="a" port="1"/></external>'
    pipeline = parse(v2(node("NoiseAdjustGadget") + program + node("RemoveROOversamplingGadget") + BUFFERED))
    assert [getattr(step, "gadget", None) and step.gadget.name for step in pipeline.steps] == [
        "prewhiten",
        None,
        "accumulate",
        "remove_oversampling",
    ]


def test_a_python_gadget_of_version_1_is_a_program():
    pipeline = parse(v1(node("PythonGadget", python_module="lab", python_class="Gadget", strength="3")))
    (step,) = pipeline.steps
    assert (step.module, step.target) == ("lab", "Gadget")
    assert b'<property name="strength" value="3" />' in step.configuration


def test_pipelines_that_name_each_other_are_refused(tmp_path):
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.xml").write_text(f"<configuration><pipeline name='{other}'/></configuration>")
    with pytest.raises(PipelineError, match=r"a.xml names b.xml names c.xml names a.xml"):
        loader.load("a", [tmp_path])
    (tmp_path / "c.xml").write_text("<configuration><pipeline name='rss'/></configuration>")
    assert loader.load("a", [tmp_path]).steps


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("<gadget name='extract'/>" * 300, "it has 257 steps or more; accepted: at most 256"),
        ("<pipeline name='rss'/>" * 5000, "it has 2.. steps or more; accepted: at most 256"),
        (
            "<gadget name='reconstruct'><property name='bundle' value='rss'/></gadget>" * 17,
            "17 of its steps reconstruct or are other programs; accepted: at most 16",
        ),
        ("<pipeline name='rss'/>" * 20_000, "too large for a pipeline; accepted: at most 10000 elements"),
        ("<a>" * 51 + "</a>" * 51, "too large for a pipeline; .* nested 50 deep"),
    ],
)
def test_a_pipeline_of_too_many_steps_is_refused(body, reason):
    with pytest.raises(PipelineError, match=reason):
        parse(f"<configuration>{body}</configuration>".encode())


CINE = {"phantom": "heart", "frames": 3, "acceleration": 2}
STOCK = {
    "default.xml": ({}, "float32", 0, 0.07),
    "default_short.xml": ({}, "uint16", 0, 0.07),
    "default_optimized.xml": ({}, "float32", 0, 0.02),
    "Generic_Cartesian_FFT.xml": ({}, "uint16", 1, 0.12),
    "Generic_Cartesian_Grappa.xml": ({"acceleration": 2}, "uint16", 1, 0.12),
    "Generic_Cartesian_Grappa_Complex.xml": ({"acceleration": 2}, "complex64", 1, 0.12),
    "Generic_Cartesian_Grappa_RealTimeCine.xml": (CINE, "uint16", 1, 0.15),
    "Generic_Cartesian_Grappa_T2W.xml": ({**CINE, "frame_counter": "repetition"}, "uint16", 1, 0.15),
}
"""Gadgetron's chains by name: the scan, the images' pixels and series, and the largest error; the generic ones filter."""


@pytest.mark.parametrize("name", STOCK)
def test_gadgetrons_chains_are_found_by_name_and_make_the_right_images(name, service):
    protocol, pixels, series, limit = STOCK[name]
    scan = make(
        {"noise_scan": True, "noise": 2.0 if "frames" in protocol else 0.3, "coils": 6, "slices": 2, **protocol}
    )
    answer = send(service, scan, name)
    assert {(image.data.dtype.name, image.image_series_index) for image in answer.images} == {(pixels, series)}
    assert len(answer.images) == len(scan.images)
    for true in scan.images:
        (image,) = (i for i in answer.images if all(getattr(i, k) == v for k, v in true.counters.items()))
        assert error(image, true.data) < limit
    assert not answer.said.strip()


def test_a_chain_that_needs_what_is_not_here_is_refused_by_name():
    with pytest.raises(PipelineError, match=r"there is no pipeline 'Generic_Cartesian_Grappa_SNR\.xml'"):
        load("Generic_Cartesian_Grappa_SNR.xml")
    xml = v1(BUFFERED + node("GenericReconCartesianGrappaGadget", send_out_gfactor="true"))
    with pytest.raises(PipelineError, match="g-factor and SNR maps have no counterpart"):
        parse(xml)
