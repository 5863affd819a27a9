"""Options in state dicts: what a module is besides its tensors, and a refusal of states that say otherwise."""

from __future__ import annotations

from typing import Any

from torch import nn


class StatedOptions(nn.Module):
    """A module whose state dict keeps some of its options, as metadata, and that loads no state with others.

    A state without metadata, as other formats give it, is taken to have the options of the module.
    """

    def _stated(self) -> dict[str, Any]:
        """The options by name, as a file can keep them."""
        raise NotImplementedError

    def _refusal(self, saved: dict[str, Any]) -> str:
        """What is wrong with a state that has these options instead, and what to do."""
        raise NotImplementedError

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", None)
        if metadata is not None:
            metadata[prefix[:-1]] |= self._stated()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        mine, error_messages = self._stated(), args[-1]
        saved = {name: local_metadata.get(name, value) for name, value in mine.items()}
        if saved != mine:
            error_messages.append(f"{self._called(prefix)}: {self._refusal(saved)}")

    def _called(self, prefix: str) -> str:
        """The name of this module in the state dict that is loaded; that of its class if it is the whole."""
        return prefix.rstrip(".") or type(self).__name__
