"""Drift as scipy and Evidently compute it, from files that pyarrow writes, and from a
real S3-compatible store and Azurite. Source: spec/workspace.md section 7."""

import json
import os
import subprocess
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from evidently import Report
from evidently.presets import DataDriftPreset
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2_contingency, energy_distance, ks_2samp, wasserstein_distance

from azurite import Azurite
from ports import free_port

CODES = {0, 1, 3}  # no drift, drift, no verdict


def drift(baseline, target, *more, **environment):
    ran = subprocess.run([os.environ["CARILLON_BINARY"], "drift", "run", "--baseline", str(baseline), "--target", str(target), "-o", "json", *more],
                         env={**os.environ, **environment}, capture_output=True, text=True, timeout=100)
    assert ran.returncode in CODES and ran.stdout, ran.stderr
    return json.loads(ran.stdout)


def column(found, name):
    return next(c for c in found["columns"] if c["name"] == name)


def frame(seed, rows, shift=0.0, weights=(0.5, 0.3, 0.2)):
    r = np.random.default_rng(seed)
    return pd.DataFrame({
        "amount": r.normal(shift, 1, rows), "noise": r.exponential(2, rows), "rounded": r.normal(shift, 10, rows).round(),
        "country": r.choice(["at", "ch", "de"], rows, p=weights), "size": r.choice(["s", "m", "l"], rows)})


@pytest.fixture
def files(tmp_path):
    def write(**frames):
        for name, f in frames.items():
            f.to_csv(tmp_path / f"{name}.csv", index=False)
        return [tmp_path / f"{name}.csv" for name in frames]

    return write


@pytest.mark.parametrize("rows", [(60, 75), (800, 900), (20_000, 15_000)])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_numbers_of_scipy(files, rows, shift):
    base, now = frame(1, rows[0]), frame(2, rows[1], shift)
    found = drift(*files(base=base, now=now))
    for name in ["amount", "noise", "rounded"]:
        got, a, b = column(found, name)["metrics"], base[name].to_numpy(), now[name].to_numpy()
        assert got["wasserstein_distance"] == pytest.approx(wasserstein_distance(a, b), rel=1e-10)
        assert got["wasserstein_normed"] == pytest.approx(wasserstein_distance(a, b) / a.std(), rel=1e-10)
        assert got["energy_distance"] == pytest.approx(energy_distance(a, b), rel=1e-8)
        exact = len(a) * len(b) <= 1 << 20  # our bound; above it the limit, with Stephens' correction
        theirs = ks_2samp(a, b, method="exact" if exact else "asymp")
        assert got["ks"] == pytest.approx(theirs.statistic, rel=1e-12)
        if exact:
            assert got["ks_pvalue"] == pytest.approx(theirs.pvalue, rel=1e-9, abs=1e-15)
        else:  # scipy takes the law of one sample, of the rounded size
            assert got["ks_pvalue"] == pytest.approx(theirs.pvalue, rel=0.05, abs=1e-12)


@pytest.mark.parametrize("weights", [(0.5, 0.3, 0.2), (0.3, 0.3, 0.4)])
def test_categories_of_scipy(files, weights):
    base, now = frame(1, 2_000), frame(2, 1_500, weights=weights)
    found = drift(*files(base=base, now=now))
    for name in ["country", "size"]:
        got = column(found, name)["metrics"]
        names = sorted(set(base[name]) | set(now[name]))
        table = np.array([[(f[name] == n).sum() for n in names] for f in (base, now)])
        theirs = chi2_contingency(table, correction=False)
        assert got["chi2"] == pytest.approx(theirs.statistic, rel=1e-10)
        assert got["chi2_pvalue"] == pytest.approx(theirs.pvalue, rel=1e-8, abs=1e-15)
        assert got["js2"] == pytest.approx(jensenshannon(table[0] / 2_000, table[1] / 1_500, base=2), rel=1e-8)


def evidently(base, now):
    """The columns that drifted, and the share of them."""
    metrics = Report([DataDriftPreset()]).run(now, base).dict()["metrics"]
    drifted, share = {}, None
    for m in metrics:
        config = m["config"]
        if config["type"].endswith(":ValueDrift"):
            p_value = config["method"].endswith("p_value")
            drifted[config["column"]] = m["value"] < config["threshold"] if p_value else m["value"] >= config["threshold"]
        elif config["type"].endswith(":DriftedColumnsCount"):
            share = m["value"]["share"]
    return drifted, share


@pytest.mark.parametrize("rows", [900, 5_000])  # up to 1,000 both test for significance, above for effect
@pytest.mark.parametrize("what", ["nothing", "numbers", "a category", "most"])
def test_verdicts_of_evidently(files, rows, what):
    shift = 0.6 if what in ("numbers", "most") else 0
    weights = (0.2, 0.3, 0.5) if what in ("a category", "most") else (0.5, 0.3, 0.2)
    base, now = frame(11, rows), frame(12, rows, weights=weights)
    now["amount"] += shift
    now["noise"] *= 1 + shift
    theirs, share = evidently(base, now)
    found = drift(*files(base=base, now=now), "--coefficient", "share")
    ours = {c["name"]: c["drifted"] for c in found["columns"]}
    assert ours == theirs
    assert found["driftCoefficient"] == pytest.approx(share)
    assert found["hasDrift"] == (share >= 0.5)  # none of these is 0.5: there ours says no


