"""Following a job over a line that is really cut: a server that speaks the jobs API and goes away in the middle."""

import asyncio
import threading

import pytest
import ray
from aiohttp import web

from rayrlhf.errors import RunError
from rayrlhf.jobs.submit_dashboard import Dashboard
from rayrlhf.jobs.submit_follow import Follower
from tests.ports import free_port

JOB = {"type": "SUBMISSION", "submission_id": "job", "entrypoint": "x", "start_time": 0}


class CutDashboard:
    """Serves `logs[0]`, cuts the line and its own port for a second, comes back with `logs[1]` and the job's end."""

    def __init__(self, logs, knows_the_job=True):
        self.logs, self.knows_the_job, self.cuts = logs, knows_the_job, 0
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._call(self._listen())

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _listen(self):
        app = web.Application()
        app.router.add_get("/api/version", self.version)
        app.router.add_get("/api/jobs/job", self.info)
        app.router.add_get("/api/jobs/job/logs/tail", self.tail)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def version(self, request):
        return web.json_response({"ray_version": ray.__version__, "version": "4"})

    async def info(self, request):
        if self.cuts and not self.knows_the_job:
            return web.Response(status=404, text="Job job does not exist")
        return web.json_response({**JOB, "status": "SUCCEEDED" if self.cuts else "RUNNING"})

    async def tail(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(self.logs[self.cuts])
        if self.cuts == 0:
            self._away = asyncio.ensure_future(self._go_away(request.transport))
            await asyncio.sleep(5)
        await socket.close()
        return socket

    async def _go_away(self, transport):
        await asyncio.sleep(0.3)
        self.cuts += 1
        transport.abort()
        await self._runner.cleanup()
        await asyncio.sleep(1.0)
        await self._listen()

    def close(self):
        self._call(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)


def follow(server, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    shown, said = [], []
    try:
        dashboard = Dashboard(f"http://127.0.0.1:{server.port}")
        end = Follower(dashboard, "job", shown.append, said.append, away_s=30).follow()
    finally:
        server.close()
    return "".join(shown), said, end


def test_after_a_cut_line_the_log_goes_on_where_it_was(monkeypatch):
    shown, said, end = follow(CutDashboard(["a\nb", "a\nbc\nd\n"]), monkeypatch)
    assert shown == "a\nbc\nd\n"
    assert len(said) == 1
    assert "Trying again for 30 s" in said[0]
    assert end.status == "SUCCEEDED"


def test_a_new_cluster_that_does_not_know_the_job_is_said(monkeypatch):
    with pytest.raises(RunError, match=r"does not know job any more: the cluster is a new one\. Submit again"):
        follow(CutDashboard(["a\n", ""], knows_the_job=False), monkeypatch)
