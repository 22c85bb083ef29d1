"""What a model's matrices get as inputs while it reads a text: by this, quantising knows which weights matter."""

from dllama.calibration.collect import OnProgress, calibration_text, collect_importance, text_bytes

__all__ = ["OnProgress", "calibration_text", "collect_importance", "text_bytes"]
