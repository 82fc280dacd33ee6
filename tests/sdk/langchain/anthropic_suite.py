"""LangChain's standard tests of a chat model, through its client for Anthropic's API."""

import os

from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests

# The nano fills what a grammar lets it write with white space, for which forced calls need this many tokens.
PARAMETERS = {
    "model": "nano",
    "base_url": os.environ["SMALL4_URL"],
    "api_key": os.environ["SMALL4_KEY"],
    "max_retries": 0,
    "max_tokens": 700,
}


class TestAnthropic(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatAnthropic

    @property
    def chat_model_params(self) -> dict[str, object]:
        return PARAMETERS

    @property
    def model_override_value(self) -> str:
        return "two-calls"

    @property
    def structured_output_kwargs(self) -> dict[str, object]:
        return {"method": "json_schema"}  # held to the schema while it is written, as the nano knows no JSON

    @property
    def supports_image_inputs(self) -> bool:
        return False  # the nano has no eyes; images are tried in tests/sdk
