"""What `make doctor` says about this machine."""

import time

import torch

from common import errors
from tests.conftest import ENVIRONMENT, process
from tests.test_hub import silent_hub  # noqa: F401


def test_it_names_everything_with_a_hub_that_stays_silent(silent_hub, tmp_path):  # noqa: F811
    hub = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": silent_hub, "HF_HUB_OFFLINE": "0"}
    done = process("-m", "recipes.tools.doctor", environment=ENVIRONMENT | hub, check=True)
    found = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert f"torch {torch.__version__.split('+')[0]}" in found["Packages"] and "accelerate" in found["Packages"]
    assert found["Hub"] == f"{silent_hub} does not answer" and str(tmp_path) in found["Caches"]
    assert all(found[name] for name in ("System", "Precision", "Devices", "CPU", "Memory", "Free", "Offline"))


def test_the_hub_is_waited_for_less_than_five_seconds(monkeypatch):
    """Also where something below the HTTP library hangs."""
    import huggingface_hub

    class Session:
        def head(self, *args, **kwargs):
            time.sleep(60)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.utils, "get_session", Session)
    start = time.monotonic()
    assert not errors.hub_answers()
    assert time.monotonic() - start < 5
