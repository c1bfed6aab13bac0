"""What a client may choose: declared by gadgets, open in pipelines, set by parameters, and told back where nothing reads it."""

import json
import warnings
from types import SimpleNamespace
from typing import Annotated, Literal

import numpy as np
import pytest
from isocenter import reconstruct
from isocenter.commands.api import ReconstructionWarning
from isocenter.commands.cli import app
from isocenter.gadgets.gadget import FromChain, FromClient, gadget
from isocenter.pipelines import loader
from isocenter.pipelines.loader import FireStep, GadgetStep, Pipeline
from isocenter.pipelines.parameters import (
    OF_THE_SERVICE,
    choose,
    complaint,
    parameters_of,
    read,
    unread,
    wants_feedback,
)
from isocenter.service.settings import Settings
from isocenter.wire import Text
from isocenter.wire.accepted import accepted
from isocenter.wire.errors import OptionError, nearest
from pydantic import Field, TypeAdapter
from typer.testing import CliRunner


@gadget
def sharpen(
    items,
    scan,
    *,
    strength: Annotated[float, Field(ge=0, lt=1), FromClient("lambda")] = 0.5,
    times: Annotated[int, FromClient()] = 1,
    shape: Annotated[Literal["disc", "square"], FromClient()] = "disc",
    hidden: int = 3,
    inner: Annotated[bool, FromChain] = False,
):
    """Sharpen.

    Parameters
    ----------
    items
        Images.
    strength
        How much,
        as ``a`` fraction.
    times, shape
        How.

    Raises
    ------
    OptionError
        Never.
    """
    yield from items


def pipeline(**options):
    return Pipeline("mine.xml", (GadgetStep(sharpen, options),))


def values_of(chosen):
    return chosen.steps[0].complete


class TestDeclarations:
    @pytest.mark.parametrize(
        ("hint", "words"),
        [
            (Annotated[float, Field(ge=0, lt=1)], "number from 0 below 1"),
            (Annotated[int, Field(gt=2, le=7)], "whole number above 2 to 7"),
            (bool, "true or false"),
            (str, "text"),
            (Literal["a", "b", "c"], "a, b or c"),
            (Literal["", "gate"], "nothing or gate"),
            (Annotated[float, Field(ge=0)] | Literal["auto"], "number from 0 or auto"),
            (float | None, "number or nothing"),
        ],
    )
    def test_what_an_option_accepts_is_said_in_words(self, hint, words):
        assert accepted(TypeAdapter(hint)) == words

    def test_name_type_default_and_meaning_come_from_the_gadget(self):
        found = parameters_of(pipeline())
        assert list(found) == ["lambda", "times", "shape"]
        one = found["lambda"]
        assert (one.accepted, one.default, one.meaning) == ("number from 0 below 1", "0.5", "How much, as a fraction.")
        assert found["shape"].meaning == found["times"].meaning == "How."

    def test_what_a_pipeline_sets_is_no_parameter(self):
        assert list(parameters_of(pipeline(strength=0.1))) == ["times", "shape"]
        assert "bundle" in parameters_of(loader.load("network"))
        assert "bundle" not in parameters_of(loader.load("sense"))

    @pytest.mark.parametrize("name", sorted(loader.available(())))
    def test_every_parameter_of_a_shipped_pipeline_has_a_meaning(self, name):
        for each in parameters_of(loader.load(name)).values():
            assert len(each.meaning) > 10
            assert each.accepted


