"""Blocks of k-space as the inputs of bundles, and their outputs as images, axis by axis."""

import numpy as np
import pytest
import torch
from isocenter.bundle.manifest import Manifest, Provenance, TensorSpec
from isocenter.flow.deferred import Deferred, settled
from isocenter.gadgets.kspace import Kspace
from isocenter.gadgets.model_inputs import arrange_inputs, arrange_output
from isocenter.wire.errors import DataError
from isocenter.wire.header import Encoding
from isocenter.wire.items import ACQUISITION_HEADER

COILS, FRAMES, KZ, KY, KX = 2, 3, 4, 5, 6
PLANE = ("batch", "coils", "ky", "kx", "complex")


def manifest(output=("batch", "ky", "kx"), **inputs):
    return Manifest(
        name="net",
        version="1",
        network="net",
        inputs=tuple(TensorSpec(name=name, axes=axes) for name, axes in inputs.items()),
        outputs=(TensorSpec(name="image", axes=output),),
        provenance=Provenance(source="test", licence="MIT", fingerprint="0"),
        intended_use="test",
    )


@pytest.fixture
def block():
    random = np.random.default_rng(0)
    mask = np.broadcast_to(random.random((FRAMES, 1, KY)) > 0.3, (FRAMES, KZ, KY)).copy()
    data = random.standard_normal((2, COILS, FRAMES, KZ, KY, KX))
    maps = random.standard_normal((2, COILS, KZ, KY, KX))
    sizes, lengths = (KX, KY, KZ), (float(KX), float(KY), float(KZ))
    return Kspace(
        data=torch.from_numpy((data[0] + 1j * data[1]).astype(np.complex64)),
        mask=torch.from_numpy(mask),
        calibration=None,
        headers=np.zeros((FRAMES, KZ, KY), ACQUISITION_HEADER),
        encoding=Encoding(sizes, sizes, lengths, lengths),
        coil_maps=Deferred.known(torch.from_numpy((maps[0] + 1j * maps[1]).astype(np.complex64))),
    )


def slices(block):
    """Centred, orthonormal inverse transform along kz, in float64."""
    data = np.fft.ifftshift(block.data.numpy().astype(complex), axes=2)
    return np.fft.fftshift(np.fft.ifft(data, axis=2, norm="ortho"), axes=2)


def test_frames_and_slices_become_the_batch_of_a_network_of_planes(block):
    given = manifest(kspace=PLANE, mask=("batch", "1", "ky", "1", "1"), maps=PLANE)
    inputs = settled(arrange_inputs(given, block))
    kspace, maps = (torch.view_as_complex(inputs[name]).numpy() for name in ("kspace", "maps"))
    assert kspace.shape == maps.shape == (FRAMES * KZ, COILS, KY, KX)
    assert inputs["mask"].shape == (FRAMES * KZ, 1, KY, 1, 1)
    expected = slices(block)
    for frame, z in np.ndindex(FRAMES, KZ):
        n = frame * KZ + z
        assert np.allclose(kspace[n], expected[:, frame, z], atol=1e-5)
        assert np.array_equal(maps[n], block.coil_maps.get()[:, z].numpy())
        assert np.array_equal(inputs["mask"][n, 0, :, 0, 0] > 0, block.mask[frame, z].numpy())
    image = torch.arange(FRAMES * KZ * KY * KX, dtype=torch.float32).reshape(FRAMES * KZ, KY, KX)
    assert torch.equal(arrange_output(given, image, block), image.reshape(FRAMES, KZ, KY, KX))


def test_the_partitions_of_a_network_of_volumes_stay_in_kspace(block):
    given = manifest(
        ("batch", "kz", "ky", "kx", "complex"),
        kspace=("batch", "coils", "kz", "ky", "kx", "complex"),
        mask=("batch", "1", "kz", "ky", "1", "1"),
    )
    block.mask[0, 0] = False  # partitions need not be alike
    inputs = settled(arrange_inputs(given, block))
    assert torch.equal(torch.view_as_complex(inputs["kspace"]), block.data.transpose(0, 1))
    assert torch.equal(inputs["mask"][:, 0, :, :, 0, 0] > 0, block.mask)
    image = torch.randn(FRAMES, KZ, KY, KX, 2)
    assert torch.equal(arrange_output(given, image, block), torch.view_as_complex(image))


