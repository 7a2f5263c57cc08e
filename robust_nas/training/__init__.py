"""Training of final networks, and their weights on disk."""

from robust_nas.training.run import TrainingResult, run_training
from robust_nas.training.weights import load_network, load_trained, save_weights
