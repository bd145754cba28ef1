"""How far `rayrlhf plan` is off on this machine:  python -m tests.benchmarks.plan_accuracy

Calibrates, then plans and runs six jobs (`plan_jobs.py`) and compares: seconds of a step and of each phase (medians),
and the most MiB that a process of each role ever held. Runs of one job differ, so `--repeats 3` takes the medians of
three. Twenty minutes on two cores, or forty, with nothing else running. `--calibration FILE` uses one that is there.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from rayrlhf.config.jobs import RLJob
from rayrlhf.config.load import validate_job
from rayrlhf.jobs.plan.calibration import calibrate, calibrated
from rayrlhf.jobs.plan.geometry import read_lengths
from rayrlhf.jobs.plan.hardware import cpu_estimate
from rayrlhf.jobs.plan.memory import MIB
from rayrlhf.jobs.plan.models import read_models
from rayrlhf.jobs.plan.plan import make_plan
from rayrlhf.jobs.plan.times import PHASES
from rayrlhf.runtime.environment import node_cores
from tests.benchmarks import plan_jobs


def planned(case, folder, calibration):
    job = validate_job(RLJob, plan_jobs.values(case, folder))
    machine = cpu_estimate(1, node_cores(), psutil.virtual_memory().total, job.model.dtype)
    machine = calibrated(calibration, job.model.dtype, machine) or machine
    return make_plan(job, read_models(job), read_lengths(job, None), machine)


def compare(case, folder, calibration, directories):
    """One row of the table, as a mapping; `directories`: the runs of this job."""
    plan = planned(case, folder, calibration)
    measured = [plan_jobs.measured(directory) for directory in directories]
    step = statistics.median(step for _, step in measured)
    phases = {name: statistics.median(phases[name] for phases, _ in measured) for name in PHASES if name != "between"}
    phases["between"] = step - sum(phases.values())
    peaks = [plan_jobs.peaks_mib(directory) for directory in directories]
    memory = {p.role: (p.total / MIB, statistics.median(found[p.role] for found in peaks)) for p in plan.memory}
    times = {name: (plan.times.phases[name], phases[name]) for name in PHASES}
    return {"case": case.name, "step": (plan.times.step, step), "phases": times, "memory": memory}


def run_once(case, folder):
    """The run's directory."""
    directory = folder / "runs" / case.name
    if not (directory / "peaks.json").exists():
        began = time.monotonic()
        plan_jobs.run(case, folder)
        print(f"{case.name}: ran for {time.monotonic() - began:.0f} s", flush=True)
    return directory


def off(pair):
    predicted, measured = pair
    return predicted / measured - 1


def show(results):
    print("| job | step predicted | measured | off | " + " | ".join(name.replace("_", " ") for name in PHASES) + " |")
    print("|---|---|---|---|" + "---|" * len(PHASES))
    for r in results:
        phases = " | ".join("{:.2f} / {:.2f}".format(*r["phases"][name]) for name in PHASES)
        print("| {} | {:.2f} s | {:.2f} s | {:+.0%} | {} |".format(r["case"], *r["step"], off(r["step"]), phases))
    errors = [abs(off(r["step"])) for r in results]
    print(f"\nstep time: off by {statistics.median(errors):.0%} in the median, {max(errors):.0%} at worst\n")
    print("| job | " + " | ".join(plan_jobs.ROLES) + " |")
    print("|---|" + "---|" * len(plan_jobs.ROLES))
    for r in results:
        cells = ["{:.0f} / {:.0f}".format(*r["memory"][n]) if n in r["memory"] else "" for n in plan_jobs.ROLES]
        print(f"| {r['case']} | " + " | ".join(cells) + " |")
    memory = [abs(off(pair)) for r in results for pair in r["memory"].values()]
    print(f"\nmemory, MiB: off by {statistics.median(memory):.0%} in the median, {max(memory):.0%} at worst")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--folder", type=Path, help="keep models and runs here; runs that are there are not repeated")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each job")
    parser.add_argument("--cases", nargs="*", default=[case.name for case in plan_jobs.CASES])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        calibration = arguments.calibration or folder / "calibration.json"
        began = time.monotonic()
        if not calibration.exists():
            machine = cpu_estimate(1, node_cores(), psutil.virtual_memory().total, "float32")
            calibrate(calibration, "float32", machine, lambda text: print(f"calibrating: {text}", flush=True))
            print(f"calibrated in {time.monotonic() - began:.0f} s", flush=True)
        results = []
        for case in plan_jobs.CASES:
            if case.name in arguments.cases:
                folders = [folder, *(folder / f"repeat-{n}" for n in range(2, arguments.repeats + 1))]
                results.append(compare(case, folder, calibration, [run_once(case, each) for each in folders]))
        show(results)
        (folder / "accuracy.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
