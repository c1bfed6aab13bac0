"""Checkpoints of other programs: what they answer, and what is refused."""

import pickle
import struct

import numpy as np
import pytest
import torch
from conftest import SHARED
from isocenter.export.importers import tensorflow
from isocenter.export.importers.errors import CheckpointError
from isocenter.export.importers.files import read_checkpoint
from isocenter.export.importers.load import load_network
from isocenter.export.options import ExportOptions
from isocenter.models.networks.registry import NETWORKS
from test_networks import SMALL

WEIGHTS, ORACLES = SHARED / "weights", SHARED / "oracles"
needs_oracles = pytest.mark.skipif(not ORACLES.is_dir(), reason="the answers of the published programs are not here")
DYNAMIC = {
    "jotlasnet": ("jotlasnet/JotlasNet-vista-8-20240310T103123", 1e-5),
    "dynamic-dccnn": ("dynamic-comparators/DCCNN-vista-8-20231005T040138", 1e-5),
    "dynamic-ista-net-plus": ("dynamic-comparators/ISTA_Net_plus-vista-8-20231004T042954", 1e-5),
    "ls-net": ("dynamic-comparators/LplusS_Net-vista-8-20231006T004912", 1e-5),
    # thresholds below zero make it discontinuous where features cross zero: some pixels differ, most do not;
    # for both, test_references holds float64 against the equations
    "slr-net": ("dynamic-comparators/SLR_Net-vista-8-20231002T205351", 1e-3),
    # float64 is as far from the published program, whose smallest relative threshold is 0.004
    "t2lr-net": ("dynamic-comparators/T2LR_Net-vista-8-20250113T130359", 2e-5),
}


def planar(array):
    return torch.view_as_real(torch.from_numpy(np.ascontiguousarray(array)).to(torch.complex64))


def oracle(name):
    with np.load(ORACLES / name, allow_pickle=False) as file:
        return dict(file)


def deviation(result, expected):
    if np.iscomplexobj(expected):
        result = torch.view_as_complex(result.contiguous())
    return float(np.abs(result.numpy() - expected).max() / np.abs(expected).max())


def centred(kspace):
    """Uncentred k-space of an image as centred k-space of the same image."""
    image = np.fft.ifft2(kspace, norm="ortho")
    shifted = np.fft.fft2(np.fft.ifftshift(image, axes=(-2, -1)), norm="ortho")
    return np.fft.fftshift(shifted, axes=(-2, -1))


@pytest.mark.long
@needs_oracles
@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic_networks_answer_like_the_published_programs(name):
    folder, accepted = DYNAMIC[name]
    data = oracle("dynamic_multicoil.npz")
    mask = torch.from_numpy(data["mask"].astype(np.float32))[None, None, :, :1, :, None]
    module = load_network(name, WEIGHTS / folder).module
    with torch.inference_mode():
        result = module(planar(data["kspace"])[None], mask, planar(data["maps"])[None])[0]
    expected = data[folder.split("/")[1]]
    assert deviation(result, expected) < accepted
    assert np.median(np.abs(torch.view_as_complex(result).numpy() - expected)) < 1e-6 * np.abs(expected).max()


@pytest.mark.long
@needs_oracles
@pytest.mark.parametrize("folder", ["04Jun_0356pm_5L_10K_50E_AG", "14Mar_1105pm"])
def test_modl_answers_like_its_tensorflow_graph(folder):
    data = oracle("modl_brain.npz")
    mask = torch.fft.fftshift(torch.from_numpy(data["mask"].real.astype(np.float32)))[None, None, ..., None]
    # in float64: the graph's own float32 is as far from that as is accepted
    module = load_network("modl", WEIGHTS / "modl-tf" / folder).module.double()
    inputs = planar(data["adjoint"])[None].double(), mask.double(), planar(data["maps"])[None].double()
    with torch.inference_mode():
        result = module.solve(*inputs, [-3, -2])[0]
    assert deviation(result, data[folder]) < 1e-5


