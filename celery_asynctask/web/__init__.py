"""What the API and the console have in common: who asks, what they may, problems, and answers that are kept."""
