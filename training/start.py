"""Weights that a training starts from: files of earlier runs, or those that come with Isocenter."""

from pathlib import Path

from .recipe import RecipeError

_SHIPPED = Path(__file__).parent.parent / "export" / "weights"
_PREFIX = "shipped:"


def find_weights(start: Path) -> Path:
    """Return the file of a recipe's ``start_from``.

    Parameters
    ----------
    start
        A file, such as ``runs/NAME/weights.pt``; a relative path counts from the current folder, as that of a run does. Or
        ``shipped:NAME``, weights that come with Isocenter.

    Raises
    ------
    RecipeError
        There are no such weights.
    """
    name = str(start)
    path = _SHIPPED / f"{name.removeprefix(_PREFIX)}.pt" if name.startswith(_PREFIX) else start
    if path.is_file():
        return path
    shipped = ", ".join(f"{_PREFIX}{file.stem}" for file in sorted(_SHIPPED.glob("*.pt")))
    if name.startswith(_PREFIX):
        raise RecipeError(f"no weights {name!r} come with Isocenter", where="start_from", accepted=shipped)
    first = f"; the recipe {start.parent.name!r} writes it: train that one first" if start.name == "weights.pt" else ""
    raise RecipeError(
        f"there is no file {name} in {Path.cwd()}, where the training was started{first}",
        where="start_from",
        accepted=f"a checkpoint, its path relative to that folder or absolute, or {shipped}",
    )
