"""Many slides in one folder: whole cohorts, resumable, safe to run from several processes."""
