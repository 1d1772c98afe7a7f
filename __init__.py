"""ComfyUI's way in: hands over the nodes. Everything else lives in the modules beside it."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"  # the nodes' help pages

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
