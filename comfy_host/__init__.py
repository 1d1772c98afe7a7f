"""All that knows ComfyUI's machinery, so that the nodes and `rife` need not.

Works with every ComfyUI from 0.3.64 on: what only newer ones have is looked up here.
"""
