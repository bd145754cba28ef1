"""Reading what the doctor found."""

from rayrlhf.jobs.doctor.findings import Level


def level_of(findings, check):
    """The worst of a check."""
    order = list(Level)
    return max((f.level for f in findings if f.check == check), key=order.index)


def reds(findings):
    """Text and remedy of what is red."""
    return [f"{f.found} → {f.remedy}" for f in findings if f.level is Level.RED]
