"""What all sections of the settings have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section.

    Unknown keys are errors, values never change, input (it may be secret) stays out of error texts, and the docstring
    below a setting is its description, which the template of the settings file repeats word for word.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )
