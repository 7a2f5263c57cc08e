"""ONNX files in and out: values of one image, one file a family of operators, the model, the exporter."""
