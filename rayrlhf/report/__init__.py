"""`report.html`: one page on which a person sees what a run did, made from its directory alone.

    run directory ──history──▶ History ──catalogue──▶ charts ──page──▶ report.html
                  ──samples──▶ a few steps of the journal ────────┘

Knows neither Ray nor torch, and reads runs that have ended, run, or broke: what is missing is left out, what is damaged
is named on the page.
"""
