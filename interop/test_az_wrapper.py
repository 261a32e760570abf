"""carillon az: the same az, set up and signed in by the command itself."""

import json
import os
import pathlib
import subprocess
import uuid

import pytest

from server import GROUP, SUBSCRIPTION

SCOPE = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"


@pytest.fixture(scope="module")
def az(tmp_path_factory):
    home = tmp_path_factory.mktemp("config")
    path = str(pathlib.Path(os.environ["CARILLON_AZ"]).parent) + os.pathsep + os.environ["PATH"]
    env = {**os.environ, "PATH": path, "XDG_CONFIG_HOME": str(home), "HOME": str(home)}

    def run(*arguments):
        return subprocess.run([os.environ["CARILLON_BINARY"], "az", *arguments], env=env, capture_output=True, text=True, timeout=180)

    run.home = home
    return run


def test_signed_in_as_the_caller(az):
    shown = az("account", "show", "-o", "json")
    assert shown.returncode == 0, shown.stderr
    account = json.loads(shown.stdout)
    assert account["environmentName"] == "carillon" and account["id"] == SUBSCRIPTION
    token = os.environ["CARILLON_TOKEN"]
    held = [p for p in az.home.rglob("*") if p.is_file() and token in p.read_text(errors="replace")]
    assert held == []


def test_resources_and_exit_codes(az):
    name = "wrapped-" + uuid.uuid4().hex[:8]
    made = az("eventgrid", "topic", "create", "-g", GROUP, "-l", "local", "-n", name, "-o", "json")
    assert made.returncode == 0 and json.loads(made.stdout)["provisioningState"] == "Succeeded", made.stderr
    table = az("eventgrid", "topic", "list", "-g", GROUP, "-o", "table")
    assert name in table.stdout
    gone = az("eventgrid", "topic", "delete", "-g", GROUP, "-n", name)
    assert gone.returncode == 0, gone.stderr
    missing = az("eventgrid", "topic", "show", "-g", GROUP, "-n", name)
    assert missing.returncode == 3 and "ResourceNotFound" in missing.stderr
    assert az("eventgrid", "nonsense").returncode == 2


def test_deny_assignments(az):
    """They are made, obeyed and removed. Source: spec/access.md sections 11 and 12."""
    name = "denied-" + uuid.uuid4().hex[:8]
    denied = az("role", "deny-assignment", "create", "--name", name, "--scope", SCOPE, "--actions", "Microsoft.EventGrid/topics/write",
                "--exclude-principal-ids", str(uuid.uuid4()), "--exclude-principal-types", "User", "-o", "json")
    assert denied.returncode == 0, denied.stderr
    identity = json.loads(denied.stdout)["id"]
    try:
        refused = az("eventgrid", "topic", "create", "-g", GROUP, "-l", "local", "-n", name)
        assert refused.returncode != 0 and "DenyAssignmentAuthorizationFailed" in refused.stderr
        assert name in az("role", "deny-assignment", "list", "--scope", SCOPE, "-o", "table").stdout
    finally:
        removed = az("role", "deny-assignment", "delete", "--id", identity, "--yes")
    assert removed.returncode == 0, removed.stderr
    assert name not in az("role", "deny-assignment", "list", "--scope", SCOPE, "-o", "table").stdout
