"""scikit-learn estimators: KANs that scale their data and keep the state that is best on held-out samples."""

from kan_fast.sklearn.data import describe, rebuild
from kan_fast.sklearn.estimators import KANClassifier, KANRegressor

__all__ = ["KANClassifier", "KANRegressor", "describe", "rebuild"]
