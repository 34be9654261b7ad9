"""Training: data sets, samples, losses, recipes and the loop. No stage of a detection imports it."""
