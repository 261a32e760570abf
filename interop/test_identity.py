"""Who signs in: users with azure-identity by browser and device code, applications by
certificate and by tokens of a real OpenID provider (npm's oidc-provider), that provider's
tokens as they are, and what ends all of them. Source: spec/access.md sections 3, 4, 14."""

import base64
import json
import os
import socket
import subprocess
import threading

import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.identity import AuthenticationRequiredError, CertificateCredential, ClientAssertionCredential, ClientSecretCredential, DeviceCodeCredential, InteractiveBrowserCredential
from azure.identity._credentials import browser as browser_credential

from certificates import make_certificate
from pages import Browser
from server import AUDIENCE, GROUP_ID, OwnServer, StaticToken

PASSWORD = "correct horse battery staple"
PUBLISH = "https://eventgrid.azure.net/.default"
HERE = os.path.dirname(os.path.abspath(__file__))


def claims(token: str) -> dict:
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def options(server) -> dict:
    return {"authority": server.url, "disable_instance_discovery": True, "connection_verify": server.ca}


def signed_in(server, token) -> int:
    """The status of a management request with a token."""
    answer = requests.get(f"{server.url}/providers/Carillon.Identity/whoAmI", params={"api-version": "2026-11-01"},
                          headers={"Authorization": f"Bearer {token}"}, verify=server.ca, timeout=30)
    return answer.status_code


@pytest.fixture
def user(server, unique):
    """A user who set a password by the sign-in link, with the role Reader."""
    name = unique("anna") + "@example.org"
    made = server.command("principal", "create", name, "--type", "user")
    browser = Browser(server.ca)
    page = browser.submit(browser.open(made["signInLink"]), password=PASSWORD, again=PASSWORD)
    assert "Your password is set" in page.text, page.text
    server.command("role", "assignment", "create", "--assignee", made["objectId"], "--role", "Reader", "--scope", GROUP_ID)
    return {**made, "name": name}


def device_credential(server, user) -> DeviceCodeCredential:
    def prompt(url, code, _expires):
        threading.Thread(target=lambda: Browser(server.ca).sign_in_for_device(url, code, user["name"], PASSWORD)).start()
    return DeviceCodeCredential(tenant_id=user["tenant"], prompt_callback=prompt, **options(server))


def test_device_code(server, user, make_topic):
    topic, _ = make_topic()
    credential = device_credential(server, user)
    token = credential.get_token(AUDIENCE)
    said = claims(token.token)
    assert (said["oid"], said["upn"], said["scp"]) == (user["objectId"], user["name"], "user_impersonation")
    with server.management(credential) as client:
        assert client.topics.get("local", topic.name).id == topic.id
        with pytest.raises(HttpResponseError) as refusal:
            client.topics.begin_delete("local", topic.name)
        assert refusal.value.error.code == "AuthorizationFailed" and user["name"] in refusal.value.error.message
    assert claims(credential.get_token(PUBLISH).token)["aud"] == "https://eventgrid.azure.net"  # by the refresh token


def test_browser(server, user, monkeypatch):
    def open_browser(url):
        threading.Thread(target=lambda: Browser(server.ca).sign_in(url, user["name"], PASSWORD)).start()
        return True
    monkeypatch.setattr(browser_credential, "_open_browser", open_browser)
    credential = InteractiveBrowserCredential(tenant_id=user["tenant"], login_hint=user["name"], **options(server))
    record = credential.authenticate(scopes=[AUDIENCE])
    assert (record.username, record.tenant_id) == (user["name"], user["tenant"])
    assert signed_in(server, credential.get_token(AUDIENCE).token) == 200
    assert claims(credential.get_token(PUBLISH).token)["aud"] == "https://eventgrid.azure.net"


