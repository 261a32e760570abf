"""The examples, as a reader runs them: one command each, from nothing to the end of the story."""

import os
import pathlib
import re
import subprocess
import sys

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


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
    assert told.count("Data Factory runs pipeline retrain") == 1 and '"from":"2026-03-09T00:00:00Z"' in told
    assert told.count("Airflow runs DAG retrain with") == 1 and '"coefficient":0.41' in told
    assert '"dag_run_id": "carillon__' in told  # rendered
    assert "a-password" not in told and "not-shown" not in told


def test_deploy_by_tags():
    told = run("deploy-by-tags")
    assert told.count("Kubernetes runs a Job") == 1 and '"model":"churn:2","service":"churn-v2"' in told
    assert "a-token" not in told