@needs_oracles
def test_modl_from_pytorch_has_the_error_of_its_program():
    data = oracle("modl_brain.npz")
    mask = torch.fft.fftshift(torch.from_numpy(data["mask"].real.astype(np.float32)))[None, None, ..., None]
    module = load_network("modl", WEIGHTS / "modl-pytorch" / "modl_k1.pth", {"iterations": 1}).module
    with torch.inference_mode():
        result = module.solve(planar(data["adjoint"])[None], mask, planar(data["maps"])[None], [-3, -2])[0]
    difference = torch.view_as_complex(result).numpy() - data["truth"]
    assert np.linalg.norm(difference) / np.linalg.norm(data["truth"]) == pytest.approx(0.0523, abs=1e-4)


@needs_oracles
def test_fastmri_checkpoints_answer_like_fastmri():
    data = oracle("varnet_seeded_io.npz")
    varnet = load_network("e2e-varnet", ORACLES / "varnet_seeded_pl.ckpt")
    assert varnet.configuration["num_cascades"] == 2
    unet = load_network("unet-image", ORACLES / "unet_seeded.pt").module
    images = oracle("unet_seeded_io.npz")
    with torch.inference_mode():
        result = varnet.module(torch.from_numpy(data["masked_kspace"]), torch.from_numpy(data["mask"]))
        image = unet(torch.from_numpy(images["x"]))
    assert deviation(result, data["out"]) < 2e-6
    assert deviation(image, images["out"]) < 2e-6


@needs_oracles
def test_deep_jsense_answers_like_its_program_and_its_settings_are_read():
    data = oracle("deepjsense_seeded_io.npz")
    imported = load_network("deep-jsense", ORACLES / "deepjsense_seeded.pt")
    assert imported.configuration["map_iterations"] == 4
    kspace, mask = planar(data["ksp"])[None], torch.from_numpy(data["mask"])[None, None, :, :, None]
    with torch.inference_mode():
        initial = imported.module.initial_kernels(kspace * mask)
        image, kernels, predicted = imported.module.double().unroll(
            kspace.double(), mask.double(), planar(data["init_maps"])[None].double()
        )
    assert deviation(initial[0], data["init_maps"]) < 1e-6
    for result, name in ((image, "img"), (kernels, "maps"), (predicted, "est_ksp")):
        assert deviation(result, data[name]) < 1e-5


@needs_oracles
def test_cinevn_answers_like_its_program():
    data = oracle("cinevn_seeded_io.npz")
    module = load_network("cinevn", ORACLES / "cinevn_seeded_pl.ckpt").module
    maps = torch.from_numpy(data["maps"][:, 0, :, 0])
    with torch.inference_mode():
        result = module(torch.from_numpy(data["kspace"]), torch.from_numpy(data["mask"]), maps)
    assert deviation(result, data["out"]) < 2e-6


@needs_oracles
def test_crnn_answers_like_its_program():
    data = oracle("crnn.npz")
    module = load_network("crnn-mri", WEIGHTS / "crnn-dccnn" / "crnn_mri_d5_c5.pth").module
    mask = torch.from_numpy(np.fft.fftshift(data["crnn_mask"], axes=(-2, -1)))[None, None, ..., None]
    maps = torch.zeros(1, 1, *mask.shape[-3:-1], 2)
    maps[..., 0] = 1
    with torch.inference_mode():
        result = module(planar(centred(data["crnn_k"]))[None, None], mask, maps)[0]
    assert deviation(result, data["crnn_out"]) < 5e-6


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(3)
    module = NETWORKS["e2e-varnet"].build(**SMALL["e2e-varnet"])
    path = tmp_path / "varnet.pt"
    torch.save({"state_dict": {f"varnet.{key}": value for key, value in module.state_dict().items()}}, path)
    return path


def change(path, edit):
    content = torch.load(path, weights_only=True)
    edit(content["state_dict"])
    torch.save(content, path)


def test_a_lightning_checkpoint_gives_its_configuration(checkpoint):
    configuration = load_network("e2e-varnet", checkpoint).configuration
    assert configuration == SMALL["e2e-varnet"]


def test_complex_varnet_takes_the_weights_of_varnet(checkpoint, tmp_path):
    plain = load_network("e2e-varnet", checkpoint).module.state_dict()
    recipe = {"recipe": {"network": "e2e-varnet", "configuration": SMALL["e2e-varnet"]}}
    own = {"state_dict": {f"network.{name}": value for name, value in plain.items()}, "hyper_parameters": recipe}
    torch.save(own, tmp_path / "own.pt")
    for path in (checkpoint, tmp_path / "own.pt"):
        state = load_network("varnet-complex", path).module.state_dict()
        assert all(torch.equal(state[name], plain[name]) for name in plain)
    with pytest.raises(CheckpointError, match="is a checkpoint of network 'e2e-varnet', not 'modl'"):
        load_network("modl", tmp_path / "own.pt")


