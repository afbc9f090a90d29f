"""What sessions asked for."""

from pointsman.router.decide.session_models import SessionModels


def test_the_session_silent_for_longest_is_forgotten() -> None:
    """The table is bounded; each request renews its session."""
    models = SessionModels(max_sessions=2)
    models.asked("old", "m")
    models.asked("new", "n")
    models.asked("old", "m")
    models.asked("third", "o")
    assert [models.model_of(session) for session in ("old", "new", "third")] == ["m", None, "o"]
    assert len(models) == 2 and not models.is_known("new")


def test_a_session_that_asked_for_two_models_has_none() -> None:
    """It is known, so that nothing else is guessed of it."""
    models = SessionModels()
    for model in ("m", "n", "n"):
        models.asked("s", model)
    assert models.is_known("s") and models.model_of("s") is None
