"""What was measured on a machine, fitted, and kept in a small JSON file for later plans on the same machine.

    probes ──▶ points ──fit──▶ seconds per unit of work, per thread count        (`training_probe`, `rollout_probe`)
    a whole small job ── minus what the fit predicts for it ──▶ fixed seconds of each phase, base memory of each role
    a larger one ── minus what is predicted for it ──▶ what roles that work at the same time cost each other

A file holds one calibration a dtype; it says what machine it is of, and is refused on another.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rayrlhf.config.jobs import RLJob
from rayrlhf.errors import ConfigError
from rayrlhf.jobs.plan import work
from rayrlhf.jobs.plan.costs import Coefficients, Point, fit, relative_errors, seconds
from rayrlhf.jobs.plan.fitting import device_of
from rayrlhf.jobs.plan.geometry import StepGeometry, read_lengths, step_geometry
from rayrlhf.jobs.plan.hardware import Machine
from rayrlhf.jobs.plan.loop_probe import LoopRequest, probe_job
from rayrlhf.jobs.plan.measuring import Measurements, Points, measure, whole_jobs
from rayrlhf.jobs.plan.memory import MIB, job_memory
from rayrlhf.jobs.plan.models import JobModels, read_models
from rayrlhf.jobs.plan.times import CROWDED_PHASES, Predictor

VERSION = 2
SMALLEST_S = 1e-5
MOST_CROWDING = 1.5
ENGINE_MEMORY = ("calls", "weights", "vocabulary")


def calibrate(path: Path, dtype: str, machine: Machine, say: Callable[[str], None]) -> None:
    """Measure this machine and keep what was found."""
    measured = measure(dtype, machine.cores, say)
    found = fit_all(measured, dtype, machine)
    stored = _read(path) if path.is_file() else {}
    if stored.get("machine") != _identity(machine):
        stored = {"version": VERSION, "machine": _identity(machine), "dtypes": {}}
    stored["dtypes"][dtype] = found | {"measured_at": datetime.now(UTC).isoformat(timespec="seconds")}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stored, indent=1), encoding="utf-8")


def calibrated(path: Path, dtype: str, machine: Machine, nodes: int = 1) -> Machine | None:
    """The machine as it was measured; None where this dtype was not.

    Raises:
        ConfigError: the file is no calibration, or that of another machine.

    """
    if not path.is_file():
        return None
    stored = _read(path)
    if stored["machine"] != _identity(machine):
        raise ConfigError(
            f"{path}: measured on a machine with {stored['machine']['cores']} cores, this one has {machine.cores}: "
            "run `rayrlhf plan CONFIG --calibrate` here, or give another --calibration"
        )
    found = stored["dtypes"].get(dtype)
    if found is None:
        return None
    note = f"calibrated here on {found['measured_at'][:10]} in {dtype}"
    return _machine(found, replace(machine, is_estimate=nodes > 1, assumptions=(note,)))


def _read(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a calibration: {error}") from None
    if not isinstance(stored, dict) or stored.get("version") != VERSION:
        raise ConfigError(f"{path}: no calibration of version {VERSION}: remove it and run --calibrate")
    return stored


def _identity(machine: Machine) -> dict[str, Any]:
    return {"cores": machine.cores}


def _machine(found: Mapping[str, Any], machine: Machine) -> Machine:
    return replace(
        machine,
        one_thread=found["one_thread"],
        all_cores=found["all_cores"],
        fixed=found["fixed"],
        base_mib=found["base_mib"],
        crowding=found["crowding"],
        engine_memory=found["engine_memory"],
    )


def fit_all(measured: Measurements, dtype: str, machine: Machine) -> dict[str, Any]:
    """Coefficients of every kind of call, then what the whole small job took besides."""
    threads = sorted(measured.training)
    fitted = {count: _training_fit(measured.training[count]) for count in threads}
    one, every = fitted[threads[0]], fitted[threads[-1]]
    exchange = _exchange_fit(measured.pairs, one)
    rollout = fit(_points(measured.rollout, "rollout"), work.ROLLOUT)
    sync = fit(_points(measured.rollout, "sync"), work.SYNC)
    slower = _slowdown(_points(measured.rollout_one_thread, "rollout"), rollout)
    engine = fit(_points(measured.rollout, "engine_memory"), ENGINE_MEMORY)
    shared: dict[str, Coefficients] = {**exchange, "sync": sync}
    found: dict[str, Any] = {
        "one_thread": {**one, **shared, "rollout": {name: cost * slower for name, cost in rollout.items()}},
        "all_cores": {**every, **shared, "rollout": rollout},
        "fixed": {},
        "base_mib": {},
        "crowding": {},
        "engine_memory": {name: engine.get(name, 0.0) for name in ENGINE_MEMORY[1:]},
        "fit_errors": _errors(measured, every, rollout),
        "measured": {"loop": measured.loop, "crowded": measured.crowded},
    }
    found |= _besides(measured.loop, dtype, _machine(found, machine))
    return found | {"crowding": _crowding(measured.crowded, dtype, _machine(found, machine))}


def _training_fit(points: Points) -> dict[str, Coefficients]:
    features: dict[str, Sequence[str]] = dict.fromkeys(("forward", "backward"), work.TRAINING)
    features |= dict.fromkeys(("update", "snapshot", "write"), work.UPDATE)
    return {kind: fit(_points(points, kind), names) for kind, names in features.items()}


def _exchange_fit(pairs: Mapping[int, Points], one: Mapping[str, Coefficients]) -> dict[str, Coefficients]:
    """What two ranks take longer than one: gathering for ZeRO-3's passes, and reducing gradients."""

    def extra(point: Mapping[str, Any]) -> float:
        return float(point["seconds"]) - seconds(point["work"], one[point["kind"]])

    def points(stage: int, kind: str, name: str) -> list[Point]:
        found = [p for p in pairs[stage] if p["kind"] == kind]
        return [Point(p[name], max(SMALLEST_S, extra(p))) for p in found]

    gather = fit(points(3, "forward", "gathering"), work.EXCHANGE)
    reduced = [
        Point(p["reduction"], max(SMALLEST_S, extra(p) - 2 * seconds(p["gathering"], gather) * (stage == 3)))
        for stage in pairs
        for p in pairs[stage]
        if p["kind"] == "backward"
    ]
    return {"gather": gather, "exchange": fit(reduced, work.EXCHANGE)}


