"""The run folder: records, shards and tables. A file appears only when it is complete."""
