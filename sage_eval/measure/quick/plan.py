"""What `sage-eval quick` is asked."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator


class QuickPlan(BaseModel):
    """A server and the time there is. Descriptions are the help texts of the flags."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str | None = Field(None, description="the server's address, http://HOST:PORT")
    port: int = Field(30000, ge=1, le=65535, description="port of a server on this host, without --base-url")
    seconds: float = Field(300.0, ge=10, description="time for all; what does not fit is left out, and said")
    against: Path | None = Field(None, description="JSON of an earlier quick of the same model to compare with")
    output: Path | None = Field(None, description="write the JSON to this file as well")

    @field_validator("base_url")
    @classmethod
    def _one(cls, url: str | None) -> str | None:
        if url and ";" in url:
            raise ValueError("one server at a time; ask each of them")
        return url

    @property
    def url(self) -> str:
        """The address."""
        return self.base_url or f"http://127.0.0.1:{self.port}"
