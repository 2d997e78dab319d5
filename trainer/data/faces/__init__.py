"""Faces: found in videos and images, cut by one rule for training and for prediction."""
