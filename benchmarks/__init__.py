"""Scripts that measure the project, each run by itself."""
