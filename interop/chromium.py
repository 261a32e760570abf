"""A headless Chromium, driven over the WebDriver protocol: pages as a user sees them.
It needs chromium and chromedriver, which interop/run installs."""

import socket
import subprocess
import time

import requests

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # what WebDriver calls an element


class Chromium:
    def __init__(self, directory):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self._log = open(directory / "chromedriver.log", "wb")
        self._process = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=self._log, stderr=self._log)
        self._driver = f"http://127.0.0.1:{port}"
        self._session = ""
        try:
            self._until(lambda: requests.get(self._driver + "/status", timeout=10).json()["value"]["ready"], 30)
            arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                         "--disable-dev-shm-usage", "--window-size=1600,1200", f"--user-data-dir={directory / 'profile'}"]
            made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}})
            self._session = "/session/" + made["sessionId"]
        except BaseException:
            self.close()
            raise

    def _ask(self, method, path, body=None):
        answer = requests.request(method, self._driver + self._session + path, json=body, timeout=60)
        value = answer.json()["value"]
        if not answer.ok:
            raise LookupError(f"{path}: {value['error']}: {value['message'].splitlines()[0]}")
        return value

    def _until(self, attempt, timeout):
        """Repeats an attempt until it does not fail, for pages fill while one looks."""
        end = time.monotonic() + timeout
        while True:
            try:
                return attempt()
            except (LookupError, requests.ConnectionError) as problem:
                if time.monotonic() > end:
                    raise AssertionError(f"{problem}; the page:\n{self.text() if self._session else ''}") from problem
            time.sleep(0.2)

    def open(self, url):
        self._ask("POST", "/url", {"url": url})

    def text(self):
        return self._ask("POST", "/execute/sync", {"script": "return document.body.innerText", "args": []})

    def _find(self, xpath):
        return self._ask("POST", "/element", {"using": "xpath", "value": xpath})[ELEMENT]

    def see(self, words, timeout=60):
        """Waits until the page shows some words."""
        def look():
            if words not in self.text():
                raise LookupError(f"{words!r} is not on the page")
        self._until(look, timeout)

    def click(self, xpath, timeout=60):
        self._until(lambda: self._ask("POST", f"/element/{self._find(xpath)}/click", {}), timeout)

    def type(self, xpath, words, timeout=60):
        self._until(lambda: self._ask("POST", f"/element/{self._find(xpath)}/value", {"text": words}), timeout)

    def close(self):
        if self._session:
            try:
                self._ask("DELETE", "")
            except (LookupError, requests.RequestException):
                pass
        self._process.terminate()
        self._process.wait(20)
        self._log.close()
