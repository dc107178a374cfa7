"""Run directories: what a run writes, how it resumes, and what is read out of it."""
