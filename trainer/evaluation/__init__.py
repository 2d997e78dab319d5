"""The numbers of an evaluation: metrics, intervals, calibration, robustness, comparison."""
