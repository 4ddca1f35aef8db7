"""Runs jobs: a consumer of doorbells, a supervisor and a child process per job, a sweeper."""
