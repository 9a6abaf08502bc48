"""fgdata: saliency boxes cached with the data, and box-guided views for contrastive learning."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .shards.reader import ShardSet, box, label, meta
    from .views import ViewSpec, load

__version__ = "0.1.0"
__all__ = ["ShardSet", "ViewSpec", "box", "label", "load", "meta"]


def __getattr__(name: str):
    """The public names are imported on first use, so that `import fgdata` stays light."""
    if name in __all__:
        from . import views
        from .shards import reader

        return getattr(views if name in views.__all__ else reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
