"""ComfyUI imports this package as a node pack, and asks `comfy_entrypoint` for the nodes."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"  # help pages of the nodes, and extensions of ComfyUI's page

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