def test_which_of_several_weights_are_taken_is_told_and_chosen(checkpoint, tmp_path, caplog):
    """Those of the last step, and their average as torch.optim.swa_utils.AveragedModel has it."""
    last = torch.load(checkpoint, weights_only=True)["state_dict"]
    average = {f"module.{name}": value / 2 for name, value in last.items()}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}
    path = tmp_path / "both.pt"
    torch.save({"model": last, "ema": {**average, "n_averaged": torch.tensor(3)}, "optimizer": optimizer}, path)
    name = "cascades.1.dc_weight"
    taken = load_network("e2e-varnet", path).module.state_dict()[name]
    (record,) = caplog.records
    assert "in 'model' and 'ema': those of 'model' are taken; 'checkpoint_entry: ema'" in record.getMessage()
    options = ExportOptions(checkpoint_entry="ema")
    other = load_network("e2e-varnet", path, checkpoint_entry=options.checkpoint_entry).module.state_dict()[name]
    assert torch.equal(other, taken / 2)
    assert len(caplog.records) == 1  # nothing more: it was said which
    with pytest.raises(CheckpointError, match=r"no entry 'emma' with weights \(nearest: 'ema'\); accepted: model, ema"):
        load_network("e2e-varnet", path, checkpoint_entry="emma")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "holds no weights where they are looked for: it is empty"),
        ({"epoch": 3}, "its entries are epoch"),
        ({"ema": {"a": torch.zeros(1)}}, "its entries are ema; 'checkpoint_entry: ema' in the export configuration"),
    ],
)
def test_a_checkpoint_without_weights_says_what_it_has(tmp_path, content, said):
    torch.save(content, tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match=f"{said}.*"):
        read_checkpoint(tmp_path / "none.pt")


def test_missing_misshapen_and_not_finite_tensors_are_named(checkpoint):
    name = "varnet.cascades.1.model.unet.up_conv.3.1.bias"

    def edit(state):
        del state["varnet.cascades.1.dc_weight"]
        state[name] = torch.zeros(7)
        state["varnet.cascades.0.dc_weight"] = torch.tensor([float("nan")])

    change(checkpoint, edit)
    with pytest.raises(CheckpointError) as caught:
        load_network("e2e-varnet", checkpoint)
    message = str(caught.value)
    assert "missing: cascades.1.dc_weight (1,)" in message
    assert "cascades.1.model.unet.up_conv.3.1.bias has shape (7,), the network needs (2,)" in message
    assert "cascades.0.dc_weight has values that are not finite" in message


def test_tensors_of_another_network_are_named(checkpoint):
    change(checkpoint, lambda state: state.update({"decoder.weight": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"do not belong to this network: decoder\.weight"):
        load_network("e2e-varnet", checkpoint)


def test_a_network_that_does_not_exist_is_refused_with_those_that_do(checkpoint):
    with pytest.raises(
        CheckpointError, match=r"network 'nonet' is not known \(nearest: 'unet', 'mnet'\); accepted: admm-csnet"
    ):
        load_network("nonet", checkpoint)


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": {"x": torch.zeros(1)}, "hyper_parameters": Evil()}, path)
    with pytest.raises(CheckpointError, match="could run code"):
        read_checkpoint(path)
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"x": Evil()}))
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "old.pt")
    assert "must not run" not in capsys.readouterr().out


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    path = tmp_path / "text.pt"
    path.write_text("no weights here")
    for missing in (path, tmp_path / "absent.pt"):
        with pytest.raises(CheckpointError):
            read_checkpoint(missing)
    for content in (b"epoch,loss\n0,1.0\n", b"name: modl\n", b"PK\x03\x04", b"", b"\x80\x02."):
        path.write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"text\.pt is no checkpoint that can be read; accepted: weights.pt of a run"
        ):
            read_checkpoint(path)
    np.savez(tmp_path / "object.npz", a=np.array([Evil()], dtype=object))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(tmp_path / "object.npz")


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries):
    body = b"".join(varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in entries)
    return body + struct.pack("<II", 0, 1)


