"""Checks the values that nodes get against their schemas."""

import inspect
import reprlib
from collections.abc import Callable
from functools import wraps
from numbers import Real
from typing import Any, NamedTuple

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import Input, io
from torch import Tensor

from ..rife.console import printable
from ..rife.networks.finite import dtype_name

_IMAGE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class _Rule(NamedTuple):
    """What the values of one type of input must be.

    Attributes:
        describe: Says it in words, from the input's schema.
        is_valid: Tells it from the input's schema and a value.
        convert: Turns a valid value into what nodes work with: a whole number may come as 2.0.
    """

    describe: Callable[[io.Input], str]
    is_valid: Callable[[io.Input, Any], bool]
    convert: Callable[[Any], Any] = lambda value: value


def _is_number(schema: io.Input, value: Any) -> bool:
    return (
        isinstance(value, Real)
        and not isinstance(value, bool)
        and schema.min <= value <= schema.max  # False for NaN
    )


def _is_image_tensor(value: Any, dimensions: int) -> bool:
    return (
        isinstance(value, Tensor)
        and value.dtype in _IMAGE_DTYPES
        and value.layout == torch.strided
        and value.ndim == dimensions
        and 0 not in value.shape
    )


_RULES = {
    "INT": _Rule(
        lambda schema: f"a whole number from {schema.min} to {schema.max}",
        lambda schema, value: _is_number(schema, value) and value % 1 == 0,
        int,
    ),
    "FLOAT": _Rule(
        lambda schema: f"a number from {schema.min:g} to {schema.max:g}",
        _is_number,
        float,
    ),
    "BOOLEAN": _Rule(
        lambda schema: "true or false",
        lambda schema, value: isinstance(value, bool),
    ),
    "COMBO": _Rule(
        lambda schema: f"one of {', '.join(schema.options)}",
        lambda schema, value: isinstance(value, str) and value in schema.options,
    ),
    "IMAGE": _Rule(
        lambda schema: (
            "one or more images: floats of (frames, height, width, channels), 1, 3 or 4 channels"
        ),
        lambda schema, value: _is_image_tensor(value, 4) and value.shape[3] in (1, 3, 4),
    ),
    "MASK": _Rule(
        lambda schema: "one or more masks: floats of (frames, height, width)",
        lambda schema, value: value is None or _is_image_tensor(value, 3),
    ),
    "VIDEO": _Rule(
        lambda schema: "a video, such as Load Video's",
        lambda schema, value: isinstance(value, Input.Video),
    ),
    "INTERP_MODEL": _Rule(
        lambda schema: "a model, such as Load RIFE Model's",
        lambda schema, value: value is None or isinstance(value, ModelPatcher | str),
    ),
}


def check_value(schema: io.Input, value: Any) -> Any:
    """Checks a value against the schema of its input.

    Returns:
        The value, converted to what nodes work with.

    Raises:
        ValueError: The schema rules the value out; the message says what it must be.
    """
    rule = _RULES[schema.get_io_type()]
    if not rule.is_valid(schema, value):
        raise ValueError(f"{schema.id} is {describe(value)}, but must be {rule.describe(schema)}.")
    return rule.convert(value)


def describe(value: Any) -> str:
    """Says in a few words what a wrong value is."""
    if isinstance(value, Tensor):
        return f"{dtype_name(value.dtype)} of {tuple(value.shape)}" if value.numel() else "empty"
    if value is None or isinstance(value, str | Real):
        return reprlib.repr(value)
    return f"a {type(value).__name__}"


def check_inputs(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """Decorates a node's `execute`: checks its inputs, and turns its errors into one line each.

    ComfyUI checks values that are typed into a node, but not those that come over a link. Inputs
    that the node's `validate_inputs` names are left to the node, as ComfyUI leaves them. The errors
    get one line each because they name files, whose names may hold any character.
    """

    @wraps(execute)
    def execute_checked(
        node: type[io.ComfyNode], *values: Any, **values_by_id: Any
    ) -> io.NodeOutput:
        schemas = node.define_schema().inputs
        values_by_id |= {schema.id: value for schema, value in zip(schemas, values, strict=False)}
        checked_by_node = inspect.signature(node.validate_inputs).parameters
        for schema in schemas:
            if schema.id in values_by_id and schema.id not in checked_by_node:
                values_by_id[schema.id] = check_value(schema, values_by_id[schema.id])
        try:
            return execute(node, **values_by_id)
        except (OSError, ValueError) as error:
            # A built-in type: the page shows the type before the message, and would show the long
            # path of our modules with one of ours.
            error_type = OSError if isinstance(error, OSError) else ValueError
            raise error_type(printable(str(error))) from error

    return execute_checked
