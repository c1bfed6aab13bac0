"""ONNX files that refer to other files, or to operators of somebody else, are refused before ONNX Runtime reads them."""

import numpy as np
import pytest
from isocenter.bundle.manifest import BundleError
from isocenter.bundle.onnx_graph import check_onnx

onnx = pytest.importorskip("onnx")
helper = pytest.importorskip("onnx.helper")


def tensor(name="weights", external=False):
    made = onnx.numpy_helper.from_array(np.ones(3, np.float32), name)
    if external:
        made.data_location = onnx.TensorProto.EXTERNAL
        entry = made.external_data.add()
        entry.key, entry.value = "location", "../secret.bin"
        made.ClearField("raw_data")
    return made


def model(nodes=(), functions=(), opset="", **graph):
    image = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3])
    made = helper.make_graph([*nodes, helper.make_node("Identity", ["x"], ["y"])], "graph", [image], [image], **graph)
    return helper.make_model(made, functions=functions, opset_imports=[helper.make_opsetid(opset, 18)])


def in_subgraph(inner):
    return helper.make_node("If", ["x"], ["z"], then_branch=helper.make_graph([inner], "inner", [], []))


def constant(external):
    return helper.make_node("Constant", [], ["c"], value=tensor(external=external))


def function(node, domain="mine", name="Mine"):
    return helper.make_function(domain, name, ["x"], ["y"], [node], [helper.make_opsetid("", 18)])


def models(external):
    sparse = onnx.SparseTensorProto(values=tensor(external=external), indices=tensor("indices"), dims=[9])
    listed = helper.make_node("Constant", [], ["c"])
    listed.attribute.append(
        onnx.AttributeProto(name="all", type=onnx.AttributeProto.TENSORS, tensors=[tensor(), tensor(external=external)])
    )
    trained = model()
    trained.training_info.add().algorithm.initializer.append(tensor(external=external))
    return {
        "initializer": model(initializer=[tensor(external=external)]),
        "attribute": model([constant(external)]),
        "list": model([listed]),
        "subgraph": model([in_subgraph(constant(external))]),
        "subgraph of a subgraph": model([in_subgraph(in_subgraph(constant(external)))]),
        "sparse": model(sparse_initializer=[sparse]),
        "function": model(functions=[function(constant(external))]),
        "training": trained,
    }


@pytest.mark.parametrize("where", models(external=True))
def test_weights_in_other_files_are_refused_wherever_they_are_named(where):
    check_onnx(models(external=False)[where].SerializeToString())
    with pytest.raises(BundleError, match="its weights are in another file"):
        check_onnx(models(external=True)[where].SerializeToString())


def test_a_place_alone_is_refused_as_well():
    made = model(initializer=[tensor()])
    made.graph.initializer[0].external_data.add().key = "location"
    with pytest.raises(BundleError, match="its weights are in another file"):
        check_onnx(made.SerializeToString())


def test_a_second_graph_is_merged_with_the_first_and_looked_at():
    hidden = model(initializer=[tensor(external=True)])
    for content in (
        model().SerializeToString() + hidden.SerializeToString(),
        hidden.SerializeToString() + model().SerializeToString(),
    ):
        with pytest.raises(BundleError, match="its weights are in another file"):
            check_onnx(content)


def test_operators_are_those_of_onnx_and_of_the_file_s_own_functions():
    node = helper.make_node("Mine", ["x"], ["z"], domain="mine")
    check_onnx(model([node], [function(constant(external=False))]).SerializeToString())
    for other in (node, in_subgraph(node), helper.make_node("EPContext", ["x"], ["z"], domain="com.microsoft")):
        with pytest.raises(BundleError, match=r"the operator '(Mine|EPContext)'"):
            check_onnx(model([other]).SerializeToString())
    with pytest.raises(BundleError, match="it defines the operator 'EPContext'"):
        check_onnx(
            model(functions=[function(constant(external=False), "com.microsoft", "EPContext")]).SerializeToString()
        )


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"\xff" * 100, b"ORTMORTM", b"\x3a\x7f", b"\x3b", b"\x3a\x05\x0a\xff\xff\xff\xff", b"\x08\x01"],
)
def test_what_is_no_onnx_file_is_said_to_be_none(content):
    with pytest.raises(BundleError, match="no ONNX file"):
        check_onnx(content)


def test_graphs_in_graphs_without_end_are_refused():
    node = constant(external=False)
    for _ in range(30):
        node = in_subgraph(node)
    with pytest.raises(BundleError, match="nested too deeply"):
        check_onnx(model([node]).SerializeToString())
