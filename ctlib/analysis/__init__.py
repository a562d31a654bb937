"""The questions of a report, the claims of the paper, and the plan that was fixed before the results."""
