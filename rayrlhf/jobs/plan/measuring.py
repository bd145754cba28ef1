"""Runs the probes, one process after the other, and collects what they print: twelve minutes of all cores."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from rayrlhf.errors import RunError
from rayrlhf.jobs.plan import loop_probe, rollout_probe, training_probe
from rayrlhf.jobs.plan.loop_probe import LoopRequest
from rayrlhf.jobs.plan.rollout_probe import EngineRequest
from rayrlhf.jobs.plan.training_probe import ProbeRequest

TIMEOUT_S = 300.0
PAIR_STAGES = (2, 3)
Points = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Measurements:
    """Raw points by what was measured."""

    training: dict[int, Points]
    """By threads of one process; one of one thread has another one beside it."""
    pairs: dict[int, Points]
    """By ZeRO stage: two ranks of one thread each."""
    rollout: Points
    """With all cores."""
    rollout_one_thread: Points
    loop: dict[str, dict[str, float]]
    """`phases` and `memory_mib` of a whole small job."""
    crowded: dict[str, dict[str, float]]
    """Of a larger one."""


def measure(dtype: str, cores: int, say: Callable[[str], None]) -> Measurements:
    """All probes.

    Raises:
        RunError: a probe failed or took too long; with the last lines it wrote.

    """
    training = {threads: _training(dtype, threads, say) for threads in sorted({1, cores})}
    pairs = _pairs(dtype, say)
    rollout = [point for shape in rollout_probe.SHAPES for point in _engine(dtype, cores, shape, say)]
    one_thread = _engine(dtype, 1, rollout_probe.SHAPES[2], say) if cores > 1 else []
    say("two whole jobs with every role, of a small and of a larger model")
    loop, crowded = (run_probe(loop_probe.__name__, [asdict(request)]) for request in whole_jobs(dtype))
    return Measurements(training, pairs, rollout, one_thread, loop, crowded)


def whole_jobs(dtype: str) -> tuple[LoopRequest, LoopRequest]:
    """The small one and the larger one."""
    return LoopRequest(dtype), LoopRequest(dtype, layers=6, hidden=320, vocabulary=4096, answer=32)


def _training(dtype: str, threads: int, say: Callable[[str], None]) -> Points:
    """One thread is measured beside another process of one thread, as in a job: cores share more than they say."""
    say(f"training with {threads} thread{'s' * (threads > 1)}")
    with _free_port() as port, _free_port() as other:
        requests = [asdict(ProbeRequest(threads, dtype, each)) for each in (port, other)]
    return _points(training_probe.__name__, requests if threads == 1 else requests[:1])


def _pairs(dtype: str, say: Callable[[str], None]) -> dict[int, Points]:
    say(f"two training ranks, ZeRO {' and '.join(map(str, PAIR_STAGES))}")
    with _free_port() as port:
        requests = [asdict(ProbeRequest(1, dtype, port, PAIR_STAGES, rank, 2)) for rank in range(2)]
    points = _points(training_probe.__name__, requests)
    return {stage: [point for point in points if point["stage"] == stage] for stage in PAIR_STAGES}


def _engine(dtype: str, threads: int, shape: tuple[int, int, int], say: Callable[[str], None]) -> Points:
    layers, hidden, vocabulary = shape
    say(f"a vLLM engine: {layers} layers of width {hidden}, {threads} thread{'s' * (threads > 1)}")
    return _points(rollout_probe.__name__, [asdict(EngineRequest(threads, dtype, layers, hidden, vocabulary))])


def _points(module: str, requests: Sequence[dict[str, Any]]) -> Points:
    points: Points = run_probe(module, requests)["points"]
    return points


def run_probe(module: str, requests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the first of these processes prints, one for each request, all at once.

    Raises:
        RunError: one did not end, or not well; with the last lines it wrote.

    """
    command = [sys.executable, "-m", module]
    running = [
        subprocess.Popen([*command, json.dumps(r)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for r in requests
    ]
    try:
        answers = [process.communicate(timeout=TIMEOUT_S) for process in running]
    except subprocess.TimeoutExpired:
        raise RunError(f"calibration: {module} did not end within {TIMEOUT_S:.0f} s") from None
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, answers, strict=True):
        if process.returncode != 0:
            last = "\n".join(errors.strip().splitlines()[-5:])
            raise RunError(f"calibration: {module} failed with exit code {process.returncode}:\n{last}")
    lines = [line for line in answers[0][0].splitlines() if line.startswith("{")]
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


@contextmanager
def _free_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]