def test_where_evidently_differs_by_design(files):
    """60 columns without drift: at 5 % each, some are flagged; we allow for their number."""
    def noise(seed):
        r = np.random.default_rng(seed)
        return pd.DataFrame({f"c{i}": r.normal(0, 1, 500) for i in range(60)})

    base, now = noise(21), noise(22)
    theirs, _ = evidently(base, now)
    found = drift(*files(base=base, now=now), "--coefficient", "share")
    assert sum(theirs.values()) > 0 and not any(c["drifted"] for c in found["columns"])


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "brotli", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_parquet_of_pyarrow(tmp_path, files, compression, version):
    base = frame(1, 5_000)
    base.loc[::7, "amount"] = None
    base.loc[::5, "country"] = None
    now = frame(2, 3_000, 0.5)
    wanted = drift(*files(base=base, now=now))
    plain = {} if version == "1.0" else {"use_dictionary": False, "column_encoding": {
        "amount": "BYTE_STREAM_SPLIT", "noise": "PLAIN", "rounded": "BYTE_STREAM_SPLIT", "country": "DELTA_BYTE_ARRAY", "size": "DELTA_LENGTH_BYTE_ARRAY"}}
    for name, f in {"base": base, "now": now}.items():
        pq.write_table(pa.Table.from_pandas(f, preserve_index=False), tmp_path / f"{name}.parquet", compression=compression,
                       data_page_version=version, row_group_size=2_000, data_page_size=4_000, write_page_checksum=True, **plain)
    assert drift(tmp_path / "base.parquet", tmp_path / "now.parquet") == wanted


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """versitygw, a real S3-compatible server, on a directory."""
    directory, port = tmp_path_factory.mktemp("s3"), free_port()
    log = open(directory / "log", "ab")
    (directory / "buckets").mkdir()
    keys = {"AWS_ACCESS_KEY_ID": "drift", "AWS_SECRET_ACCESS_KEY": "drift-secret", "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    process = subprocess.Popen([os.environ["CARILLON_VERSITYGW"], "--port", f"127.0.0.1:{port}", "--access", "drift", "--secret", "drift-secret", "posix", str(directory / "buckets")],
                               stdout=log, stderr=log)
    try:
        store = pa.fs.S3FileSystem(access_key="drift", secret_key="drift-secret", endpoint_override=f"127.0.0.1:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True)
        for attempt in range(100):
            assert process.poll() is None, "versitygw ended at its start"
            try:
                store.create_dir("data")
                break
            except OSError:
                time.sleep(0.1)
        yield store, keys
    finally:
        process.kill()
        process.wait(10)
        log.close()


@pytest.fixture(scope="module")
def azure(tmp_path_factory):
    azurite = Azurite(tmp_path_factory.mktemp("azurite"))
    with azurite.service() as service:
        service.create_container("data")
    yield azurite
    azurite.close()


def stored(base, now):
    """What both stores get: by name its bytes."""
    def parquet(f):
        out = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pandas(f, preserve_index=False), out, compression="none", use_dictionary=False, row_group_size=100_000)
        return out.getvalue().to_pybytes()

    third = len(now) // 3
    out = {"base.parquet": parquet(base), "now/_SUCCESS": b"", "now/notes.txt": b"x"}
    for i in range(3):
        part = now[i * third:(i + 1) * third]
        out[f"now/part-{i}.csv"] = part.to_csv(index=False).encode()
        out[f"days/2026/03/0{i + 1}/rows.jsonl"] = part.to_json(orient="records", lines=True, double_precision=15).encode()
    return out


def check_store(tmp_path, root, write, environment):
    base, now = frame(1, 300_000), frame(2, 30_000, 0.4)
    for name, content in stored(base, now).items():
        write(name, content)
    now.to_csv(tmp_path / "now.csv", index=False)
    pq.write_table(pa.Table.from_pandas(base, preserve_index=False), tmp_path / "base.parquet")
    wanted = drift(tmp_path / "base.parquet", tmp_path / "now.csv")
    assert wanted["rows"]["baseline"] == 300_000 and wanted["rows"]["target"] == 30_000
    assert drift(f"{root}base.parquet", f"{root}now/", **environment) == wanted
    days = drift(f"{root}base.parquet", root + "days/{yyyy}/{MM}/{dd}/", "--start", "2026-03-01", "--end", "2026-03-03", **environment)
    assert days["rows"]["target"] == 20_000
    for target, word in {"nothing.csv": "404", "nothing/": "it has no files"}.items():
        ran = subprocess.run([os.environ["CARILLON_BINARY"], "drift", "run", "--baseline", root + target, "--target", root + target], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 3 and word in ran.stderr, ran.stderr


def test_s3(tmp_path, s3):
    store, keys = s3

    def write(name, content):
        with store.open_output_stream("data/" + name) as out:
            out.write(content)

    check_store(tmp_path, "s3://data/", write, keys)
    ran = subprocess.run([os.environ["CARILLON_BINARY"], "drift", "run", "--baseline", "s3://data/base.parquet", "--target", "s3://data/now/"],
                         env={**os.environ, **keys, "AWS_SECRET_ACCESS_KEY": "another-secret"}, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 3 and "403 SignatureDoesNotMatch" in ran.stderr and "another-secret" not in ran.stderr, ran.stderr


def test_azure(tmp_path, azure):
    with azure.service() as service:
        def write(name, content):
            service.get_blob_client("data", name).upload_blob(content)

        root = f"http://127.0.0.1:{azure.port}/devstoreaccount1/data/"
        check_store(tmp_path, root, write, {"AZURE_STORAGE_CONNECTION_STRING": azure.connection})
