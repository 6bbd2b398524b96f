"""What a sensor's tick leaves for the next one."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from lpm_stream.errors import LpmStreamError

M = TypeVar("M", bound=BaseModel)


def read_cursor(model: type[M], text: str) -> M:
    """What the last tick left.

    Raises:
        LpmStreamError: if it cannot be read.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise LpmStreamError("the sensor's cursor cannot be read: reset it on the sensor's page") from error