def write_tensorflow(prefix, variables):
    """A TensorFlow checkpoint, by the public description of its format."""
    data, entries = b"", [(b"", field(1, 1))]
    for name, value in sorted(variables.items()):
        shape = b"".join(field(2, field(1, size)) for size in value.shape)
        raw = value.astype("<f4").tobytes()
        crc = tensorflow._masked(tensorflow._crc32c(raw))
        entry = field(1, 1) + field(2, shape) + field(4, len(data)) + field(5, len(raw))
        entries.append((name.encode(), entry + varint(6 << 3 | 5) + struct.pack("<I", crc)))
        data += raw
    content = block(entries)
    index = block([(b"zz", varint(0) + varint(len(content)))])
    footer = varint(0) + varint(0) + varint(len(content) + 5) + varint(len(index))
    footer = footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    prefix.with_name(f"{prefix.name}.index").write_bytes(content + bytes(5) + index + bytes(5) + footer)
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data)


def modl_variables(trained=True):
    random = np.random.default_rng(1)
    variables = {"Wts/lam1": np.float32(0.1)}
    widths = [2, 4, 4, 4, 4, 2]
    for layer in range(5):
        prefix = f"Wts/Layer{layer + 1}"
        variables[f"{prefix}/W"] = random.standard_normal((3, 3, widths[layer], widths[layer + 1]))
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            zero = name == "moving_mean" and not trained
            variables[f"{prefix}/BN/{name}"] = np.zeros(widths[layer + 1]) if zero else random.random(widths[layer + 1])
        variables[f"{prefix}/W/Adam"] = np.zeros(1)
    return {name: np.asarray(value, np.float32) for name, value in variables.items()}


def test_the_checksum_is_that_of_the_standard():
    assert tensorflow._crc32c(b"123456789") == 0xE3069283


def test_tensorflow_checkpoints_are_read_and_kernels_turned(tmp_path):
    variables = modl_variables()
    write_tensorflow(tmp_path / "model-50", variables)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model-50"\n')
    read = tensorflow.read_tensorflow(tmp_path)
    assert set(read) == set(variables)
    module = load_network("modl", tmp_path).module
    weight = module.state_dict()["denoiser.layers.0.weight"].numpy()
    assert weight[3, 1, 0, 2] == variables["Wts/Layer1/W"][0, 2, 1, 3]
    assert module.denoiser.layers[1].eps == 1e-3


def test_a_damaged_variable_is_found_by_its_checksum(tmp_path):
    write_tensorflow(tmp_path / "model-50", modl_variables())
    data = tmp_path / "model-50.data-00000-of-00001"
    raw = bytearray(data.read_bytes())
    raw[10] ^= 1
    data.write_bytes(raw)
    with pytest.raises(CheckpointError, match="checksum"):
        read_checkpoint(tmp_path / "model-50")


@pytest.mark.parametrize("cut", [0, 20, 60])
def test_a_cut_index_is_refused(tmp_path, cut):
    write_tensorflow(tmp_path / "model-50", modl_variables())
    index = tmp_path / "model-50.index"
    index.write_bytes(index.read_bytes()[:cut])
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "model-50")


def test_untrained_modl_weights_are_refused_with_the_reason(tmp_path):
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model-50"\n')
    write_tensorflow(tmp_path / "model-50", modl_variables())
    write_tensorflow(tmp_path / "modelTst", modl_variables(trained=False))
    write_tensorflow(tmp_path / "model", modl_variables())
    with pytest.raises(CheckpointError, match="never trained: it holds the random weights"):
        load_network("modl", tmp_path / "modelTst")
    with pytest.raises(CheckpointError, match="state before training; the trained weights are in 'model-50'"):
        load_network("modl", tmp_path / "model")


def test_snappy_copies_that_overlap_are_unpacked():
    # three literals, then a copy of seven bytes that starts three back
    packed = varint(10) + bytes([2 << 2]) + b"abc" + bytes([(7 - 4) << 2 | 1, 3])
    assert tensorflow._unpack_snappy(packed) == b"abcabcabca"
