"""What a pair of masks must fulfil before it can be compared."""

from typing import Any

from jaxtyping import Bool
from numpy.typing import NDArray

from foveal.errors import GeometryError


def require_same_shape(
    prediction: Bool[NDArray[Any], "_ _ _"], reference: Bool[NDArray[Any], "_ _ _"]
) -> None:
    """Refuse masks that cannot lie on one grid.

    Raises:
        GeometryError: The masks differ in shape.
    """
    if prediction.shape != reference.shape:
        raise GeometryError(
            f"prediction has shape {prediction.shape} but reference has shape "
            f"{reference.shape}; both must share one grid"
        )
