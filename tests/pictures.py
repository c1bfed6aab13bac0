"""Debian packages with made-up pictures, and the set of textures that is built from them."""

import gzip
import io
import tarfile
from pathlib import Path

import nibabel
import numpy as np
from isocenter.training.debian import Package, digest
from isocenter.training.textures import build_textures
from PIL import Image

EDGE = 1040
"""Pixels along an edge of a picture, which the set has half of."""
COPYRIGHT = "Files: *\nCopyright: 2020, Nobody\nLicense: CC0-1.0\n"


def picture(seed: int, edge: int = EDGE) -> np.ndarray:
    """Coloured noise uint8 [y, x, 3] that survives a box filter."""
    coarse = np.random.default_rng(seed).integers(0, 256, (edge // 16, edge // 16, 3), np.uint8)
    return coarse.repeat(16, 0).repeat(16, 1)


def encoded(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG", compress_level=1)
    return content.getvalue()


def head() -> np.ndarray:
    """uint8 [x, y, z] of 3 mm voxels: each holds its height, and those to the left 100 more."""
    voxels = np.broadcast_to(np.arange(60, dtype=np.uint8), (60, 72, 60)).copy()
    voxels[:30] += 100
    return voxels


def nifti(voxels: np.ndarray) -> bytes:
    """A NIfTI file that counts x from right to left, unlike the set."""
    affine = np.array([[-3.0, 0, 0, 87], [0, 3, 0, -125], [0, 0, 3, -71], [0, 0, 0, 1]])
    return gzip.compress(nibabel.Nifti1Image(voxels[::-1], affine).to_bytes())


def deb(path: Path, files: dict[str, bytes]) -> None:
    """Write a package with these files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz", preset=0) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in (
            ("debian-binary", b"2.0\n"),
            ("control.tar.xz", b"odd"),
            ("data.tar.xz", data.getvalue()),
        ):
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))


def package(folder: Path, name: str, files: dict[str, bytes], held_out: tuple[str, ...] = ()) -> Package:
    """Write a package and describe it."""
    path = folder / f"{name}_1_all.deb"
    deb(path, {f"usr/share/doc/{name}/copyright": COPYRIGHT.encode(), **files})
    return Package(name, "1", f"pool/{path.name}", path.stat().st_size, digest(path), "CC0-1.0", held_out)


def packages(folder: Path) -> tuple[Package, ...]:
    """Write a package of pictures, one of which is held out, and one of a head."""
    folder.mkdir(parents=True, exist_ok=True)
    first = encoded(picture(1))
    pictures = {
        "usr/share/a/first.png": first,
        "usr/share/a/same.png": first,
        "usr/share/a/held-out.png": encoded(picture(2)),
        "usr/share/a/small.png": encoded(picture(3, 96)),
        "usr/share/a/smooth.png": encoded(np.full((EDGE, EDGE, 3), 90, np.uint8)),
        "usr/share/a/readme.txt": b"no picture",
    }
    return (
        package(folder, "pictures", pictures, ("held-out.png",)),
        package(folder, "heads", {"usr/share/templates/ch2.nii.gz": nifti(head())}),
    )


def textures(folder: Path) -> Path:
    """Build the set in a folder."""
    chosen = packages(folder / "debs")
    return build_textures(folder, lambda *_: None, packages=folder / "debs", chosen=chosen)
