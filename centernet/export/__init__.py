"""Detectors as files that run without this package: ONNX, OpenVINO, torch.export."""
