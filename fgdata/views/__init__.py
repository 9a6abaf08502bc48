"""Views of a shard set's images: what they are (`ViewSpec`) and batches of them (`load`)."""

from .loader import Loader, load
from .spec import ViewSpec

__all__ = ["Loader", "ViewSpec", "load"]
