"""Trains with MLflow, which knows nothing of Carillon: one run finishes, two fail, one of them in another experiment."""

import mlflow


def train(experiment, name, rows):
    mlflow.set_experiment(experiment)
    with mlflow.start_run(run_name=name, tags={"team": "growth"}):
        mlflow.log_param("rows", len(rows))
        mlflow.log_metric("churn_rate", sum(rows) / len(rows))


def attempt(*arguments):
    try:
        train(*arguments)
        print("finished:", *arguments[:2])
    except ZeroDivisionError as error:  # MLflow has noted that the run failed
        print("failed:  ", *arguments[:2], "-", error)


attempt("churn", "monday", [0, 1, 0, 0])
attempt("scratch", "an idea", [])
attempt("churn", "tuesday", [])
