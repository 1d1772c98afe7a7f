"""The error for files that can't be used as a RIFE model."""


class CheckpointError(ValueError):
    """A file can't be used as a RIFE model; the message says why, for people."""


def unsupported_error(content: str) -> CheckpointError:
    """The error for a file with `content` that this reader doesn't decode."""
    return CheckpointError(
        f"holds {content}, which isn't supported; get the model in float16 or float32"
    )


def ambiguous_error(contradiction: str) -> CheckpointError:
    """The error for a file that two programs could read differently."""
    return CheckpointError(
        f"refused: damaged, or made so that programs read it differently ({contradiction}); get it "
        "again from a source that you trust"
    )
