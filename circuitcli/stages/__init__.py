"""One file a stage, only its work. `stage.stage` owns fingerprints, resuming and records."""
