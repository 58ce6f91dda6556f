"""Each test of the runtime starts and ends with the library's settings as they were."""

from __future__ import annotations

from dataclasses import fields

import pytest

from avalon.settings import settings


@pytest.fixture(autouse=True)
def _restored_settings():
    before = {field.name: getattr(settings, field.name) for field in fields(settings)}
    yield
    for name, value in before.items():
        setattr(settings, name, value)
