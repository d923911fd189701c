"""The networks that detectors stand on; their tensors have torchvision's names."""
