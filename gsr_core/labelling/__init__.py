"""What to label next: a queue of samples, answers that are kept, and what is made of them."""
