"""The size of a fundus photograph's pixels."""

from __future__ import annotations

#: Of the retina, in micrometres: 0.29 mm in a schematic eye of 24 mm (Drasdo and Fowler, Non-linear
#: projection of the retinal image in a wide-angle schematic eye, Br J Ophthalmol 58, 1974).
UM_PER_DEGREE = 290.0


def spacing_um(field_deg: float, field_px: float) -> tuple[float, float]:
    """Height and width of a pixel in micrometres.

    Args:
        field_deg: What the camera sees, in degrees across its fov.
        field_px: The same in pixels.
    """
    side = field_deg * UM_PER_DEGREE / field_px
    return side, side
