"""Cohorts and videos: found, stored at the training matrix, split by patient, cut into clips."""
