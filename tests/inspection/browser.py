"""A headless Chromium, driven through the pipe of its DevTools protocol."""

import base64
import json
import os
import select
import shutil
import subprocess
from collections import deque
from contextlib import contextmanager, suppress
from time import monotonic

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_SECONDS = 60  # that an answer may take on a busy machine


@contextmanager
def chromium(profile):
    """A page of Chromium that keeps its files in the directory `profile`."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(f"no browser on the PATH: none of {', '.join(_NAMES)}")
    if shutil.which("bash") is None:
        pytest.skip("no bash on the PATH, which hands Chromium its two pipes")
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # Chromium reads commands from descriptor 3 and answers on 4
    script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
        *("--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"),
        f"--user-data-dir={profile}",
    ]
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", program, *options, "about:blank"],
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Page(ours_in, ours_out)
    finally:
        with suppress(BrokenPipeError):
            os.close(ours_out)
        process.terminate()
        process.wait(_SECONDS)
        os.close(ours_in)


class Page:
    """The page of a browser; what it asked for, and what it complained of."""

    def __init__(self, read, write):
        self._read, self._write = read, write
        self._number, self._received, self._rest = 0, deque(), b""
        self._session, self.requests, self.errors = None, [], []
        (target,) = [
            target
            for target in self._call("Target.getTargets")["targetInfos"]
            if target["type"] == "page"
        ]
        self._session = self._call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, path):
        self.requests, self.errors = [], []
        self._call("Page.navigate", url=path.as_uri())
        self.wait("document.readyState === 'complete'")

    def run(self, expression):
        """The value of an expression of JavaScript, which may be a promise."""
        answer = self._call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition):
        end = monotonic() + _SECONDS
        while not self.run(condition):
            assert monotonic() < end, f"not in {_SECONDS} s: {condition}"

    def press(self, key, code):
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self._call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                **text,
            )

    def resize(self, width, height):
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefer(self, theme):
        feature = {"name": "prefers-color-scheme", "value": theme}
        self._call("Emulation.setEmulatedMedia", features=[feature])

    def picture(self, path):
        """Write a PNG of the whole page."""
        found = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _call(self, method, **params):
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            command["sessionId"] = self._session
        os.write(self._write, json.dumps(command).encode() + b"\0")
        while True:
            message = self._receive()
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                return message["result"]
            self._note(message)

    def _note(self, message):
        method, params = message.get("method"), message.get("params")
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"])
        elif method == "Log.entryAdded":
            self.errors.append(params["entry"])
        elif method == "Runtime.consoleAPICalled":
            self.errors.append(params["args"])

    def _receive(self):
        while not self._received:
            ready, _, _ = select.select([self._read], [], [], _SECONDS)
            assert ready, f"Chromium did not answer in {_SECONDS} s"
            found = os.read(self._read, 2**20)
            assert found, "Chromium has ended"
            *whole, self._rest = (self._rest + found).split(b"\0")
            self._received.extend(map(json.loads, whole))
        return self._received.popleft()
