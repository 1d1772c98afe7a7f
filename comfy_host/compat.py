"""Leaves out what an older ComfyUI lacks."""

import inspect
from collections.abc import Callable
from typing import Any


def supported(function: Callable, **options: Any) -> dict[str, Any]:
    """Returns those of the options that this ComfyUI's `function` accepts."""
    accepted = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in accepted}
