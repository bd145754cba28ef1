"""A real S3 server on this machine, for tests of runs in a store."""

import logging
from contextlib import contextmanager

import httpx
import pytest
from s3fs import S3FileSystem

server = pytest.importorskip("moto.server", reason="moto is in the dev requirements and in cpu.lock")
BUCKET = "bucket"


class S3Server:
    """Keeps its objects while it is down. `url` is a folder of its bucket."""

    def __init__(self):
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.port = 0
        self.start()
        self.url = f"s3://{BUCKET}/runs"

    @property
    def variables(self):
        """What a process needs to find it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self):
        self._server = server.ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def stop(self):
        self._server.stop()


@contextmanager
def serving():
    """A server with an empty bucket, which this process and its children reach by `BUCKET`'s URLs."""
    store = S3Server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.variables.items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()  # instances keep the endpoint that they were made with
        httpx.post(f"http://127.0.0.1:{store.port}/moto-api/reset").raise_for_status()  # servers of a process share it
        S3FileSystem().mkdir(BUCKET)
        yield store
    S3FileSystem.clear_instance_cache()
    store.stop()
