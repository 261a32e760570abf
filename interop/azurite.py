"""Azurite, the storage account of this machine: the npm package that interop/run
installs, on a free loopback port, started and stopped by the tests."""

import os
import subprocess

from azure.storage.blob import BlobServiceClient

from ports import free_port, until_it_answers

ACCOUNT = "devstoreaccount1"
# The development key that Azurite documents; it opens nothing else.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Azurite:
    """A storage account whose blobs, or queues, outlive a stop."""

    def __init__(self, directory, service="blob"):
        self._directory, self._service = directory, service
        self._log = open(directory / "azurite.log", "ab")
        self.port = free_port()
        self._process = None
        self.start()

    @property
    def connection(self) -> str:
        return f"AccountName={ACCOUNT};AccountKey={KEY};{self._service.title()}Endpoint=http://127.0.0.1:{self.port}/{ACCOUNT};"

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["node", os.path.join(os.environ["CARILLON_NODE_MODULES"], "azurite", "dist", "src", self._service, "main.js"),
             f"--{self._service}Host", "127.0.0.1", f"--{self._service}Port", str(self.port),
             "--location", str(self._directory / f"{self._service}s"), "--skipApiVersionCheck", "--disableTelemetry"],
            stdout=self._log, stderr=self._log)
        until_it_answers(self._process, self.port, "Azurite")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        self._log.close()

    def service(self) -> BlobServiceClient:
        return BlobServiceClient.from_connection_string(self.connection, retry_total=0)

    def blobs(self, container: str) -> dict:
        """Every blob of a container by name: its content and its content type."""
        with self.service() as service, service.get_container_client(container) as client:
            out = {}
            for item in client.list_blobs():
                blob = client.download_blob(item.name)
                out[item.name] = (blob.readall(), blob.properties.content_settings.content_type)
            return out
