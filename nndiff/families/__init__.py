"""Network families: the sizes that a network comes in, how it is built, what it can keep between steps."""

from nndiff.families import prdit, unet
from nndiff.families.family import FAMILIES, NetworkSpec

__all__ = ["FAMILIES", "NetworkSpec", "prdit", "unet"]