class TestChoosing:
    @pytest.mark.parametrize("value", ["0.25", 0.25])
    def test_texts_and_json_values_reach_the_option(self, value):
        assert values_of(choose(pipeline(), {"lambda": value}))["strength"] == 0.25

    @pytest.mark.parametrize("value", ["", None])
    def test_nothing_chooses_nothing(self, value):
        chosen = choose(pipeline(), {"lambda": value})
        assert values_of(chosen)["strength"] == 0.5
        assert read(chosen, {"lambda": value}) == {}

    @pytest.mark.parametrize(
        ("values", "complaint"),
        [
            ({"lambda": "1"}, "parameter 'lambda': '1' is not accepted; accepted: number from 0 below 1"),
            ({"lambda": "much"}, "parameter 'lambda': 'much' is not accepted; accepted: number from 0 below 1"),
            ({"lambda": "nan"}, "parameter 'lambda': 'nan' is not accepted"),
            ({"times": "1.5"}, "parameter 'times': '1.5' is not accepted; accepted: whole number"),
            ({"times": [1]}, r"parameter 'times': '\[1\]' is not accepted; accepted: whole number"),
            ({"times": 10**12}, "parameter 'times': '1000000000000' is not accepted; accepted: numbers up to 1e"),
            ({"shape": "disk"}, "parameter 'shape': 'disk' is not accepted; accepted: disc or square"),
        ],
    )
    def test_what_does_not_fit_is_refused_in_a_sentence(self, values, complaint):
        with pytest.raises(OptionError, match=complaint):
            choose(pipeline(), values)

    @pytest.mark.parametrize(
        ("value", "wanted"), [("false", False), (False, False), (None, False), ("true", True), (True, True), (1, True)]
    )
    def test_feedback_is_a_truth_value(self, value, wanted):
        assert wants_feedback({"feedback": value}) == wanted

    def test_feedback_that_is_neither_is_refused(self):
        with pytest.raises(OptionError, match="parameter 'feedback': 'maybe' is not accepted; accepted: true or false"):
            choose(pipeline(), {"feedback": "maybe"})

    def test_a_later_choice_takes_the_place_of_an_earlier_one(self):
        chosen = choose(choose(pipeline(), {"lambda": 0.1, "times": 2}), {"lambda": 0.2})
        assert chosen.steps[0].chosen == {"strength": 0.2}

    def test_the_hash_of_a_pipeline_is_that_of_what_it_sets_itself(self):
        assert choose(pipeline(), {"times": 2}).digest == pipeline().digest

    def test_what_nothing_reads_is_named_with_the_nearest(self):
        assert unread(pipeline(), {"lamda": 1, "times": 2, "config": "x", "feedback": True}) == ["lamda"]
        said = complaint(pipeline(), {"lamda": 1, "TIMES": 2, "zzz": 3, "shape": "disc"})
        assert "parameters 'lamda' (nearest: 'lambda'), 'TIMES' (nearest: 'times'), 'zzz':" in said
        assert complaint(pipeline(), {"times": 2}) == ""

    def test_a_fire_module_reads_what_it_likes(self):
        assert complaint(Pipeline("fire", (FireStep("module", "fire"),)), {"anything": 1}) == ""

    def test_nearest_takes_no_heed_of_capitals_and_says_nothing_where_nothing_is_near(self):
        assert nearest("SENCE", ["sense", "rss"]) == " (nearest: 'sense')"
        assert nearest("quite something else", ["sense.xml"]) == ""


def parameters(**values):
    return json.dumps({"parameters": values})


class TestScans:
    def test_a_parameter_reaches_the_gadget_and_the_images_say_so(self, service, small_scan):
        plain = service.replay(small_scan, "rss").images[0]
        result = service.replay(small_scan, "rss", parameters=parameters(window_percentile="50", config=""))
        (image,) = result.images
        assert image.meta["IsocenterParameters"] == "window_percentile=50"
        assert image.meta["IsocenterPipelineHash"] == plain.meta["IsocenterPipelineHash"]
        assert float(image.meta["WindowWidth"]) == pytest.approx(np.percentile(image.data, 50), rel=1e-5)
        assert float(plain.meta["WindowWidth"]) == pytest.approx(np.percentile(image.data, 99.5), rel=1e-5)
        assert "IsocenterParameters" not in plain.meta
        assert not result.texts

    def test_one_that_nothing_reads_is_named_back_with_the_nearest_name(self, service, small_scan):
        result = service.replay(small_scan, "rss", parameters=parameters(window_percentil=50, zzz=1))
        (image,) = result.images
        (text,) = result.texts
        assert "WARNING: nothing in pipeline 'rss.xml' reads parameters 'window_percentil'" in text
        assert "(nearest: 'window_percentile'), 'zzz'" in text
        assert image.meta["IsocenterUnread"] == "nothing reads these parameters: window_percentil, zzz"
        assert image.meta["IsocenterComplete"] == "yes"

    def test_a_value_that_is_not_accepted_gives_no_image(self, service, small_scan):
        result = service.replay(small_scan, "rss", parameters=parameters(window_percentile=101))
        assert not result.images
        assert result.failed
        assert "parameter 'window_percentile': '101' is not accepted; accepted: number above 0 to 100" in str(
            result.texts
        )

    @pytest.mark.parametrize(
        "text",
        ['{"parameters": {"bundle": "rss", "bundle": "sense"}}', '{"parameters": {}, "parameters": {"bundle": "rss"}}'],
    )
    def test_one_that_is_given_twice_gives_no_image(self, service, small_scan, text):
        result = service.replay(small_scan, "network", parameters=text)
        assert not result.images
        assert result.failed
        assert "is given twice; accepted: each name once" in str(result.texts)

    @pytest.mark.parametrize("text", ['{"bundle": "sense"}', "{'parameters': 1}", '{"parameters": [1]}'])
    def test_a_text_without_parameters_is_told(self, service, small_scan, text):
        result = service.replay(small_scan, "rss", parameters=text)
        assert len(result.images) == 1
        assert "holds no parameters" in str(result.texts)

    def test_the_pipeline_that_config_names_has_parameters_of_its_own(self, service, small_scan):
        chosen = parameters(config="network", bundle="rss")
        (image,) = service.replay(small_scan, "sense", parameters=chosen).images
        assert image.meta["IsocenterBundle"] == "rss"
        result = service.replay(small_scan, "sense", parameters=parameters(bundle="rss"))
        assert result.images[0].meta["IsocenterBundle"] == "sense"
        assert "reads a parameter 'bundle'" in str(result.texts)

    def test_several_texts_add_up(self, service, small_scan):
        later = Text(parameters(calibration_size=16))
        scan = SimpleNamespace(header=small_scan.header, items=[later, *small_scan.items])
        result = service.replay(scan, "network", parameters=parameters(bundle="sense"))
        assert result.images[0].meta["IsocenterParameters"] == "bundle=sense, calibration_size=16"

    def test_in_python_they_are_the_same(self, small_scan, bundles, tmp_path):
        settings = Settings(home=tmp_path, bundles=(bundles,))
        scan = small_scan.header, small_scan.items
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            (image,) = reconstruct(scan, "network", settings=settings, bundle="rss", window_percentile=50)
        assert image.meta["IsocenterParameters"] == "bundle=rss, window_percentile=50"
        with pytest.warns(ReconstructionWarning, match="nearest: 'bundle'"):
            reconstruct(scan, "network", settings=settings, bundle="rss", bundel="rss")
        with pytest.raises(OptionError, match="number above 0 to 100"):
            reconstruct(scan, "rss", settings=settings, window_percentile=-1)


