"""Symbolic regression with KANs: functions for edges, formulas for networks."""
