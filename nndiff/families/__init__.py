"""Network families: the available sizes of a network, its construction, and the features it can keep between steps."""

from nndiff.families import prdit, unet
from nndiff.families.family import FAMILIES, NetworkSpec

__all__ = ["FAMILIES", "NetworkSpec", "prdit", "unet"]
