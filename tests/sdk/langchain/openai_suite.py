"""LangChain's standard tests of a chat model, through its client for OpenAI's API."""

import os

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

# The nano fills what a grammar lets it write with white space, for which forced calls need this many tokens; and
# it ends a free text inside of JSON only where repeating itself costs something.
PARAMETERS = {
    "model": "nano",
    "base_url": os.environ["SMALL4_URL"] + "/v1",
    "api_key": os.environ["SMALL4_KEY"],
    "max_retries": 0,
    "max_tokens": 700,
    "frequency_penalty": 2,
    "stream_usage": True,
}


class TestOpenAI(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, object]:
        return PARAMETERS

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "two-calls"

    @property
    def supports_image_inputs(self) -> bool:
        return False  # the nano has no eyes; images are tried in tests/sdk
