"""ONNX files in and out: one file a family of operators (arithmetic, layout, windows), the model, the exporter."""

from verify.complete.onnx import arithmetic, layout, windows

__all__ = ["arithmetic", "layout", "windows"]
