"""A real ComfyUI, driven through its HTTP API."""

import json
import os
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..hub import Server

PACK = Path(__file__).parents[3]


NAME = "comfyui-rife"  # what its folder is called in the ComfyUI of these tests


NODES = ("LoadRIFEModel", "RIFEFrameInterpolate", "RIFEVideoInterpolate", "RIFEOpticalFlow")


START_SECONDS = 180


EVENT_SECONDS = 120


LINE = 3  # of ComfyUI's binary events


#: Where ComfyUI-Frame-Interpolation keeps its models, installed from the Comfy registry.
OTHER_PACK = "custom_nodes/comfyui-frame-interpolation/ckpts/rife"


class Rejected(Exception):
    """ComfyUI refused a prompt; the message is its answer."""


@dataclass
class Run:
    """A prompt that ComfyUI accepted, and its events so far."""

    prompt_id: str
    events: list[tuple[float, str, dict]] = field(default_factory=list)

    def of(self, kind: str) -> list[dict]:
        return [data for _, name, data in self.events if name == kind]

    def said_on(self, node: str) -> list[str]:
        """The lines of a node's report."""
        outputs = [data["output"] for data in self.of("executed") if data["node"] == node]
        return [line for output in outputs for line in output["text"][0].splitlines()]

    @property
    def ended(self) -> str:
        """How it ended: "success", "error" or "interrupted"."""
        return self.events[-1][1].removeprefix("execution_")

    @property
    def cached(self) -> set[str]:
        """The ids of the nodes that didn't have to run."""
        return {node for data in self.of("execution_cached") for node in data["nodes"]}


class ComfyUI:
    """A running ComfyUI server, its websocket open."""

    def __init__(self, directory: Path, python: str, base: Path, hub: Server) -> None:
        self.base = base
        self.hub = hub
        for name in ("input", "models/rife", "models/frame_interpolation", "user", OTHER_PACK):
            (base / name).mkdir(parents=True)
        (base / "custom_nodes" / NAME).symlink_to(PACK)
        odd_values = Path(__file__).with_name("odd_values.py")
        (base / "custom_nodes" / odd_values.name).symlink_to(odd_values)
        for pack in filter(None, os.environ.get("COMFYUI_PACKS", "").split(os.pathsep)):
            (base / "custom_nodes" / Path(pack).name).symlink_to(Path(pack).resolve())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = base / "log.txt"
        command = [python, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
        if frontend := os.environ.get("COMFYUI_FRONTEND"):
            command += ["--front-end-root", frontend]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                stdout=log,
                stderr=log,
                env={**os.environ, "HF_ENDPOINT": hub.url},
            )

    def connect(self) -> None:
        """Waits until the server answers, then opens its websocket."""
        give_up = time.monotonic() + START_SECONDS
        while True:
            assert self.process.poll() is None, f"ComfyUI ended:\n{self.log.read_text()}"
            assert time.monotonic() < give_up, f"ComfyUI doesn't answer:\n{self.log.read_text()}"
            try:
                self.get("/system_stats")
                break
            except OSError:
                time.sleep(0.3)
        connection = socket.create_connection(("127.0.0.1", self.port), EVENT_SECONDS)
        connection.sendall(
            f"GET /ws?clientId=tests HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        self._events = connection.makefile("rb")
        while self._events.readline() != b"\r\n":
            pass

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def get(self, path: str) -> dict:
        return self._request(path)

    def post(self, path: str, body: dict) -> dict:
        return self._request(path, json.dumps(body).encode())

    def _request(self, path: str, body: bytes | None = None) -> dict:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"{}")

    def forget_results(self) -> None:
        """Has ComfyUI unload its models and forget the outputs of nodes that it has cached."""
        self.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(2)  # it does so between prompts, and doesn't say when it has

    def submit(self, prompt: dict) -> Run:
        """Queues a prompt (node id -> class_type and inputs)."""
        try:
            return Run(self.post("/prompt", {"prompt": prompt, "client_id": "tests"})["prompt_id"])
        except urllib.error.HTTPError as error:
            raise Rejected(json.dumps(json.load(error))) from None

    def follow(self, run: Run) -> Iterator[tuple[str, dict]]:
        """Yields the events of a run as they arrive, up to its end."""
        for kind, data in self._heard():
            if kind not in ("preview", "line") and data.get("prompt_id") != run.prompt_id:
                continue
            run.events.append((time.monotonic(), kind, data))
            yield kind, data
            if kind in ("execution_success", "execution_error", "execution_interrupted"):
                return

    def run(self, prompt: dict) -> Run:
        """Runs a prompt to its end."""
        run = self.submit(prompt)
        for _ in self.follow(run):
            pass
        return run

    def files(self, run: Run) -> list[Path]:
        """The files that the prompt wrote to the output folder; newer loaders list their input,
        too."""
        return [
            self.base / file["type"] / file["subfolder"] / file["filename"]
            for data in run.of("executed")
            for file in data["output"].get("images", [])
            if file["type"] == "output"
        ]

    def lacks(self, workflow: dict) -> set[str]:
        """The nodes of a saved workflow that this ComfyUI doesn't have."""
        of_the_page = {"MarkdownNote", "Note", "Reroute", "PrimitiveNode"}
        types = {node["type"] for node in workflow["nodes"]} - of_the_page
        return types - set(self.get("/object_info"))

    def _heard(self) -> Iterator[tuple[str, dict]]:
        """The websocket's messages: (type, data); previews as ("preview", {"jpeg": bytes}), lines
        on nodes as ("line", {"node": id, "text": ...})."""
        while True:
            kind, size = self._events.read(2)
            if size == 126:
                (size,) = struct.unpack(">H", self._events.read(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self._events.read(8))
            payload = self._events.read(size)
            if kind & 0x0F == 1:
                message = json.loads(payload)
                yield message["type"], message["data"]
            elif kind & 0x0F == 2:
                event, size = struct.unpack(">II", payload[:8])
                if event == LINE:
                    node, text = payload[8 : 8 + size], payload[8 + size :]
                    yield "line", {"node": node.decode(), "text": text.decode()}
                else:
                    yield "preview", {"jpeg": payload[8:]}
