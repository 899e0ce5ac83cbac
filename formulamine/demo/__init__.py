"""A sample repository, made by code, whose merged changes exercise every gate of the pipeline."""
