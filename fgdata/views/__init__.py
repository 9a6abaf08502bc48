"""Views of a shard set's images: their description (`ViewSpec`) and batches of them (`load`)."""

from .loader import Loader, load
from .spec import Local, ViewSpec

__all__ = ["Loader", "Local", "ViewSpec", "load"]
