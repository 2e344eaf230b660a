"""Evaluation of trained models: metrics, comparison, figures, Grad-CAM and the report."""
