"""The examples, as a reader runs them: one command each, from nothing to the end of the story."""

import os
import pathlib
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
