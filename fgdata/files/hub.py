"""The Hugging Face hub: its library, its addresses, and what its errors mean."""

import hashlib
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError

ANSWER_S = 10.0
"""Seconds within which the hub must answer."""
NAME = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
"""ORG/NAME of a repository."""
CARD = "README.md"
_SIGNED = "\n<!-- The sha256 of this card as it was written is"


def import_hub(command: str) -> Any:
    """-> module huggingface_hub with its utils. InputError if it is not installed. command: the one that needs it."""
    try:
        import huggingface_hub.utils  # the module loads its parts lazily, and this one only by name
    except ModuleNotFoundError as error:
        raise InputError(
            f"{command} needs huggingface_hub, which is not installed: pip install huggingface_hub"
        ) from error
    return huggingface_hub


@contextmanager
def reading_hub() -> Iterator[str]:
    """In the block, huggingface_hub prints no log lines -> why the hub cannot be reached; "" if it can.

    If it cannot, the library is offline in the block: it reads its cache or fails at once. By itself it sends each
    request six times, which takes most of a minute.
    """
    from huggingface_hub import constants

    library, offline = logging.getLogger("huggingface_hub"), constants.HF_HUB_OFFLINE
    level, reason = library.level, "HF_HUB_OFFLINE is set" if offline else _find_fault()
    library.setLevel(logging.CRITICAL)
    constants.HF_HUB_OFFLINE = bool(reason)
    try:
        yield reason
    finally:
        library.setLevel(level)
        constants.HF_HUB_OFFLINE = offline


def _find_fault() -> str:
    """Why the hub's server does not answer; "" if it does."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=ANSWER_S)
    except Exception as error:  # of the network: many types
        return f"no connection: {' '.join(str(error).split())[:200] or type(error).__name__}"
    return ""


def hub_file(repository: str, name: str = "model.safetensors") -> str:
    """ORG/NAME, or ORG/NAME@REVISION, of a model -> the address of a file of it."""
    from huggingface_hub import constants

    model, _, revision = repository.partition("@")
    return f"{constants.ENDPOINT}/{model}/resolve/{revision or 'main'}/{name}"


def dataset_name(address: str) -> str:
    """hf://datasets/ORG/NAME -> ORG/NAME. InputError for anything else."""
    if not re.fullmatch(f"hf://datasets/{NAME}", address):
        raise InputError(f"{address} is not the address of a dataset on the Hugging Face hub: hf://datasets/ORG/NAME")
    return address.removeprefix("hf://datasets/")


def fetch_card(api: Any, repository: str, repo_type: str) -> str:
    """The README.md of a repository on the hub; "" if it has none, or one of only the hub's own keys (front matter)."""
    if not api.file_exists(repository, CARD, repo_type=repo_type):
        return ""
    with tempfile.TemporaryDirectory() as folder:
        path = api.hf_hub_download(repository, CARD, repo_type=repo_type, local_dir=folder)
        text = Path(path).read_bytes().decode("utf-8", "replace")
    return text if re.sub(r"\A---\r?\n.*?^---\s*$", "", text, count=1, flags=re.DOTALL | re.MULTILINE).strip() else ""


def sign_card(text: str) -> str:
    """The text of a card, and a last line that shows whether it was edited since."""
    return text + _signature(text)


def is_edited(card: str) -> bool:
    """Whether a card is not as `sign_card` returned it."""
    text = card[: card.rfind(_SIGNED)]
    return card != text + _signature(text)


def _signature(text: str) -> str:
    return f"{_SIGNED} {hashlib.sha256(text.encode()).hexdigest()}. An edited card is kept. -->\n"


def check_licence(licence: str | None) -> str | None:
    """Returns the name of a licence as the hub writes such names, or None. InputError if it is not one."""
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,40}", licence):
        raise InputError(f"--licence is {licence}; allowed: a name of the hub, such as mit or cc-by-4.0")
    return licence


def hub_error(address: str, verb: str, error: Exception, resume: str = "") -> InputError:
    """Names an address, what failed there, and the next command.

    verb: read or written. error: of huggingface_hub, or of the network below it: many types. resume: a sentence for
    errors that pass.
    """
    causes = [error, *([error.__cause__] if error.__cause__ else [])]
    text = ": ".join(" ".join((str(one).strip() or type(one).__name__).split())[:300].rstrip(".") for one in causes)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if type(error).__name__ == "RepositoryNotFoundError":
        text, advice = "the hub has no such repository, or the token may not see it", "Check the address, or log in"
    elif status in (401, 403) or type(error).__name__ == "LocalTokenNotFoundError":
        text = f"the hub refused the token ({status})" if status else text
        advice = f"Log in with a token by which it may be {verb}"
    else:
        return InputError(f"{address} could not be {verb}: {text}. {resume}".rstrip())
    return InputError(f"{address} could not be {verb}: {text}. {advice}: hf auth login")