def test_revoked(server, user):
    """Access and refresh tokens end with the next request; the user signs in again."""
    credential = device_credential(server, user)
    token = credential.get_token(AUDIENCE)
    credential._disable_automatic_authentication = True  # as in a service: it must not ask by itself
    assert signed_in(server, token.token) == 200
    server.command("principal", "revoke-tokens", user["name"])
    assert signed_in(server, token.token) == 401
    with pytest.raises(AuthenticationRequiredError):
        credential.get_token(PUBLISH)
    assert signed_in(server, device_credential(server, user).get_token(AUDIENCE).token) == 200
    server.command("principal", "disable", user["name"])
    assert signed_in(server, token.token) == 401
    events = [r["properties"] for r in server.command("audit", "list", "--principal", user["name"])]
    assert {"tokenIssued", "change"} <= {e["event"] for e in events}
    assert PASSWORD not in json.dumps(events)


def test_revoked_application(server, unique):
    """A client that holds a revoked token fetches another one by itself, as long as it may."""
    app = server.command("principal", "create", unique("ci"))
    server.command("role", "assignment", "create", "--assignee", app["objectId"], "--role", "Reader", "--scope", GROUP_ID)
    credential = ClientSecretCredential(app["tenant"], app["appId"], app["password"], **options(server))
    with server.management(credential) as client:
        assert list(client.topics.list_by_resource_group("local")) is not None
        first = credential.get_token(AUDIENCE).token
        server.command("principal", "revoke-tokens", app["displayName"])
        assert list(client.topics.list_by_resource_group("local")) is not None
        assert signed_in(server, first) == 401
        server.command("principal", "disable", app["displayName"])
        with pytest.raises((ClientAuthenticationError, HttpResponseError)):
            list(client.topics.list_by_resource_group("local"))


def test_certificate(server, unique, tmp_path):
    app = server.command("principal", "create", unique("ci"))
    files = make_certificate(tmp_path)
    credential = CertificateCredential(app["tenant"], app["appId"], str(files / "both.pem"), **options(server))
    with pytest.raises(ClientAuthenticationError, match="AADSTS700027"):
        credential.get_token(AUDIENCE)
    server.command("principal", "credential", "add", app["displayName"], "--certificate", str(files / "cert.pem"))
    token = CertificateCredential(app["tenant"], app["appId"], str(files / "both.pem"), **options(server)).get_token(AUDIENCE)
    assert signed_in(server, token.token) == 200
    shown = server.command("principal", "credential", "list", app["displayName"])
    [key_id] = [c["keyId"] for c in shown if c["kind"] == "certificate"]
    server.command("principal", "credential", "delete", app["displayName"], "--key-id", key_id)
    assert signed_in(server, token.token) == 401


