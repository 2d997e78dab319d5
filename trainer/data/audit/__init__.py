"""What is wrong with a data set: broken files, duplicates, leaks, and cues that give the class away."""
