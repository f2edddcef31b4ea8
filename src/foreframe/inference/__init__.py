"""From a trained model to a prediction."""
