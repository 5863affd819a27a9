"""The contractions of a layer: reference, backends, dispatch, operators and their derivatives."""
