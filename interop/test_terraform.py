"""Terraform or OpenTofu with the azurerm provider: apply, no difference, change, import,
destroy. Source: spec/management.md sections 3 and 10.2.

CARILLON_TERRAFORM names the program; without it the suite is left out, because the
provider is a download of its own. Where the provider comes from is the program's
business (TF_CLI_CONFIG_FILE)."""

import datetime
import ipaddress
import os
import pathlib
import shutil
import ssl
import subprocess

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from server import GROUP_ID, SUBSCRIPTION, OwnServer

pytestmark = pytest.mark.skipif(not os.environ.get("CARILLON_TERRAFORM"), reason="CARILLON_TERRAFORM names no program")

HERE = pathlib.Path(__file__).parent
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/terraform"
GRID = f"{GROUP}/providers/Microsoft.EventGrid"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that is its own authority: the provider takes webhooks
    with https only. Returns the files of the certificate and the key."""
    key, directory = ec.generate_private_key(ec.SECP256R1()), tmp_path_factory.mktemp("certificate")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "webhook")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256()))
    (directory / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return directory / "cert.pem", directory / "key.pem"


@pytest.fixture
def own(certificate, tmp_path, monkeypatch):
    """A server that trusts the webhook's certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    server = OwnServer(tmp_path)
    yield server
    server.close()


class Terraform:
    """One working directory with its state."""

    def __init__(self, server, directory, webhook, workspace):
        who = server.command("principal", "create", "terraform")
        server.command("role", "assignment", "create", "--assignee", who["objectId"], "--role", "Owner", "--scope", f"/subscriptions/{SUBSCRIPTION}")
        shutil.copy(HERE / "terraform" / "main.tf", directory)
        self._directory = directory
        self._env = {**os.environ, "SSL_CERT_FILE": server.ca, "ARM_METADATA_HOSTNAME": server.url.removeprefix("https://"),
                     "ARM_TENANT_ID": who["tenant"], "ARM_CLIENT_ID": who["appId"], "ARM_CLIENT_SECRET": who["password"],
                     "TF_VAR_webhook": webhook, "TF_VAR_reader": who["objectId"], "TF_VAR_workspace": workspace, "TF_IN_AUTOMATION": "1", "TF_INPUT": "0", "TF_CLI_ARGS": "-no-color", "CHECKPOINT_DISABLE": "1"}

    def __call__(self, command, *arguments, exit=0, **env) -> str:
        ran = subprocess.run([os.environ["CARILLON_TERRAFORM"], command, *arguments], cwd=self._directory, env={**self._env, **env},
                             capture_output=True, text=True, timeout=600)
        assert ran.returncode == exit, f"terraform {command}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    def no_difference(self, *arguments, **env) -> None:
        assert "No changes." in self("plan", "-detailed-exitcode", *arguments, **env)


def test_terraform(own, certificate, tmp_path, make_handler):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    handler = make_handler(tls=tls)
    workspace = f"{GROUP_ID}/providers/Microsoft.MachineLearningServices/workspaces/terraform"
    own.command("workspace", "create", "terraform")
    (tmp_path / "work").mkdir()
    terraform = Terraform(own, tmp_path / "work", handler.url, workspace)
    terraform("init")

    made = terraform("apply", "-auto-approve")
    assert "11 added, 0 changed, 0 destroyed" in made and f'endpoint = "{own.url}/' in made
    terraform.no_difference()
    terraform.no_difference(ARM_PROVIDER_ENHANCED_VALIDATION_LOCATIONS="true", ARM_PROVIDER_ENHANCED_VALIDATION_RESOURCE_PROVIDERS="true")
    with own.management() as client:
        got = client.event_subscriptions.get(f"{GRID}/topics/orders", "es-orders")
        assert (got.event_delivery_schema, got.labels, got.destination.max_events_per_batch) == ("CloudEventSchemaV1_0", ["one", "two"], 10)
        assert {f.operator_type for f in got.filter.advanced_filters} == {"NumberIn", "NumberInRange", "StringNotBeginsWith", "BoolEquals", "IsNullOrUndefined"}
        assert got.filter.subject_begins_with == "orders/"
        assert client.topics.get("terraform", "custom").disable_local_auth is True

    changed = ("-var", "team=crm", "-var", "subject=carts/")
    assert "0 added, 7 changed, 0 destroyed" in terraform("apply", "-auto-approve", *changed)
    terraform.no_difference(*changed)
    with own.management() as client:
        assert client.event_subscriptions.get(f"{GRID}/topics/orders", "es-orders").filter.subject_begins_with == "carts/"
        client.topics.begin_update("terraform", "orders", {"tags": {"team": "somebody"}}).result()
    assert "1 to change" in terraform("plan", "-detailed-exitcode", *changed, exit=2)
    terraform("apply", "-auto-approve", *changed)

    for resource, id in (("azurerm_eventgrid_topic.orders", f"{GRID}/topics/orders"),
                         ("azurerm_eventgrid_event_subscription.orders", f"{GRID}/topics/orders/providers/Microsoft.EventGrid/eventSubscriptions/es-orders"),
                         ("azurerm_eventgrid_system_topic.runs", f"{GRID}/systemTopics/runs")):
        terraform("state", "rm", resource)
        terraform("import", *changed, resource, id)
    terraform.no_difference(*changed)

    assert "11 destroyed" in terraform("destroy", "-auto-approve", *changed)
    gone = requests.get(own.url + GROUP, params={"api-version": "2021-04-01"}, headers={"Authorization": "Bearer " + own.token}, verify=own.ca, timeout=10)
    assert gone.status_code == 404
