"""Chat templates of well-known models: in order as they are, and with words added."""

from __future__ import annotations

import pytest

from .chat_templates import severities

#: What models of these families bring, without their tool sections but for one.
REAL = {
    "llama-2": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}"
        "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
        "{% for message in loop_messages %}{% if loop.index0 == 0 and system_message != false %}"
        "{% set content = '<<SYS>>\\n' + system_message + "
        "'\\n<</SYS>>\\n\\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}"
        "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "llama-3.1": (
        "{{- bos_token }}{%- if not date_string is defined %}"
        "{%- set date_string = '26 Jul 2024' %}{%- endif %}"
        "{%- if messages[0]['role'] == 'system' %}"
        "{%- set system_message = messages[0]['content']|trim %}"
        "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}"
        "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}{%- if tools is not none %}"
        "{{- 'Given the following functions, please respond with a JSON for a function call ' }}"
        "{{- 'Do not use variables.\\n\\n' }}{%- for t in tools %}{{- t | tojson(indent=4) }}"
        "{%- endfor %}{%- endif %}{{- system_message }}{{- '<|eot_id|>' }}"
        "{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + "
        "'<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
        "{%- if add_generation_prompt %}"
        "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
        "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
        "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + "
        "message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"
    ),
    "mistral-0.3": (  # the system prompt goes into the last user's turn
        "{%- if messages[0].role == 'system' %}{%- set system_message = messages[0].content %}"
        "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}"
        "{%- endif %}{{- bos_token }}{%- for message in loop_messages %}"
        "{%- if message.role == 'user' %}{%- if loop.last and system_message is defined %}"
        "{{- '[INST] ' + system_message + '\\n\\n' + message.content + '[/INST]' }}{%- else %}"
        "{{- '[INST] ' + message.content + '[/INST]' }}{%- endif %}"
        "{%- elif message.role == 'assistant' %}{{- ' ' + message.content|trim + eos_token }}"
        "{%- endif %}{%- endfor %}"
    ),
    "vicuna": (
        "{% for message in messages %}{% if message['role'] == 'system' %}"
        "{{ message['content'] + ' ' }}{% elif message['role'] == 'user' %}"
        "{{ 'USER: ' + message['content'] + ' ' }}{% else %}"
        "{{ 'ASSISTANT: ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    ),
    "alpaca": (
        "{% for message in messages %}{% if message['role'] == 'system' %}"
        "{{ message['content'] }}\n\n{% elif message['role'] == 'user' %}### Instruction:\n"
        "{{ message['content']|trim }}\n\n{% else %}### Response:\n"
        "{{ message['content']|trim }}\n\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"
    ),
    "openchat": (
        "{{ bos_token }}{% for message in messages %}{{ 'GPT4 Correct ' + message['role'].title() "
        "+ ': ' + message['content'] + '<|end_of_turn|>'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}"
    ),
    "exaone": (
        "{% for message in messages %}{{ '[|' + message['role'] + '|]' + message['content'] }}"
        "{% if message['role'] == 'user' %}{{ '\\n' }}{% else %}{{ '[|endofturn|]\\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"
    ),
    "deepseek": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
        "{{ '<\uff5cUser\uff5c>' + m.content }}"
        "{% elif m.role == 'assistant' %}{{ '<\uff5cAssistant\uff5c>' + m.content + "
        "'<\uff5cend▁of▁sentence\uff5c>' }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c><think>\\n' }}{% endif %}"
    ),
    "harmony": (
        "{% for m in messages %}{{ '<|start|>' + m.role }}{% if m.role == 'assistant' %}"
        "<|channel|>final{% endif %}<|message|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    ),
    "qwen-3": (  # with thinking switched off
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + "
        "message.content + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}"
        "{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    ),
}  # fmt: skip


@pytest.mark.parametrize("base", ["llama-2", "qwen-3", None])
@pytest.mark.parametrize("name", REAL)
def test_real_templates_are_in_order(name: str, base: str | None) -> None:
    found = severities(REAL[name], REAL[base] if base else None)
    # The functions of a tool section are text that others do not have.
    assert all(
        how == "warning" and "Given the following functions" in what for what, how in found.items()
    ), found


def test_short_text_before_the_conversation_is_a_warning() -> None:
    changed = REAL["qwen-3"].replace("{% for", "<|im_start|>system\nZebra!<|im_end|>\n{% for", 1)
    found = severities(changed, REAL["qwen-3"])
    assert found == {"adds text that the base's template does not: 'Zebra!'": "warning"}