class OIDCProvider:
    """npm's oidc-provider in a process of its own."""

    def __init__(self, directory):
        files = make_certificate(directory)
        self.ca = str(files / "cert.pem")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.issuer = f"https://127.0.0.1:{port}"
        modules = os.environ["CARILLON_NODE_MODULES"]
        self._process = subprocess.Popen(
            ["node", os.path.join(os.path.dirname(modules), "oidc.mjs"), self.issuer, self.ca, str(files / "key.pem")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._expect("ready")

    def _expect(self, word: str) -> None:
        for line in self._process.stdout:
            if line.strip() == word:
                return
        raise AssertionError(f"the provider ended before it said {word}")

    def rotate(self) -> None:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._expect("rotated")

    def token(self, audience: str) -> str:
        answer = requests.post(f"{self.issuer}/token", auth=("trainer", "s3cret-of-the-trainer"), verify=self.ca, timeout=30,
                               data={"grant_type": "client_credentials", "resource": audience, "scope": "run"})
        assert answer.ok, f"{answer.status_code} {answer.text}"
        return answer.json()["access_token"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    provider = OIDCProvider(tmp_path_factory.mktemp("oidc"))
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def own(provider, tmp_path_factory):
    """A server that takes the provider's tokens."""
    directory = tmp_path_factory.mktemp("own")
    (directory / "providers.yaml").write_text(
        f"providers:\n- issuer: {provider.issuer}\n  audiences: ['api://carillon']\n  principalType: ServicePrincipal\n  groupPrefix: 'idp:'\n")
    server = OwnServer(directory, "--identity-providers", str(directory / "providers.yaml"), "--destination-ca", provider.ca)
    yield server
    server.close()


def test_foreign_provider(own, provider):
    token = provider.token("api://carillon")
    assert signed_in(own, token) == 200 and signed_in(own, provider.token("api://another")) == 401
    who = requests.get(f"{own.url}/providers/Carillon.Identity/whoAmI", params={"api-version": "2026-11-01"},
                       headers={"Authorization": f"Bearer {token}"}, verify=own.ca, timeout=30).json()
    assert who["issuer"] == provider.issuer and who["principalType"] == "ServicePrincipal" and who["groups"] == []
    with own.management(StaticToken(token)) as client:
        with pytest.raises(HttpResponseError) as refusal:
            list(client.topics.list_by_resource_group("local"))
        assert refusal.value.error.code == "AuthorizationFailed"
        # A role of a group of the provider, then one of its own.
        group = own.command("group", "create", "idp:ops")["properties"]["objectId"]
        made = own.command("role", "assignment", "create", "--assignee", group, "--role", "Reader", "--scope", GROUP_ID)
        assert list(client.topics.list_by_resource_group("local")) == []
        own.command("role", "assignment", "delete", "--ids", made["id"])
        own.command("role", "assignment", "create", "--assignee", who["objectId"], "--role", "Reader", "--scope", GROUP_ID)
        assert list(client.topics.list_by_resource_group("local")) == []


def test_federated_credential(own, provider, unique):
    app = own.command("principal", "create", unique("trainer"))
    credential = ClientAssertionCredential(app["tenant"], app["appId"], lambda: provider.token("api://AzureADTokenExchange"), **options(own))
    with pytest.raises(ClientAuthenticationError, match="AADSTS70021"):
        credential.get_token(AUDIENCE)
    own.command("principal", "federated-credential", "create", app["displayName"], "--name", "idp", "--issuer", provider.issuer, "--subject", "trainer")
    token = credential.get_token(AUDIENCE)
    assert signed_in(own, token.token) == 200
    own.command("principal", "federated-credential", "delete", app["displayName"], "--name", "idp")
    assert signed_in(own, token.token) == 401
    with pytest.raises(ClientAuthenticationError, match="AADSTS70021"):
        ClientAssertionCredential(app["tenant"], app["appId"], lambda: provider.token("api://AzureADTokenExchange"), **options(own)).get_token(AUDIENCE)


def test_provider_rotates_its_key(provider, tmp_path):
    """A key that is new is fetched when a token names it; the old one still counts."""
    (tmp_path / "providers.yaml").write_text(f"providers:\n- issuer: {provider.issuer}\n  audiences: ['api://carillon']\n")
    fresh = OwnServer(tmp_path, "--identity-providers", str(tmp_path / "providers.yaml"), "--destination-ca", provider.ca)
    try:
        before = provider.token("api://carillon")
        provider.rotate()
        assert signed_in(fresh, provider.token("api://carillon")) == 200
        assert signed_in(fresh, before) == 200
    finally:
        fresh.close()


def test_signing_key(tmp_path):
    """What was signed before a rotation holds, also after kill -9, until it is revoked."""
    server = OwnServer(tmp_path)
    try:
        before = server.token
        keys = lambda: [k["kid"] for k in requests.get(f"{server.url}/common/discovery/v2.0/keys", verify=server.ca, timeout=30).json()["keys"]]
        [first] = keys()
        server.command("signing-key", "rotate")
        second, old = keys()
        assert old == first != second and signed_in(server, before) == 200
        server.kill()
        server.start()
        assert keys() == [second, first] and signed_in(server, before) == 200 and signed_in(server, server.token) == 200
        server.command("signing-key", "rotate", "--revoke")
        assert len(keys()) == 1 and signed_in(server, before) == 401 and signed_in(server, server.token) == 401
        server.kill()
        server.start()
        assert signed_in(server, server.token) == 200
        assert [r["properties"]["operation"] for r in server.command("audit", "list", "--resource", "/providers/Carillon.Identity/signingKeys/tokens")] == ["rotate", "rotate and revoke"]
    finally:
        server.close()
