"""What a model's answers are worth: figures with intervals, their page, and evaluations side by side."""
