"""The Hugging Face Hub, or its absence: probed once, for at most seconds, and never retried for minutes."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from common.errors import InputError
from common.processes import main_process_first

PROBE_SECONDS = 4.0
log = logging.getLogger("recipes")


def hub_answers(timeout: float = PROBE_SECONDS) -> bool:
    """Whether the Hub (or the mirror in `HF_ENDPOINT`) answers any HTTP status within `timeout` seconds."""
    import huggingface_hub
    from huggingface_hub.utils import get_session

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    found = []

    def probe() -> None:
        with suppress(Exception):  # whatever the HTTP library of this version raises: no route, a refused proxy
            found.append(get_session().head(huggingface_hub.constants.ENDPOINT, timeout=timeout))

    # The library's timeout is for each of several phases, and looking up a name has none.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(timeout)
    return bool(found)


def go_offline_without_hub(*names: str | None) -> None:
    """Switch the libraries to their local cache when one of `names` must come from the Hub and it does not answer.

    Without this `load_dataset` retries for 24 s and `from_pretrained` for 49 s before they give up. A `name` that is
    a local path, or None, needs no Hub.
    """
    if all(name is None or os.path.exists(name) for name in names) or hub_answers():
        return
    import datasets
    import huggingface_hub

    log.warning("The Hugging Face Hub does not answer: only local files and the cache are used.")
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    datasets.config.HF_HUB_OFFLINE = True


def reaching_and_reading() -> tuple[type[Exception], ...]:
    """What the libraries raise where a model or dataset is not reached, not found, or cannot be read."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError
    from safetensors import SafetensorError

    # ValueError: an unknown configuration or model type, broken JSON; RuntimeError: weights of another shape.
    return OSError, ValueError, RuntimeError, HfHubHTTPError, DatasetsError, SafetensorError


@contextmanager
def hub_errors(kind: str, name: str) -> Iterator[None]:
    """Turn the libraries' many ways of saying "`name` cannot be loaded" into one `InputError` with the remedies. Of
    several processes one on each machine downloads; the others read the cache.

    Args:
        kind: "model", "tokenizer" or "dataset", for the message.
        name: the Hub name or local path that was asked for.
    """
    try:
        with main_process_first():
            yield
    except InputError:
        raise
    except reaching_and_reading() as error:  # any other is a bug, and keeps its traceback
        reason = " ".join(str(error).split())[:200]
        if os.path.isdir(name):
            raise InputError(f"{name}: cannot be loaded as a {kind}: {reason}") from error
        if hub_answers():
            raise InputError(
                f'the {kind} "{name}" cannot be loaded from the Hub: {reason}; check the name or log in'
            ) from error
        cache = os.environ.get("HF_HOME", "unset")
        raise InputError(
            f'the {kind} "{name}" is neither a local path nor in the cache (HF_HOME={cache}), and the Hub does not '
            "answer: add OFFLINE=1 to make for the bundled sample and checkpoint, give a local path, or set HF_HOME "
            "to a folder that holds it"
        ) from error
