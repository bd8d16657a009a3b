"""Methods: each one a frozen record of hyperparameters with one generator of steps."""
