"""The pages that users sign in at, as a browser without scripts sees them."""

import html
import re
import urllib.parse

import requests

FORM = re.compile(r'<form method="post" action="([^"]*)"')
HIDDEN = re.compile(r'<input type="hidden" name="([^"]*)" value="([^"]*)"')


class Browser:
    """Keeps cookies and sends forms."""

    def __init__(self, ca: str):
        self._session = requests.Session()
        self._session.verify = ca

    def open(self, url: str) -> requests.Response:
        return self._session.get(url, timeout=30)

    def submit(self, page: requests.Response, **fields: str) -> requests.Response:
        action = FORM.search(page.text)
        assert action, f"no form in {page.status_code} {page.text}"
        form = {html.unescape(name): html.unescape(value) for name, value in HIDDEN.findall(page.text)}
        to = urllib.parse.urljoin(page.url, html.unescape(action[1]))
        return self._session.post(to, data={**form, **fields}, headers={"Sec-Fetch-Site": "same-origin"}, timeout=30)

    def sign_in_for_device(self, url: str, code: str, user: str, password: str) -> None:
        second = self.submit(self.open(url), user_code=code)
        last = self.submit(second, username=user, password=password)
        assert last.status_code == 200 and "You are signed in" in last.text, last.text

    def sign_in(self, url: str, user: str, password: str) -> None:
        """Signs in at the authorization endpoint and hands the code over."""
        last = self.submit(self.open(url), username=user, password=password)
        if FORM.search(last.text):  # response_mode=form_post
            last = self.submit(last)
        assert last.status_code == 200, f"{last.status_code} {last.text}"
