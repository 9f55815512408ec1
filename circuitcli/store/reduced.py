"""The tables that ablations are reduced to."""

EFFECTS = "effects/effects.parquet"
LOGITS = "effects/logits.parquet"
FEATURES = "effects/features.parquet"
NEXT = "effects/next.parquet"
