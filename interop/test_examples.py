"""The examples, as a reader runs them: one command each, from nothing to the end of the story."""

import os
import pathlib
import re
import subprocess
import sys

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def refused(command, **environment) -> str:
    """Runs a command that is to fail within seconds, not after a minute of waiting; returns what it said."""
    ran = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=50)
    assert ran.returncode != 0, ran.stdout
    return f"exit {ran.returncode}\n{ran.stderr}"


def test_python_without_requirements(tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    told = refused([EXAMPLES / "mlflow-email" / "run"], PYTHON=str(bare))
    assert told.startswith("exit 2\n") and "lacks aiosmtpd mlflow" in told and "requirements.txt" in told


def test_mail_without_settings():
    told = refused([sys.executable, EXAMPLES / "mlflow-email" / "mail.py"], SMTP_HOST="127.0.0.1", HANDLER_KEY="", SMTP_USER="carillon", SMTP_PASSWORD="")
    assert told.startswith("exit 2\n") and "needs HANDLER_KEY, MAIL_FROM, MAIL_TO, MLFLOW_URL, SMTP_PASSWORD" in told


def test_server_that_does_not_start(tmp_path):
    broken = tmp_path / "carillon"
    broken.write_text("#!/bin/sh\necho the port is in use >&2\nexit 1\n")
    broken.chmod(0o755)
    told = refused([EXAMPLES / "drift-retrain" / "run"], CARILLON_BINARY=str(broken))
    assert "the start of Carillon did not come to pass" in told and "the port is in use" in told


def run(name: str, timeout: int = 300) -> str:
    ran = subprocess.run([EXAMPLES / name / "run"], env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, timeout=timeout)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def test_mlflow_email():
    told = run("mlflow-email")
    assert told.count("Subject: ") == 1
    assert "Subject: Failed: run tuesday of churn" in told
    assert "To: team@example.com" in told and "/#/experiments/1/runs/" in told
    assert "one e-mail for one failed run of churn" in told
    assert "code=…" in told


def test_drift_retrain():
    told = run("drift-retrain")
    same, moved, after = (float(x) for x in re.findall(r"^Coefficient +([0-9.e-]+)$", told, re.M))
    assert same < 0.2 < moved and after < 0.2
    assert told.count("training begins") == 1 and "drift of orders: the orders of 2026-03-09 moved" in told
    assert "trained: orders:1 on 700 orders" in told
    assert "cleared: the orders of 2026-03-16" in told
    assert re.search(r"orders-v1 +Healthy +orders:1", told)


def test_drift_pipeline():
    told = run("drift-pipeline")
    assert told.count("Data Factory runs pipeline retrain") == 1 and '"from":"2026-03-09T00:00:00' in told
    assert told.count("Airflow runs DAG retrain with") == 1 and '"coefficient":0.41' in told
    assert '"dag_run_id": "carillon__' in told  # rendered
    assert "a-password" not in told and "not-shown" not in told


def test_deploy_by_tags():
    told = run("deploy-by-tags")
    assert told.count("Kubernetes runs a Job") == 1 and '"model":"churn:2","service":"churn-v2"' in told
    assert "a-token" not in told
