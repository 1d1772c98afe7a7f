"""ComfyUI's way in: hands over the nodes. Everything else lives in the modules beside it."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