def test_a_dynamic_network_takes_slices_as_its_batch(block):
    given = manifest(
        ("batch", "kx", "frames", "ky"),
        kspace=("batch", "frames", "coils", "ky", "kx", "complex"),
        maps=("batch", "frames", "coils", "ky", "kx", "complex"),
    )
    inputs = settled(arrange_inputs(given, block))
    kspace, maps = (torch.view_as_complex(inputs[name]).numpy() for name in ("kspace", "maps"))
    assert np.allclose(kspace, slices(block).transpose(2, 1, 0, 3, 4), atol=1e-5)
    for frame in range(FRAMES):
        assert np.array_equal(maps[:, frame], block.coil_maps.get().transpose(0, 1).numpy())
    image = torch.randn(KZ, KX, FRAMES, KY)
    assert torch.equal(arrange_output(given, image, block), image.permute(2, 0, 3, 1))


def test_one_image_of_all_frames_is_one_frame(block):
    given = manifest(("batch", "ky", "kx"), kspace=("batch", "coils", "frames", "ky", "kx", "complex"))
    image = torch.randn(KZ, KY, KX)
    assert torch.equal(arrange_output(given, image, block), image[None])


def test_maps_are_not_computed_before_somebody_needs_them(block):
    made = []
    maps = block.coil_maps.get()
    block.coil_maps = Deferred(lambda: made.append(1) or maps, tuple(maps.shape))
    inputs = arrange_inputs(manifest(kspace=PLANE, maps=PLANE), block)
    assert inputs["maps"].shape == (FRAMES * KZ, COILS, KY, KX, 2)
    assert not made
    assert settled(inputs)["maps"].shape == (FRAMES * KZ, COILS, KY, KX, 2)
    assert made == [1]


def test_a_trajectory_goes_to_bundles_that_take_one_and_is_refused_by_others(block):
    block.trajectory = np.random.default_rng(1).standard_normal((FRAMES, KZ, KY, KX, 3)).astype(np.float32)
    with pytest.raises(DataError, match="takes Cartesian k-space; this block has a trajectory") as caught:
        arrange_inputs(manifest(kspace=PLANE), block)
    assert caught.value.kind == "trajectory"
    axes = ("batch", "kz", "ky", "kx", "dimensions")
    given = manifest(kspace=("batch", "coils", "kz", "ky", "kx", "complex"), trajectory=axes)
    assert np.array_equal(settled(arrange_inputs(given, block))["trajectory"].numpy(), block.trajectory)
    block.trajectory = None
    with pytest.raises(DataError, match=r"needs 'trajectory', which this block lacks$"):
        arrange_inputs(given, block)


def test_what_a_bundle_cannot_take_is_said(block):
    with pytest.raises(DataError, match="takes mask; a scan has kspace"):
        arrange_inputs(manifest(mask=("batch", "ky")), block)
    with pytest.raises(DataError, match="takes kspace, weather; a scan has"):
        arrange_inputs(manifest(kspace=PLANE, weather=("batch", "ky")), block)
    block.coil_maps = None
    with pytest.raises(DataError, match="needs 'maps', which this block lacks; add the gadget estimate_coil_maps"):
        arrange_inputs(manifest(kspace=PLANE, maps=PLANE), block)
    block.maps_problem = "there are 3 calibration lines"
    with pytest.raises(DataError, match=r"^there are 3 calibration lines$"):
        arrange_inputs(manifest(kspace=PLANE, maps=PLANE), block)
    block.mask[:, 0] = ~block.mask[:, 0]
    with pytest.raises(DataError, match="it cannot take a scan undersampled along kz"):
        arrange_inputs(manifest(kspace=PLANE), block)