def _slowdown(points: list[Point], coefficients: Coefficients) -> float:
    """How much longer one thread takes than all cores."""
    return statistics.median(p.seconds / seconds(p.work, coefficients) for p in points) if points else 1.0


def _points(points: Points, kind: str) -> list[Point]:
    return [Point(point["work"], point["seconds"]) for point in points if point["kind"] == kind]


def _errors(measured: Measurements, every: Mapping[str, Coefficients], rollout: Coefficients) -> dict[str, float]:
    """Median relative error of the fits at their own points, for people who wonder."""
    training = measured.training[max(measured.training)]
    of = {kind: (_points(training, kind), every[kind]) for kind in ("forward", "backward", "update")}
    of["rollout"] = (_points(measured.rollout, "rollout"), rollout)
    return {kind: statistics.median(abs(e) for e in relative_errors(*pair)) for kind, pair in of.items()}


def _besides(loop: Mapping[str, Mapping[str, float]], dtype: str, machine: Machine) -> dict[str, dict[str, float]]:
    """Seconds and MiB of the small job that its arithmetic does not explain."""
    small, _ = whole_jobs(dtype)
    predicted = _predicted_phases(small, machine)
    fixed = {name: max(0.0, s - predicted.get(name, 0.0)) for name, s in loop["phases"].items()}
    return {"fixed": fixed, "base_mib": base_memory(loop["memory_mib"], dtype, machine)}


def _crowding(measured: Mapping[str, Mapping[str, float]], dtype: str, machine: Machine) -> dict[str, float]:
    """See `Machine.crowding`."""
    _, larger = whole_jobs(dtype)
    predicted = _predicted_phases(larger, machine)
    shares = {
        name: (measured["phases"][name] - predicted[name]) / max(SMALLEST_S, predicted[slower] - machine.fixed[slower])
        for name, slower in CROWDED_PHASES.items()
    }
    return {name: min(MOST_CROWDING, max(0.0, share)) for name, share in shares.items()}


def base_memory(measured_mib: Mapping[str, float], dtype: str, machine: Machine) -> dict[str, float]:
    """MiB that a process of each role has besides its model, from those of the small job (`loop_probe.py`)."""
    bare = device_of(replace(machine, base_mib={}))
    small, _ = whole_jobs(dtype)
    with _planned(small) as (job, models, geometry):
        parts = {process.role: process.total / MIB for process in job_memory(job, models, geometry, bare)}
    return {role: max(0.0, mib - parts.get(role, 0.0)) for role, mib in measured_mib.items()}


def _predicted_phases(request: LoopRequest, machine: Machine) -> Mapping[str, float]:
    with _planned(request) as (job, models, geometry):
        return Predictor(job, models, geometry, machine).predict().phases


@contextmanager
def _planned(request: LoopRequest) -> Iterator[tuple[RLJob, JobModels, StepGeometry]]:
    with tempfile.TemporaryDirectory() as folder:
        job = probe_job(Path(folder), request)
        yield job, read_models(job), step_geometry(job, read_lengths(job, None))
