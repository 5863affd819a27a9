"""scikit-learn estimators: KANs that scale their data and keep the state that is best on held-out samples."""

from kan_fast.sklearn.estimators import KANClassifier, KANRegressor, describe, rebuild

__all__ = ["KANClassifier", "KANRegressor", "describe", "rebuild"]
