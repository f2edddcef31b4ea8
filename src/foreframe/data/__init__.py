"""1X v2.0 dataset folders: found, read, written, cut into clips, stacked into batches."""
