"""``mergesafe serve``: a chat model behind the OpenAI protocol."""
