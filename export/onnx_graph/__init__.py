"""ONNX graphs, written operation by operation while somebody computes with their symbols."""
