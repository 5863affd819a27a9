"""Rows to train on and rows to hold out, at random; every class has a row to train on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

Rows = npt.NDArray[np.intp]


def split_rows(
    count: int, held_out: int, classes: npt.NDArray[Any] | None, random: np.random.RandomState | int
) -> tuple[Rows, Rows]:
    """Numbers of the rows to train on and of about `held_out` rows to hold out.

    The shares of classes are the same in both, if each has at least two rows and both parts have room for all. A class
    whose rows were all held out gets one of them back: no model can learn a class that it never sees.

    Args:
        count: of all rows.
        held_out: rows to hold out, 1 to count - 1.
        classes: the class of each row `(count,)`; None for a regression.
        random: seed or generator of the split.
    """
    if classes is None:
        learn, held = train_test_split(np.arange(count), test_size=held_out, random_state=random)
        return learn, held
    sizes = np.unique(classes, return_counts=True)[1]
    even = sizes.min() > 1 and len(sizes) <= min(held_out, count - held_out)
    learn, held = train_test_split(
        np.arange(count), test_size=held_out, random_state=random, stratify=classes if even else None
    )
    found, places = np.unique(classes[held], return_index=True)
    back = places[~np.isin(found, classes[learn])]
    return np.append(learn, held[back]), np.delete(held, back)
