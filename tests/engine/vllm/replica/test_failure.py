"""Why vLLM did not start, found in what it logs."""

from __future__ import annotations

import pytest

from pointsman.engine.vllm.replica.failure import MESSAGE_CHARACTERS_MAX, first_cause, last_lines, start_failure

ENGINE_LOG = """\
(MainProcess pid=8) INFO 11-23 16:37:19 [model.py:733] Resolved architecture: Qwen3ForCausalLM
(EngineCore pid=9) ERROR 11-23 16:37:35 [core.py:1161] EngineCore failed to start.
(EngineCore pid=9) ERROR 11-23 16:37:35 [core.py:1161] Traceback (most recent call last):
(EngineCore pid=9) ERROR 11-23 16:37:35 [core.py:1161]   File "vllm/v1/engine/core.py", line 1135, in run_engine_core
(EngineCore pid=9) ERROR 11-23 16:37:35 [core.py:1161]     engine_core = EngineCoreProc(*args, **kwargs)
(EngineCore pid=9) ERROR 11-23 16:37:35 [core.py:1161] ValueError: No available memory for the cache blocks.
(EngineCore pid=9) Process EngineCore:
(EngineCore pid=9) Traceback (most recent call last):
(EngineCore pid=9) RuntimeError: something later
"""
ELSEWHERE = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")


def test_the_first_cause_is_what_the_engine_raised() -> None:
    """The parent's exception points to the log; the first traceback there ends in the cause."""
    assert start_failure(ELSEWHERE, ["", ENGINE_LOG]) == "ValueError: No available memory for the cache blocks."


def test_without_a_traceback_the_exception_speaks_for_itself() -> None:
    """A log that tells nothing changes nothing."""
    assert start_failure(ELSEWHERE, ["all well"]).startswith("RuntimeError: Engine core initialization failed")


def test_pydantics_frame_is_taken_off() -> None:
    """Only the sentence that vLLM's validator raised is left."""
    error = ValueError(
        "1 validation error for ModelConfig\n  Value error, max_model_len (9) is greater than 8. "
        "[type=value_error, input_value=ArgsKwargs((), {'model': ...}), input_type=ArgsKwargs]\n"
        "    For further information visit https://errors.pydantic.dev/2.14/v/value_error"
    )
    assert start_failure(error, []) == "ValueError: Value error, max_model_len (9) is greater than 8."


def test_a_message_has_a_limit() -> None:
    """However long vLLM's message is, ours fits a log line."""
    assert len(start_failure(ValueError("x" * 10_000), [])) == MESSAGE_CHARACTERS_MAX


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        pytest.param("no traceback here", "", id="none"),
        pytest.param("Traceback (most recent call last):\n  File x\nOSError: gone", "OSError: gone", id="plain"),
        pytest.param(
            "Traceback (most recent call last):\ntorch.cuda.OutOfMemoryError: full\n  hint: less\nnext",
            "torch.cuda.OutOfMemoryError: full hint: less",
            id="with the lines that belong to it",
        ),
        pytest.param("Traceback (most recent call last):\n  File x", "", id="cut off"),
    ],
)
def test_first_cause(log: str, cause: str) -> None:
    """The last line of the first traceback, with the indented lines after it."""
    assert first_cause(log) == cause


def test_last_lines_skip_what_is_empty() -> None:
    """For a failure that raised nothing, the end of the logs is the best there is."""
    assert last_lines(["a\n\nb\n", "c\nd\n\n"]) == "b c d"
