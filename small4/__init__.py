"""small4 runs Mistral Small 4 your way: `small4.load` gives a model of this machine, `small4.Hosted` a provider's."""

# As `typing` has it, which is not imported: the command passes through here before it can take Ctrl-C quietly.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from small4.answer import Answer
    from small4.hosted import Hosted
    from small4.llm import LLM, load

__all__ = ["LLM", "Answer", "Hosted", "load"]


def __getattr__(name: str) -> object:
    """Import the model half only when it is asked for: neither `small4 --help` nor `Hosted` must load torch."""
    if name not in __all__:
        raise AttributeError(f"module 'small4' has no attribute {name!r}")
    if name == "Hosted":
        from small4.hosted import Hosted

        return Hosted
    import small4.llm as llm

    return getattr(llm, name)