PIPELINE = (
    "<configuration><version>2</version><stream><external><connect port='9012'/><configuration>"
    "<gadget name='accumulate'/><gadget name='reconstruct'>{}</gadget>"
    "</configuration></external></stream></configuration>"
)


def property_(name, value):
    return f"<property name='{name}' value='{value}'/>"


class TestNamesThatAreNotThere:
    @pytest.mark.parametrize("bundle", ["sence", "Sense"])
    def test_a_bundle_gives_no_image_though_there_is_a_fallback(self, service, small_scan, bundle):
        result = service.replay(small_scan, "network", parameters=parameters(bundle=bundle))
        assert not result.images
        assert f"ERROR: there is no bundle '{bundle}' (nearest: 'sense'" in str(result.texts)

    def test_nor_does_a_fallback_that_is_none(self, service, small_scan):
        script = PIPELINE.format(property_("bundle", "rss") + property_("fallback", "sence")).encode()
        assert "(nearest: 'sense'" in str(service.replay(small_scan, script).texts)

    def test_unless_the_pipeline_says_so_and_then_the_client_is_told(self, service, small_scan):
        options = property_("bundle", "rsss") + property_("fallback", "rss") + property_("unknown", "fallback")
        result = service.replay(small_scan, PIPELINE.format(options).encode())
        (image,) = result.images
        assert image.meta["IsocenterBundle"] == "rss"
        assert "there is no bundle 'rsss'" in image.meta["IsocenterFallback"]
        assert "there is no bundle 'rsss'" in str(result.texts)

    @pytest.mark.parametrize("name", ["sence", "sence.xml", "SENSE.xml", "Network"])
    def test_a_pipeline(self, service, small_scan, name):
        result = service.replay(small_scan, name)
        assert not result.images
        near = "network.xml" if "N" in name[:1] else "sense.xml"
        assert f"there is no pipeline '{name}' (nearest: '{near}'" in str(result.texts)

    def test_an_alias_says_what_it_stands_for(self, make_service, small_scan):
        service = make_service(aliases={"openrecon": "sence"})
        said = str(service.replay(small_scan, "openrecon").texts)
        assert "the settings say that 'openrecon' is 'sence', which is no pipeline (nearest: 'sense.xml'" in said

    def test_aliases_and_fire_modules_are_names_too(self, make_service, small_scan):
        service = make_service(aliases={"openrecon": "rss"}, fire_modules={"invert": "invert"})
        assert "(nearest: 'openrecon')" in str(service.replay(small_scan, "openrecom").texts)
        assert "(nearest: 'invert')" in str(service.replay(small_scan, "inverts").texts)

    def test_a_pipeline_that_the_settings_name_for_this_is_told_and_written_on_the_images(
        self, make_service, small_scan
    ):
        result = make_service(default_pipeline="rss").replay(small_scan, "whatever")
        (image,) = result.images
        assert image.meta["IsocenterConfiguration"] == (
            "configuration 'whatever' is not known: pipeline 'rss.xml' is used instead"
        )
        assert "WARNING: configuration 'whatever' is not known" in str(result.texts)


def test_pipelines_show_is_a_row_a_line_in_a_pipe_and_says_what_each_means():
    result = CliRunner().invoke(app, ["pipelines", "show", "network"])
    shown = dict(line.split("  ", 1) for line in result.stdout.splitlines() if "  " in line)
    pipeline = loader.load("network")
    for parameter in (*parameters_of(pipeline).values(), *OF_THE_SERVICE.values()):
        assert shown[parameter.name].endswith(f"  {parameter.meaning}")
    assert shown["feedback"].strip().split("  ")[0] == "true or false"
    assert [shown[name].split()[3] for name in ("magnitude", "phase", "feedback")] == ["true", "false", "false"]
    assert len({shown["magnitude"], shown["phase"], shown["complex"]}) == 3
