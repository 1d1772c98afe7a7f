"""Prompts: the graphs of nodes that the page and users of ComfyUI's API send to be run."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from server import PromptServer

# ComfyUI's own module `nodes`, imported by its name in a string because ours is called so, too.
comfy_nodes = import_module("nodes")

#: Nodes by id: {"class_type": ..., "inputs": {name: value or [node id, output's number]}}.
Prompt = dict[str, dict[str, Any]]


def register_prompt_handler(change_prompt: Callable[[Prompt], None]) -> None:
    """Has `change_prompt` change each prompt that ComfyUI gets, before ComfyUI checks it."""

    def handle_request(request: dict) -> dict:
        change_prompt(request.get("prompt", {}))
        return request

    server = getattr(PromptServer, "instance", None)
    if hasattr(server, "add_on_prompt_handler"):  # else ComfyUI runs as a library, without a server
        server.add_on_prompt_handler(handle_request)


def find_node_class(class_type: str | None) -> type | None:
    """Returns the class of a node that is installed; None if it is missing."""
    return comfy_nodes.NODE_CLASS_MAPPINGS.get(class_type)
